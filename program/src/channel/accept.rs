//! The accepting end: TCP connections in, connections of identified peers out.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use rustls::{CertificateError, PeerIncompatible};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;

use super::peer_stream::{ConnectionGuard, PeerInfo, PeerStream};
use super::{InvalidPeerIdentity, PeerIdentity, ServerChannel};
use crate::share::{Share, Shares};

/// Bounds on what peers that are not yet known, and those that are, may take up.
#[derive(Clone, Copy, Debug)]
pub struct AcceptLimits {
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
    /// Handshakes at one time; further connections wait in the kernel's queue.
    pub handshakes: usize,
    /// Handshakes of one address at one time; further ones are refused.
    pub handshakes_per_address: usize,
    /// Connections at one time, those in their handshake among them; further ones are refused.
    pub connections: usize,
    /// Connections of one identity at one time; further ones are refused.
    pub connections_per_peer: usize,
}

/// What an [`Acceptor`] counts. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct ChannelMetrics {
    connected: Gauge,
    refused: Family<Refusal, Counter>,
    expired: Counter,
}

impl ChannelMetrics {
    /// Adds these metrics to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("channel_connections", "Connections of identified peers", self.connected.clone());
        registry.register("channel_refused", "Connections refused, by reason", self.refused.clone());
        let expired = "Connections ended since the peer's certificate had expired";
        registry.register("channel_expired", expired, self.expired.clone());
    }

    /// Connections ended since the peer's certificate had expired.
    pub fn expired(&self) -> u64 {
        self.expired.get()
    }

    /// Connections that stand.
    pub fn connected(&self) -> i64 {
        self.connected.get()
    }

    /// Connections refused for `reason`.
    pub fn refused(&self, reason: RefusedPeer) -> u64 {
        self.refused.get_or_create(&Refusal { reason }).get()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refusal {
    reason: RefusedPeer,
}

/// Why a connection was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum RefusedPeer {
    /// The connection ended or broke in the handshake.
    ConnectionLost,
    /// The handshake took too long.
    HandshakeTimeout,
    /// The peer does not speak TLS 1.3, or not TLS at all.
    NoCommonProtocol,
    /// The peer speaks no HTTP/2.
    NoCommonAlpn,
    /// The peer showed no certificate.
    NoCertificate,
    /// The peer's certificate comes from no trusted authority.
    UntrustedCertificate,
    /// The peer's certificate is outside its time of validity.
    ExpiredCertificate,
    /// The peer's certificate cannot be used for another cause.
    BadCertificate,
    /// The peer's certificate does not have exactly one URI subject alternative name.
    NoIdentity,
    /// The handshake failed for another cause.
    HandshakeFailed,
    /// As many connections stand as are allowed.
    TooManyConnections,
    /// As many handshakes of the peer's address are under way as are allowed.
    TooManyHandshakesOfAddress,
    /// As many connections of the peer's identity stand as are allowed.
    TooManyConnectionsOfPeer,
}

impl RefusedPeer {
    /// The word by which log and metric name this cause.
    pub fn reason(self) -> &'static str {
        self.into()
    }

    fn of_handshake(error: &io::Error) -> Self {
        let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
            return Self::ConnectionLost;
        };
        // rustls adds causes over time; those without a word of their own share one.
        #[expect(clippy::wildcard_enum_match_arm, reason = "the enums of rustls are non-exhaustive")]
        match error {
            rustls::Error::NoCertificatesPresented => Self::NoCertificate,
            rustls::Error::InvalidCertificate(cause) => match cause {
                CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::UntrustedCertificate,
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. } => Self::ExpiredCertificate,
                _ => Self::BadCertificate,
            },
            rustls::Error::PeerIncompatible(
                PeerIncompatible::SupportedVersionsExtensionRequired
                | PeerIncompatible::Tls12NotOfferedOrEnabled
                | PeerIncompatible::ServerDoesNotSupportTls12Or13,
            )
            | rustls::Error::InvalidMessage(_) => Self::NoCommonProtocol,
            rustls::Error::NoApplicationProtocol => Self::NoCommonAlpn,
            _ => Self::HandshakeFailed,
        }
    }
}

impl EncodeLabelValue for RefusedPeer {
    fn encode(&self, encoder: &mut prometheus_client::encoding::LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(&self.reason(), encoder)
    }
}

/// Accepts connections and identifies their peers.
#[derive(Clone, Debug)]
pub struct Acceptor {
    /// What this end shows and trusts.
    pub channel: ServerChannel,
    /// Bounds.
    pub limits: AcceptLimits,
    /// Where connections are counted.
    pub metrics: ChannelMetrics,
}

/// Time for a peer's kernel to find that the connection is dead.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// Pause after an `accept` that failed for want of a resource, most likely file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl Acceptor {
    /// Accepts on `listener` until the stream is dropped. Each item is a connection whose peer is known; the stream
    /// ends only by being dropped.
    pub fn accept(self, listener: TcpListener) -> ReceiverStream<io::Result<PeerStream>> {
        // Whoever reads the stream takes connections on at once; a few places absorb the change of threads.
        let (accepted, connections) = mpsc::channel(16);
        tokio::spawn(async move {
            tokio::select! {
                () = accepted.closed() => {}
                () = self.accept_all(&listener, &accepted) => {}
            }
        });
        ReceiverStream::new(connections)
    }

    async fn accept_all(&self, listener: &TcpListener, accepted: &mpsc::Sender<io::Result<PeerStream>>) {
        let handshakes = Arc::new(Semaphore::new(self.limits.handshakes));
        let of_addresses = Shares::new(self.limits.handshakes_per_address);
        let places = Places {
            connections: Arc::new(Semaphore::new(self.limits.connections)),
            of_peers: Shares::new(self.limits.connections_per_peer),
        };
        loop {
            let Ok(handshake) = handshakes.clone().acquire_owned().await else {
                return;
            };
            let (socket, address) = match listener.accept().await {
                Ok(connection) => connection,
                Err(cause) => {
                    if !is_peers(&cause) {
                        tracing::warn!(%cause, "accept failed");
                        sleep(ACCEPT_PAUSE).await;
                    }
                    continue;
                }
            };
            let Some(of_address) = of_addresses.take(address.ip().to_canonical()) else {
                self.refuse(
                    address,
                    RefusedPeer::TooManyHandshakesOfAddress,
                    "at the limit of handshakes of an address",
                );
                continue;
            };
            let Ok(connection) = places.connections.clone().try_acquire_owned() else {
                self.refuse(address, RefusedPeer::TooManyConnections, "at the limit of connections");
                continue;
            };
            let (acceptor, accepted, of_peers) = (self.clone(), accepted.clone(), places.of_peers.clone());
            tokio::spawn(async move {
                let taken = Handshake { connection, of_peers, _of_address: of_address };
                if let Some(stream) = acceptor.identify(socket, address, taken).await {
                    // Fails when no more connections are wanted; the peer sees this one close.
                    let _ = accepted.send(Ok(stream)).await;
                }
                drop(handshake);
            });
        }
    }

    async fn identify(&self, socket: TcpStream, address: SocketAddr, taken: Handshake) -> Option<PeerStream> {
        if let Err(cause) = prepare(&socket) {
            self.refuse(address, RefusedPeer::ConnectionLost, &cause);
            return None;
        }
        let handshake = TlsAcceptor::from(self.channel.config()).accept(socket);
        let stream = match tokio::time::timeout(self.limits.handshake_timeout, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(cause)) => {
                self.refuse(address, RefusedPeer::of_handshake(&cause), &cause);
                return None;
            }
            Err(elapsed) => {
                self.refuse(address, RefusedPeer::HandshakeTimeout, &elapsed);
                return None;
            }
        };
        let identity = match peer_identity(&stream) {
            Ok(identity) => identity,
            Err(cause) => {
                self.refuse(address, RefusedPeer::NoIdentity, &cause);
                return None;
            }
        };
        let Some(of_peer) = taken.of_peers.take(identity.clone()) else {
            self.refuse(address, RefusedPeer::TooManyConnectionsOfPeer, &identity);
            return None;
        };
        let guard = ConnectionGuard::new(self.metrics.connected.clone(), taken.connection, of_peer);
        Some(PeerStream::new(stream, PeerInfo { identity, address }, self.metrics.expired.clone(), guard))
    }

    fn refuse(&self, address: SocketAddr, reason: RefusedPeer, detail: &(impl std::fmt::Display + ?Sized)) {
        self.metrics.refused.get_or_create(&Refusal { reason }).inc();
        let word = reason.reason();
        // Anybody who reaches the port can cause one: the counter is what to watch.
        tracing::debug!(reason = word, %address, %detail, "connection refused");
    }
}

/// What connections take from one another.
struct Places {
    connections: Arc<Semaphore>,
    of_peers: Arc<Shares<PeerIdentity>>,
}

/// What a connection has taken when its handshake begins, and takes from when its peer is known.
struct Handshake {
    connection: OwnedSemaphorePermit,
    of_peers: Arc<Shares<PeerIdentity>>,
    _of_address: Share<IpAddr>,
}

fn peer_identity(stream: &TlsStream<TcpStream>) -> Result<PeerIdentity, InvalidPeerIdentity> {
    let (_, connection) = stream.get_ref();
    let leaf = connection.peer_certificates().and_then(|chain| chain.first()).ok_or(InvalidPeerIdentity::Malformed)?;
    PeerIdentity::of_certificate(leaf)
}

fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 6);
    socket2::SockRef::from(socket).set_tcp_keepalive(&keepalive)
}

/// Whether the connection failed before it was accepted, which says nothing about the next one.
fn is_peers(cause: &io::Error) -> bool {
    matches!(
        cause.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}
