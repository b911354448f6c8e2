//! Pauses between attempts to connect.

use std::time::Duration;

/// The first pause after a connection that stood.
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);
/// A connection that stood for this long was a good one.
const GOOD: Duration = Duration::from_secs(10);

/// Doubles with each attempt that fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// A connection ended, `stood` after the attempt at it began.
    pub(super) fn after(&mut self, stood: Duration) {
        self.failures = if stood >= GOOD { 0 } else { self.failures.saturating_add(1) };
    }

    /// How long to wait before the next attempt. `chance`, any number, spreads those who lost their connection at the
    /// same moment over half of the time.
    pub(super) fn pause(self, chance: u32) -> Duration {
        let doubled = SHORTEST.saturating_mul(2_u32.saturating_pow(self.failures.saturating_sub(1)));
        let pause = doubled.min(LONGEST);
        pause / 2 + pause.mul_f64(f64::from(chance) / f64::from(u32::MAX) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_a_limit_and_begin_anew_after_a_good_connection() {
        let mut backoff = Backoff::default();
        let mut pauses = Vec::new();
        for _ in 0..8 {
            backoff.after(Duration::ZERO);
            pauses.push(backoff.pause(u32::MAX).as_millis());
        }
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 2000, 2000]);
        backoff.after(GOOD);
        assert_eq!(backoff.pause(u32::MAX), SHORTEST);
    }

    #[test]
    fn pauses_spread_over_half_of_their_time() {
        let mut backoff = Backoff::default();
        backoff.after(Duration::ZERO);
        assert_eq!(backoff.pause(0), SHORTEST / 2);
        assert_eq!(backoff.pause(u32::MAX), SHORTEST);
        backoff.failures = u32::MAX;
        assert_eq!(backoff.pause(u32::MAX), LONGEST);
    }
}
