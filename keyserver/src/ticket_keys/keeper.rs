//! Turns the ratchet as time goes by, and keeps its file.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::ratchet::{ClockFault, Ratchet, UnixTime};
use super::state;
use crate::metrics::TicketMetrics;

/// How long the clock may be set by hand before that is noticed, and how long a file that could not be written waits.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A clock that steps back a little just before a rotation is not asked in a tight loop.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);

/// The ratchet in use, for all who watch.
#[derive(Debug)]
pub struct Keeper {
    file: PathBuf,
    ratchet: watch::Sender<Arc<Ratchet>>,
    metrics: TicketMetrics,
    /// The generation in use when the file was last written.
    written: Option<u64>,
    /// What was said of the clock, and that the file could not be written, so that it is said once.
    clock_fault: Option<&'static str>,
    write_failed: bool,
}

impl Keeper {
    /// A keeper of `ratchet`, which the file holds as it was read.
    pub fn new(file: PathBuf, ratchet: Ratchet, metrics: TicketMetrics) -> Self {
        let (ratchet, _) = watch::channel(Arc::new(ratchet));
        Self { file, ratchet, metrics, written: None, clock_fault: None, write_failed: false }
    }

    /// Sees each ratchet that is in use.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Ratchet>> {
        self.ratchet.subscribe()
    }

    /// Goes on for as long as the process.
    pub async fn keep(mut self) -> Infallible {
        loop {
            self.turn(UnixTime::now());
            self.write().await;
            let rest = self.ratchet.borrow().rest(UnixTime::now());
            sleep(rest.clamp(SHORTEST_PAUSE, LONGEST_PAUSE)).await;
        }
    }

    fn turn(&mut self, now: UnixTime) {
        let present = self.ratchet.borrow().clone();
        match present.advance(now) {
            Ok(None) => self.clock_fault = None,
            Ok(Some(next)) => {
                self.clock_fault = None;
                tracing::info!(generation = next.generation(), "ticket keys rotated");
                self.metrics.rotations.inc();
                self.ratchet.send_replace(Arc::new(next));
            }
            Err(fault) => self.tell(fault),
        }
        let ratchet = self.ratchet.borrow();
        self.metrics.generation(ratchet.generation(), ratchet.age(now));
    }

    fn tell(&mut self, fault: ClockFault) {
        let reason = fault.reason();
        if self.clock_fault.replace(reason) == Some(reason) {
            return;
        }
        self.metrics.clock_fault(reason);
        match fault {
            ClockFault::ClockBehind { .. } => tracing::warn!(reason, "{fault}"),
            ClockFault::ClockAhead { .. } => tracing::error!(reason, "{fault}"),
        }
    }

    /// Writes the file where it is behind the ratchet.
    async fn write(&mut self) {
        let ratchet = self.ratchet.borrow().clone();
        let generation = ratchet.generation();
        if self.written == Some(generation) {
            return;
        }
        let file = self.file.clone();
        // The disk may take its time.
        match spawn_blocking(move || state::replace(&file, &ratchet)).await {
            Ok(Ok(())) => {
                if std::mem::take(&mut self.write_failed) {
                    tracing::info!(generation, "ticket secret written again");
                }
                self.written = Some(generation);
            }
            Ok(Err(cause)) => self.write_failed(&cause),
            Err(cause) => self.write_failed(&cause),
        }
    }

    fn write_failed(&mut self, cause: &dyn std::error::Error) {
        self.metrics.write_failures.inc();
        if !std::mem::replace(&mut self.write_failed, true) {
            tracing::error!(reason = "state_unwritable", %cause, "ticket secret not written; going on in memory, trying on");
        }
    }
}
