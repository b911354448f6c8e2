//! Servers in memory: the engine, rustls and OpenSSL's libssl behind one trait. The client is rustls's for all of them, and
//! only the server's time counts.

#![expect(clippy::expect_used, reason = "between a client and a server in memory nothing fails but the benchmark")]

mod ours;
mod peers;
mod tickets;

use std::any::Any;
use std::hint::black_box;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use keystead_tests::signer::{SERVER_NAME, Signer};
use keystead_tls::crypto::{FAST, PORTABLE};
use rustls::client::{Resumption, Tls12Resumption};
use rustls::crypto::aws_lc_rs;
use rustls::{CipherSuite, ClientConfig, ClientConnection, HandshakeKind, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use strum::{Display, EnumIter, EnumString};

use self::ours::Ours;
use self::peers::{Cryptography, Libssl, Rustls};

/// One connection of a server.
pub trait Server {
    /// Takes what the client sent, and appends what goes to the client.
    fn feed(&mut self, input: &[u8], out: &mut Vec<u8>);

    /// Application data that has come in since the last call.
    fn received(&mut self) -> usize;

    /// Appends application data as records.
    fn send(&mut self, data: &[u8], out: &mut Vec<u8>);

    /// What is left of an established connection for as long as it has nothing to do.
    fn stand(self: Box<Self>) -> Box<dyn Any>;

    /// Time in `feed` that is another's: a signature's that comes from elsewhere.
    fn waited(&self) -> Duration {
        Duration::ZERO
    }
}

/// What servers are configured with: it makes one for each connection.
pub trait Service {
    /// A connection whose first byte is yet to come.
    fn accept(&self) -> Box<dyn Server>;
}

/// Whose servers these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Display, EnumIter, EnumString)]
pub enum Subject {
    /// Our engine, with the provider that is the default.
    #[strum(serialize = "keystead")]
    Fast,
    /// Our engine, with the provider in pure Rust.
    #[strum(serialize = "keystead portable")]
    Portable,
    /// rustls, with ring.
    #[strum(serialize = "rustls ring")]
    RustlsRing,
    /// rustls, with aws-lc-rs.
    #[strum(serialize = "rustls aws-lc-rs")]
    RustlsAwsLcRs,
    /// OpenSSL's libssl.
    #[strum(serialize = "OpenSSL")]
    Libssl,
}

impl Subject {
    /// A server with this certificate, whose clients come this way.
    pub fn service(self, signer: &'static Signer, coming: Coming) -> Box<dyn Service> {
        match self {
            Self::Fast => Box::new(Ours::new(FAST, signer, coming)),
            Self::Portable => Box::new(Ours::new(PORTABLE, signer, coming)),
            Self::RustlsRing => Box::new(Rustls::new(Cryptography::Ring, signer, coming)),
            Self::RustlsAwsLcRs => Box::new(Rustls::new(Cryptography::AwsLcRs, signer, coming)),
            Self::Libssl => Box::new(Libssl::new(signer, coming)),
        }
    }

    /// A server whose connections stand for long, set as one is that has many of them.
    pub fn standing_service(self, signer: &'static Signer) -> Box<dyn Service> {
        match self {
            Self::Fast | Self::Portable | Self::RustlsRing | Self::RustlsAwsLcRs => self.service(signer, Coming::Full),
            Self::Libssl => Box::new(Libssl::releasing_buffers(signer, Coming::Full)),
        }
    }

    /// Whether it is our engine.
    pub fn is_ours(self) -> bool {
        matches!(self, Self::Fast | Self::Portable)
    }
}

/// How clients come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coming {
    /// Each for the first time.
    Full,
    /// With a session that the server knows by its id.
    ById,
    /// With a session in a ticket that the server sealed.
    ByTicket,
}

/// The suites of TLS 1.2 that are measured, for one kind of key.
pub const SUITES: [(CipherSuite, &str); 3] = [
    (CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, "AES-128-GCM"),
    (CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, "AES-256-GCM"),
    (CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, "ChaCha20-Poly1305"),
];

/// A client and a server, joined.
pub struct Pair {
    client: ClientConnection,
    server: Box<dyn Server>,
    to_client: Vec<u8>,
    to_server: Vec<u8>,
    /// The server's time.
    pub spent: Duration,
    /// The part of it that was spent in waiting for signatures.
    pub waited: Duration,
}

impl Pair {
    /// Joins them, and completes the handshake.
    pub fn new(clients: &Arc<ClientConfig>, service: &dyn Service) -> Self {
        let name = ServerName::try_from(SERVER_NAME).expect("a name");
        let client = ClientConnection::new(clients.clone(), name).expect("a client");
        let began = Instant::now();
        let server = service.accept();
        let spent = began.elapsed();
        let (to_client, to_server, waited) = (Vec::new(), Vec::new(), Duration::ZERO);
        let mut pair = Self { client, server, to_client, to_server, spent, waited };
        while pair.client.is_handshaking() || pair.client.wants_write() {
            pair.pass_on();
        }
        pair.waited = pair.server.waited();
        pair
    }

    /// Whether the handshake resumed a session.
    pub fn is_resumed(&self) -> bool {
        self.client.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// What the client has to say goes to the server, and its answer back.
    fn pass_on(&mut self) {
        self.to_server.clear();
        while self.client.wants_write() {
            self.client.write_tls(&mut self.to_server).expect("memory");
        }
        let began = Instant::now();
        shake_hands(&mut *self.server, &self.to_server, &mut self.to_client);
        self.spent += began.elapsed();
        let mut rest = self.to_client.as_slice();
        while !rest.is_empty() {
            self.client.read_tls(&mut rest).expect("memory");
            self.client.process_new_packets().expect("what a server says");
        }
        self.to_client.clear();
    }

    /// The server's time to send `data`. The client does not read it, so that as much may be sent as one likes.
    pub fn send(&mut self, data: &[u8]) -> Duration {
        self.to_client.clear();
        let began = Instant::now();
        send_data(&mut *self.server, data, &mut self.to_client);
        began.elapsed()
    }

    /// The server's time to receive `data` `times` over.
    pub fn receive(&mut self, data: &[u8], times: u64) -> Duration {
        let mut spent = Duration::ZERO;
        for _ in 0..times {
            self.client.writer().write_all(data).expect("memory");
            self.to_server.clear();
            while self.client.wants_write() {
                self.client.write_tls(&mut self.to_server).expect("memory");
            }
            let began = Instant::now();
            receive_data(&mut *self.server, &self.to_server, &mut self.to_client);
            let received = self.server.received();
            spent += began.elapsed();
            assert_eq!(received, data.len(), "the server lost something");
        }
        spent
    }
}

// Functions by whose names instructions are counted. What each says last keeps them apart: two that do the same would be made
// one, and one that ends with a call would end before it.

#[inline(never)]
fn shake_hands(server: &mut dyn Server, input: &[u8], out: &mut Vec<u8>) {
    server.feed(input, out);
    black_box("shake hands");
}

#[inline(never)]
fn send_data(server: &mut dyn Server, data: &[u8], out: &mut Vec<u8>) {
    server.send(data, out);
    black_box("send");
}

#[inline(never)]
fn receive_data(server: &mut dyn Server, input: &[u8], out: &mut Vec<u8>) {
    server.feed(input, out);
    black_box("receive");
}

/// Clients that offer one suite, and X25519 before P-256.
pub fn clients(signer: &Signer, suite: CipherSuite, coming: Coming) -> Arc<ClientConfig> {
    clients_of(signer.identity.chain(), suite, coming)
}

/// The same, of a server with this certificate.
pub(crate) fn clients_of(chain: &[Vec<u8>], suite: CipherSuite, coming: Coming) -> Arc<ClientConfig> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|candidate| candidate.suite() == suite);
    // Without P-256 a client takes no certificate with it (RFC 8422 §5.1).
    let groups = [rustls::NamedGroup::X25519, rustls::NamedGroup::secp256r1];
    provider.kx_groups.retain(|group| groups.contains(&group.name()));
    let mut roots = RootCertStore::empty();
    for certificate in chain {
        roots.add(CertificateDer::from(certificate.clone())).expect("a root");
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(provider));
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS12]).expect("TLS 1.2");
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.resumption = match coming {
        Coming::Full => Resumption::disabled(),
        Coming::ById => Resumption::in_memory_sessions(8).tls12_resumption(Tls12Resumption::SessionIdOnly),
        Coming::ByTicket => Resumption::in_memory_sessions(8).tls12_resumption(Tls12Resumption::SessionIdOrTickets),
    };
    Arc::new(config)
}
