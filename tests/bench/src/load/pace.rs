//! When the next unit of work is due.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::sync::Semaphore;

use super::worker::Window;

/// Tells clients of one worker when to begin.
pub(super) enum Pace {
    /// At once.
    Closed,
    /// At fixed times, whatever became of those before.
    Open { start: Instant, interval: Duration, next: AtomicU64, due: Arc<Semaphore> },
}

impl Pace {
    /// With `interval` between units; without one, at once.
    ///
    /// # Errors
    /// If there can be no further thread.
    pub(super) fn new(interval: Option<Duration>, window: Window) -> Result<Self> {
        let Some(interval) = interval else { return Ok(Self::Closed) };
        let due = Arc::new(Semaphore::new(0));
        let pace = Self::Open { start: window.start, interval, next: AtomicU64::new(0), due: due.clone() };
        // A thread of its own: the reactor's clock goes in steps of a millisecond.
        thread::Builder::new()
            .spawn(move || {
                let mut told: u64 = 0;
                while Instant::now() < window.end {
                    let reached = units(window.start.elapsed(), interval);
                    due.add_permits(usize::try_from(reached - told).unwrap_or(0));
                    told = reached;
                    let next = window.start + after(interval, told);
                    thread::sleep(next.saturating_duration_since(Instant::now()));
                }
                due.close();
            })
            .context("a thread")?;
        Ok(pace)
    }

    /// Waits for the next unit, and tells when it is due; `None` when there is none any more.
    pub(super) async fn next(&self) -> Option<Instant> {
        match self {
            Self::Closed => Some(Instant::now()),
            Self::Open { start, interval, next, due } => {
                due.acquire().await.ok()?.forget();
                Some(*start + after(*interval, next.fetch_add(1, Ordering::Relaxed)))
            }
        }
    }

    /// Units that were due in the time that is counted, and that nobody had begun when it was over.
    pub(super) fn not_begun(&self, window: Window) -> u64 {
        match self {
            Self::Closed => 0,
            Self::Open { start, interval, next, .. } => {
                // One that is due at the very end is not due within.
                let due_before =
                    |end: Instant| units((end - *start).saturating_sub(Duration::from_nanos(1)), *interval);
                let skipped = if window.counted_from > *start { due_before(window.counted_from) } else { 0 };
                due_before(window.end).saturating_sub(next.load(Ordering::Relaxed).max(skipped))
            }
        }
    }
}

/// How many units are due within `elapsed`; the first is at its beginning.
fn units(elapsed: Duration, interval: Duration) -> u64 {
    u64::try_from(elapsed.as_nanos() / interval.as_nanos().max(1)).unwrap_or(u64::MAX).saturating_add(1)
}

/// When unit `index` is due.
fn after(interval: Duration, index: u64) -> Duration {
    Duration::from_nanos(u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX).saturating_mul(index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn units_are_due_at_fixed_times_also_for_those_who_come_late() {
        let start = Instant::now();
        let length = Duration::from_millis(50);
        let window = Window { start, counted_from: start, end: start + length };
        let interval = Duration::from_millis(10);
        let pace = Pace::new(Some(interval), window).unwrap();
        let Pace::Open { due: units, .. } = &pace else { panic!("there is an interval") };
        while !units.is_closed() {
            thread::sleep(interval);
        }
        assert!(start.elapsed() >= length);
        let mut due = Vec::new();
        while let Some(at) = pace.next().await {
            due.push(at - start);
        }
        // Closed as soon as the time is over: nobody begins late.
        assert!(due.is_empty(), "{due:?}");
        assert_eq!(pace.not_begun(window), 5, "at 0, 10, 20, 30 and 40 ms");
        let counted_from = start + Duration::from_millis(15);
        assert_eq!(pace.not_begun(Window { counted_from, ..window }), 3, "from 20 ms on");
        let start = Instant::now();
        let window = Window { start, counted_from: start, end: start + Duration::from_secs(10) };
        let pace = Pace::new(Some(interval), window).unwrap();
        thread::sleep(Duration::from_millis(35));
        for index in 0..3 {
            assert_eq!(pace.next().await.unwrap() - start, interval * index);
        }
    }
}
