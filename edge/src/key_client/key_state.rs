//! What is known of each key: how its requests fare, at each key server and on each link.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Duration;

use arc_swap::{ArcSwapOption, Guard};
use keystead_tls::KeyId;
use prometheus_client::metrics::gauge::Gauge;
use tokio::time::Instant;

use super::breaker::{Breaker, Failed, Tolerance, Weight};
use super::budget::Budget;
use super::latency::Latency;
use crate::directory::Directory;

/// The keys that were asked for, of those that virtual hosts have.
#[derive(Debug)]
pub(super) struct KeyStates {
    shape: Shape,
    /// Keys that are left alone at some peer, each counted once for each peer.
    breakers_open: Gauge,
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
    /// No key; the breakers of those to come are counted in `breakers_open`.
    pub(super) fn new(shape: Shape, breakers_open: Gauge) -> Self {
        Self { shape, breakers_open, states: RwLock::default() }
    }

    /// When the breakers of keys and peers open.
    pub(super) fn tolerance(&self) -> Tolerance {
        self.shape.tolerance
    }

    /// The state of a key.
    pub(super) fn of(&self, key_id: KeyId) -> Arc<KeyState> {
        // No change under the lock can panic half done.
        if let Some(state) = self.states.read().unwrap_or_else(PoisonError::into_inner).get(&key_id) {
            return state.clone();
        }
        let make = || Arc::new(KeyState::new(&self.shape, self.breakers_open.clone()));
        self.lock().entry(key_id).or_insert_with(make).clone()
    }

    /// Forgets the keys that no virtual host of `directory` has, as they go. Ends only by being dropped.
    pub(super) async fn follow(self: Arc<Self>, directory: Arc<Directory>) {
        let mut identities = directory.identities();
        while identities.changed().await.is_ok() {
            let keys = directory.table().hosts().iter().flat_map(|host| host.key_ids()).collect();
            // What a handshake that began before asks for goes with the next change.
            self.keep_only(&keys);
        }
    }

    fn keep_only(&self, keys: &HashSet<KeyId>) {
        self.lock().retain(|key_id, _| keys.contains(key_id));
    }

    /// Forgets how keys fare at the peer that has this slot, for another comes into it.
    pub(super) fn forget_peer(&self, slot: usize) {
        for state in self.lock().values() {
            if let Some(at_peer) = state.at.get(slot) {
                at_peer.store(None);
            }
        }
    }

    fn lock(&self) -> RwLockWriteGuard<'_, HashMap<KeyId, Arc<KeyState>>> {
        self.states.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How the requests for one key fare.
#[derive(Debug)]
pub(super) struct KeyState {
    /// At all peers together.
    pub(super) latency: Latency,
    pub(super) budget: Budget,
    tolerance: Tolerance,
    breakers_open: Gauge,
    /// By the peer's slot.
    at: Vec<ArcSwapOption<KeyAtPeer>>,
    max_in_flight: usize,
    /// Requests without an answer, by the link's number.
    in_flight: Vec<AtomicUsize>,
}

impl KeyState {
    fn new(shape: &Shape, breakers_open: Gauge) -> Self {
        Self {
            latency: Latency::new(),
            budget: Budget::new(shape.retry_share, shape.retry_reserve),
            tolerance: shape.tolerance,
            breakers_open,
            at: (0..shape.slots).map(|_| ArcSwapOption::empty()).collect(),
            max_in_flight: shape.max_in_flight,
            in_flight: (0..shape.links).map(|_| AtomicUsize::new(0)).collect(),
        }
    }

    /// The key at the peer with this slot; `None` where it was not asked for.
    pub(super) fn known_at(&self, slot: usize) -> Option<Arc<KeyAtPeer>> {
        self.at.get(slot)?.load_full()
    }

    /// The key at the peer with this slot.
    pub(super) fn at(&self, slot: usize) -> Option<Arc<KeyAtPeer>> {
        let at = self.at.get(slot)?;
        if let Some(known) = at.load_full() {
            return Some(known);
        }
        let unknown = Arc::new(KeyAtPeer::new(self.tolerance, self.breakers_open.clone()));
        // Another handshake may have come first.
        let before = Guard::into_inner(at.compare_and_swap(&None::<Arc<KeyAtPeer>>, Some(unknown.clone())));
        Some(before.unwrap_or(unknown))
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
    breakers_open: Gauge,
}

/// A moving average of latencies.
#[derive(Clone, Copy, Debug)]
struct Average {
    seconds: f64,
    at: Instant,
}

/// How much of the average each answer makes at least.
const WEIGHT: f64 = 0.2;
/// What was measured so long ago counts half, so that who was slow is tried again, and what comes of that counts.
const HALF_LIFE: Duration = Duration::from_secs(5);

impl Average {
    /// How much it still counts.
    fn weight(&self, now: Instant) -> f64 {
        let idle = now.saturating_duration_since(self.at);
        if idle < HALF_LIFE / 8 { 1.0 } else { (-(idle.as_secs_f64() / HALF_LIFE.as_secs_f64())).exp2() }
    }
}

impl KeyAtPeer {
    fn new(tolerance: Tolerance, breakers_open: Gauge) -> Self {
        Self { breaker: Breaker::new(tolerance), average: Mutex::default(), breakers_open }
    }

    /// A request for the key was answered as it should be. Whether the key was left alone here, and is not any longer.
    pub(super) fn succeeded(&self, now: Instant) -> bool {
        let was_open = self.breaker.succeeded(now);
        if was_open {
            self.breakers_open.dec();
        }
        was_open
    }

    /// A request for the key that began at `began` has failed, with so much weight. What it did to the breaker.
    pub(super) fn failed(&self, weight: Weight, began: Instant, now: Instant) -> Failed {
        let failed = self.breaker.failed(weight, began, now, rand::random());
        if matches!(failed, Failed::Opened(_)) {
            self.breakers_open.inc();
        }
        failed
    }

    /// An answer took so long, or was given up after so long.
    pub(super) fn record(&self, elapsed: Duration, now: Instant) {
        let mut average = self.lock();
        let seconds = elapsed.as_secs_f64();
        let seconds = average.map_or(seconds, |average| {
            let kept = average.weight(now).min(1.0 - WEIGHT);
            kept * average.seconds + (1.0 - kept) * seconds
        });
        *average = Some(Average { seconds, at: now });
    }

    /// How long an answer takes, in seconds, as far as is known; less the longer that nobody has measured it.
    pub(super) fn seconds(&self, now: Instant) -> Option<f64> {
        let average = (*self.lock())?;
        Some(average.seconds * average.weight(now))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Average>> {
        // The change under the lock is one assignment.
        self.average.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for KeyAtPeer {
    fn drop(&mut self) {
        if self.breaker.is_open() {
            self.breakers_open.dec();
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    /// States of no key, and how many breakers are open.
    pub(crate) fn states() -> (Arc<KeyStates>, Gauge) {
        let breakers_open = Gauge::default();
        (Arc::new(KeyStates::new(shape(), breakers_open.clone())), breakers_open)
    }

    /// Opens the breaker of the key at this slot.
    pub(crate) fn open(states: &KeyStates, key_id: KeyId, slot: usize) {
        let (at_peer, now) = (states.of(key_id).at(slot).unwrap(), Instant::now());
        let fail = || at_peer.failed(Weight::Full, now, now);
        assert_eq!([fail(), fail()], [Failed::Noted; 2]);
        assert!(matches!(fail(), Failed::Opened(_)));
    }

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
        let (states, _) = states();
        let (slow, fast) = (states.of(KeyId([1; 32])), states.of(KeyId([2; 32])));
        let places = [slow.place(0).unwrap(), slow.place(0).unwrap()];
        assert!(slow.place(0).is_none() && !slow.has_place(0));
        assert!(slow.place(1).is_some() && fast.place(0).is_some());
        drop(places);
        assert!(slow.has_place(0) && states.of(KeyId([1; 32])).place(0).is_some());
        assert!(slow.place(2).is_none(), "there is no such link");
    }

    #[test]
    fn the_average_follows_what_is_measured_and_fades_without() {
        let (key, now) = (KeyAtPeer::new(shape().tolerance, Gauge::default()), Instant::now());
        assert_eq!(key.seconds(now), None);
        key.record(Duration::from_secs(1), now);
        assert_eq!(key.seconds(now), Some(1.0));
        key.record(Duration::ZERO, now);
        assert_eq!(key.seconds(now), Some(0.8));
        let faded = key.seconds(now + HALF_LIFE).unwrap();
        assert!((faded - 0.4).abs() < 0.001, "{faded}");
        // What is measured then makes as much of the average as is left of what was before.
        let later = now + HALF_LIFE;
        key.record(Duration::from_millis(100), later);
        let average = key.seconds(later).unwrap();
        assert!((average - 0.45).abs() < 0.001, "{average}");
    }

    #[test]
    fn keys_that_no_host_has_are_forgotten_with_their_breakers() {
        let ((states, breakers_open), [kept, gone]) = (states(), [KeyId([1; 32]), KeyId([2; 32])]);
        open(&states, kept, 0);
        open(&states, gone, 0);
        open(&states, gone, 1);
        assert_eq!(breakers_open.get(), 3);
        states.keep_only(&HashSet::from([kept]));
        assert_eq!(breakers_open.get(), 1);
        assert!(states.of(kept).known_at(0).is_some() && states.of(gone).known_at(0).is_none());
        assert!(states.of(kept).at(0).unwrap().succeeded(Instant::now()));
        assert_eq!(breakers_open.get(), 0);
    }
}
