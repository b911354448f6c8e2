//! Where clients connect.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use keystead_program::inherited::{Inherited, InheritedError};
use prometheus_client::metrics::gauge::Gauge;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::config::ListenerConfig;
use crate::connection::Connections;
use crate::handover::{self, Handover};
use crate::proxy_protocol::{TRUSTS_EVERYBODY, TrustedProxies};

/// A socket that has its address.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    address: SocketAddr,
    proxies: Arc<TrustedProxies>,
    queue: Queue,
}

/// What becomes of clients that wait to be accepted when this process closes the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queue {
    /// They are lost: nobody else has them.
    Own,
    /// The same, but further ones can be sent to other processes (`SO_REUSEPORT`).
    BesideOthers,
    /// They wait for the next process to which the socket is handed.
    Inherited,
}

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address cannot be taken.
    #[error("listen on {address}: {cause}")]
    Address {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        cause: io::Error,
    },
    /// The sockets that were handed over are not those of the configuration.
    #[error("[[listener]] {0}")]
    Inherited(#[from] InheritedError),
}

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 4096;

/// Pause after an `accept` that failed for want of a resource, most likely file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// For connections that are on their way when others are sent elsewhere: more than a round trip.
const QUIET: Duration = Duration::from_millis(500);
/// The longest that a process which is stopping waits for that.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(5);

/// Takes the sockets of all `listeners`: those of `inherited` that are theirs, and addresses for the rest.
///
/// # Errors
/// [`ListenError`].
pub fn bind(listeners: &[ListenerConfig], mut inherited: Inherited) -> Result<Vec<Listener>, ListenError> {
    let mut bound = Vec::with_capacity(listeners.len());
    for config in listeners {
        let address = config.address;
        let of_address = |cause| ListenError::Address { address, cause };
        let listener = match inherited.take(address, config.socket.as_deref())? {
            Some(socket) => Listener::of(socket.into(), Queue::Inherited, config),
            None => Listener::bind(config),
        };
        bound.push(listener.map_err(of_address)?);
    }
    inherited.finish()?;
    Ok(bound)
}

impl Listener {
    /// Takes the address.
    ///
    /// # Errors
    /// The system's.
    pub fn bind(config: &ListenerConfig) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(config.address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(config.reuse_port)?;
        socket.bind(&config.address.into())?;
        if config.reuse_port {
            return Self::of(socket, Queue::BesideOthers, config);
        }
        socket.listen(BACKLOG)?;
        Self::of(socket, Queue::Own, config)
    }

    fn of(socket: Socket, queue: Queue, config: &ListenerConfig) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        // Accepted sockets inherit it.
        socket.set_tcp_nodelay(true)?;
        let address = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::Unsupported)?;
        let proxies = &config.proxy_protocol_from;
        if proxies.has_everybody() {
            tracing::warn!(%address, "{TRUSTS_EVERYBODY}");
        }
        Ok(Self { socket, address, proxies: Arc::new(proxies.clone()), queue })
    }

    /// The address taken, with the port that the system chose where the configuration says 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether clients have somewhere else to go, or are kept, until this process is ready for them.
    pub fn can_wait(&self) -> bool {
        self.queue != Queue::Own
    }

    /// Has clients come here from now on, and gives what accepts them until `stop`, each connection a task of `tracker`.
    /// While as many stand as `places` has room for, further ones wait in the kernel's queue, and clients that find that
    /// full try again by themselves.
    ///
    /// After `stop`, clients that connected already are accepted too, where they would be lost otherwise, whether there is
    /// room or not.
    ///
    /// # Errors
    /// The system's, when it cannot begin.
    pub fn accept(
        self,
        connections: Arc<Connections>,
        places: Arc<Semaphore>,
        tracker: TaskTracker,
        stop: CancellationToken,
    ) -> io::Result<impl Future<Output = io::Result<()>>> {
        if self.queue == Queue::BesideOthers {
            self.socket.listen(BACKLOG)?;
            handover::join(&self.socket)?;
        }
        let socket = TcpListener::from_std(self.socket.into())?;
        let reception =
            Reception { socket, address: self.address, proxies: self.proxies, connections, places, tracker };
        Ok(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = reception.accept_all() => {}
            }
            match self.queue {
                Queue::Inherited => Ok(()),
                Queue::Own => reception.accept_queued(),
                Queue::BesideOthers => reception.hand_over().await,
            }
        })
    }
}

/// A socket at which clients are received.
struct Reception {
    socket: TcpListener,
    address: SocketAddr,
    proxies: Arc<TrustedProxies>,
    connections: Arc<Connections>,
    places: Arc<Semaphore>,
    tracker: TaskTracker,
}

impl Reception {
    async fn accept_all(&self) {
        while let Ok(place) = self.places.clone().acquire_owned().await {
            let (client, peer) = self.next().await;
            self.receive(client, peer, Some(place));
        }
    }

    async fn next(&self) -> (TcpStream, SocketAddr) {
        loop {
            match self.socket.accept().await {
                Ok(accepted) => return accepted,
                // The client left before it was accepted.
                Err(cause) if cause.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(cause) => {
                    self.connections.telemetry.accept_errors.inc();
                    tracing::warn!(listener = %self.address, %cause, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn receive(&self, client: TcpStream, peer: SocketAddr, place: Option<OwnedSemaphorePermit>) {
        let connections = self.connections.clone();
        // Out of the macro, which evaluates nothing where no log is wanted.
        let id = connections.telemetry.accepted.inc();
        let span = tracing::info_span!(
            "connection",
            id,
            listener = %self.address,
            server_name = tracing::field::Empty,
        );
        let counted = Counted::new(connections.telemetry.connections.clone());
        let proxies = self.proxies.clone();
        self.tracker.spawn(
            async move {
                connections.serve(client, peer, &proxies).await;
                drop((counted, place));
            }
            .instrument(span),
        );
    }

    /// A place for a client that would be lost with this socket: it is received where there is none, too. There are no more
    /// of them than the kernel's queue has room for.
    fn place_if_any(&self) -> Option<OwnedSemaphorePermit> {
        self.places.clone().try_acquire_owned().ok()
    }

    /// Accepts what waits in the kernel's queue, and closes the socket.
    fn accept_queued(self) -> io::Result<()> {
        let socket = SockRef::from(&self.socket);
        // While nobody else listens there, more may come for as long as this goes on.
        for _ in 0..BACKLOG {
            match socket.accept() {
                Ok((client, peer)) => {
                    client.set_nonblocking(true)?;
                    let Some(peer) = peer.as_socket() else { continue };
                    self.receive(TcpStream::from_std(client.into())?, peer, self.place_if_any());
                }
                Err(cause) if cause.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(cause) => return Err(cause),
            }
        }
        Ok(())
    }

    /// Leaves the address to others that listen on it. Until no further client comes, this socket goes on.
    async fn hand_over(self) -> io::Result<()> {
        let deadline = Instant::now() + HANDOVER_TIMEOUT;
        let Some(mut handover) = Handover::begin(&self.socket, self.address).await? else {
            tracing::info!(listener = %self.address, "no other process listens there");
            return self.accept_queued();
        };
        let mut accepted = 0_u64;
        while let Ok(Ok((client, peer))) = timeout_at(deadline, timeout(QUIET, self.next())).await {
            if handover.recognises(&self.socket, peer)? {
                continue;
            }
            accepted += 1;
            self.receive(client, peer, self.place_if_any());
            if handover.is_outdated(&self.socket)? {
                let Some(anew) = Handover::begin(&self.socket, self.address).await? else {
                    break;
                };
                handover = anew;
            }
        }
        tracing::info!(listener = %self.address, accepted, "left to other processes");
        self.accept_queued()
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
