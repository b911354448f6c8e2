//! How much memory an established connection keeps for as long as it has nothing to do.
//!
//! Each server has a process of its own, in which there is nothing else but one certificate: its clients are here, and
//! what they say goes over pipes. So what the process grows by is the server's, whatever it allocates with.

use std::env;
use std::io::{self, Read, Write, stdin, stdout};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use keystead_tests::signer::{self, SERVER_NAME};
use rustls::{CipherSuite, ClientConfig, ClientConnection};
use rustls_pki_types::ServerName;
use strum::IntoEnumIterator;

use crate::engine::{Coming, Subject, clients_of};
use crate::process::memory;
use crate::table::{Better, Table};

/// Connections that stand before memory is looked at for the first time: what all share is there by then.
const FIRST: u32 = 200;
/// Connections that are measured.
const CONNECTIONS: u32 = 2000;

/// Measures all of them.
///
/// # Errors
/// What keeps a server from starting.
pub(crate) fn measure(table: &mut Table) -> Result<()> {
    for subject in Subject::iter() {
        let mut server = Process::start(subject).with_context(|| subject.to_string())?;
        server.connect(FIRST)?;
        let before = memory(server.child.id())?;
        server.connect(CONNECTIONS)?;
        let each = (memory(server.child.id())? - before) / f64::from(CONNECTIONS);
        table.add("established connection: memory of each, bytes", Better::Less, subject, each);
    }
    Ok(())
}

/// A process with a server in it.
struct Process {
    child: Child,
    to: ChildStdin,
    from: ChildStdout,
    clients: Arc<ClientConfig>,
}

impl Process {
    fn start(subject: Subject) -> Result<Self> {
        let program = env::current_exe()?.with_file_name("keystead-standing");
        let mut command = Command::new(&program);
        command.arg(subject.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| program.display().to_string())?;
        let (to, mut from) = child.stdin.take().zip(child.stdout.take()).context("pipes")?;
        let certificate = read_message(&mut from)?;
        let suite = CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;
        Ok(Self { child, to, from, clients: clients_of(&[certificate], suite, Coming::Full) })
    }

    /// Makes further connections, which stand until this ends.
    fn connect(&mut self, count: u32) -> Result<()> {
        for _ in 0..count {
            let mut client = ClientConnection::new(self.clients.clone(), ServerName::try_from(SERVER_NAME)?)?;
            while client.is_handshaking() || client.wants_write() {
                let mut message = Vec::new();
                while client.wants_write() {
                    client.write_tls(&mut message)?;
                }
                let answer = self.exchange(&message)?;
                let mut rest = answer.as_slice();
                while !rest.is_empty() {
                    client.read_tls(&mut rest)?;
                    client.process_new_packets()?;
                }
            }
            ensure!(self.exchange(NEXT)?.is_empty(), "a server that speaks out of turn");
        }
        Ok(())
    }

    fn exchange(&mut self, message: &[u8]) -> Result<Vec<u8>> {
        write_message(message, &mut self.to)?;
        read_message(&mut self.from).context("the server's process ended")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process's side: shows its certificate, and then speaks with one client after another, until there is none.
///
/// # Errors
/// When a pipe breaks. That its other end is gone is the end of the clients.
pub fn serve(subject: Subject) -> Result<()> {
    let signer = &*signer::P256;
    let service = subject.standing_service(signer);
    let (mut from, mut to) = (stdin().lock(), stdout().lock());
    write_message(signer.identity.chain().first().context("a certificate")?, &mut to)?;
    let mut standing = Vec::new();
    loop {
        let mut server = service.accept();
        loop {
            let message = match read_message(&mut from) {
                Ok(message) => message,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            if message == NEXT {
                break;
            }
            let mut answer = Vec::new();
            server.feed(&message, &mut answer);
            write_message(&answer, &mut to)?;
        }
        standing.push(server.stand());
        write_message(NEXT, &mut to)?;
    }
}

/// What no client says: its connection stands, and the next one comes.
const NEXT: &[u8] = &[];

/// Writes a message behind its length.
fn write_message(message: &[u8], to: &mut impl Write) -> io::Result<()> {
    let length = u32::try_from(message.len()).map_err(io::Error::other)?;
    to.write_all(&length.to_be_bytes())?;
    to.write_all(message)?;
    to.flush()
}

fn read_message(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let mut message = vec![0; usize::try_from(u32::from_be_bytes(length)).map_err(io::Error::other)?];
    from.read_exact(&mut message)?;
    Ok(message)
}
