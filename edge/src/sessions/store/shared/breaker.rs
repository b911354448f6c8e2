//! Whether the shared store is asked at all. One that fails often is left alone for a while, so that no handshake waits
//! for what will not come.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use strum::IntoStaticStr;

/// The pause before a probe, and what it doubles to.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What is asked of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub(super) enum State {
    /// Everything.
    Closed = 0,
    /// A probe.
    HalfOpen = 1,
    /// Nothing.
    Open = 2,
}

#[derive(Debug)]
pub(super) struct Breaker {
    state: AtomicU8,
    /// Failures since the last success.
    failures: AtomicU32,
    most_failures: u32,
    gauge: Gauge,
}

impl Breaker {
    /// Closed. It is to open after `most_failures` in a row.
    pub(super) fn new(most_failures: u32, gauge: Gauge) -> Self {
        gauge.set(State::Closed as i64);
        Self { state: AtomicU8::new(State::Closed as u8), failures: AtomicU32::new(0), most_failures, gauge }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state.load(Ordering::Acquire) == State::Closed as u8
    }

    pub(super) fn succeeded(&self) {
        self.failures.store(0, Ordering::Relaxed);
    }

    /// Returns whether there were so many that it is to open.
    pub(super) fn failed(&self) -> bool {
        self.failures.fetch_add(1, Ordering::Relaxed) + 1 >= self.most_failures && self.is_closed()
    }

    /// Returns whether that is a change.
    pub(super) fn is(&self, state: State) -> bool {
        let before = self.state.swap(state as u8, Ordering::AcqRel);
        self.gauge.set(state as i64);
        if state == State::Closed {
            self.failures.store(0, Ordering::Relaxed);
        }
        before != state as u8
    }
}

/// The pauses between probes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pauses {
    taken: u32,
}

impl Pauses {
    /// The next pause, from one second to half a minute. `chance`, any number, spreads the edges of a fleet over a
    /// fourth of it.
    pub(super) fn next(&mut self, chance: u32) -> Duration {
        let pause = SHORTEST_PAUSE.saturating_mul(2_u32.saturating_pow(self.taken)).min(LONGEST_PAUSE);
        self.taken = self.taken.saturating_add(1);
        pause.mul_f64(1.0 - f64::from(chance) / f64::from(u32::MAX) / 4.0).max(SHORTEST_PAUSE)
    }

    /// Begins anew.
    pub(super) fn reset(&mut self) {
        self.taken = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_to_open_after_failures_in_a_row_alone() {
        let breaker = Breaker::new(3, Gauge::default());
        assert!(!breaker.failed() && !breaker.failed());
        breaker.succeeded();
        assert!(!breaker.failed() && !breaker.failed());
        assert!(breaker.failed());
        assert!(breaker.is(State::Open) && !breaker.is_closed());
        assert!(!breaker.failed(), "it is open");
        assert!(breaker.is(State::Closed) && !breaker.failed());
    }

    #[test]
    fn its_state_is_a_metric() {
        let gauge = Gauge::default();
        let breaker = Breaker::new(1, gauge.clone());
        for (state, value) in [(State::HalfOpen, 1), (State::Open, 2), (State::Closed, 0)] {
            breaker.is(state);
            assert_eq!(gauge.get(), value);
        }
    }

    #[test]
    fn pauses_double_to_half_a_minute() {
        let mut pauses = Pauses::default();
        let seconds: Vec<_> = (0..7).map(|_| pauses.next(0).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(pauses.next(u32::MAX), LONGEST_PAUSE.mul_f64(0.75));
        pauses.reset();
        assert_eq!(pauses.next(u32::MAX), SHORTEST_PAUSE);
    }
}
