//! One endpoint: what is known of it, and the connections to it.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use strum::{EnumCount, EnumIter, IntoStaticStr};
use tokio::time::{self, timeout};

use super::ejection::{Change, Ejection};
use super::target::{BackendStream, Target};
use crate::socket;

/// A target, shared by all hosts that have it.
#[derive(Debug)]
pub struct Endpoint {
    target: Target,
    live: AtomicUsize,
    ejection: Mutex<Ejection>,
}

/// Why a connection to an endpoint failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, EnumIter, EnumCount)]
#[strum(serialize_all = "snake_case")]
pub enum ConnectFailure {
    /// Nobody listens there.
    Refused,
    /// No answer in time.
    TimedOut,
    /// The network has no way there.
    NoRoute,
    /// There is no such unix socket.
    NoSocket,
    /// This process may not connect there.
    NotPermitted,
    /// It ended the connection before it had heard whose that is.
    Reset,
    /// This machine is short of ports, file descriptors or memory. The endpoint is not to blame.
    OwnResources,
    /// What the system says is none of these.
    Other,
}

impl ConnectFailure {
    fn of(cause: &io::Error) -> Self {
        if cause.kind() == io::ErrorKind::TimedOut {
            return Self::TimedOut;
        }
        match Errno::from_io_error(cause) {
            Some(Errno::CONNREFUSED) => Self::Refused,
            Some(Errno::NOENT | Errno::NOTDIR) => Self::NoSocket,
            Some(Errno::ACCESS | Errno::PERM) => Self::NotPermitted,
            Some(Errno::CONNRESET | Errno::PIPE) => Self::Reset,
            Some(Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::NETDOWN | Errno::HOSTDOWN) => Self::NoRoute,
            Some(
                Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS | Errno::ADDRNOTAVAIL | Errno::ADDRINUSE,
            ) => Self::OwnResources,
            Some(_) | None => Self::Other,
        }
    }
}

impl Endpoint {
    /// An endpoint that nothing is known of.
    pub fn new(target: Target) -> Self {
        Self { target, live: AtomicUsize::new(0), ejection: Mutex::default() }
    }

    /// What connections go to.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Connections of clients that are passed on to it at this moment.
    pub fn live(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    /// Whether connections should go elsewhere at `now`.
    pub fn is_ejected(&self, now: Instant) -> bool {
        self.lock().is_ejected(now)
    }

    /// Whether the last connections to it failed.
    pub fn is_distrusted(&self) -> bool {
        self.lock().is_distrusted()
    }

    /// Connects and sends `header` within `limit`, and remembers the outcome.
    ///
    /// # Errors
    /// Why it did not succeed.
    pub async fn connect(self: &Arc<Self>, header: &[u8], limit: Duration) -> Result<Connected, ConnectFailure> {
        // Counted from the first: whoever looks for the least busy must see those that are about to stand.
        let live = Live::new(self.clone());
        let began = Instant::now();
        self.lock().trying(began, limit);
        let (failure, cause) = match timeout(limit, self.connect_telling(header, limit)).await {
            Ok(Ok(stream)) => {
                self.succeeded();
                return Ok(Connected { stream, _live: live });
            }
            Ok(Err(cause)) => (ConnectFailure::of(&cause), cause.to_string()),
            Err(elapsed) => (ConnectFailure::TimedOut, elapsed.to_string()),
        };
        self.report(failure, &cause, began);
        Err(failure)
    }

    async fn connect_telling(&self, header: &[u8], limit: Duration) -> io::Result<BackendStream> {
        let deadline = time::Instant::now() + limit;
        let stream = self.target.connect().await?;
        socket::write_all(&stream, header, deadline).await?;
        Ok(stream)
    }

    /// A check says that it can be reached, whatever connections said before.
    pub fn checked_well(&self) {
        if self.is_distrusted() {
            self.succeeded();
        }
    }

    fn succeeded(&self) {
        let change = self.lock().succeeded();
        if change == Change::Returned {
            tracing::info!(backend = %self.target, "backend reached again");
        }
    }

    fn report(&self, failure: ConnectFailure, cause: &str, began: Instant) {
        let (backend, reason): (_, &'static str) = (&self.target, failure.into());
        if failure == ConnectFailure::OwnResources {
            tracing::warn!(%backend, reason, cause, "backend not tried");
            return;
        }
        let change = self.lock().failed(began, Instant::now());
        match change {
            Change::Faltered => tracing::warn!(%backend, reason, cause, "backend not reached"),
            Change::Ejected(period) => tracing::warn!(%backend, reason, cause, ?period, "backend left alone"),
            Change::None | Change::Returned => tracing::debug!(%backend, reason, cause, "backend not reached"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Ejection> {
        // No change of it stops halfway.
        self.ejection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection to an endpoint, counted while it stands.
#[derive(Debug)]
pub struct Connected {
    /// The connection.
    pub stream: BackendStream,
    _live: Live,
}

#[derive(Debug)]
struct Live(Arc<Endpoint>);

impl Live {
    fn new(endpoint: Arc<Endpoint>) -> Self {
        endpoint.live.fetch_add(1, Ordering::Relaxed);
        Self(endpoint)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use tokio::net::{TcpListener, UnixListener};

    const LIMIT: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn connections_are_counted_exactly_while_they_stand() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Arc::new(Endpoint::new(Target::Tcp(listener.local_addr().unwrap())));
        let mut standing = Vec::new();
        for expected in 1..=3 {
            standing.push(endpoint.connect(b"", LIMIT).await.unwrap());
            assert_eq!(endpoint.live(), expected);
        }
        standing.pop();
        assert_eq!(endpoint.live(), 2);
        drop((standing, listener));
        assert_eq!(endpoint.live(), 0);
        assert_eq!(endpoint.connect(b"", LIMIT).await.unwrap_err(), ConnectFailure::Refused);
        assert_eq!(endpoint.live(), 0);
    }

    #[tokio::test]
    async fn failures_have_their_names() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let endpoint = Arc::new(Endpoint::new(Target::Unix(path.as_path().into())));
        assert_eq!(endpoint.connect(b"", LIMIT).await.unwrap_err(), ConnectFailure::NoSocket);
        let listener = UnixListener::bind(&path).unwrap();
        assert!(endpoint.connect(b"", LIMIT).await.is_ok());
        drop(listener);
        // The path is there still, and nobody listens.
        for _ in 0..3 {
            assert_eq!(endpoint.connect(b"", LIMIT).await.unwrap_err(), ConnectFailure::Refused);
        }
        assert!(endpoint.is_distrusted());
        let of = |errno: Errno| ConnectFailure::of(&errno.into());
        assert_eq!(of(Errno::HOSTUNREACH), ConnectFailure::NoRoute);
        assert_eq!(of(Errno::MFILE), ConnectFailure::OwnResources);
        assert_eq!(of(Errno::TIMEDOUT), ConnectFailure::TimedOut);
        assert_eq!(of(Errno::PROTO), ConnectFailure::Other);
    }

    #[tokio::test]
    async fn a_connection_that_ends_before_its_header_is_sent_has_failed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let endpoint = Arc::new(Endpoint::new(Target::Unix(path.as_path().into())));
        // Longer than the kernel holds for who does not accept.
        let header = vec![0; 16 << 20];
        let leave = async {
            time::sleep(Duration::from_millis(50)).await;
            drop(listener);
        };
        let (connected, ()) = tokio::join!(endpoint.connect(&header, LIMIT), leave);
        assert_eq!(connected.unwrap_err(), ConnectFailure::Reset);
        assert_eq!(endpoint.live(), 0);
        let _listener = {
            std::fs::remove_file(&path).unwrap();
            UnixListener::bind(&path).unwrap()
        };
        let late = endpoint.connect(&header, Duration::from_millis(50)).await;
        assert_eq!(late.unwrap_err(), ConnectFailure::TimedOut);
    }

    #[tokio::test]
    async fn a_unix_socket_whose_queue_is_full_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        socket.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
        socket.listen(0).unwrap();
        let endpoint = Arc::new(Endpoint::new(Target::Unix(path.as_path().into())));
        // A queue of length 0 takes one.
        let _first = endpoint.connect(b"", LIMIT).await.unwrap();
        let failure = endpoint.connect(b"", Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(failure, ConnectFailure::TimedOut);
        let (second, accepted) = tokio::join!(endpoint.connect(b"", LIMIT), async { socket.accept() });
        assert!(second.is_ok() && accepted.is_ok());
    }
}
