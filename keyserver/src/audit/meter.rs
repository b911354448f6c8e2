//! How many records one peer may have of requests that cost it nothing, such as refusals: what is beyond that is summed
//! up, so that nobody fills the disk.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use keystead_program::channel::PeerIdentity;

use super::record::Event;

/// Records at once.
const BURST: u32 = 64;
/// Records each second from there on.
const PER_SECOND: f64 = 4.0;
/// Peers that are told apart: those of the configuration and then some.
const MOST_PEERS: usize = 1024;

/// The meters of all peers.
#[derive(Debug, Default)]
pub struct Meters(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    peers: HashMap<PeerIdentity, Meter>,
    /// Of peers beyond those.
    others: Sums,
}

#[derive(Debug)]
struct Meter {
    credit: f64,
    at: Instant,
    sums: Sums,
}

type Sums = HashMap<(&'static str, &'static str), Sum>;

#[derive(Debug)]
struct Sum {
    count: u64,
    first: SystemTime,
    last: SystemTime,
}

impl Meters {
    /// Whether `peer` may have a record of its own, which is taken from what it may have.
    pub fn admit(&self, peer: &PeerIdentity, now: Instant) -> bool {
        let mut state = self.lock();
        state.meter(peer, now).is_some_and(|meter| {
            meter.refill(now);
            let may = meter.credit >= 1.0;
            if may {
                meter.credit -= 1.0;
            }
            may
        })
    }

    /// Adds a request to the sums.
    pub fn add(&self, peer: &PeerIdentity, operation: &'static str, outcome: &'static str) {
        let now = SystemTime::now();
        let mut state = self.lock();
        let sums = match state.meter(peer, Instant::now()) {
            Some(meter) => &mut meter.sums,
            None => &mut state.others,
        };
        let sum = sums.entry((operation, outcome)).or_insert(Sum { count: 0, first: now, last: now });
        sum.count += 1;
        sum.last = now;
    }

    /// The sums, which begin anew.
    pub fn take(&self) -> Vec<Event> {
        let now = Instant::now();
        let mut events = Vec::new();
        let mut state = self.lock();
        let mut take = |peer: Option<&PeerIdentity>, sums: &mut Sums| {
            events.extend(sums.drain().map(|((operation, outcome), sum)| sum.event(peer.cloned(), operation, outcome)));
        };
        take(None, &mut state.others);
        state.peers.retain(|peer, meter| {
            take(Some(peer), &mut meter.sums);
            meter.refill(now);
            meter.credit < f64::from(BURST)
        });
        events
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No change is half done when a thread panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn meter(&mut self, peer: &PeerIdentity, now: Instant) -> Option<&mut Meter> {
        if !self.peers.contains_key(peer) {
            if self.peers.len() >= MOST_PEERS {
                return None;
            }
            let meter = Meter { credit: BURST.into(), at: now, sums: Sums::new() };
            self.peers.insert(peer.clone(), meter);
        }
        self.peers.get_mut(peer)
    }
}

impl Meter {
    fn refill(&mut self, now: Instant) {
        let passed: Duration = now.saturating_duration_since(self.at);
        self.credit = (self.credit + passed.as_secs_f64() * PER_SECOND).min(BURST.into());
        self.at = now;
    }
}

impl Sum {
    fn event(self, peer: Option<PeerIdentity>, operation: &'static str, outcome: &'static str) -> Event {
        let time = |time| humantime::format_rfc3339_millis(time).to_string();
        let (first, last) = (time(self.first), time(self.last));
        Event::Requests { peer, operation, outcome, count: self.count, first, last }
    }
}
