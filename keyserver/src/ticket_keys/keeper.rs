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
    turner: Turner,
    writer: Writer,
}

impl Keeper {
    /// A keeper of `ratchet`, which comes from what is in `file`.
    pub fn new(file: PathBuf, ratchet: Ratchet, metrics: TicketMetrics) -> Self {
        metrics.generation(ratchet.generation(), ratchet.age(UnixTime::now()));
        let (ratchet, in_use) = watch::channel(Arc::new(ratchet));
        let writer = Writer { file, ratchet: in_use, metrics: metrics.clone(), failed: false };
        Self { turner: Turner { ratchet, metrics, clock_fault: None }, writer }
    }

    /// Sees each ratchet that is in use.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Ratchet>> {
        self.turner.ratchet.subscribe()
    }

    /// Goes on for as long as the process. A disk that hangs does not hold the rotation up.
    pub async fn keep(self) -> Infallible {
        tokio::select! {
            never = self.turner.turn_on() => never,
            never = self.writer.write_on() => never,
        }
    }
}

/// Turns the ratchet.
#[derive(Debug)]
struct Turner {
    ratchet: watch::Sender<Arc<Ratchet>>,
    metrics: TicketMetrics,
    /// What was said of the clock, so that it is said once.
    clock_fault: Option<&'static str>,
}

impl Turner {
    async fn turn_on(mut self) -> Infallible {
        loop {
            let now = UnixTime::now();
            self.turn(now);
            let rest = self.ratchet.borrow().rest(now);
            let pause = if self.clock_fault.is_some() { LONGEST_PAUSE } else { rest };
            sleep(pause.clamp(SHORTEST_PAUSE, LONGEST_PAUSE)).await;
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
}

/// Keeps the file up with the ratchet.
#[derive(Debug)]
struct Writer {
    file: PathBuf,
    ratchet: watch::Receiver<Arc<Ratchet>>,
    metrics: TicketMetrics,
    /// Whether the last try failed, which is said once.
    failed: bool,
}

impl Writer {
    /// Writes at once, so that a file that cannot be replaced is found out at start, and then each ratchet.
    async fn write_on(mut self) -> Infallible {
        loop {
            self.write().await;
            if self.failed {
                sleep(LONGEST_PAUSE).await;
            } else if self.ratchet.changed().await.is_err() {
                // The ratchet is turned no more.
                return std::future::pending().await;
            }
        }
    }

    async fn write(&mut self) {
        let (file, ratchet) = (self.file.clone(), self.ratchet.borrow_and_update().clone());
        // The disk may take its time.
        match spawn_blocking(move || state::replace(&file, &ratchet)).await {
            Ok(Ok(())) => {
                if std::mem::take(&mut self.failed) {
                    tracing::info!("ticket secret written again");
                }
            }
            Ok(Err(cause)) => self.fail(&cause),
            Err(cause) => self.fail(&cause),
        }
    }

    fn fail(&mut self, cause: &dyn std::error::Error) {
        self.metrics.write_failures.inc();
        if !std::mem::replace(&mut self.failed, true) {
            let reason = "state_unwritable";
            tracing::error!(reason, %cause, "ticket secret not written; going on in memory, trying on");
        }
    }
}
