//! Servers in memory: the engine, rustls and OpenSSL's libssl behind one trait. The client is rustls's for all of them, and
//! only the server's time counts.

#![expect(clippy::expect_used, reason = "between a client and a server in memory nothing fails but the benchmark")]

use std::cell::Cell;
use std::hint::black_box;
use std::io::{self, BufRead, Read, Write};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use keystead_tests::server;
use keystead_tests::sessions::Sessions;
use keystead_tests::signer::{SERVER_NAME, Signer};
use keystead_tls::crypto::Provider;
use keystead_tls::handshake::{SignatureRequest, SignedParams};
use keystead_tls::{HostParameters, Opened};
use openssl::pkey::PKey;
use openssl::ssl::{
    ErrorCode, ShutdownState, Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions, SslSessionCacheMode,
    SslStream, SslVersion,
};
use openssl::x509::X509;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustls::client::{Resumption, Tls12Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{NoServerSessionStorage, ServerSessionMemoryCache};
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig, ServerConnection,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};

/// One connection of a server.
pub trait Server {
    /// Takes what the client sent, and appends what goes to the client.
    fn feed(&mut self, input: &[u8], out: &mut Vec<u8>);

    /// Application data that has come in since the last call.
    fn received(&mut self) -> usize;

    /// Appends application data as records.
    fn send(&mut self, data: &[u8], out: &mut Vec<u8>);

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

/// How clients come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coming {
    /// Each for the first time.
    Full,
    /// With a session that the server knows by its id.
    ById,
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

#[inline(never)]
fn sign_elsewhere(signer: &Signer, request: SignatureRequest<'_>, server_random: [u8; 32]) -> SignedParams {
    signer.sign(request, server_random)
}

/// Clients that offer one suite, and X25519 before P-256.
pub fn clients(signer: &Signer, suite: CipherSuite, coming: Coming) -> Arc<ClientConfig> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|candidate| candidate.suite() == suite);
    // Without P-256 a client takes no certificate with it (RFC 8422 §5.1).
    let groups = [rustls::NamedGroup::X25519, rustls::NamedGroup::secp256r1];
    provider.kx_groups.retain(|group| groups.contains(&group.name()));
    let mut roots = RootCertStore::empty();
    for certificate in signer.identity.chain() {
        roots.add(CertificateDer::from(certificate.to_vec())).expect("a root");
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(provider));
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS12]).expect("TLS 1.2");
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.resumption = match coming {
        Coming::Full => Resumption::disabled(),
        Coming::ById => Resumption::in_memory_sessions(8).tls12_resumption(Tls12Resumption::SessionIdOnly),
    };
    Arc::new(config)
}

/// Our engine.
pub struct Ours {
    provider: &'static dyn Provider,
    host: HostParameters,
    sessions: Sessions,
    signer: &'static Signer,
}

impl Ours {
    /// With this cryptography and certificate.
    pub fn new(provider: &'static dyn Provider, signer: &'static Signer, coming: Coming) -> Self {
        let host = HostParameters { identities: vec![signer.identity.clone()], ..HostParameters::default() };
        Self { provider, host, sessions: Sessions::new(false, coming == Coming::ById), signer }
    }
}

impl Service for Ours {
    fn accept(&self) -> Box<dyn Server> {
        let waited = Rc::new(Cell::new(Duration::ZERO));
        let (signer, waits) = (self.signer, waited.clone());
        let key_server = move |request: SignatureRequest<'_>| {
            let began = Instant::now();
            let mut server_random = [0; 32];
            rand::rng().fill_bytes(&mut server_random);
            let signed = sign_elsewhere(signer, request, server_random);
            waits.set(waits.get() + began.elapsed());
            signed
        };
        let rng = Box::new(StdRng::from_rng(&mut rand::rng()));
        let server = server::Server::with(self.provider, self.host.clone(), rng, Box::new(key_server));
        Box::new(OurServer { server: server.with_sessions(&self.sessions), waited, buffer: Vec::new(), received: 0 })
    }
}

struct OurServer {
    server: server::Server,
    waited: Rc<Cell<Duration>>,
    buffer: Vec<u8>,
    received: usize,
}

impl Server for OurServer {
    fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) {
        if !self.server.is_established() {
            self.server.feed(input).expect("what a client says");
            out.append(&mut self.server.take_output());
            return;
        }
        // As a socket would fill it: records are opened in place.
        self.buffer.clear();
        self.buffer.extend_from_slice(input);
        let mut rest = self.buffer.as_mut_slice();
        while !rest.is_empty() {
            match self.server.connection().open(rest, out).expect("a record") {
                Opened::Record { consumed, plaintext } => {
                    self.received += plaintext.len();
                    rest = rest.get_mut(consumed..).expect("a part of the buffer");
                }
                Opened::Incomplete { .. } | Opened::Closed => panic!("clients here send whole records"),
            }
        }
    }

    fn received(&mut self) -> usize {
        std::mem::take(&mut self.received)
    }

    fn send(&mut self, data: &[u8], out: &mut Vec<u8>) {
        self.server.connection().seal(data, out).expect("records are left");
    }

    fn waited(&self) -> Duration {
        self.waited.get()
    }
}

/// rustls.
pub struct Rustls(Arc<ServerConfig>);

impl Rustls {
    /// With this cryptography and certificate.
    pub fn new(provider: CryptoProvider, signer: &Signer, coming: Coming) -> Self {
        let chain = signer.identity.chain().iter().map(|der| CertificateDer::from(der.to_vec())).collect();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(signer.pkcs8.clone()));
        let builder = ServerConfig::builder_with_provider(Arc::new(provider));
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS12]).expect("TLS 1.2");
        let mut config = builder.with_no_client_auth().with_single_cert(chain, key).expect("a certificate");
        config.session_storage = match coming {
            Coming::Full => Arc::new(NoServerSessionStorage {}),
            Coming::ById => ServerSessionMemoryCache::new(1024),
        };
        Self(Arc::new(config))
    }
}

impl Service for Rustls {
    fn accept(&self) -> Box<dyn Server> {
        let connection = ServerConnection::new(self.0.clone()).expect("a server");
        Box::new(RustlsServer { connection, received: 0 })
    }
}

struct RustlsServer {
    connection: ServerConnection,
    received: usize,
}

impl Server for RustlsServer {
    fn feed(&mut self, mut input: &[u8], out: &mut Vec<u8>) {
        while !input.is_empty() {
            self.connection.read_tls(&mut input).expect("memory");
            self.connection.process_new_packets().expect("what a client says");
            let mut reader = self.connection.reader();
            // At the end of what there is: WouldBlock.
            while let Ok(data) = reader.fill_buf() {
                let length = data.len();
                self.received += length;
                reader.consume(length);
            }
        }
        while self.connection.wants_write() {
            self.connection.write_tls(out).expect("memory");
        }
    }

    fn received(&mut self) -> usize {
        std::mem::take(&mut self.received)
    }

    fn send(&mut self, data: &[u8], out: &mut Vec<u8>) {
        self.connection.writer().write_all(data).expect("room");
        while self.connection.wants_write() {
            self.connection.write_tls(out).expect("memory");
        }
    }
}

/// OpenSSL's libssl.
pub struct Libssl(SslContext);

impl Libssl {
    /// With this certificate.
    pub fn new(signer: &Signer, coming: Coming) -> Self {
        let mut context = SslContextBuilder::new(SslMethod::tls_server()).expect("a context");
        context.set_max_proto_version(Some(SslVersion::TLS1_2)).expect("TLS 1.2");
        let certificate = signer.identity.chain().first().expect("a certificate");
        context.set_certificate(&X509::from_der(certificate).expect("a certificate")).expect("a certificate");
        context.set_private_key(&PKey::private_key_from_pkcs8(&signer.pkcs8).expect("a key")).expect("its key");
        context.set_groups_list("X25519").expect("a group");
        context.set_options(SslOptions::NO_TICKET);
        context.set_session_cache_mode(match coming {
            Coming::Full => SslSessionCacheMode::OFF,
            Coming::ById => SslSessionCacheMode::SERVER,
        });
        context.set_session_id_context(b"bench").expect("a context");
        Self(context.build())
    }
}

impl Service for Libssl {
    fn accept(&self) -> Box<dyn Server> {
        let ssl = Ssl::new(&self.0).expect("a server");
        let stream = SslStream::new(ssl, Wire::default()).expect("a stream");
        Box::new(LibsslServer { stream, established: false, scratch: vec![0; 1 << 14], received: 0 })
    }
}

/// What libssl reads and writes.
#[derive(Default)]
struct Wire {
    input: Vec<u8>,
    taken: usize,
    output: Vec<u8>,
}

impl Read for Wire {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let rest = self.input.get(self.taken..).unwrap_or_default();
        if rest.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let length = rest.len().min(into.len());
        into.get_mut(..length).zip(rest.get(..length)).map(|(into, from)| into.copy_from_slice(from)).expect("both");
        self.taken += length;
        Ok(length)
    }
}

impl Write for Wire {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.output.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct LibsslServer {
    stream: SslStream<Wire>,
    established: bool,
    scratch: Vec<u8>,
    received: usize,
}

impl LibsslServer {
    fn wants_more(error: &openssl::ssl::Error) -> bool {
        error.code() == ErrorCode::WANT_READ
    }
}

impl Drop for LibsslServer {
    /// libssl forgets the session of a connection that did not end in good order.
    fn drop(&mut self) {
        self.stream.set_shutdown(ShutdownState::SENT | ShutdownState::RECEIVED);
    }
}

impl Server for LibsslServer {
    fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) {
        let wire = self.stream.get_mut();
        wire.input.clear();
        wire.input.extend_from_slice(input);
        wire.taken = 0;
        if self.established {
            loop {
                match self.stream.ssl_read(&mut self.scratch) {
                    Ok(length) => self.received += length,
                    Err(error) if Self::wants_more(&error) => break,
                    Err(error) => panic!("{error}"),
                }
            }
        } else {
            match self.stream.accept() {
                Ok(()) => self.established = true,
                Err(error) if Self::wants_more(&error) => {}
                Err(error) => panic!("{error}"),
            }
        }
        out.append(&mut self.stream.get_mut().output);
    }

    fn received(&mut self) -> usize {
        std::mem::take(&mut self.received)
    }

    fn send(&mut self, data: &[u8], out: &mut Vec<u8>) {
        self.stream.write_all(data).expect("memory");
        out.append(&mut self.stream.get_mut().output);
    }
}
