//! Where operations tell what they do. It costs them a small record and its sending.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Instant, SystemTime};

use crossbeam_channel::Sender;
use keystead_program::observe::Condition;

use super::config::{AuditSettings, WhenUnwritable};
use super::log::{Log, LogError};
use super::meter::Meters;
use super::metrics::AuditMetrics;
use super::record::{Event, Request};
use super::writer::{self, Writer};
use crate::refusal::Refusal;

/// The audit log, as the rest of the key server sees it. Clones tell the same log. When the last is dropped, what was told
/// is written.
#[derive(Clone, Debug)]
pub struct Audit(Option<Arc<Recorder>>);

#[derive(Debug)]
struct Recorder {
    entries: Sender<Entry>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the writer's thread shares with all others.
#[derive(Debug)]
pub(super) struct Shared {
    /// Places that are taken.
    pub(super) taken: AtomicUsize,
    queue: usize,
    when_unwritable: WhenUnwritable,
    pub(super) closing: AtomicBool,
    pub(super) meters: Meters,
    pub(super) metrics: AuditMetrics,
    pub(super) condition: OnceLock<Condition>,
}

/// What the writer's thread is told. [`Event::Stopped`] asks it to come to an end.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) time: SystemTime,
    pub(super) event: Event,
    pub(super) place: Option<Place>,
}

/// The right to have one record written. It is given back once that is written, or when it is dropped.
#[derive(Debug)]
pub struct Place(Arc<Shared>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Nobody writes the record.
#[derive(Debug)]
struct Lost;

/// Tells, when the writer's thread comes to its end in whatever way, that nobody writes the log any more.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.ended();
        if std::thread::panicking() {
            tracing::error!(reason = "audit_unavailable", "the thread that writes the audit log panicked");
        }
    }
}

impl Shared {
    /// No place is given from here on.
    fn ended(&self) {
        self.closing.store(true, Ordering::Release);
        if let Some(condition) = self.condition.get() {
            condition.unmet("audit_unavailable: the thread that writes the log has ended");
        }
    }
}

/// Why the audit log did not start.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Its thread.
    #[error("start a thread: {0}")]
    Thread(io::Error),
}

impl Audit {
    /// No log: nothing is told to anybody.
    pub fn off() -> Self {
        Self(None)
    }

    /// Opens the log and starts the thread that writes it.
    ///
    /// # Errors
    /// [`AuditError`] when the log cannot be gone on with.
    pub fn start(settings: &AuditSettings, metrics: AuditMetrics) -> Result<Self, AuditError> {
        let (log, torn) = Log::open(settings)?;
        let (entries, told) = crossbeam_channel::unbounded();
        let shared = Arc::new(Shared {
            taken: AtomicUsize::new(0),
            queue: settings.queue,
            when_unwritable: settings.when_unwritable,
            closing: AtomicBool::new(false),
            meters: Meters::default(),
            metrics,
            condition: OnceLock::new(),
        });
        let writer = Writer::new(log, told, shared.clone(), settings.checkpoint_interval);
        let ended = Ended(shared.clone());
        let thread = std::thread::Builder::new().name("audit".to_owned()).spawn(move || {
            let _ended = ended;
            writer.run();
        });
        let thread = Mutex::new(Some(thread.map_err(AuditError::Thread)?));
        let audit = Self(Some(Arc::new(Recorder { entries, shared, thread })));
        if torn > 0 {
            tracing::warn!(bytes = torn, "the audit log ended in the middle of a record, which was removed");
            audit.tell(Event::Torn { bytes: torn });
        }
        Ok(audit)
    }

    /// Says from here on by `condition` whether the log can be written.
    pub fn report_to(&self, condition: Condition) {
        condition.met();
        if let Some(recorder) = &self.0 {
            // A second condition would say the same.
            let _ = recorder.shared.condition.set(condition);
            if recorder.shared.closing.load(Ordering::Acquire) {
                recorder.shared.ended();
            }
        }
    }

    /// Takes a place for the record of something that is about to be done; `None` where it may be done without.
    ///
    /// # Errors
    /// [`Refusal::AuditUnavailable`] when no place is free: it must not be done.
    pub(crate) fn reserve(&self) -> Result<Option<Place>, Refusal> {
        let Some(recorder) = &self.0 else { return Ok(None) };
        match (recorder.place(), recorder.shared.when_unwritable) {
            (Some(place), _) => Ok(Some(place)),
            (None, WhenUnwritable::DangerGoOn) => Ok(None),
            (None, WhenUnwritable::Refuse) => {
                recorder.shared.metrics.refused.inc();
                Err(Refusal::AuditUnavailable)
            }
        }
    }

    /// Hands over the record of something that was done, or tried with a private key, in its `place`.
    ///
    /// # Errors
    /// [`Refusal::AuditUnavailable`] when nobody writes it: what was done must not be told.
    pub(crate) fn done(&self, request: Request, place: Option<Place>) -> Result<(), Refusal> {
        let Some(recorder) = &self.0 else { return Ok(()) };
        let Some(place) = place else {
            recorder.sum(&request);
            return Ok(());
        };
        match (recorder.send(Event::Request(request), Some(place)), recorder.shared.when_unwritable) {
            (Err(Lost), WhenUnwritable::Refuse) => {
                recorder.shared.metrics.refused.inc();
                Err(Refusal::AuditUnavailable)
            }
            (Ok(()), _) | (Err(Lost), WhenUnwritable::DangerGoOn) => Ok(()),
        }
    }

    /// Hands over the record of something that costs its peer nothing, or adds it to a sum.
    pub(crate) fn note(&self, request: Request, place: Option<Place>) {
        let Some(recorder) = &self.0 else { return };
        if !recorder.shared.meters.admit(&request.peer, Instant::now()) {
            return recorder.sum(&request);
        }
        match place.or_else(|| recorder.place()) {
            Some(place) => drop(recorder.send(Event::Request(request), Some(place))),
            None => recorder.sum(&request),
        }
    }

    /// Hands over a record of the key server's own life.
    pub fn tell(&self, event: Event) {
        if let Some(recorder) = &self.0 {
            let _ = recorder.send(event, None);
        }
    }

    /// Has everything written that was told, and the end with it; what is told later is lost. It blocks.
    pub fn close(&self) {
        let Some(recorder) = &self.0 else { return };
        recorder.shared.closing.store(true, Ordering::Release);
        let thread = recorder.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return };
        let _ = recorder.send(Event::Stopped {}, None);
        if thread.join().is_err() {
            tracing::error!("the thread of the audit log panicked");
        }
    }

    /// Whether there is a log.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }
}

impl Recorder {
    fn place(&self) -> Option<Place> {
        let shared = &self.shared;
        let is_free = shared.taken.fetch_add(1, Ordering::AcqRel) < shared.queue;
        // Gives back what was too much.
        let place = Place(shared.clone());
        (is_free && !shared.closing.load(Ordering::Acquire)).then_some(place)
    }

    fn send(&self, event: Event, place: Option<Place>) -> Result<(), Lost> {
        let time = SystemTime::now();
        self.entries.send(Entry { time, event, place }).map_err(|_| {
            self.shared.ended();
            tracing::error!(reason = writer::LOST, "audit record after the end of the log");
            Lost
        })
    }

    fn sum(&self, request: &Request) {
        self.shared.metrics.summed.inc();
        self.shared.meters.add(&request.peer, request.operation, request.outcome);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use keystead_program::observe::Readiness;

    use super::*;

    /// The log of a process, as those see it who tell it, and where their words go.
    fn told_to(when_unwritable: WhenUnwritable) -> (Audit, crossbeam_channel::Receiver<Entry>, Readiness) {
        let (entries, told) = crossbeam_channel::unbounded();
        let shared = Arc::new(Shared {
            taken: AtomicUsize::new(0),
            queue: 8,
            when_unwritable,
            closing: AtomicBool::new(false),
            meters: Meters::default(),
            metrics: AuditMetrics::default(),
            condition: OnceLock::new(),
        });
        let audit = Audit(Some(Arc::new(Recorder { entries, shared, thread: Mutex::new(None) })));
        let readiness = Readiness::new();
        audit.report_to(readiness.condition("audit"));
        assert!(readiness.is_ready());
        (audit, told, readiness)
    }

    fn request() -> Request {
        Request {
            peer: "spiffe://keystead.test/edge/one".parse().unwrap(),
            operation: "sign_server_key_exchange",
            key: None,
            key_id: None,
            server_name: None,
            server_random: None,
            leased: None,
            outcome: "done",
        }
    }

    #[test]
    fn a_writer_that_panics_leaves_no_place_and_no_readiness() {
        let (audit, told, readiness) = told_to(WhenUnwritable::Refuse);
        let ended = Ended(audit.0.as_ref().unwrap().shared.clone());
        let writer = std::thread::spawn(move || {
            let (_ended, _told) = (ended, told);
            std::panic::resume_unwind(Box::new("the writer's own fault"));
        });
        assert!(writer.join().is_err());
        assert_eq!(audit.reserve().err(), Some(Refusal::AuditUnavailable));
        assert!(!readiness.is_ready());
    }

    #[test]
    fn what_nobody_writes_was_not_done() {
        let (audit, told, readiness) = told_to(WhenUnwritable::Refuse);
        let place = audit.reserve().unwrap();
        drop(told);
        assert_eq!(audit.done(request(), place), Err(Refusal::AuditUnavailable));
        assert_eq!(audit.reserve().err(), Some(Refusal::AuditUnavailable));
        assert!(!readiness.is_ready());
    }

    #[test]
    fn who_goes_on_without_a_log_does_so_without_its_writer() {
        let (audit, told, readiness) = told_to(WhenUnwritable::DangerGoOn);
        let place = audit.reserve().unwrap();
        drop(told);
        assert_eq!(audit.done(request(), place), Ok(()));
        assert!(audit.reserve().unwrap().is_none());
        assert!(!readiness.is_ready());
    }
}
