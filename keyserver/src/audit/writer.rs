//! The thread that writes the log.
//!
//! It takes what there is and writes it at once, so that a batch is as large as the log is slow. While the log cannot be
//! written, it keeps what it has and tries on; places are given back by what was written alone.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::log::Log;
use super::record::Event;
use super::recorder::{Entry, Place, Shared};

/// Records of one batch at the most.
const MOST_BATCH: usize = 1024;
/// How long requests are summed up before they are told of.
const SUMS: Duration = Duration::from_secs(5);
/// Between two tries to write: from the first to the second, and at the most.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long operations under way have to end, and the log to be written, when the key server stops.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// The one word for records that nobody will read.
pub(super) const LOST: &str = "audit_lost";

pub(super) struct Writer {
    log: Log,
    told: Receiver<Entry>,
    shared: Arc<Shared>,
    checkpoint_interval: Duration,
    next_checkpoint: Instant,
    next_sums: Instant,
    places: Vec<Place>,
    records: u64,
    /// When to give up, once the log is being closed.
    end: Option<Instant>,
}

impl Writer {
    pub(super) fn new(log: Log, told: Receiver<Entry>, shared: Arc<Shared>, checkpoint_interval: Duration) -> Self {
        let now = Instant::now();
        Self {
            log,
            told,
            shared,
            checkpoint_interval,
            // What was told at the start is signed at once.
            next_checkpoint: now,
            next_sums: now + SUMS,
            places: Vec::new(),
            records: 0,
            end: None,
        }
    }

    pub(super) fn run(mut self) {
        loop {
            let wake = if self.log.is_unsigned() { self.next_checkpoint.min(self.next_sums) } else { self.next_sums };
            match self.told.recv_deadline(self.end.map_or(wake, |end| end.min(wake))) {
                Ok(first) => self.take(first),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    self.close();
                    break;
                }
            }
            self.sums(false);
            let is_written = self.persist();
            let is_over = self.end.is_some_and(|end| end <= Instant::now());
            let is_idle = self.told.is_empty() && self.shared.taken.load(Ordering::Acquire) == 0;
            if self.end.is_some() && (is_idle || is_over || !is_written) {
                break;
            }
        }
        self.finish();
    }

    /// Appends `first` and what came with it.
    fn take(&mut self, first: Entry) {
        let mut next = Some(first);
        let mut taken = 0;
        while let Some(entry) = next {
            if matches!(entry.event, Event::Stopped {}) {
                self.close();
            } else {
                self.append(entry.time, &entry.event);
                self.places.extend(entry.place);
            }
            taken += 1;
            let may_take = taken < MOST_BATCH && !self.log.is_full();
            next = if may_take { self.told.try_recv().ok() } else { None };
        }
    }

    fn close(&mut self) {
        self.shared.closing.store(true, Ordering::Release);
        self.end.get_or_insert_with(|| Instant::now() + LAST_WORDS);
    }

    fn append(&mut self, time: SystemTime, event: &Event) {
        self.log.append(time, event);
        self.records += 1;
    }

    fn sums(&mut self, at_once: bool) {
        let now = Instant::now();
        if at_once || now >= self.next_sums {
            self.next_sums = now + SUMS;
            for event in self.shared.meters.take() {
                self.append(SystemTime::now(), &event);
            }
        }
    }

    fn finish(&mut self) {
        self.end.get_or_insert_with(Instant::now);
        self.sums(true);
        self.append(SystemTime::now(), &Event::Stopped {});
        self.next_checkpoint = Instant::now();
        if !self.persist() {
            let records = self.records + self.told.len() as u64;
            tracing::error!(reason = LOST, records, "the audit log could not be written to its end");
        }
    }

    /// Writes what there is, and signs it if it is time to. It comes back when that is done; or without, when the key
    /// server stops.
    fn persist(&mut self) -> bool {
        let mut pause = FIRST_PAUSE;
        let mut failed = false;
        while let Err(cause) = self.write() {
            self.failed(&cause, !failed);
            failed = true;
            if self.shared.closing.load(Ordering::Acquire) {
                self.close();
            }
            if self.end.is_some_and(|end| end <= Instant::now()) {
                return false;
            }
            sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        if failed {
            tracing::info!("the audit log can be written again");
            if let Some(condition) = self.shared.condition.get() {
                condition.met();
            }
        }
        true
    }

    fn failed(&self, cause: &io::Error, is_first: bool) {
        if let Some(condition) = self.shared.condition.get() {
            condition.unmet(format!("audit_unavailable: {cause}"));
        }
        self.shared.metrics.write_failures.inc();
        self.show_queued();
        if is_first {
            tracing::error!(reason = "audit_unavailable", %cause, "the audit log cannot be written; it is tried on");
        }
    }

    fn write(&mut self) -> io::Result<()> {
        let now = Instant::now();
        if now >= self.next_checkpoint {
            self.log.checkpoint(SystemTime::now());
        }
        self.log.write()?;
        if self.log.awaits_sync() {
            self.log.sync()?;
            self.next_checkpoint = now + self.checkpoint_interval;
            let head = self.log.head();
            tracing::info!(sequence = head.sequence, hash = %head.hash, "audit checkpoint");
        }
        if self.log.rotate()? {
            self.shared.metrics.rotations.inc();
            self.log.write()?;
        }
        self.written();
        Ok(())
    }

    fn written(&mut self) {
        let metrics = &self.shared.metrics;
        metrics.records.inc_by(std::mem::take(&mut self.records));
        metrics.last_sequence.set(self.log.head().sequence.cast_signed());
        self.places.clear();
        self.show_queued();
    }

    fn show_queued(&self) {
        self.shared.metrics.queued.set(self.shared.taken.load(Ordering::Relaxed).try_into().unwrap_or(i64::MAX));
    }
}
