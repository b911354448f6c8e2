//! When an endpoint is left alone because connections to it fail: a state that is told the time.
//!
//! ```text
//!            failure, the 3rd in a row              its time is over
//!   trusted ---------------------------> ejected -------------------> on trial
//!      ^                                    ^                             | one connection tries
//!      |                                    |            failure          |
//!      |                                    +---- for twice as long ------+
//!      +------------------------------------------------------------------+
//!                                   success
//! ```

use std::time::{Duration, Instant};

/// Failures in a row after which an endpoint is left alone.
pub const FAILURES: u32 = 3;
/// For how long, at first.
pub const FIRST: Duration = Duration::from_secs(1);
/// And at most.
pub const LONGEST: Duration = Duration::from_secs(60);

/// Whether an endpoint is left alone.
#[derive(Debug, Default)]
pub struct Ejection {
    /// In a row.
    failures: u32,
    ejected: Option<Ejected>,
}

#[derive(Clone, Copy, Debug)]
struct Ejected {
    /// When its time is over.
    until: Instant,
    /// Until when connections go elsewhere: until then, or until the trial behind it has come to an outcome.
    hold: Instant,
    period: Duration,
}

/// What a connection's outcome changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// The first failure after a success.
    Faltered,
    /// It is left alone for so long.
    Ejected(Duration),
    /// It is trusted again.
    Returned,
}

impl Ejection {
    /// Whether connections should go elsewhere at `now`.
    pub fn is_ejected(&self, now: Instant) -> bool {
        self.ejected.is_some_and(|ejected| now < ejected.hold)
    }

    /// Whether the last that is known of it is that it failed.
    pub fn is_distrusted(&self) -> bool {
        self.ejected.is_some()
    }

    /// A connection is tried, which takes at most `limit`. On trial, others wait for its outcome elsewhere.
    pub fn trying(&mut self, now: Instant, limit: Duration) {
        if let Some(ejected) = self.ejected.as_mut().filter(|ejected| now >= ejected.hold) {
            ejected.hold = now + limit;
        }
    }

    /// A connection succeeded.
    pub fn succeeded(&mut self) -> Change {
        let was = std::mem::take(self);
        if was.failures > 0 { Change::Returned } else { Change::None }
    }

    /// A connection that was begun at `began` failed.
    pub fn failed(&mut self, began: Instant, now: Instant) -> Change {
        self.failures = self.failures.saturating_add(1);
        if self.failures < FAILURES {
            return if self.failures == 1 { Change::Faltered } else { Change::None };
        }
        let period = match self.ejected {
            None => FIRST,
            // It was under way already, or had nowhere else to go, and tells nothing else.
            Some(ejected) if began < ejected.until => return Change::None,
            Some(ejected) => (ejected.period * 2).min(LONGEST),
        };
        self.ejected = Some(Ejected { until: now + period, hold: now + period, period });
        Change::Ejected(period)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    /// Fails as often as it takes.
    fn ejected(now: Instant) -> Ejection {
        let mut ejection = Ejection::default();
        let changes: Vec<_> = (0..FAILURES).map(|_| ejection.failed(now, now)).collect();
        assert_eq!(changes, [Change::Faltered, Change::None, Change::Ejected(FIRST)]);
        ejection
    }

    #[test]
    fn failures_in_a_row_eject_and_a_success_between_them_does_not() {
        let now = Instant::now();
        let ejection = ejected(now);
        assert!(ejection.is_ejected(now) && !ejection.is_ejected(now + FIRST));
        let mut ejection = Ejection::default();
        for _ in 0..10 {
            assert_eq!(ejection.failed(now, now), Change::Faltered);
            assert_eq!(ejection.failed(now, now), Change::None);
            assert_eq!(ejection.succeeded(), Change::Returned);
            assert_eq!(ejection.succeeded(), Change::None);
        }
        assert!(!ejection.is_ejected(now));
    }

    #[test]
    fn the_time_doubles_to_a_bound_until_a_success() {
        let mut now = Instant::now();
        let mut ejection = ejected(now);
        let mut period = FIRST;
        for _ in 0..10 {
            now += period;
            assert!(!ejection.is_ejected(now) && ejection.is_distrusted());
            period = (period * 2).min(LONGEST);
            assert_eq!(ejection.failed(now, now), Change::Ejected(period));
        }
        assert_eq!(period, LONGEST);
        assert_eq!(ejection.succeeded(), Change::Returned);
        assert!(!ejection.is_distrusted());
        assert_eq!(ejected(now).ejected.map(|ejected| ejected.period), Some(FIRST));
    }

    #[test]
    fn connections_that_fail_together_count_once() {
        let began = Instant::now();
        let now = began + LIMIT;
        let mut ejection = ejected(now);
        for _ in 0..100 {
            assert_eq!(ejection.failed(began, now), Change::None);
        }
        assert!(!ejection.is_ejected(now + FIRST));
    }

    #[test]
    fn on_trial_one_connection_tries_while_others_go_elsewhere() {
        let now = Instant::now();
        let mut ejection = ejected(now);
        let later = now + FIRST;
        ejection.trying(later, LIMIT);
        assert!(ejection.is_ejected(later));
        // A trial that never comes to an outcome does not bar the next.
        assert!(!ejection.is_ejected(later + LIMIT));
    }
}
