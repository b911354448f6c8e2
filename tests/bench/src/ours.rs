//! Our own programs, as benchmarks start them.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use keystead_local::pki::{KEY_SERVER_NAME, edge_identity};
use keystead_tests::stack::programs;

use crate::process::Program;
use crate::terminator::most_connections;

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
        let address = free_address()?;
        let command = self.command(address, free_address()?, directory)?;
        let mut program = Program::start("keystead-keyserver", &command, processor, directory)?;
        program.wait_listening(address)?;
        Ok((program, address))
    }

    /// What starts it, with its configuration in `directory`.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn command(&self, address: SocketAddr, metrics: SocketAddr, directory: &Path) -> Result<Command> {
        let Self { keys, edges, tables } = self;
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
        serve("keystead-keyserver", &text, directory)
    }
}

/// The file of ticket secrets that [`TICKETS`] names; made in `directory` where it is missing.
///
/// # Errors
/// What keeps it from being made.
pub(crate) fn provide_tickets(directory: &Path) -> Result<()> {
    let secret = directory.join("ticket-keys.toml");
    if secret.exists() { Ok(()) } else { make(&["init", "--state"], &secret) }
}

/// Has the key server's program make a file, by the arguments that come before its name.
///
/// # Errors
/// What the program says.
pub(crate) fn make(arguments: &[&str], file: &Path) -> Result<()> {
    let made = Command::new(programs::path("keystead-keyserver")).args(arguments).arg(file).output()?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Ok(())
}

/// The table of a key server that gives ticket keys out.
pub(crate) const TICKETS: &str = "[tickets]\nstate = \"ticket-keys.toml\"\n";

/// What an edge is told. Its directory has certificates as those of [`KeyServer`].
pub(crate) struct Edge<'e> {
    /// Its name among those that [`KeyServer::edges`] lists.
    pub(crate) name: &'e str,
    pub(crate) address: SocketAddr,
    pub(crate) metrics: SocketAddr,
    pub(crate) key_server: SocketAddr,
    /// Names of the keys that it serves `localhost` with.
    pub(crate) keys: Vec<String>,
    pub(crate) backend: SocketAddr,
}

impl Edge<'_> {
    /// What starts it, with its configuration in `directory`.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn command(&self, directory: &Path) -> Result<Command> {
        let Self { name, address, metrics, key_server, keys, backend } = self;
        let (channel, most) = (channel(&format!("edge-{name}")), most_connections());
        let text = format!(
            "state_directory = \"state\"\n[metrics]\nlisten = \"{metrics}\"\n{channel}\
             [[listener]]\naddress = \"{address}\"\n\
             [limits]\nmax_connections = {most}\nmax_connections_per_address = 0\n\
             [key_server]\naddresses = [\"{key_server}\"]\nserver_name = \"{KEY_SERVER_NAME}\"\n\
             [[virtual_host]]\nnames = [\"localhost\"]\nkeys = {keys:?}\nbackends = [\"{backend}\"]\n",
        );
        serve("keystead-edge", &text, directory)
    }
}

/// A command that serves with this configuration, which is put into `directory`.
fn serve(program: &str, configuration: &str, directory: &Path) -> Result<Command> {
    let file = directory.join(format!("{program}.toml"));
    fs::write(&file, configuration).with_context(|| file.display().to_string())?;
    let mut command = Command::new(programs::path(program));
    command.args(["serve", "--config"]).arg(file);
    Ok(command)
}

/// The `[channel]` of the part that has this directory in `pki`.
fn channel(part: &str) -> String {
    let stem = format!("pki/{part}/channel");
    format!(
        "[channel]\ncertificate = \"{stem}.pem\"\nprivate_key = \"{stem}.key\"\ntrust_roots = \"pki/{part}/channel-ca.pem\"\n"
    )
}

/// An address of this host at which nobody listens.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
