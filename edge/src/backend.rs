//! Where a virtual host's plain bytes go.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use keystead_program::channel::HostPort;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::telemetry::Telemetry;

/// The backends of a virtual host, taken in turn.
#[derive(Debug)]
pub struct Backends {
    addresses: Vec<HostPort>,
    next: AtomicUsize,
}

impl Backends {
    /// At least one address.
    pub fn new(addresses: Vec<HostPort>) -> Self {
        Self { addresses, next: AtomicUsize::new(0) }
    }

    /// Connects to the next backend, or to the first behind it that can be reached. Each gets `limit`, in which its
    /// name is resolved and its addresses are tried. `None` when none can be reached.
    pub async fn connect(&self, limit: Duration, telemetry: &Telemetry) -> Option<TcpStream> {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        for backend in self.from(first) {
            let connecting = TcpStream::connect((backend.host(), backend.port()));
            let cause = match timeout(limit, connecting).await {
                Ok(Ok(stream)) => match stream.set_nodelay(true) {
                    Ok(()) => return Some(stream),
                    Err(cause) => cause.to_string(),
                },
                Ok(Err(cause)) => cause.to_string(),
                Err(elapsed) => elapsed.to_string(),
            };
            telemetry.backend_connect_failures.inc();
            tracing::warn!(%backend, cause, "backend not reached");
        }
        None
    }

    /// All of them, the `first` (of as many as there were connections) at the front.
    fn from(&self, first: usize) -> impl Iterator<Item = &HostPort> {
        let count = self.addresses.len();
        let first = first.checked_rem(count).unwrap_or(0);
        self.addresses.iter().cycle().skip(first).take(count)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use prometheus_client::registry::Registry;
    use tokio::net::TcpListener;

    const LIMIT: Duration = Duration::from_secs(5);

    async fn listener() -> (TcpListener, HostPort) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address.into())
    }

    #[tokio::test]
    async fn backends_take_turns_and_one_that_is_down_is_passed_over() {
        let telemetry = Telemetry::register(&mut Registry::default());
        let ((one, one_address), (two, two_address)) = (listener().await, listener().await);
        let (down, down_address) = listener().await;
        drop(down);
        let backends = Backends::new(vec![one_address.clone(), down_address.clone(), two_address.clone()]);
        let mut reached = Vec::new();
        for _ in 0..4 {
            let stream = backends.connect(LIMIT, &telemetry).await.unwrap();
            reached.push(HostPort::from(stream.peer_addr().unwrap()));
        }
        assert_eq!(reached, [&one_address, &two_address, &two_address, &one_address].map(Clone::clone));
        assert_eq!(telemetry.backend_connect_failures.get(), 1);
        drop((one, two));
        assert!(backends.connect(LIMIT, &telemetry).await.is_none());
    }

    #[tokio::test]
    async fn names_are_resolved() {
        let telemetry = Telemetry::register(&mut Registry::default());
        let (_listener, address) = listener().await;
        let backends = Backends::new(vec![format!("localhost:{}", address.port()).parse().unwrap()]);
        assert!(backends.connect(LIMIT, &telemetry).await.is_some());
    }
}
