//! Leaves alone what fails, for a while that grows, and tries it again with one request at a time.
//!
//! ```text
//! closed --failures in a row--> open --its time is over--> due --one probe--> closed, or open for twice as long
//! ```
//!
//! There is one for each key server, whose opening is called ejection, and one for each key at each key server.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tolerance {
    /// So many failures in a row open it.
    pub(super) failures: u32,
    /// For how long at first, before jitter.
    pub(super) shortest: Duration,
    /// For how long at the most.
    pub(super) longest: Duration,
}

/// How much a failure says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    /// A failure.
    Full,
    /// Slower than another, which happens to the best.
    Half,
}

impl Weight {
    fn halves(self) -> u32 {
        match self {
            Self::Full => 2,
            Self::Half => 1,
        }
    }
}

/// Whether requests should come here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// Yes.
    Closed,
    /// No, if there is another place.
    Open,
    /// One may, to see whether it is well again.
    Due {
        /// From when on.
        since: Instant,
    },
}

/// A breaker, closed at first.
#[derive(Debug)]
pub(super) struct Breaker {
    tolerance: Tolerance,
    /// Whether there is anything to look at behind the lock. All is well nearly always.
    is_troubled: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Failures in a row, in halves.
    halves: u32,
    /// How often it has opened without having been well for long.
    times: u32,
    open: Option<Open>,
    /// When it closed last.
    closed_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    since: Instant,
    until: Instant,
}

impl Breaker {
    pub(super) fn new(tolerance: Tolerance) -> Self {
        Self { tolerance, is_troubled: AtomicBool::new(false), state: Mutex::default() }
    }

    /// Whether requests should come here.
    pub(super) fn status(&self, now: Instant) -> Status {
        if !self.is_troubled.load(Ordering::Relaxed) {
            return Status::Closed;
        }
        match self.lock().open {
            None => Status::Closed,
            Some(open) if now < open.until => Status::Open,
            Some(open) => Status::Due { since: open.until },
        }
    }

    /// Whether this request is the one that sees whether all is well again. The next may be after as long as this breaker
    /// opens at first, for a probe may come to no end.
    pub(super) fn probe(&self, now: Instant) -> bool {
        let pause = self.tolerance.shortest;
        match &mut self.lock().open {
            Some(open) if now >= open.until => {
                open.until = now + pause;
                true
            }
            Some(_) | None => false,
        }
    }

    /// A probe may be as soon as somebody wants one.
    pub(super) fn hurry(&self, now: Instant) {
        if let Some(open) = &mut self.lock().open {
            open.until = open.until.min(now);
        }
    }

    /// A request was answered as it should be. Whether the breaker was open, and is closed with it.
    pub(super) fn succeeded(&self, now: Instant) -> bool {
        if !self.is_troubled.load(Ordering::Relaxed) {
            return false;
        }
        let mut state = self.lock();
        state.halves = 0;
        self.is_troubled.store(false, Ordering::Relaxed);
        let was_open = state.open.take().is_some();
        if was_open {
            state.closed_at = Some(now);
        }
        was_open
    }

    /// A request that began at `began` has failed. `chance`, any number, spreads those who see the same failures over half
    /// of the time. What it did to the breaker.
    pub(super) fn failed(&self, weight: Weight, began: Instant, now: Instant, chance: u32) -> Failed {
        let mut state = self.lock();
        self.is_troubled.store(true, Ordering::Relaxed);
        match state.open {
            // It was under way when others had said all there is to say.
            Some(open) if began < open.since => return Failed::Noted,
            Some(_) => {
                let lasting = state.open_again(&self.tolerance, now, chance);
                return Failed::StillOpen(lasting);
            }
            None => {}
        }
        state.halves = state.halves.saturating_add(weight.halves());
        if state.halves < self.tolerance.failures.saturating_mul(Weight::Full.halves()) {
            return Failed::Noted;
        }
        if state.closed_at.is_none_or(|closed_at| now - closed_at > self.tolerance.longest) {
            state.times = 0;
        }
        Failed::Opened(state.open_again(&self.tolerance, now, chance))
    }

    /// Whether it is not closed.
    pub(super) fn is_open(&self) -> bool {
        self.lock().open.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No change under the lock can panic half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a failure did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failed {
    /// Nothing to be seen.
    Noted,
    /// It opened the breaker, for so long.
    Opened(Duration),
    /// It showed that nothing is well yet, for so much longer.
    StillOpen(Duration),
}

impl State {
    fn open_again(&mut self, tolerance: &Tolerance, now: Instant, chance: u32) -> Duration {
        let doubled = tolerance.shortest.saturating_mul(2_u32.saturating_pow(self.times));
        let time = doubled.min(tolerance.longest);
        let lasting = time / 2 + time.mul_f64(f64::from(chance) / f64::from(u32::MAX) / 2.0);
        self.times = self.times.saturating_add(1);
        self.open = Some(Open { since: now, until: now + lasting });
        lasting
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    const TOLERANCE: Tolerance =
        Tolerance { failures: 3, shortest: Duration::from_secs(1), longest: Duration::from_secs(30) };

    fn fail(breaker: &Breaker) -> Failed {
        breaker.failed(Weight::Full, Instant::now(), Instant::now(), u32::MAX)
    }

    fn opened() -> Breaker {
        let breaker = Breaker::new(TOLERANCE);
        assert_eq!([fail(&breaker), fail(&breaker)], [Failed::Noted; 2]);
        assert_eq!(fail(&breaker), Failed::Opened(Duration::from_secs(1)));
        breaker
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_open_it_and_others_do_not() {
        let breaker = Breaker::new(TOLERANCE);
        for _ in 0..10 {
            assert_eq!([fail(&breaker), fail(&breaker)], [Failed::Noted; 2]);
            assert!(!breaker.succeeded(Instant::now()));
        }
        assert_eq!(breaker.status(Instant::now()), Status::Closed);
        assert_eq!(opened().status(Instant::now()), Status::Open);
    }

    #[tokio::test(start_paused = true)]
    async fn being_slower_says_half_as_much() {
        let breaker = Breaker::new(TOLERANCE);
        let outrun = || breaker.failed(Weight::Half, Instant::now(), Instant::now(), 0);
        for _ in 0..5 {
            assert_eq!(outrun(), Failed::Noted);
        }
        assert_eq!(outrun(), Failed::Opened(Duration::from_millis(500)));
    }

    #[tokio::test(start_paused = true)]
    async fn one_probe_at_a_time_tells_whether_all_is_well_again() {
        let breaker = opened();
        assert!(!breaker.probe(Instant::now()));
        advance(Duration::from_secs(1)).await;
        assert_eq!(breaker.status(Instant::now()), Status::Due { since: Instant::now() });
        assert!(breaker.probe(Instant::now()));
        assert!(!breaker.probe(Instant::now()));
        assert_eq!(breaker.status(Instant::now()), Status::Open);
        assert!(breaker.succeeded(Instant::now()));
        assert_eq!(breaker.status(Instant::now()), Status::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_comes_to_no_end_is_followed_by_another() {
        let breaker = opened();
        for _ in 0..3 {
            advance(Duration::from_secs(1)).await;
            assert!(breaker.probe(Instant::now()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_probe_that_fails_doubles_the_time_up_to_the_longest() {
        let breaker = opened();
        for seconds in [2, 4, 8, 16, 30, 30] {
            advance(Duration::from_secs(60)).await;
            assert!(breaker.probe(Instant::now()));
            assert_eq!(fail(&breaker), Failed::StillOpen(Duration::from_secs(seconds)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failures_of_what_was_under_way_when_it_opened_prolong_nothing() {
        let breaker = Breaker::new(TOLERANCE);
        let began = Instant::now();
        advance(Duration::from_millis(1)).await;
        let fail = || breaker.failed(Weight::Full, began, Instant::now(), u32::MAX);
        let failures: Vec<_> = (0..100).map(|_| fail()).collect();
        assert_eq!(failures.iter().filter(|failed| **failed != Failed::Noted).count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn it_begins_with_the_shortest_time_after_it_was_well_for_long() {
        let breaker = opened();
        assert!(breaker.succeeded(Instant::now()));
        for (well_for, seconds) in [(10, 2), (31, 1)] {
            advance(Duration::from_secs(well_for)).await;
            let last = (0..3).map(|_| fail(&breaker)).last();
            assert_eq!(last, Some(Failed::Opened(Duration::from_secs(seconds))), "well for {well_for} s");
            breaker.succeeded(Instant::now());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn times_spread_over_half_of_their_length() {
        let breaker = Breaker::new(TOLERANCE);
        let last = (0..3).map(|_| breaker.failed(Weight::Full, Instant::now(), Instant::now(), 0)).last();
        assert_eq!(last, Some(Failed::Opened(Duration::from_millis(500))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_can_be_had_sooner() {
        let breaker = opened();
        breaker.hurry(Instant::now());
        assert!(breaker.probe(Instant::now()));
        assert!(breaker.is_open());
    }
}
