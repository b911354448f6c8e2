//! Where clients connect.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::config::ListenerConfig;
use crate::connection::Connections;
use crate::proxy_protocol::{TRUSTS_EVERYBODY, TrustedProxies};

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    proxies: Arc<TrustedProxies>,
}

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 4096;

/// Pause after an `accept` that failed for want of a resource, most likely file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

impl Listener {
    /// Takes the address.
    ///
    /// # Errors
    /// The system's.
    pub fn bind(config: &ListenerConfig) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(config.address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(config.reuse_port)?;
        socket.set_nonblocking(true)?;
        // Accepted sockets inherit it.
        socket.set_tcp_nodelay(true)?;
        socket.bind(&config.address.into())?;
        socket.listen(BACKLOG)?;
        let socket = TcpListener::from_std(socket.into())?;
        let address = socket.local_addr()?;
        if config.proxy_protocol_from.has_everybody() {
            tracing::warn!(%address, "{TRUSTS_EVERYBODY}");
        }
        Ok(Self { socket, address, proxies: Arc::new(config.proxy_protocol_from.clone()) })
    }

    /// The address taken, with the port that the system chose where the configuration says 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts until `stop`, each connection a task of `tracker`. While as many stand as `places` has room for, further
    /// ones wait in the kernel's queue, and clients that find that full try again by themselves.
    pub async fn accept(
        self,
        connections: Arc<Connections>,
        places: Arc<Semaphore>,
        tracker: TaskTracker,
        stop: CancellationToken,
    ) {
        let accepting = async {
            loop {
                let Ok(place) = places.clone().acquire_owned().await else {
                    return;
                };
                let (client, peer) = self.next(&connections).await;
                let (connections, proxies) = (connections.clone(), self.proxies.clone());
                // Out of the macro, which evaluates nothing where no log is wanted.
                let id = connections.telemetry.accepted.inc();
                let span = tracing::info_span!(
                    "connection",
                    id,
                    listener = %self.address,
                    server_name = tracing::field::Empty,
                );
                let counted = Counted::new(connections.telemetry.connections.clone());
                tracker.spawn(
                    async move {
                        connections.serve(client, peer, &proxies).await;
                        drop((counted, place));
                    }
                    .instrument(span),
                );
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = accepting => {}
        }
    }

    async fn next(&self, connections: &Connections) -> (TcpStream, SocketAddr) {
        loop {
            match self.socket.accept().await {
                Ok(accepted) => return accepted,
                // The client left before it was accepted.
                Err(cause) if cause.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(cause) => {
                    connections.telemetry.accept_errors.inc();
                    tracing::warn!(listener = %self.address, %cause, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Counts a connection while it stands.
struct Counted(Gauge);

impl Counted {
    fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
