//! The backend: nginx with files of fixed sizes.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::ours::free_address;
use crate::process::{OTHER, Program};
use crate::terminator::most_connections;

/// The sizes of its files; the path of each is its size in bytes.
pub const SIZES: [u64; 4] = [64, 1400, 16_384, BULK];
/// What a stream is measured with.
pub const BULK: u64 = 256 << 20;
/// The path that takes whatever is sent to it.
pub const SINK: &str = "/sink";

/// A backend that runs.
pub struct Backend {
    /// Where it listens.
    pub address: SocketAddr,
    pub(crate) program: Program,
}

impl Backend {
    /// Starts it in `directory`.
    ///
    /// # Errors
    /// What keeps it from starting.
    pub fn start(directory: &Path) -> Result<Self> {
        let address = free_address()?;
        let home = directory.join("backend");
        fs::create_dir_all(home.join("files"))?;
        for size in SIZES {
            // Files without blocks: what they hold is made up, and no disk is read.
            File::create(home.join(format!("files/{size}")))?.set_len(size)?;
        }
        let at = home.display();
        let text = format!(
            "worker_processes 1;\ndaemon off;\nuser root;\npid {at}/nginx.pid;\nerror_log stderr error;\n\
             events {{ worker_connections {}; }}\n\
             http {{\n access_log off;\n sendfile on;\n tcp_nodelay on;\n keepalive_requests 1000000000;\n\
             keepalive_timeout 1h;\n client_body_temp_path {at}/body;\n proxy_temp_path {at}/proxy;\n\
             fastcgi_temp_path {at}/fastcgi;\n uwsgi_temp_path {at}/uwsgi;\n scgi_temp_path {at}/scgi;\n\
             open_file_cache max=16;\n server {{ listen {address} backlog=4096; root {at}/files;\n\
             client_max_body_size 0; lingering_time 1h; location {SINK} {{ return 200 \"\"; }} }}\n}}\n",
            most_connections()
        );
        let file = home.join("nginx.conf");
        fs::write(&file, text).context("the backend's configuration")?;
        let mut command = Command::new("/usr/sbin/nginx");
        command.arg("-e").arg("stderr").arg("-c").arg(file);
        let mut program = Program::start("backend", &command, OTHER, &home)?;
        program.wait_listening(address)?;
        Ok(Self { address, program })
    }
}
