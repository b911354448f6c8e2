//! Randoms leased beforehand, for handshakes by RSA key transport.
//!
//! They belong to one connection to one key server: only the process that leased a random can use it again, and a
//! connection leads to one process as long as it stands. A reserve is kept from when the key server tells of a key that
//! needs one. The next batch is asked for while most of the last is still there, and the reserve grows to four times what
//! handshakes took while a batch was on its way.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use keystead_tls::KeyServerFailure;
use keystead_tls::handshake::Lease;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::telemetry::LeaseTelemetry;

/// The reserve to begin with: as many as a key server gives in one batch by its default.
const SMALLEST_RESERVE: usize = 512;
/// No reserve grows beyond: with as many connections as may be, half of what a key server lets be outstanding by default.
const LARGEST_RESERVE: usize = 2048;
/// Most leases of one batch.
const LARGEST_BATCH: u32 = 1024;

/// The leases of one connection.
#[derive(Debug)]
pub(super) struct Leases {
    pool: Mutex<Pool>,
    wanted: Notify,
    telemetry: LeaseTelemetry,
}

#[derive(Debug)]
struct Pool {
    /// The oldest in front: a key server lets the oldest go first.
    ready: VecDeque<Lease>,
    waiting: VecDeque<oneshot::Sender<Result<Lease, KeyServerFailure>>>,
    /// Whether a reserve is kept.
    kept: bool,
    /// How many leases a full reserve has.
    reserve: usize,
    /// Handshakes that have wanted one since the last batch was asked for.
    wanted_since: usize,
    /// Why no batch came, until one comes.
    failure: Option<KeyServerFailure>,
    closed: bool,
}

impl Leases {
    pub(super) fn new(telemetry: LeaseTelemetry) -> Self {
        Self { pool: Mutex::new(Pool::new()), wanted: Notify::new(), telemetry }
    }

    /// From here on a reserve is kept, or none.
    pub(super) fn keep(&self, kept: bool) {
        self.lock().kept = kept;
        self.wanted.notify_one();
    }

    /// A lease from the reserve, or else the first of the next batch that nobody else waits for.
    ///
    /// # Errors
    /// Why no batch has come: at `deadline`, or at once where none will.
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
            Err(_elapsed) => Err(self.lock().failure.unwrap_or(KeyServerFailure::NoAnswer)),
        }
    }

    fn take_or_wait(&self) -> Result<Taken, KeyServerFailure> {
        let mut pool = self.lock();
        if pool.closed {
            return Err(KeyServerFailure::Unreachable);
        }
        pool.kept = true;
        pool.wanted_since += 1;
        let lease = pool.ready.pop_front();
        if pool.is_low() {
            self.wanted.notify_one();
        }
        if let Some(lease) = lease {
            self.telemetry.ready.dec();
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

    /// 0 while nothing is to be asked for.
    fn missing(&self) -> u32 {
        let mut pool = self.lock();
        pool.waiting.retain(|waiting| !waiting.is_closed());
        if pool.waiting.is_empty() && !(pool.kept && pool.is_low()) {
            return 0;
        }
        pool.wanted_since = 0;
        let missing = pool.reserve.saturating_sub(pool.ready.len()) + pool.waiting.len();
        u32::try_from(missing).unwrap_or(LARGEST_BATCH).min(LARGEST_BATCH)
    }

    /// A batch has come. Those who wait are served first.
    pub(super) fn add(&self, batch: Vec<Lease>) {
        let mut pool = self.lock();
        if pool.closed {
            return;
        }
        pool.failure = None;
        pool.reserve = pool.wanted_since.saturating_mul(4).clamp(pool.reserve, LARGEST_RESERVE);
        for lease in batch {
            if pool.add(lease) {
                self.telemetry.ready.inc();
            }
        }
    }

    /// No batch came. Those who wait go on waiting, each as long as it may, if the next one may come soon. If not, they
    /// are told, for another key server may have leases.
    pub(super) fn fail(&self, failure: KeyServerFailure) {
        self.telemetry.batch_failed(failure);
        let mut pool = self.lock();
        pool.failure = Some(failure);
        match failure {
            KeyServerFailure::Overloaded | KeyServerFailure::NoAnswer => {}
            KeyServerFailure::Unreachable
            | KeyServerFailure::NotAuthorised
            | KeyServerFailure::KeyUnavailable
            | KeyServerFailure::NameNotAllowed
            | KeyServerFailure::Refused
            | KeyServerFailure::WrongSignature => {
                for waiting in std::mem::take(&mut pool.waiting) {
                    // Whoever waited may have run out of time.
                    let _ = waiting.send(Err(failure));
                }
            }
        }
    }

    /// Leases at hand.
    pub(super) fn len(&self) -> usize {
        self.lock().ready.len()
    }

    /// The connection is lost, and with it every lease.
    pub(super) fn close(&self) {
        let mut pool = self.lock();
        for _ in pool.ready.drain(..) {
            self.telemetry.ready.dec();
            self.telemetry.dropped.inc();
        }
        *pool = Pool { closed: true, ..Pool::new() };
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
    fn new() -> Self {
        Self {
            ready: VecDeque::new(),
            waiting: VecDeque::new(),
            kept: false,
            reserve: SMALLEST_RESERVE,
            wanted_since: 0,
            failure: None,
            closed: false,
        }
    }

    /// Whether more than a quarter of the reserve is gone.
    fn is_low(&self) -> bool {
        self.ready.len() < self.reserve - self.reserve / 4
    }

    /// Gives the lease to the first who waits, or else keeps it; whether it was kept.
    fn add(&mut self, mut lease: Lease) -> bool {
        while let Some(waiting) = self.waiting.pop_front() {
            match waiting.send(Ok(lease)) {
                Ok(()) => return false,
                // It had run out of time.
                Err(Ok(unused)) => lease = unused,
                Err(Err(_)) => return false,
            }
        }
        self.ready.push_back(lease);
        true
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

    /// For those who are answered.
    fn later() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    async fn is_wanted(leases: &Leases) -> Option<u32> {
        tokio::time::timeout(Duration::ZERO, leases.batch_wanted()).await.ok()
    }

    #[tokio::test]
    async fn nothing_is_asked_for_until_a_reserve_is_to_be_kept() {
        let leases = leases();
        assert_eq!(is_wanted(&leases).await, None);
        leases.keep(true);
        assert_eq!(is_wanted(&leases).await, Some(SMALLEST_RESERVE as u32));
        leases.keep(false);
        assert_eq!(is_wanted(&leases).await, None);
    }

    #[tokio::test]
    async fn nothing_is_asked_for_until_somebody_wants_a_lease() {
        let leases = leases();
        assert_eq!(is_wanted(&leases).await, None);
        let taking = tokio::spawn({
            let leases = leases.clone();
            async move { leases.take(later()).await }
        });
        assert_eq!(leases.batch_wanted().await, SMALLEST_RESERVE as u32 + 1);
        leases.add(batch(0..513));
        assert_eq!(number(&taking.await.unwrap().unwrap()), 0);
        assert_eq!((leases.telemetry.taken.get(), leases.telemetry.waited.get()), (1, 1));
        assert_eq!(leases.telemetry.ready.get(), 512);
    }

    #[tokio::test]
    async fn the_next_batch_is_asked_for_while_most_of_the_reserve_is_there() {
        let leases = leases();
        leases.add(batch(0..512));
        for expected in 0..128 {
            assert_eq!(number(&leases.take(soon()).await.unwrap()), expected);
            assert_eq!(is_wanted(&leases).await, None, "{expected}");
        }
        assert_eq!(number(&leases.take(soon()).await.unwrap()), 128);
        assert_eq!(is_wanted(&leases).await, Some(129));
        assert_eq!(leases.telemetry.waited.get(), 0);
    }

    #[tokio::test]
    async fn the_reserve_grows_with_what_is_taken_while_a_batch_is_on_its_way() {
        let leases = leases();
        leases.keep(true);
        assert_eq!(leases.batch_wanted().await, 512);
        leases.add(batch(0..512));
        for _ in 0..129 {
            leases.take(soon()).await.unwrap();
        }
        assert_eq!(leases.batch_wanted().await, 129);
        for _ in 0..300 {
            leases.take(soon()).await.unwrap();
        }
        leases.add(batch(512..641));
        // 1200 in full, of which 512 - 129 - 300 + 129 are there.
        assert_eq!(leases.batch_wanted().await, 1200 - 212);
        leases.add(batch(641..1629));
        assert_eq!(is_wanted(&leases).await, None);
    }

    #[tokio::test]
    async fn the_reserve_has_a_limit() {
        let leases = leases();
        leases.lock().wanted_since = usize::MAX;
        leases.add(batch(0..1));
        assert_eq!(leases.lock().reserve, LARGEST_RESERVE);
        leases.keep(true);
        assert_eq!(leases.batch_wanted().await, LARGEST_BATCH);
    }

    #[tokio::test]
    async fn the_last_lease_taken_asks_for_more() {
        let leases = leases();
        leases.add(batch(0..1));
        leases.take(soon()).await.unwrap();
        assert_eq!(is_wanted(&leases).await, Some(512));
    }

    #[tokio::test]
    async fn a_batch_that_fails_for_a_while_fails_no_one_who_has_time() {
        let leases = leases();
        let more = async {
            for failure in [KeyServerFailure::Overloaded, KeyServerFailure::NoAnswer] {
                tokio::task::yield_now().await;
                leases.fail(failure);
                assert_eq!(leases.batch_wanted().await, 514, "they are still counted");
            }
            leases.add(batch(0..2));
        };
        let (one, two, ()) = tokio::join!(leases.take(later()), leases.take(later()), more);
        assert!(one.is_ok() && two.is_ok());
    }

    #[tokio::test]
    async fn who_runs_out_of_time_is_told_why_there_was_no_batch() {
        let leases = leases();
        leases.fail(KeyServerFailure::Overloaded);
        assert_eq!(leases.take(soon()).await.unwrap_err(), KeyServerFailure::Overloaded);
        leases.add(batch(0..1));
        leases.take(soon()).await.unwrap();
        assert_eq!(leases.take(soon()).await.unwrap_err(), KeyServerFailure::NoAnswer);
    }

    #[tokio::test]
    async fn a_lease_goes_to_no_one_who_has_left() {
        let leases = leases();
        assert_eq!(leases.take(soon()).await.unwrap_err(), KeyServerFailure::NoAnswer);
        leases.add(batch(7..8));
        assert_eq!(number(&leases.take(soon()).await.unwrap()), 7);
    }

    #[tokio::test]
    async fn a_failure_for_good_reaches_all_who_wait_and_no_one_later() {
        let leases = leases();
        let fail = async {
            tokio::task::yield_now().await;
            leases.fail(KeyServerFailure::NotAuthorised);
        };
        let (one, two, ()) = tokio::join!(leases.take(later()), leases.take(later()), fail);
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
        assert_eq!((leases.telemetry.dropped.get(), leases.telemetry.ready.get()), (3, 0));
        assert_eq!(leases.take(soon()).await.unwrap_err(), KeyServerFailure::Unreachable);

        let leases = Leases::new(LeaseTelemetry::default());
        let close = async {
            tokio::task::yield_now().await;
            leases.close();
        };
        let (waited, ()) = tokio::join!(leases.take(later()), close);
        assert_eq!(waited.unwrap_err(), KeyServerFailure::Unreachable);
    }
}
