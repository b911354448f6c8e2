//! An endpoint as one virtual host has it: with the host's health check, and counted for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use strum::{EnumCount, IntoEnumIterator};

use super::check::Check;
use super::endpoint::{ConnectFailure, Connected, Endpoint};

/// An endpoint of a virtual host.
#[derive(Debug)]
pub struct Member {
    endpoint: Arc<Endpoint>,
    check: Option<Arc<Check>>,
    tally: Arc<Tally>,
}

/// What a host's connections to an endpoint came to.
#[derive(Debug, Default)]
pub struct Tally {
    connections: AtomicU64,
    failures: [AtomicU64; ConnectFailure::COUNT],
}

impl Tally {
    /// Connections made.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Connections that failed, by cause.
    pub fn failures(&self) -> impl Iterator<Item = (ConnectFailure, u64)> {
        ConnectFailure::iter().zip(&self.failures).map(|(failure, count)| (failure, count.load(Ordering::Relaxed)))
    }

    fn failed(&self, failure: ConnectFailure) {
        if let Some(count) = self.failures.get(failure as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Member {
    /// An endpoint, with what checks it.
    pub fn new(endpoint: Arc<Endpoint>, check: Option<Arc<Check>>, tally: Arc<Tally>) -> Self {
        Self { endpoint, check, tally }
    }

    /// The endpoint, which other hosts may have too.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// What checks it, if the host wants it checked.
    pub fn check(&self) -> Option<&Check> {
        self.check.as_deref()
    }

    /// What connections came to.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Whether connections should go there at `now`.
    pub fn is_up(&self, now: Instant) -> bool {
        self.is_checked_up() && !self.endpoint.is_ejected(now)
    }

    /// Whether the last that is known of it is good.
    pub fn is_well(&self) -> bool {
        self.is_checked_up() && !self.endpoint.is_distrusted()
    }

    fn is_checked_up(&self) -> bool {
        self.check.as_ref().is_none_or(|check| check.is_up())
    }

    /// Connects and sends `header` within `limit`.
    ///
    /// # Errors
    /// Why it did not succeed.
    pub async fn connect(&self, header: &[u8], limit: Duration) -> Result<Connected, ConnectFailure> {
        let connected = self.endpoint.connect(header, limit).await;
        match &connected {
            Ok(_) => {
                self.tally.connections.fetch_add(1, Ordering::Relaxed);
            }
            Err(failure) => self.tally.failed(*failure),
        }
        connected
    }
}

impl AsRef<Self> for Member {
    fn as_ref(&self) -> &Self {
        self
    }
}
