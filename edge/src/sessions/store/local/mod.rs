//! Sessions on this machine: in memory, and behind it in a sled database of their own.
//!
//! Whoever serves clients asks memory, and then a thread that alone touches the database, with a bound in time. What is
//! kept is in memory at once and reaches the database in a batch with others. A session id begins with the number of
//! the bucket that its session goes to, so that old sessions are dropped a bucket at a time.

mod disk;
mod keeper;
mod memory;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use rand::CryptoRng;
use tokio::sync::oneshot;
use tokio::time::timeout;

use self::disk::{Entry, Place, Session, bucket_of};
use self::keeper::{Keeper, Lookup, Notices, Questions, Standing, Write};
use self::memory::{Memory, Remembered};
use super::telemetry::{Dropped, Store};
use super::{LONGEST_VALUE, LocalConfig, Miss, SessionId, StoreTelemetry, expiry, unix_now};
use crate::database::Database;

/// The database's directory below the state directory.
const DATABASE: &str = "sessions";
/// Bytes of sled's own cache. What is asked for often is in the memory tier.
const CACHE: u64 = 16 << 20;
/// How often sled makes what was written last over a crash. It also cleans its files then.
const FLUSH: Duration = Duration::from_secs(1);
/// Lookups that may wait for the thread.
const MOST_LOOKUPS: usize = 1024;
/// Sessions that may wait to be written, and their bytes. All of them may have the number of one bucket, which is to
/// hold them: `LocalConfig::check` knows.
const MOST_WRITES: usize = 4096;
const MOST_QUEUED_BYTES: u64 = 4 << 20;

/// The store on this machine. When it is dropped, what waits is still written.
#[derive(Debug)]
pub struct LocalStore {
    memory: Memory,
    lookups: Sender<Lookup>,
    writes: Sender<Write>,
    notices: Arc<Notices>,
    lookup_timeout: Duration,
    telemetry: StoreTelemetry,
    /// Ends, without a message, with the thread.
    ended: Receiver<()>,
}

impl LocalStore {
    /// Opens the database below `state_directory` on a thread of its own, and serves from memory until it is open. A
    /// database that is broken is set aside; without a place for one, memory serves alone.
    ///
    /// # Errors
    /// The system's, when no thread can be started.
    pub fn start(state_directory: &Path, config: LocalConfig, telemetry: StoreTelemetry) -> std::io::Result<Self> {
        let (lookups, lookups_asked) = bounded(MOST_LOOKUPS);
        let (writes, writes_asked) = bounded(MOST_WRITES);
        let (ending, ended) = bounded(0);
        let notices = Arc::new(Notices::new(bucket_of(unix_now())));
        let place = Database {
            directory: state_directory.to_owned(),
            name: DATABASE,
            cache: CACHE,
            flush_every: Some(FLUSH),
            rebuilt: telemetry.rebuilt.clone(),
        };
        let memory = Memory::new(config.memory_bytes);
        let lookup_timeout = config.lookup_timeout;
        let questions = Questions { lookups: lookups_asked, writes: writes_asked };
        let keeper = Keeper::new(place, config, questions, notices.clone(), telemetry.clone());
        std::thread::Builder::new().name("sessions".to_owned()).spawn(move || {
            keeper.run();
            drop::<Sender<()>>(ending);
        })?;
        Ok(Self { memory, lookups, writes, notices, lookup_timeout, telemetry, ended })
    }

    /// A session id for a session that begins now: the number of the bucket that it goes to, and 28 random bytes.
    pub fn fresh_id(&self, rng: &mut impl CryptoRng) -> SessionId {
        let mut id = [0; 32];
        rng.fill_bytes(&mut id);
        let bucket = self.notices.bucket.load(Ordering::Relaxed);
        for (byte, of_bucket) in id.iter_mut().zip(bucket.to_be_bytes()) {
            *byte = of_bucket;
        }
        id
    }

    /// The sealed session of `id`.
    ///
    /// # Errors
    /// Why there is none, within the configured time.
    pub async fn find(&self, id: &SessionId) -> Result<Bytes, Miss> {
        if let Some(remembered) = self.memory.find(id) {
            self.telemetry.memory_hits.inc();
            return usable(remembered);
        }
        match self.notices.standing() {
            Standing::Opening => return Err(Miss::StoreOpening),
            Standing::Unavailable => return Err(Miss::StoreUnavailable),
            Standing::Open => {}
        }
        let begun = Instant::now();
        let found = self.ask(id).await;
        self.telemetry.looked_up(Store::Local, begun.elapsed());
        let Session { value, expires } = found?;
        // It may have been ended while it was looked up.
        usable(self.memory.learn(id, value, expires))
    }

    /// Keeps a sealed session. It is found from now on, and is on disk soon after. Never blocks; more than the database
    /// can take stays in memory alone.
    pub fn keep(&self, id: SessionId, value: Bytes, lives: Duration) {
        if value.len() > LONGEST_VALUE {
            self.telemetry.dropped(Store::Local, Dropped::TooLarge);
            return;
        }
        let expires = expiry(lives);
        self.memory.keep(id, value.clone(), expires);
        self.telemetry.memory_bytes.set(i64::try_from(self.memory.bytes()).unwrap_or(i64::MAX));
        self.write(&id, Some(Session { value, expires }));
    }

    /// Ends a session: it is not found from now on.
    pub fn forget(&self, id: &SessionId) {
        self.memory.end(*id);
        self.write(id, None);
    }

    /// Writes what waits, flushes, and closes the database, in at most that time. Blocks. Returns whether it was enough.
    pub fn close(self, within: Duration) -> bool {
        let Self { lookups, writes, ended, .. } = self;
        drop((lookups, writes));
        ended.recv_timeout(within) == Err(crossbeam_channel::RecvTimeoutError::Disconnected)
    }

    async fn ask(&self, id: &SessionId) -> Result<Session, Miss> {
        let (answer, answered) = oneshot::channel();
        let lookup = Lookup { place: Place::of(id), answer };
        self.lookups.try_send(lookup).map_err(|_| Miss::StoreOverloaded)?;
        match timeout(self.lookup_timeout, answered).await {
            Ok(Ok(found)) => found,
            // The database failed over this lookup or one before it.
            Ok(Err(_)) => Err(Miss::StoreUnavailable),
            Err(_) => Err(Miss::StoreSlow),
        }
    }

    fn write(&self, id: &SessionId, session: Option<Session>) {
        let bytes = session.as_ref().map_or(0, |session| session.value.len() as u64);
        let queued = &self.notices.queued_bytes;
        let is_room = queued.fetch_add(bytes, Ordering::Relaxed) + bytes <= MOST_QUEUED_BYTES;
        let entry = Entry { place: Place::of(id), session };
        if !is_room || self.writes.try_send(Write { entry, since: Instant::now() }).is_err() {
            queued.fetch_sub(bytes, Ordering::Relaxed);
            self.telemetry.dropped(Store::Local, Dropped::QueueFull);
        }
    }
}

fn usable(remembered: Remembered) -> Result<Bytes, Miss> {
    match remembered {
        Remembered::Ended => Err(Miss::Ended),
        Remembered::Session { expires, .. } if expires <= unix_now() => Err(Miss::Expired),
        Remembered::Session { value, .. } => Ok(value),
    }
}

#[cfg(test)]
mod tests;
