//! Sessions that the edges of a fleet share, in Redis or Valkey. It is asked after the local store, for clients that
//! have no ticket.
//!
//! A lookup has a fixed time and then is a miss. Nothing waits for a write. After failures in a row a breaker opens, and
//! no handshake loses time until a probe is answered.

mod breaker;
mod config;
mod link;
mod servers;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use redis::Cmd;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

pub use self::config::{OwnCertificate, Secret, SharedConfig, SharedFile, SharedKind, SharedTls};
use self::link::{Link, NoAnswer};
use self::servers::Servers;
use super::telemetry::{Dropped, Store};
use super::{LONGEST_VALUE, Miss, SessionId, StoreTelemetry, digest};

/// Sessions that may wait to be written, and those that are written at one time.
const MOST_WRITES: usize = 4096;
const BATCH: usize = 64;
/// For one write. Nothing but other writes waits for it.
const WRITE_TIMEOUT: Duration = Duration::from_millis(500);

/// The shared store.
#[derive(Debug)]
pub struct SharedStore {
    link: Arc<Link>,
    writes: mpsc::Sender<Write>,
    prefix: String,
    budget: Duration,
    telemetry: StoreTelemetry,
    /// They end with the store.
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Write {
    kind: WriteKind,
    since: Instant,
}

#[derive(Debug)]
enum WriteKind {
    Keep { key: String, value: Bytes, lives: Duration },
    Forget { key: String },
}

impl SharedStore {
    /// Begins to connect, on the runtime of whoever calls. A store that is not there is tried again for as long as this
    /// one stands.
    ///
    /// # Errors
    /// What is wrong with the configuration, beyond what its check found.
    pub fn start(config: &SharedConfig, telemetry: StoreTelemetry) -> Result<Self, InvalidServers> {
        let servers = Servers::new(config).map_err(|cause| InvalidServers(cause.to_string()))?;
        let link = Arc::new(Link::new(config.breaker_failures, config.timeout, &telemetry));
        let (writes, to_write) = mpsc::channel(MOST_WRITES);
        let mut tasks = JoinSet::new();
        let mut probe = redis::cmd("GET");
        probe.arg(format!("{}probe", config.prefix));
        let tended = link.clone();
        tasks.spawn(async move { tended.tend(servers, &probe).await });
        tasks.spawn(write_all(link.clone(), to_write, telemetry.clone()));
        let (prefix, budget) = (config.prefix.clone(), config.timeout);
        Ok(Self { link, writes, prefix, budget, telemetry, _tasks: tasks })
    }

    /// The sealed session of `id`.
    ///
    /// # Errors
    /// Why there is none, within the configured time.
    pub async fn find(&self, id: &SessionId) -> Result<Bytes, Miss> {
        let mut command = redis::cmd("GET");
        command.arg(self.key(id));
        let begun = Instant::now();
        let answer = self.link.ask::<Option<Vec<u8>>>(command, self.budget).await;
        if !matches!(answer, Err(NoAnswer::NotAsked)) {
            self.telemetry.looked_up(Store::Shared, begun.elapsed());
        }
        match answer {
            // What is longer is nothing that an edge wrote.
            Ok(Some(value)) if value.len() <= LONGEST_VALUE => Ok(value.into()),
            Ok(_) => Err(Miss::SharedNotFound),
            Err(NoAnswer::NotAsked) => Err(Miss::SharedBreakerOpen),
            Err(NoAnswer::Down) => Err(Miss::SharedDown),
            Err(NoAnswer::Slow) => Err(Miss::SharedSlow),
        }
    }

    /// Gives a sealed session to the store, for that long. Never blocks; what cannot be written is dropped.
    pub fn keep(&self, id: &SessionId, value: Bytes, lives: Duration) {
        if value.len() > LONGEST_VALUE {
            self.telemetry.dropped(Store::Shared, Dropped::TooLarge);
            return;
        }
        self.write(WriteKind::Keep { key: self.key(id), value, lives });
    }

    /// Takes a session out of the store.
    pub fn forget(&self, id: &SessionId) {
        self.write(WriteKind::Forget { key: self.key(id) });
    }

    fn write(&self, kind: WriteKind) {
        let is_forget = kind.is_forget();
        if self.writes.try_send(Write { kind, since: Instant::now() }).is_err() {
            self.telemetry.dropped(Store::Shared, Dropped::QueueFull);
            if is_forget {
                self.telemetry.forget_lost(Dropped::QueueFull.into());
            }
        }
    }

    fn key(&self, id: &SessionId) -> String {
        let digest = digest(id);
        digest.iter().fold(self.prefix.clone(), |key, byte| format!("{key}{byte:02x}"))
    }
}

/// The configured servers cannot be.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct InvalidServers(String);

/// Writes what waits, many at a time. A session is kept before it is forgotten.
async fn write_all(link: Arc<Link>, mut waiting: mpsc::Receiver<Write>, telemetry: StoreTelemetry) {
    let mut batch = Vec::with_capacity(BATCH);
    while waiting.recv_many(&mut batch, BATCH).await > 0 {
        let (keep, forget): (Vec<_>, Vec<_>) = batch.drain(..).partition(|write| !write.kind.is_forget());
        join_all(keep.into_iter().map(|write| write_one(&link, write, &telemetry))).await;
        let forgotten = join_all(forget.into_iter().map(|write| write_one(&link, write, &telemetry))).await;
        forgotten.into_iter().filter_map(Result::err).for_each(|why| telemetry.forget_lost(why.into()));
    }
}

fn write_one<'a>(
    link: &'a Link,
    write: Write,
    telemetry: &'a StoreTelemetry,
) -> impl Future<Output = Result<(), NoAnswer>> + 'a {
    let command = write.kind.command();
    async move {
        let answer = link.ask::<redis::Value>(command, WRITE_TIMEOUT).await;
        match &answer {
            Ok(_) => telemetry.written(Store::Shared, write.since.elapsed()),
            Err(NoAnswer::NotAsked) => telemetry.dropped(Store::Shared, Dropped::Unavailable),
            Err(NoAnswer::Down | NoAnswer::Slow) => telemetry.write_failed(Store::Shared),
        }
        answer.map(drop)
    }
}

impl WriteKind {
    fn is_forget(&self) -> bool {
        match self {
            Self::Forget { .. } => true,
            Self::Keep { .. } => false,
        }
    }

    fn command(self) -> Cmd {
        match self {
            Self::Keep { key, value, lives } => {
                let milliseconds = u64::try_from(lives.as_millis()).unwrap_or(u64::MAX).max(1);
                let mut command = redis::cmd("SET");
                command.arg(key).arg(value.as_ref()).arg("PX").arg(milliseconds);
                command
            }
            Self::Forget { key } => {
                let mut command = redis::cmd("DEL");
                command.arg(key);
                command
            }
        }
    }
}

#[cfg(test)]
mod tests;
