//! gokeyless, the key server of Cloudflare's Keyless SSL, and a client of its protocol.
//!
//! The protocol as <https://github.com/cloudflare/gokeyless/blob/v1.6.11/protocol/protocol.md> describes it: over mutual
//! TLS go messages of a header (version 1.0, length of the body, id) and a body of items (tag, length, value), all
//! numbers in network order. Answers have their request's id, and come in any order.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use keystead_local::pki::KEY_SERVER_NAME;
use keystead_tests::tool;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::keyserver::{Answered, Window};
use crate::ours::free_address;
use crate::process::{MEASURED, Program};

/// Where the program is, if not in PATH.
const PROGRAM: &str = "KEYSTEAD_GOKEYLESS";

/// A server that runs.
pub(crate) struct Gokeyless {
    /// It.
    pub(crate) program: Program,
    address: SocketAddr,
    config: Arc<ClientConfig>,
}

impl Gokeyless {
    /// The program, if it is installed.
    pub(crate) fn find() -> Option<PathBuf> {
        let named = env::var_os(PROGRAM).map(PathBuf::from);
        named.or_else(|| tool::find("gokeyless").then(|| "gokeyless".into()))
    }

    /// Starts `program` with the keys in these files, and the channel's certificates as our key server has them. Its
    /// client is the edge of this name.
    ///
    /// # Errors
    /// What keeps it from starting.
    pub(crate) fn start(program: &Path, keys: &[PathBuf], edge: &str, directory: &Path) -> Result<Self> {
        let pki = directory.join("pki");
        let (address, metrics) = (free_address()?, free_address()?);
        let channel = pki.join("keyserver").join("channel").display().to_string();
        // Its usual level is one line for each request.
        let mut text = format!(
            "loglevel: 2\nport: {}\nmetrics_port: {}\nauth_cert: {channel}.pem\nauth_key: {channel}.key\n\
             cloudflare_ca_cert: {channel}-ca.pem\nprivate_key_stores:\n",
            address.port(),
            metrics.port(),
        );
        keys.iter().for_each(|key| text += &format!("- file: {}\n", key.display()));
        let file = directory.join("gokeyless.yaml");
        fs::write(&file, text).with_context(|| file.display().to_string())?;
        let mut command = Command::new(program);
        command.arg("--config-file").arg(file);
        let mut program = Program::start("gokeyless", &command, MEASURED, directory)?;
        program.wait_listening(address)?;
        Ok(Self { program, address, config: client(&pki.join(format!("edge-{edge}")))? })
    }

    /// A further connection.
    pub(crate) fn connection(&self) -> impl Future<Output = Result<Connection>> + use<> {
        let (config, address) = (self.config.clone(), self.address);
        async move {
            let socket = TcpStream::connect(address).await?;
            socket.set_nodelay(true)?;
            let name = ServerName::try_from(KEY_SERVER_NAME)?;
            let stream = TlsConnector::from(config).connect(name, socket).await?;
            Ok(Connection { stream, incoming: Vec::new(), outgoing: Vec::new(), next: 0, sent: HashMap::new() })
        }
    }
}

/// A client with an edge's certificates: TLS 1.3, as between our edge and key server.
fn client(directory: &Path) -> Result<Arc<ClientConfig>> {
    let certificates = |file: &str| Ok::<_, anyhow::Error>(CertificateDer::pem_file_iter(directory.join(file))?);
    let mut roots = RootCertStore::empty();
    for root in certificates("channel-ca.pem")? {
        roots.add(root?)?;
    }
    let chain = certificates("channel.pem")?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(directory.join("channel.key"))?;
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS13])?;
    let mut config = builder.with_root_certificates(roots).with_client_auth_cert(chain, key)?;
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// A code of what is wanted, or of how it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Opcode(pub(crate) u8);

impl Opcode {
    /// An RSA signature, PKCS#1 v1.5, of a SHA-256 digest.
    pub(crate) const RSA_SIGN_SHA256: Self = Self(0x05);
    /// An ECDSA signature of a SHA-256 digest.
    pub(crate) const ECDSA_SIGN_SHA256: Self = Self(0x15);
    /// An Ed25519 signature of a message.
    pub(crate) const ED25519_SIGN: Self = Self(0x18);
    const RESPONSE: Self = Self(0xf0);
}

/// What kind of item it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tag(u8);

impl Tag {
    const SUBJECT_KEY_IDENTIFIER: Self = Self(0x04);
    const OPCODE: Self = Self(0x11);
    const PAYLOAD: Self = Self(0x12);
    const PADDING: Self = Self(0x20);
}

/// Bytes of a header.
const HEADER: usize = 8;
/// Its version, 1.0.
const VERSION: [u8; 2] = [1, 0];
/// Bytes that a message is padded to, as its own client and server do.
const PADDED: usize = 1024;

/// A request for a signature.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// What is wanted.
    pub(crate) opcode: Opcode,
    /// Which key: the SHA-1 of its subjectPublicKey (RFC 5280 §4.2.1.2).
    pub(crate) key: [u8; 20],
    /// What is signed.
    pub(crate) payload: Vec<u8>,
}

impl Request {
    fn write(&self, id: u32, out: &mut Vec<u8>) -> Result<()> {
        let mut body = Vec::with_capacity(PADDED);
        item(Tag::OPCODE, &[self.opcode.0], &mut body)?;
        item(Tag::PAYLOAD, &self.payload, &mut body)?;
        item(Tag::SUBJECT_KEY_IDENTIFIER, &self.key, &mut body)?;
        let padding = PADDED.saturating_sub(HEADER + body.len() + ITEM);
        item(Tag::PADDING, &vec![0; padding], &mut body)?;
        out.extend_from_slice(&VERSION);
        out.extend_from_slice(&u16::try_from(body.len())?.to_be_bytes());
        out.extend_from_slice(&id.to_be_bytes());
        out.append(&mut body);
        Ok(())
    }
}

/// Bytes of an item without its value.
const ITEM: usize = 3;

fn item(Tag(tag): Tag, value: &[u8], out: &mut Vec<u8>) -> Result<()> {
    out.push(tag);
    out.extend_from_slice(&u16::try_from(value.len())?.to_be_bytes());
    out.extend_from_slice(value);
    Ok(())
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
struct Response<'r> {
    id: u32,
    opcode: Opcode,
    payload: &'r [u8],
}

impl<'r> Response<'r> {
    /// The first of `bytes`, and what follows it. `None` where it is not there as a whole yet.
    fn read(bytes: &'r [u8]) -> Result<Option<(Self, &'r [u8])>> {
        let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else { return Ok(None) };
        let [major, minor, length @ .., a, b, c, d] = *header;
        ensure!([major, minor] == VERSION, "version {major}.{minor}");
        let Some((mut body, rest)) = rest.split_at_checked(u16::from_be_bytes(length).into()) else { return Ok(None) };
        let (mut opcode, mut payload) = (None, [].as_slice());
        while let Some((&[tag, length @ ..], value)) = body.split_first_chunk::<ITEM>() {
            let value = value.split_at_checked(u16::from_be_bytes(length).into()).context("an item is cut off")?;
            match (Tag(tag), value.0) {
                (Tag::OPCODE, &[code]) => opcode = Some(Opcode(code)),
                (Tag::PAYLOAD, value) => payload = value,
                _ => {}
            }
            body = value.1;
        }
        let opcode = opcode.context("an answer without an opcode")?;
        Ok(Some((Self { id: u32::from_be_bytes([a, b, c, d]), opcode, payload }, rest)))
    }
}

/// Requests and answers of one connection.
pub(crate) struct Connection {
    stream: TlsStream<TcpStream>,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    next: u32,
    sent: HashMap<u32, Instant>,
}

impl Connection {
    /// Keeps `count` requests under way until the window's end, and waits for the answers that are out then.
    pub(crate) async fn keep(&mut self, count: usize, request: &Request, window: Window) -> Result<Answered> {
        let mut answered = Answered::default();
        for _ in 0..count {
            self.ask(request)?;
        }
        while !self.sent.is_empty() {
            self.stream.write_all(&self.outgoing).await?;
            self.stream.flush().await?;
            self.outgoing.clear();
            ensure!(self.stream.read_buf(&mut self.incoming).await? > 0, "the connection ended");
            self.take(request, window, &mut answered)?;
        }
        Ok(answered)
    }

    /// Takes all answers that have come in, and asks again for each.
    fn take(&mut self, request: &Request, (from, to): Window, answered: &mut Answered) -> Result<()> {
        let incoming = std::mem::take(&mut self.incoming);
        let mut rest = incoming.as_slice();
        while let Some((response, behind)) = Response::read(rest)? {
            let sent = self.sent.remove(&response.id).context("an answer to nothing")?;
            if response.opcode != Opcode::RESPONSE {
                bail!("no signature: {response:?}");
            }
            let at = Instant::now();
            if (from..to).contains(&at) {
                answered.count += 1;
                answered.latencies.record(at - sent);
            }
            if at < to {
                self.ask(request)?;
            }
            rest = behind;
        }
        self.incoming = rest.to_vec();
        Ok(())
    }

    fn ask(&mut self, request: &Request) -> Result<()> {
        self.next += 1;
        self.sent.insert(self.next, Instant::now());
        request.write(self.next, &mut self.outgoing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_padded_and_name_their_key() {
        let request = Request { opcode: Opcode::ECDSA_SIGN_SHA256, key: [3; 20], payload: vec![9; 32] };
        let mut bytes = Vec::new();
        request.write(0x0102_0304, &mut bytes).unwrap();
        assert_eq!(bytes.len(), PADDED);
        assert_eq!(bytes[..12], [1, 0, 0x03, 0xf8, 1, 2, 3, 4, 0x11, 0, 1, 0x15]);
        assert_eq!(bytes[12..15], [0x12, 0, 32]);
        assert_eq!(bytes[47..50], [0x04, 0, 20]);
        assert_eq!(bytes[70], 0x20);
    }

    #[test]
    fn answers_are_read_when_they_are_whole() {
        let bytes = [1, 0, 0, 12, 0, 0, 0, 7, 0x11, 0, 1, 0xf0, 0x20, 0, 0, 0x12, 0, 2, 5, 6, 1];
        for end in 0..20 {
            assert_eq!(Response::read(&bytes[..end]).unwrap(), None, "{end}");
        }
        let (response, rest) = Response::read(&bytes).unwrap().unwrap();
        assert_eq!(response, Response { id: 7, opcode: Opcode::RESPONSE, payload: &[5, 6] });
        assert_eq!(rest, [1]);
    }
}
