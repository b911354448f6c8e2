//! One client: it connects, makes its handshake, sends a few bytes or many, and reads them back.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustls::client::{Resumption, Tls12Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{AlertDescription, CipherSuite, ClientConfig, HandshakeKind, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::ledger::{Bytes, Greeted, Kind, Visit};
use super::transfer::{self, Volume};

/// For connecting and handshake together.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Until a balancer tries the next edge.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// A balancer's view of the edges.
#[derive(Debug)]
pub(super) struct Balancer {
    edges: Vec<(SocketAddr, AtomicBool)>,
    turn: AtomicUsize,
}

impl Balancer {
    pub(super) fn new(edges: &[SocketAddr]) -> Self {
        let edges = edges.iter().map(|address| (*address, AtomicBool::new(true))).collect();
        Self { edges, turn: AtomicUsize::new(0) }
    }

    /// Sends clients to an edge, or no longer.
    pub(super) fn set_in_use(&self, edge: usize, in_use: bool) {
        if let Some((_, flag)) = self.edges.get(edge) {
            flag.store(in_use, Ordering::Relaxed);
        }
    }

    pub(super) fn is_in_use(&self, edge: usize) -> bool {
        self.edges.get(edge).is_some_and(|(_, flag)| flag.load(Ordering::Relaxed))
    }

    /// How many edges there are.
    pub(super) fn len(&self) -> usize {
        self.edges.len()
    }

    /// The edges for the next client, in the order in which it tries them.
    fn order(&self) -> Vec<(usize, SocketAddr)> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        self.order_from(turn)
    }

    fn order_from(&self, first: usize) -> Vec<(usize, SocketAddr)> {
        let all = self.edges.iter().enumerate().cycle().skip(first % self.edges.len()).take(self.edges.len());
        all.filter(|(edge, _)| self.is_in_use(*edge)).map(|(edge, (address, _))| (edge, *address)).collect()
    }
}

/// What clients are configured with. Those of one kind share their sessions.
pub(super) struct Clients {
    pub(super) balancer: Balancer,
    full_rsa: TlsConnector,
    full_p256: TlsConnector,
    tickets: TlsConnector,
    /// One for each edge, since ids resume only where they were given.
    ids: Vec<TlsConnector>,
    name: ServerName<'static>,
}

impl Clients {
    /// Clients that trust `authority` and ask for `localhost`.
    pub(super) fn new(balancer: Balancer, authority: &Path) -> anyhow::Result<Self> {
        let rsa = config(authority, Some(CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256), Resumption::disabled())?;
        let p256 =
            config(authority, Some(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256), Resumption::disabled())?;
        let tickets = config(authority, None, Resumption::in_memory_sessions(SESSIONS))?;
        let by_id = || Resumption::in_memory_sessions(SESSIONS).tls12_resumption(Tls12Resumption::SessionIdOnly);
        let ids = (0..balancer.len()).map(|_| config(authority, None, by_id())).collect::<anyhow::Result<_>>()?;
        let name = ServerName::try_from("localhost").context("a server name")?;
        Ok(Self { balancer, full_rsa: rsa, full_p256: p256, tickets, ids, name })
    }

    /// Connects as a client of `kind` does, at the edge whose turn it is, or at the other where that one takes no
    /// connection; then sends `volume` and reads it back.
    pub(super) async fn visit(&self, kind: Kind, volume: Volume) -> Visit {
        self.visit_in_order(kind, volume, &self.balancer.order()).await
    }

    /// As [`Self::visit`], with `edge` first.
    pub(super) async fn visit_from(&self, edge: usize, kind: Kind, volume: Volume) -> Visit {
        self.visit_in_order(kind, volume, &self.balancer.order_from(edge)).await
    }

    /// Whether a client that asks for `name` gets a full handshake with the P-256 key at `address`.
    pub(super) async fn is_served(&self, address: SocketAddr, name: &'static str) -> bool {
        let Ok(name) = ServerName::try_from(name) else { return false };
        let greeting = async { self.full_p256.connect(name, TcpStream::connect(address).await?).await };
        timeout(HANDSHAKE_TIMEOUT, greeting).await.is_ok_and(|greeted| greeted.is_ok())
    }

    async fn visit_in_order(&self, kind: Kind, volume: Volume, edges: &[(usize, SocketAddr)]) -> Visit {
        let began = Instant::now();
        let mut met = Met { edge: edges.first().map_or(0, |(edge, _)| *edge), elsewhere: false };
        let greeting = timeout(HANDSHAKE_TIMEOUT, self.greet(kind, edges, &mut met)).await;
        let greeted = greeting.unwrap_or(Err("timeout"));
        let latency = began.elapsed();
        let (handshake, bytes) = match greeted {
            Ok(stream) => {
                let resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
                (Ok(Greeted { latency, resumed }), transfer::there_and_back(stream, volume).await)
            }
            Err(reason) => (Err(reason), Bytes::default()),
        };
        let Met { edge, elsewhere } = met;
        Visit { began, ended: Instant::now(), edge, elsewhere, handshake, bytes }
    }

    async fn greet(
        &self,
        kind: Kind,
        edges: &[(usize, SocketAddr)],
        met: &mut Met,
    ) -> Result<TlsStream<TcpStream>, &'static str> {
        for (tries, (edge, address)) in edges.iter().enumerate() {
            *met = Met { edge: *edge, elsewhere: tries > 0 };
            let Ok(Ok(socket)) = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await else { continue };
            // Small requests would wait for acknowledgements.
            socket.set_nodelay(true).map_err(|cause| reason(&cause))?;
            let connector = self.connector(kind, *edge);
            return connector.connect(self.name.clone(), socket).await.map_err(|cause| reason(&cause));
        }
        Err("not_connected")
    }

    fn connector(&self, kind: Kind, edge: usize) -> &TlsConnector {
        match kind {
            Kind::FullRsa => &self.full_rsa,
            Kind::FullP256 => &self.full_p256,
            Kind::Ticket => &self.tickets,
            Kind::Id => self.ids.get(edge).unwrap_or(&self.full_p256),
        }
    }
}

/// Where a client came to.
struct Met {
    edge: usize,
    elsewhere: bool,
}

/// All clients of one kind ask for one name, and so have one session at a time.
const SESSIONS: usize = 8;

fn config(authority: &Path, suite: Option<CipherSuite>, resumption: Resumption) -> anyhow::Result<TlsConnector> {
    let mut provider = aws_lc_rs::default_provider();
    if let Some(suite) = suite {
        provider.cipher_suites.retain(|candidate| candidate.suite() == suite);
    }
    let mut config = client_config(authority, provider)?;
    config.resumption = resumption;
    Ok(TlsConnector::from(Arc::new(config)))
}

fn client_config(authority: &Path, provider: CryptoProvider) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority).context("the authority of clients")?)?;
    let builder = ClientConfig::builder_with_provider(Arc::new(provider));
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS12])?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// One word for what a client sees, of a closed list.
pub(super) fn reason(cause: &io::Error) -> &'static str {
    let tls = cause.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match (tls, cause.kind()) {
        (Some(rustls::Error::AlertReceived(AlertDescription::InternalError)), _) => "alert_internal_error",
        (Some(rustls::Error::AlertReceived(AlertDescription::UnrecognisedName)), _) => "alert_unrecognized_name",
        (Some(rustls::Error::AlertReceived(_)), _) => "alert_other",
        (Some(rustls::Error::InvalidCertificate(_)), _) => "bad_certificate",
        (Some(_), _) => "tls_error",
        (None, io::ErrorKind::ConnectionRefused) => "connect_refused",
        (None, io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => "reset",
        (None, io::ErrorKind::UnexpectedEof) => "closed",
        (None, io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable) => "no_route",
        (None, io::ErrorKind::TimedOut) => "timeout",
        _ => "other",
    }
}
