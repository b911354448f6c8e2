//! The one thread that touches the database. It opens it, answers lookups first, writes in batches, and goes on when
//! sled fails or panics.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Select, TryRecvError};
use tokio::sync::oneshot;

use super::super::telemetry::{Dropped, Store};
use super::super::{LocalConfig, Miss, StoreTelemetry, unix_now};
use super::disk::{Disk, Entry, Place, Session};
use crate::database::{self, Database, OpenError};

/// Writes and lookups that are done in one go.
const BATCH: usize = 256;
/// While writes come, for how long they are let come together: to wake this thread costs whoever serves clients more than
/// the write itself. Lookups are answered meanwhile, and memory has what waits.
const GATHER: Duration = Duration::from_millis(20);
/// How often the clock is looked at while there is nothing else to do.
const TICK: Duration = Duration::from_secs(1);
/// How often the files are measured.
const MEASURE: Duration = Duration::from_secs(10);
/// The pause before the database is tried again, and what it doubles to.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A database that worked for this long is a good one.
const GOOD: Duration = Duration::from_secs(60);
/// How long a database that failed has to let go of its files.
const LET_GO: Duration = Duration::from_secs(2);
/// Databases that may be left behind because sled never came back from closing them. Each keeps a thread and some
/// memory.
const MOST_STUCK: u32 = 8;

/// A question to the thread.
#[derive(Debug)]
pub(super) struct Lookup {
    pub(super) place: Place,
    pub(super) answer: oneshot::Sender<Result<Session, Miss>>,
}

/// What the thread is to write.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) entry: Entry,
    pub(super) since: Instant,
}

/// What the thread tells those who ask it.
#[derive(Debug)]
pub(super) struct Notices {
    /// The bucket number of fresh ids.
    pub(super) bucket: AtomicU32,
    /// Bytes of the values that wait to be written.
    pub(super) queued_bytes: AtomicU64,
    standing: AtomicU8,
}

/// Whether there is a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Opening,
    Open,
    Unavailable,
}

impl Notices {
    pub(super) fn new(bucket: u32) -> Self {
        let standing = AtomicU8::new(Standing::Opening as u8);
        Self { bucket: AtomicU32::new(bucket), queued_bytes: AtomicU64::new(0), standing }
    }

    pub(super) fn standing(&self) -> Standing {
        let standing = self.standing.load(Ordering::Acquire);
        [Standing::Opening, Standing::Open]
            .into_iter()
            .find(|it| *it as u8 == standing)
            .unwrap_or(Standing::Unavailable)
    }

    pub(super) fn stands(&self, standing: Standing) {
        self.standing.store(standing as u8, Ordering::Release);
    }
}

/// The thread's own.
#[derive(Debug)]
pub(super) struct Keeper {
    place: Database,
    config: LocalConfig,
    questions: Questions,
    notices: Arc<Notices>,
    telemetry: StoreTelemetry,
    /// `None` while there is no database.
    working: Option<Working>,
    /// Whether writes came last time, and all that there were have been taken.
    gathering: bool,
    retry: Retry,
}

/// Where what is asked of the thread comes from.
#[derive(Debug)]
pub(super) struct Questions {
    pub(super) lookups: Receiver<Lookup>,
    pub(super) writes: Receiver<Write>,
}

/// A database that works.
#[derive(Debug)]
struct Working {
    disk: Disk,
    since: Instant,
    tidied: Instant,
    measured: Option<Instant>,
}

/// When a database that failed is tried again, and how.
#[derive(Debug)]
struct Retry {
    at: Instant,
    /// The pause after the next failure; longer than the shortest one while failures are of one spell.
    pause: Duration,
    /// Databases left behind.
    stuck: u32,
    /// Why it is to be begun anew.
    broken: Option<String>,
}

/// What was taken from the queues at one time.
struct Turn {
    lookups: Vec<Lookup>,
    writes: Vec<Write>,
}

/// What a failure says about the database.
#[derive(Debug)]
enum Failure {
    /// Its place failed it: no room, no right to write. It may be whole.
    Place(String),
    /// It is broken.
    Broken(String),
}

impl From<sled::Error> for Failure {
    fn from(cause: sled::Error) -> Self {
        match &cause {
            sled::Error::Io(io) if database::is_of_the_place(io) => Self::Place(cause.to_string()),
            sled::Error::Io(_)
            | sled::Error::CollectionNotFound(_)
            | sled::Error::Unsupported(_)
            | sled::Error::ReportableBug(_)
            | sled::Error::Corruption { .. } => Self::Broken(cause.to_string()),
        }
    }
}

impl From<OpenError> for Failure {
    fn from(cause: OpenError) -> Self {
        if cause.is_of_the_place() { Self::Place(cause.to_string()) } else { Self::Broken(cause.to_string()) }
    }
}

impl Keeper {
    /// With nothing open.
    pub(super) fn new(
        place: Database,
        config: LocalConfig,
        questions: Questions,
        notices: Arc<Notices>,
        telemetry: StoreTelemetry,
    ) -> Self {
        let retry = Retry { at: Instant::now(), pause: SHORTEST_PAUSE, stuck: 0, broken: None };
        Self { place, config, questions, notices, telemetry, working: None, gathering: false, retry }
    }

    /// Opens the database and serves until nobody is left who could ask.
    pub(super) fn run(mut self) {
        self.open();
        while let Some(turn) = self.wait() {
            match &mut self.working {
                Some(working) => {
                    let done = guarded(|| working.serve(turn, &self.notices, &self.telemetry).map_err(Failure::from));
                    self.settle(done);
                }
                None => {
                    self.turn_away(turn);
                    if self.retry.stuck < MOST_STUCK && Instant::now() >= self.retry.at {
                        self.open();
                    }
                }
            }
        }
        if let Some(working) = self.working.take()
            && let Err(cause) = guarded(|| working.disk.flush().map_err(Failure::from))
        {
            tracing::warn!(?cause, "sessions not flushed");
        }
    }

    /// Waits for something to do, and takes some of it. `None` when there cannot be any more.
    fn wait(&mut self) -> Option<Turn> {
        let Questions { lookups, writes } = &self.questions;
        let is_counting = self.working.as_ref().is_some_and(|working| working.disk.is_counting());
        let mut select = Select::new();
        select.recv(lookups);
        let patience = match (is_counting, self.gathering) {
            (true, _) => Duration::ZERO,
            (false, true) => GATHER,
            (false, false) => {
                select.recv(writes);
                TICK
            }
        };
        // Which of them is ready does not matter: both are looked at.
        let _ = select.ready_timeout(patience);
        let mut turn = Turn { lookups: lookups.try_iter().take(BATCH).collect(), writes: Vec::new() };
        while turn.writes.len() < BATCH {
            match writes.try_recv() {
                Ok(write) => turn.writes.push(write),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) if turn.writes.is_empty() => return None,
                Err(TryRecvError::Disconnected) => break,
            }
        }
        self.gathering = (1..BATCH).contains(&turn.writes.len());
        let bytes = turn.writes.iter().map(Write::bytes).sum();
        self.notices.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        Some(turn)
    }

    fn turn_away(&self, turn: Turn) {
        for lookup in turn.lookups {
            // Who asked may have gone.
            let _ = lookup.answer.send(Err(Miss::StoreUnavailable));
        }
        turn.writes.iter().for_each(|_| self.telemetry.dropped(Store::Local, Dropped::Unavailable));
    }

    /// Opens the database, or begins it anew if it is broken.
    fn open(&mut self) {
        let broken = self.retry.broken.take();
        let opened = guarded(|| {
            let opened = match broken {
                None => self.place.open(),
                Some(cause) => self.place.rebuild(&cause),
            };
            let begun = self.notices.bucket.load(Ordering::Relaxed);
            Ok(Disk::load(opened?, &self.config, begun, unix_now())?)
        });
        match opened {
            Ok(disk) => {
                self.notices.bucket.store(disk.current(), Ordering::Relaxed);
                let now = Instant::now();
                self.working = Some(Working { disk, since: now, tidied: now, measured: None });
                self.notices.stands(Standing::Open);
            }
            Err(failure) => self.fail(failure),
        }
    }

    fn settle(&mut self, done: Result<(), Failure>) {
        match done {
            Ok(()) => {
                let is_good = self.working.as_ref().is_some_and(|working| working.since.elapsed() >= GOOD);
                if is_good && self.retry.pause > SHORTEST_PAUSE {
                    tracing::info!("session database works again");
                    self.retry.pause = SHORTEST_PAUSE;
                }
            }
            Err(failure) => {
                self.telemetry.write_failed(Store::Local);
                self.fail(failure);
            }
        }
    }

    /// Goes on without a database for a while. Memory has what was kept last.
    fn fail(&mut self, failure: Failure) {
        self.notices.stands(Standing::Unavailable);
        let let_go = self.working.take().is_none_or(|working| let_go(working.disk));
        if !let_go {
            self.retry.stuck += 1;
            tracing::warn!(stuck = self.retry.stuck, most = MOST_STUCK, "sled does not close a database that failed");
        }
        let pause = self.retry.pause;
        let is_first = pause == SHORTEST_PAUSE;
        let cause = match failure {
            // sled that still hangs on to the files would find itself in its own way.
            Failure::Place(cause) if let_go => {
                self.retry.at = Instant::now() + pause;
                cause
            }
            Failure::Place(cause) | Failure::Broken(cause) => {
                self.retry.at = if is_first { Instant::now() } else { Instant::now() + pause };
                self.retry.broken = Some(cause.clone());
                cause
            }
        };
        if is_first {
            tracing::warn!(path = %self.place.path().display(), cause, "session database failed; memory alone for a while");
        } else {
            tracing::debug!(cause, ?pause, "session database failed again");
        }
        self.retry.pause = (pause * 2).min(LONGEST_PAUSE);
        self.telemetry.entries.set(0);
        self.telemetry.bytes.set(0);
    }
}

impl Write {
    fn bytes(&self) -> u64 {
        self.entry.session.as_ref().map_or(0, |session| session.value.len() as u64)
    }
}

impl Working {
    fn serve(&mut self, turn: Turn, notices: &Notices, telemetry: &StoreTelemetry) -> sled::Result<()> {
        let now = unix_now();
        for lookup in turn.lookups {
            let found = self.disk.find(&lookup.place, now)?;
            // Who asked may have gone.
            let _ = lookup.answer.send(found);
        }
        if !turn.writes.is_empty() {
            self.write(turn.writes, now, telemetry)?;
        }
        self.disk.recount()?;
        if self.tidied.elapsed() >= TICK {
            self.tidied = Instant::now();
            telemetry.evicted.inc_by(self.disk.tidy(now)?);
        }
        let is_due = self.measured.is_none_or(|measured| measured.elapsed() >= MEASURE);
        if is_due {
            self.measured = Some(Instant::now());
            telemetry.disk_bytes.set(gauge(self.disk.size_on_disk()?));
        }
        notices.bucket.store(self.disk.current(), Ordering::Relaxed);
        let size = self.disk.size();
        telemetry.entries.set(gauge(size.entries));
        telemetry.bytes.set(gauge(size.bytes));
        Ok(())
    }

    fn write(&mut self, writes: Vec<Write>, now: u64, telemetry: &StoreTelemetry) -> sled::Result<()> {
        let (entries, since): (Vec<Entry>, Vec<Instant>) =
            writes.into_iter().map(|write| (write.entry, write.since)).unzip();
        let written = self.disk.write(&entries, now)?;
        since.iter().for_each(|since| telemetry.written(Store::Local, since.elapsed()));
        telemetry.evicted.inc_by(written.evicted);
        (0..written.bucket_gone).for_each(|_| telemetry.dropped(Store::Local, Dropped::BucketGone));
        Ok(())
    }
}

fn gauge(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Does what may panic inside sled. A database that panicked is not used again, whatever state it was left in.
fn guarded<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(Failure::Broken(format!("panic in sled: {}", database::words(panic.as_ref())))))
}

/// Closes a database that failed. sled may never come back from that, so it is not waited for on this thread for long.
/// Returns whether it came back.
fn let_go(disk: Disk) -> bool {
    let (done, gone) = crossbeam_channel::bounded(1);
    let closing = std::thread::Builder::new().name("sessions-close".to_owned()).spawn(move || {
        // A panic while it closes is the last that is heard of it.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(disk)));
        let _ = done.send(());
    });
    closing.is_ok() && gone.recv_timeout(LET_GO).is_ok()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crossbeam_channel::{Sender, unbounded};

    fn keeper() -> (Keeper, Sender<Lookup>, Sender<Write>) {
        let ((lookup, lookups), (write, writes)) = (unbounded(), unbounded());
        let telemetry = StoreTelemetry::unregistered();
        let rebuilt = telemetry.rebuilt.clone();
        let place = Database { directory: "nowhere".into(), name: "none", cache: 0, flush_every: None, rebuilt };
        let (questions, notices) = (Questions { lookups, writes }, Arc::new(Notices::new(0)));
        (Keeper::new(place, LocalConfig::default(), questions, notices, telemetry), lookup, write)
    }

    fn lookup() -> Lookup {
        Lookup { place: Place::of(&[0; 32]), answer: oneshot::channel().0 }
    }

    fn write() -> Write {
        Write { entry: Entry { place: Place::of(&[0; 32]), session: None }, since: Instant::now() }
    }

    /// How many lookups and writes are taken, and whether they were let come together before that.
    fn take(keeper: &mut Keeper) -> (usize, usize, bool) {
        let begun = Instant::now();
        let turn = keeper.wait().unwrap();
        (turn.lookups.len(), turn.writes.len(), begun.elapsed() >= GATHER)
    }

    #[test]
    fn writes_that_follow_others_are_taken_together() {
        let (mut keeper, _lookups, writes) = keeper();
        writes.send(write()).unwrap();
        assert!(matches!(take(&mut keeper), (0, 1, _)));
        for _ in 0..2 {
            writes.send(write()).unwrap();
        }
        assert_eq!(take(&mut keeper), (0, 2, true));
        assert_eq!(take(&mut keeper), (0, 0, true));
        assert!(!keeper.gathering, "what comes next follows nothing");
    }

    #[test]
    fn the_first_write_many_and_lookups_wait_for_no_others() {
        let (mut keeper, lookups, writes) = keeper();
        let mut take_at_once = |before: usize, asked: usize, written: usize| {
            // The machine may be busy elsewhere for as long as writes are let come together, but not each time.
            (0..100).any(|_| {
                keeper.gathering = false;
                (0..before).for_each(|_| writes.send(write()).unwrap());
                (0..before).step_by(BATCH).for_each(|_| drop(keeper.wait()));
                (0..asked).for_each(|_| lookups.send(lookup()).unwrap());
                (0..written).for_each(|_| writes.send(write()).unwrap());
                let taken = take(&mut keeper);
                assert_eq!((taken.0, taken.1), (asked, written));
                !taken.2
            })
        };
        assert!(take_at_once(0, 0, 1), "the first");
        assert!(take_at_once(BATCH, 0, 1), "there may be more of them already");
        assert!(take_at_once(1, 1, 1), "a lookup");
    }
}
