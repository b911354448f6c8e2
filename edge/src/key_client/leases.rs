//! Randoms leased beforehand, for handshakes by RSA key transport.
//!
//! They belong to one connection to one key server: only the process that leased a random can use it again, and a
//! connection leads to one process as long as it stands. Once a handshake has wanted one, a reserve is kept.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use keystead_tls::KeyServerFailure;
use keystead_tls::handshake::Lease;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::telemetry::LeaseTelemetry;

/// The reserve after a batch: as many as handshakes take while several batches are on their way.
const HIGH_WATER: usize = 256;
/// With fewer than this, the next batch is asked for.
const LOW_WATER: usize = 128;
/// Most leases of one batch.
const LARGEST_BATCH: u32 = 1024;

/// The leases of one connection.
#[derive(Debug)]
pub(super) struct Leases {
    pool: Mutex<Pool>,
    wanted: Notify,
    telemetry: LeaseTelemetry,
}

#[derive(Debug, Default)]
struct Pool {
    /// The oldest in front: a key server lets the oldest go first.
    ready: VecDeque<Lease>,
    waiting: VecDeque<oneshot::Sender<Result<Lease, KeyServerFailure>>>,
    /// Whether anybody has ever wanted one.
    demanded: bool,
    closed: bool,
}

impl Leases {
    pub(super) fn new(telemetry: LeaseTelemetry) -> Self {
        Self { pool: Mutex::default(), wanted: Notify::new(), telemetry }
    }

    /// A lease from the reserve, or else the first of the next batch that nobody else waits for.
    ///
    /// # Errors
    /// The failure of the request for that batch, or [`KeyServerFailure::NoAnswer`] at `deadline`.
    pub(super) async fn take(&self, deadline: Instant) -> Result<Lease, KeyServerFailure> {
        let batch = match self.take_or_wait()? {
            Taken::Lease(lease) => return Ok(lease),
            Taken::Wait(batch) => batch,
        };
        self.telemetry.waited.inc();
        match timeout_at(deadline, batch).await {
            Ok(Ok(answer)) => {
                self.telemetry.taken.inc_by(answer.is_ok().into());
                answer
            }
            Ok(Err(_lost)) => Err(KeyServerFailure::Unreachable),
            Err(_elapsed) => Err(KeyServerFailure::NoAnswer),
        }
    }

    fn take_or_wait(&self) -> Result<Taken, KeyServerFailure> {
        let mut pool = self.lock();
        if pool.closed {
            return Err(KeyServerFailure::Unreachable);
        }
        pool.demanded = true;
        let lease = pool.ready.pop_front();
        if pool.ready.len() < LOW_WATER {
            self.wanted.notify_one();
        }
        if let Some(lease) = lease {
            self.telemetry.taken.inc();
            return Ok(Taken::Lease(lease));
        }
        let (sender, receiver) = oneshot::channel();
        pool.waiting.push_back(sender);
        Ok(Taken::Wait(receiver))
    }

    /// Waits until a batch is to be asked for; how many leases it is to have.
    pub(super) async fn batch_wanted(&self) -> u32 {
        loop {
            let missing = self.missing();
            if missing > 0 {
                return missing;
            }
            self.wanted.notified().await;
        }
    }

    /// 0 while the reserve is above its low water, and before anybody has wanted a lease.
    fn missing(&self) -> u32 {
        let mut pool = self.lock();
        pool.waiting.retain(|waiting| !waiting.is_closed());
        if !pool.demanded || (pool.ready.len() >= LOW_WATER && pool.waiting.is_empty()) {
            return 0;
        }
        let missing = HIGH_WATER.saturating_sub(pool.ready.len()) + pool.waiting.len();
        u32::try_from(missing).unwrap_or(LARGEST_BATCH).min(LARGEST_BATCH)
    }

    /// A batch has come. Those who wait are served first.
    pub(super) fn add(&self, batch: Vec<Lease>) {
        let mut pool = self.lock();
        for lease in batch {
            pool.add(lease);
        }
    }

    /// No batch came: nobody who waits gets one.
    pub(super) fn fail(&self, failure: KeyServerFailure) {
        for waiting in std::mem::take(&mut self.lock().waiting) {
            // Whoever waited may have run out of time.
            let _ = waiting.send(Err(failure));
        }
    }

    /// Leases at hand.
    pub(super) fn len(&self) -> usize {
        self.lock().ready.len()
    }

    /// The connection is lost, and with it every lease.
    pub(super) fn close(&self) {
        let mut pool = self.lock();
        self.telemetry.dropped.inc_by(pool.ready.len().try_into().unwrap_or(u64::MAX));
        *pool = Pool { closed: true, ..Pool::default() };
    }

    fn lock(&self) -> MutexGuard<'_, Pool> {
        // No change under the lock can panic half done.
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Taken {
    Lease(Lease),
    Wait(oneshot::Receiver<Result<Lease, KeyServerFailure>>),
}

impl Pool {
    fn add(&mut self, mut lease: Lease) {
        if self.closed {
            return;
        }
        while let Some(waiting) = self.waiting.pop_front() {
            match waiting.send(Ok(lease)) {
                Ok(()) => return,
                // It had run out of time.
                Err(Ok(unused)) => lease = unused,
                Err(Err(_)) => return,
            }
        }
        self.ready.push_back(lease);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    fn leases() -> Arc<Leases> {
        Arc::new(Leases::new(LeaseTelemetry::default()))
    }

    fn batch(numbers: std::ops::Range<u16>) -> Vec<Lease> {
        let lease = |number: u16| Lease { server_random: [0; 32], token: number.to_be_bytes().to_vec() };
        numbers.map(lease).collect()
    }

    fn number(lease: &Lease) -> u16 {
        u16::from_be_bytes(lease.token.as_slice().try_into().unwrap())
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(50)
    }

    async fn is_wanted(leases: &Leases) -> Option<u32> {
        tokio::time::timeout(Duration::ZERO, leases.batch_wanted()).await.ok()
    }

    #[tokio::test]
    async fn nothing_is_asked_for_until_somebody_wants_a_lease() {
        let leases = leases();
        assert_eq!(is_wanted(&leases).await, None);
        let taking = tokio::spawn({
            let leases = leases.clone();
            async move { leases.take(soon()).await }
        });
        assert_eq!(leases.batch_wanted().await, HIGH_WATER as u32 + 1);
        leases.add(batch(0..257));
        assert_eq!(number(&taking.await.unwrap().unwrap()), 0);
        assert_eq!((leases.telemetry.taken.get(), leases.telemetry.waited.get()), (1, 1));
    }

    #[tokio::test]
    async fn the_reserve_is_filled_before_it_is_empty() {
        let leases = leases();
        leases.add(batch(0..256));
        for expected in 0..128 {
            assert_eq!(is_wanted(&leases).await, None, "{expected}");
            assert_eq!(number(&leases.take(soon()).await.unwrap()), expected);
        }
        assert_eq!(number(&leases.take(soon()).await.unwrap()), 128);
        assert_eq!(is_wanted(&leases).await, Some(129));
        assert_eq!(leases.telemetry.waited.get(), 0);
    }

    #[tokio::test]
    async fn the_last_lease_taken_asks_for_more() {
        let leases = leases();
        leases.add(batch(0..1));
        leases.take(soon()).await.unwrap();
        assert_eq!(is_wanted(&leases).await, Some(256));
    }

    #[tokio::test]
    async fn a_lease_goes_to_no_one_who_has_left() {
        let leases = leases();
        assert_eq!(leases.take(soon()).await.unwrap_err(), KeyServerFailure::NoAnswer);
        leases.add(batch(7..8));
        assert_eq!(number(&leases.take(soon()).await.unwrap()), 7);
    }

    #[tokio::test]
    async fn a_failure_reaches_all_who_wait_and_no_one_later() {
        let leases = leases();
        let fail = async {
            tokio::task::yield_now().await;
            leases.fail(KeyServerFailure::NotAuthorised);
        };
        let (one, two, ()) = tokio::join!(leases.take(soon()), leases.take(soon()), fail);
        assert_eq!(one.unwrap_err(), KeyServerFailure::NotAuthorised);
        assert_eq!(two.unwrap_err(), KeyServerFailure::NotAuthorised);
        leases.add(batch(0..1));
        assert!(leases.take(soon()).await.is_ok());
    }

    #[tokio::test]
    async fn a_lost_connection_takes_its_leases_along() {
        let leases = leases();
        leases.add(batch(0..3));
        leases.close();
        leases.add(batch(3..6));
        assert_eq!(leases.telemetry.dropped.get(), 3);
        assert_eq!(leases.take(soon()).await.unwrap_err(), KeyServerFailure::Unreachable);

        let leases = Leases::new(LeaseTelemetry::default());
        let close = async {
            tokio::task::yield_now().await;
            leases.close();
        };
        let (waited, ()) = tokio::join!(leases.take(soon()), close);
        assert_eq!(waited.unwrap_err(), KeyServerFailure::Unreachable);
    }
}
