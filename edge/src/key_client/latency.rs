//! How long answers take for one key, and from when on one is late.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Four for each doubling, from 64 µs to 4 s.
const BUCKETS: usize = 64;
/// The lower end of the first bucket, in microseconds.
const FIRST: u64 = 64;
/// Fewer answers say nothing about the slowest of them.
const ENOUGH: u32 = 32;
/// At so many, all counts are halved, so that the older half of what is known weighs half.
const DECAY: u32 = 1024;
/// How many answers pass between two looks at where the slowest of them begin.
const STRIDE: u32 = 16;

/// The answers to requests for one key, at all key servers.
#[derive(Debug)]
pub(super) struct Latency {
    /// In microseconds; 0 while too few answers have come.
    late_after: AtomicU64,
    counts: Mutex<Counts>,
}

#[derive(Debug)]
struct Counts {
    buckets: [u16; BUCKETS],
    total: u32,
    until_next_look: u32,
}

impl Latency {
    /// Before the first answer.
    pub(super) fn new() -> Self {
        let counts = Counts { buckets: [0; BUCKETS], total: 0, until_next_look: ENOUGH };
        Self { late_after: AtomicU64::new(0), counts: Mutex::new(counts) }
    }

    /// An answer took so long, or was given up after so long, for another was there first.
    pub(super) fn record(&self, elapsed: Duration) {
        // No change under the lock can panic half done.
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.record(elapsed);
        counts.until_next_look -= 1;
        if counts.until_next_look == 0 {
            counts.until_next_look = STRIDE;
            self.late_after.store(counts.slowest_twentieth(), Ordering::Relaxed);
        }
    }

    /// The time within which 95 of 100 answers are there; `None` while too few have come to tell.
    pub(super) fn late_after(&self) -> Option<Duration> {
        match self.late_after.load(Ordering::Relaxed) {
            0 => None,
            micros => Some(Duration::from_micros(micros)),
        }
    }
}

impl Counts {
    fn record(&mut self, elapsed: Duration) {
        if self.total >= DECAY {
            self.buckets.iter_mut().for_each(|count| *count /= 2);
            self.total = self.buckets.iter().map(|count| u32::from(*count)).sum();
        }
        if let Some(count) = self.buckets.get_mut(bucket(elapsed)) {
            *count += 1;
            self.total += 1;
        }
    }

    /// The upper end of the bucket that the 95th of 100 answers is in, in microseconds.
    fn slowest_twentieth(&self) -> u64 {
        let mut left = self.total / 20;
        for (index, count) in self.buckets.iter().enumerate().rev() {
            let count = u32::from(*count);
            if count > left {
                return upper_end(index);
            }
            left -= count;
        }
        0
    }
}

fn bucket(elapsed: Duration) -> usize {
    let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX).max(FIRST);
    let doublings = (micros / FIRST).ilog2();
    let quarter = ((micros >> doublings) - FIRST) * 4 / FIRST;
    let index = u64::from(doublings) * 4 + quarter;
    usize::try_from(index).map_or(BUCKETS - 1, |index| index.min(BUCKETS - 1))
}

fn upper_end(bucket: usize) -> u64 {
    (FIRST + FIRST / 4 * (bucket as u64 % 4 + 1)) << (bucket / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn every_time_lies_below_the_upper_end_of_its_bucket_and_near_it() {
        for micros in (64..4_000_000).step_by(97) {
            let end = upper_end(bucket(Duration::from_micros(micros)));
            assert!(micros < end && end <= micros + micros / 4 + 1, "{micros} {end}");
        }
        assert_eq!((bucket(Duration::ZERO), bucket(Duration::from_secs(3600))), (0, BUCKETS - 1));
    }

    #[test]
    fn nothing_is_late_before_enough_answers() {
        let latency = Latency::new();
        for _ in 0..ENOUGH - 1 {
            latency.record(millis(3));
            assert_eq!(latency.late_after(), None);
        }
        latency.record(millis(3));
        assert!(latency.late_after().is_some());
    }

    #[test]
    fn one_of_twenty_is_late() {
        let latency = Latency::new();
        for number in 0..1000 {
            // 6 of 100 take 40 ms, and so does the 95th of them.
            latency.record(millis(if number % 100 < 6 { 40 } else { 1 }));
        }
        let late_after = latency.late_after().unwrap_or_default();
        assert!(late_after > millis(40) && late_after < millis(51), "{late_after:?}");
        let latency = Latency::new();
        for number in 0..1000 {
            latency.record(millis(if number % 100 < 4 { 40 } else { 1 }));
        }
        assert!(latency.late_after().unwrap_or_default() < millis(2));
    }

    #[test]
    fn what_is_long_past_is_forgotten() {
        let latency = Latency::new();
        for _ in 0..5000 {
            latency.record(millis(200));
        }
        for _ in 0..5000 {
            latency.record(millis(1));
        }
        assert!(latency.late_after().unwrap_or_default() < millis(2));
    }
}
