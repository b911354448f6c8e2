//! A connection of an identified peer: what requests know of it, and its end with the peer's certificate.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Sleep, sleep};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::{PeerIdentity, RefusedPeer, Validity};
use crate::share::Share;

/// Who is at the other end of a connection; tonic puts it among the extensions of each request.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// Who the peer's certificate says it is.
    pub identity: PeerIdentity,
    /// Where it connects from. It means nothing for what the peer may do.
    pub address: SocketAddr,
}

/// A connection whose peer is known.
#[derive(Debug)]
pub struct PeerStream {
    stream: TlsStream<TcpStream>,
    end: CertificateEnd,
    peer: PeerInfo,
    _guard: ConnectionGuard,
}

impl PeerStream {
    /// The connection `stream` with `peer`, which ends with the peer's certificate; `expired` counts that.
    pub(super) fn new(stream: TlsStream<TcpStream>, peer: PeerInfo, expired: Counter, guard: ConnectionGuard) -> Self {
        let end = CertificateEnd::new(&stream, expired);
        Self { stream, end, peer, _guard: guard }
    }
}

impl Connected for PeerStream {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        self.peer.clone()
    }
}

/// The end of a peer's certificate, at which its connection ends too: whoever has stolen one must not live on in it.
#[derive(Debug)]
struct CertificateEnd {
    /// `None` once it is over.
    validity: Option<Validity>,
    /// When the clock is looked at next. It may have been set, so that is often.
    look: Pin<Box<Sleep>>,
    expired: Counter,
}

/// How late the end of a certificate may be noticed where the clock was set.
const LOOK: Duration = Duration::from_secs(30);

impl CertificateEnd {
    fn new(stream: &TlsStream<TcpStream>, expired: Counter) -> Self {
        let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let validity = leaf.and_then(Validity::of);
        let remaining = validity.map_or(Duration::ZERO, |validity| validity.remaining(SystemTime::now()));
        Self { validity, look: Box::pin(sleep(remaining.min(LOOK))), expired }
    }

    /// Whether the certificate is still good; the task is woken when that may have changed.
    fn poll_is_good(&mut self, cx: &mut Context<'_>) -> bool {
        while let Some(validity) = self.validity {
            if self.look.as_mut().poll(cx).is_pending() {
                return true;
            }
            let remaining = validity.remaining(SystemTime::now());
            if remaining.is_zero() {
                self.validity = None;
                self.expired.inc();
                return false;
            }
            self.look.set(sleep(remaining.min(LOOK)));
        }
        false
    }
}

impl PeerStream {
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let had_ended = self.end.validity.is_none();
        if self.end.poll_is_good(cx) {
            return Ok(());
        }
        if !had_ended {
            let reason = RefusedPeer::ExpiredCertificate.reason();
            tracing::info!(peer = %self.peer.identity, reason, "connection ended");
        }
        Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the peer's certificate has expired"))
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Counts a connection for as long as it stands.
#[derive(Debug)]
pub(super) struct ConnectionGuard {
    connected: Gauge,
    _permit: OwnedSemaphorePermit,
    _of_peer: Share<PeerIdentity>,
}

impl ConnectionGuard {
    pub(super) fn new(connected: Gauge, permit: OwnedSemaphorePermit, of_peer: Share<PeerIdentity>) -> Self {
        connected.inc();
        Self { connected, _permit: permit, _of_peer: of_peer }
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.connected.dec();
    }
}
