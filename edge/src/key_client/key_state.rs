//! What is known of each key: how its requests fare, at each key server and on each link.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use keystead_tls::KeyId;
use tokio::time::Instant;

use super::breaker::{Breaker, Tolerance};
use super::budget::Budget;
use super::latency::Latency;

/// The keys that were asked for.
#[derive(Debug)]
pub(super) struct KeyStates {
    shape: Shape,
    states: RwLock<HashMap<KeyId, Arc<KeyState>>>,
}

/// What all keys have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Places for the peers that links lead to.
    pub(super) slots: usize,
    pub(super) links: usize,
    /// Requests of one key without an answer on one link.
    pub(super) max_in_flight: usize,
    pub(super) tolerance: Tolerance,
    /// Of further tries, for each request.
    pub(super) retry_share: f64,
    /// Of further tries, at one moment.
    pub(super) retry_reserve: usize,
}

impl KeyStates {
    pub(super) fn new(shape: Shape) -> Self {
        Self { shape, states: RwLock::default() }
    }

    /// The state of a key.
    pub(super) fn of(&self, key_id: KeyId) -> Arc<KeyState> {
        // No change under the lock can panic half done.
        if let Some(state) = self.states.read().unwrap_or_else(PoisonError::into_inner).get(&key_id) {
            return state.clone();
        }
        let mut states = self.states.write().unwrap_or_else(PoisonError::into_inner);
        states.entry(key_id).or_insert_with(|| Arc::new(KeyState::new(&self.shape))).clone()
    }
}

/// How the requests for one key fare.
#[derive(Debug)]
pub(super) struct KeyState {
    /// At all peers together.
    pub(super) latency: Latency,
    pub(super) budget: Budget,
    tolerance: Tolerance,
    /// By the peer's slot.
    at: Vec<OnceLock<Box<KeyAtPeer>>>,
    max_in_flight: usize,
    /// Requests without an answer, by the link's number.
    in_flight: Vec<AtomicUsize>,
}

impl KeyState {
    fn new(shape: &Shape) -> Self {
        Self {
            latency: Latency::new(),
            budget: Budget::new(shape.retry_share, shape.retry_reserve),
            tolerance: shape.tolerance,
            at: (0..shape.slots).map(|_| OnceLock::new()).collect(),
            max_in_flight: shape.max_in_flight,
            in_flight: (0..shape.links).map(|_| AtomicUsize::new(0)).collect(),
        }
    }

    /// The key at the peer with this slot; `None` where it was not asked for.
    pub(super) fn known_at(&self, slot: usize) -> Option<&KeyAtPeer> {
        self.at.get(slot)?.get().map(Box::as_ref)
    }

    /// The key at the peer with this slot.
    pub(super) fn at(&self, slot: usize) -> Option<&KeyAtPeer> {
        self.at.get(slot).map(|at| at.get_or_init(|| Box::new(KeyAtPeer::new(self.tolerance))).as_ref())
    }

    /// Whether the link has a place for one more request of this key.
    pub(super) fn has_place(&self, link: usize) -> bool {
        self.in_flight.get(link).is_some_and(|count| count.load(Ordering::Relaxed) < self.max_in_flight)
    }

    /// A place on the link for a request of this key; `None` when as many are taken as one key may have, so that no key
    /// fills a link.
    pub(super) fn place(self: &Arc<Self>, link: usize) -> Option<Place> {
        let count = self.in_flight.get(link)?;
        if count.fetch_add(1, Ordering::Relaxed) >= self.max_in_flight {
            count.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Place { key: self.clone(), link })
    }
}

/// A place that a request has. Dropped, it is free.
#[derive(Debug)]
pub(super) struct Place {
    key: Arc<KeyState>,
    link: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(count) = self.key.in_flight.get(self.link) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// One key at one peer.
#[derive(Debug)]
pub(super) struct KeyAtPeer {
    pub(super) breaker: Breaker,
    average: Mutex<Option<Average>>,
}

/// A moving average of latencies.
#[derive(Clone, Copy, Debug)]
struct Average {
    seconds: f64,
    at: Instant,
}

/// How much of the average each answer makes.
const WEIGHT: f64 = 0.2;
/// What was measured so long ago counts half, so that who was slow is tried again.
const HALF_LIFE: Duration = Duration::from_secs(5);

impl KeyAtPeer {
    fn new(tolerance: Tolerance) -> Self {
        Self { breaker: Breaker::new(tolerance), average: Mutex::default() }
    }

    /// An answer took so long, or was given up after so long.
    pub(super) fn record(&self, elapsed: Duration, now: Instant) {
        let mut average = self.lock();
        let seconds = elapsed.as_secs_f64();
        let seconds = average.map_or(seconds, |average| average.seconds + WEIGHT * (seconds - average.seconds));
        *average = Some(Average { seconds, at: now });
    }

    /// How long an answer takes, in seconds, as far as is known; less the longer that nobody has measured it.
    pub(super) fn seconds(&self, now: Instant) -> Option<f64> {
        let Average { seconds, at } = (*self.lock())?;
        let idle = now.saturating_duration_since(at);
        if idle < HALF_LIFE / 8 {
            return Some(seconds);
        }
        Some(seconds * (-(idle.as_secs_f64() / HALF_LIFE.as_secs_f64())).exp2())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Average>> {
        // The change under the lock is one assignment.
        self.average.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use tokio::time::advance;

    pub(crate) fn shape() -> Shape {
        let (shortest, longest) = (Duration::from_secs(1), Duration::from_secs(30));
        Shape {
            slots: 4,
            links: 2,
            max_in_flight: 2,
            tolerance: Tolerance { failures: 3, shortest, longest },
            retry_share: 0.2,
            retry_reserve: 8,
        }
    }

    #[test]
    fn one_key_takes_no_more_than_its_share_of_a_link() {
        let states = KeyStates::new(shape());
        let (slow, fast) = (states.of(KeyId([1; 32])), states.of(KeyId([2; 32])));
        let places = [slow.place(0).unwrap(), slow.place(0).unwrap()];
        assert!(slow.place(0).is_none() && !slow.has_place(0));
        assert!(slow.place(1).is_some() && fast.place(0).is_some());
        drop(places);
        assert!(slow.has_place(0) && states.of(KeyId([1; 32])).place(0).is_some());
        assert!(slow.place(2).is_none(), "there is no such link");
    }

    #[tokio::test(start_paused = true)]
    async fn the_average_follows_what_is_measured_and_fades_without() {
        let key = KeyAtPeer::new(shape().tolerance);
        assert_eq!(key.seconds(Instant::now()), None);
        key.record(Duration::from_secs(1), Instant::now());
        assert_eq!(key.seconds(Instant::now()), Some(1.0));
        key.record(Duration::ZERO, Instant::now());
        assert_eq!(key.seconds(Instant::now()), Some(0.8));
        advance(HALF_LIFE).await;
        let faded = key.seconds(Instant::now()).unwrap();
        assert!((faded - 0.4).abs() < 0.001, "{faded}");
    }
}
