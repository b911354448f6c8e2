//! Our own programs, as benchmarks start them.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use keystead_local::pki::edge_identity;
use keystead_tests::stack::programs;

use crate::process::Program;

/// What a key server is told beside its channel. Its directory has certificates as `keystead-local pki` makes them.
pub(crate) struct KeyServer<'k> {
    /// Names of keys, and the files in `pki/keyserver` that have them, without their extensions.
    pub(crate) keys: Vec<(String, String)>,
    /// Edges, which may use all of them.
    pub(crate) edges: &'k [&'k str],
    /// Further tables of its configuration.
    pub(crate) tables: &'k str,
}

impl KeyServer<'_> {
    /// Starts it in `directory` on one processor, and waits until it listens.
    ///
    /// # Errors
    /// What keeps it from starting.
    pub(crate) fn start(&self, processor: usize, directory: &Path) -> Result<(Program, SocketAddr)> {
        let Self { keys, edges, tables } = self;
        let (address, metrics) = (free_address()?, free_address()?);
        let channel = channel("keyserver");
        let mut text = format!("listen = \"{address}\"\n[metrics]\nlisten = \"{metrics}\"\n{channel}{tables}");
        for (name, stem) in keys {
            let stem = format!("pki/keyserver/{stem}");
            text += &format!(
                "[[key]]\nname = \"{name}\"\nprivate_key = \"{stem}.key\"\ncertificate_chain = \"{stem}.pem\"\n"
            );
        }
        let names: Vec<_> = keys.iter().map(|(name, _)| name).collect();
        for edge in *edges {
            text += &format!("[[edge]]\nid = \"{}\"\nkeys = {names:?}\n", edge_identity(edge));
        }
        let command = serve("keystead-keyserver", &text, directory)?;
        let mut program = Program::start("keystead-keyserver", &command, processor, directory)?;
        program.wait_listening(address)?;
        Ok((program, address))
    }
}

/// A command that serves with this configuration, which is put into `directory`.
pub(crate) fn serve(program: &str, configuration: &str, directory: &Path) -> Result<Command> {
    let file = directory.join(format!("{program}.toml"));
    fs::write(&file, configuration).with_context(|| file.display().to_string())?;
    let mut command = Command::new(programs::path(program));
    command.args(["serve", "--config"]).arg(file);
    Ok(command)
}

/// The `[channel]` of the part that has this directory in `pki`.
pub(crate) fn channel(part: &str) -> String {
    let stem = format!("pki/{part}/channel");
    format!(
        "[channel]\ncertificate = \"{stem}.pem\"\nprivate_key = \"{stem}.key\"\ntrust_roots = \"pki/{part}/channel-ca.pem\"\n"
    )
}

/// An address of this host at which nobody listens.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
