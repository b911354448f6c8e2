//! How many requests may be asked more than once.

use std::sync::atomic::{AtomicI64, Ordering};

/// In thousandths of a request.
const ONE: i64 = 1000;

/// Requests that may be asked again, or of a second key server meanwhile. Each request adds a part of one, and each further
/// try takes one. Without it, key servers that are slow would be asked twice as much for being slow.
#[derive(Debug)]
pub(super) struct Budget {
    share: i64,
    reserve: i64,
    left: AtomicI64,
}

impl Budget {
    /// A full one: `reserve` tries may be made at one moment, and from there on `share` for each request.
    pub(super) fn new(share: f64, reserve: usize) -> Self {
        let reserve = i64::try_from(reserve).unwrap_or(i64::MAX / ONE).min(i64::MAX / ONE / 2) * ONE;
        // Configurations have no larger share than 1.
        let share = (share.clamp(0.0, 1.0) * ONE as f64) as i64;
        Self { share, reserve, left: AtomicI64::new(reserve) }
    }

    /// A request begins.
    pub(super) fn deposit(&self) {
        // It may pass the reserve by what comes at the same moment, and no further.
        if self.left.load(Ordering::Relaxed) < self.reserve {
            self.left.fetch_add(self.share, Ordering::Relaxed);
        }
    }

    /// Whether a further try may be made at this moment.
    pub(super) fn has_one(&self) -> bool {
        self.left.load(Ordering::Relaxed) >= ONE
    }

    /// Whether a further try may be made, which is taken.
    pub(super) fn withdraw(&self) -> bool {
        let less = |left: i64| (left >= ONE).then(|| left - ONE);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    /// A try that was taken is not made.
    pub(super) fn give_back(&self) {
        self.left.fetch_add(ONE, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn withdrawals(budget: &Budget) -> usize {
        std::iter::repeat_with(|| budget.withdraw()).take_while(|taken| *taken).count()
    }

    #[test]
    fn the_reserve_is_there_at_first_and_a_share_of_requests_from_then_on() {
        let budget = Budget::new(0.2, 10);
        assert!(budget.has_one());
        assert_eq!(withdrawals(&budget), 10);
        assert!(!budget.has_one());
        (0..20).for_each(|_| budget.deposit());
        assert_eq!(withdrawals(&budget), 4);
    }

    #[test]
    fn no_more_than_the_reserve_is_saved_up() {
        let budget = Budget::new(0.2, 10);
        (0..1000).for_each(|_| budget.deposit());
        assert_eq!(withdrawals(&budget), 10);
        budget.give_back();
        assert_eq!(withdrawals(&budget), 1);
    }

    #[test]
    fn without_a_share_the_reserve_is_all() {
        let budget = Budget::new(0.0, 2);
        (0..1000).for_each(|_| budget.deposit());
        assert_eq!(withdrawals(&budget), 2);
        (0..1000).for_each(|_| budget.deposit());
        assert_eq!(withdrawals(&budget), 0);
    }
}
