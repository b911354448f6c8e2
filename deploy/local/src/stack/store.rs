//! Where the edges share sessions with ids: a Redis or Valkey that runs with the stack, or one that somebody else runs.
use std::env;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use keystead_program::channel::HostPort;

use super::invocation::Invocation;

/// Servers that the stack can start, the first preferred.
const SERVERS: [&str; 2] = ["valkey-server", "redis-server"];
/// Some hundred thousand sessions; from there on the longest unused go.
const MEMORY: &str = "256mb";

/// Where the edges share sessions with ids.
#[derive(Debug)]
pub(super) enum Store {
    /// A single edge has nobody to share them with.
    Alone,
    /// Somebody else runs it.
    Given(HostPort),
    /// It runs with the stack.
    Own(StoreServer),
    /// No server is installed.
    Missing,
}

/// A server that the stack starts.
#[derive(Debug)]
pub(super) struct StoreServer {
    pub(super) program: PathBuf,
    pub(super) address: SocketAddr,
    directory: PathBuf,
}

impl Store {
    /// Its address, where there is one.
    pub(super) fn address(&self) -> Option<HostPort> {
        match self {
            Self::Given(address) => Some(address.clone()),
            Self::Own(server) => Some(server.address.into()),
            Self::Alone | Self::Missing => None,
        }
    }
}

impl StoreServer {
    /// A server that keeps everything in memory, and what else it writes in `directory`.
    pub(super) fn new(program: PathBuf, address: SocketAddr, directory: PathBuf) -> Self {
        Self { program, address, directory }
    }

    /// The program's name.
    pub(super) fn name(&self) -> String {
        self.program.file_name().unwrap_or(self.program.as_os_str()).display().to_string()
    }

    /// Makes its directory and tells how to start it.
    pub(super) fn prepare(&self) -> Result<Invocation> {
        fs::create_dir_all(&self.directory).with_context(|| format!("cannot make {}", self.directory.display()))?;
        let (address, port) = (self.address.ip().to_string(), self.address.port().to_string());
        let mut arguments: Vec<_> = ["--bind", &address, "--port", &port].map(Into::into).into();
        // A cache needs no copy on disk: what is lost costs full handshakes.
        arguments.extend(["--save", "", "--appendonly", "no"].map(Into::into));
        arguments.extend(["--maxmemory", MEMORY, "--maxmemory-policy", "allkeys-lru"].map(Into::into));
        arguments.extend(["--dir".into(), self.directory.clone().into()]);
        Ok(Invocation { program: self.program.clone(), arguments })
    }
}

/// The server that is installed, looked for in the directories of `PATH`.
pub(super) fn find_server() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let directories: Vec<_> = env::split_paths(&path).collect();
    let places = SERVERS.iter().flat_map(|name| directories.iter().map(move |directory| directory.join(name)));
    places.into_iter().find(|place| is_program(place))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}
