//! When a configuration is to be loaded again: at SIGHUP, when its file or one that it names has changed, and for as long as
//! what is on disk was refused.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use crate::watched::{Change, Snapshot};

/// How often files are looked at, at the most. A change counts once it was seen twice, since files may be looked at while
/// they are written, and certificate and key are two.
const INTERVAL: Duration = Duration::from_secs(1);
/// How much longer than a look at all files the time to the next one is, so that looking takes half a percent of a
/// processor.
const INTERVAL_OF_LOOK: u32 = 200;
/// How long a change may go unnoticed where looking takes very long, as on a file system across a network.
const LONGEST_INTERVAL: Duration = Duration::from_secs(60);

/// How long what was refused is let be: its cause may have been another than what is on disk, such as too few file
/// descriptors. Twice as long each time, up to the longest, so that what stays wrong costs little.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// What became of a configuration that was loaded while the program ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum ReloadOutcome {
    /// It is in force.
    Applied,
    /// It is wrong; the one before stays in force.
    Refused,
}

/// Whether what is on disk was refused, so that the program goes on with something else: 1 if it was.
#[derive(Clone, Debug, Default)]
pub struct ConfigurationRefused(Gauge);

impl ConfigurationRefused {
    /// Name and help for a registry.
    pub const METRIC: (&'static str, &'static str) =
        ("configuration_refused", "Whether the configuration on disk was refused, and an older one is in force");

    /// The metric.
    pub fn gauge(&self) -> Gauge {
        self.0.clone()
    }

    /// What was loaded last.
    pub fn set(&self, outcome: ReloadOutcome) {
        self.0.set(match outcome {
            ReloadOutcome::Applied => 0,
            ReloadOutcome::Refused => 1,
        });
    }
}

/// Why a configuration is loaded again, in words for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// Somebody asked for it.
    Hangup,
    /// A file has changed, perhaps among others.
    Changed {
        /// The first of them.
        file: PathBuf,
        /// How many there are.
        files: usize,
    },
    /// What is on disk was refused, and has not changed since.
    Retry,
}

impl fmt::Display for Occasion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hangup => f.write_str("SIGHUP"),
            Self::Retry => f.write_str("another try"),
            Self::Changed { file, files: 1 } => write!(f, "{} changed", file.display()),
            Self::Changed { file, files } => write!(f, "{} and {} more files changed", file.display(), files - 1),
        }
    }
}

/// The occasions to load a configuration again.
#[derive(Debug)]
pub struct Occasions {
    hangup: Signal,
    /// What was loaded, or found wrong.
    tried: Arc<Snapshot>,
    /// `Some` where it was found wrong.
    retry: Option<Retry>,
}

/// When what was refused is tried again.
#[derive(Debug)]
struct Retry {
    at: Instant,
    pause: Duration,
    /// Why it was refused.
    cause: String,
}

impl Occasions {
    /// Those since `loaded`, which was taken before anything was read.
    ///
    /// # Errors
    /// The system's, when SIGHUP cannot be listened for.
    pub fn since(loaded: Snapshot) -> io::Result<Self> {
        Ok(Self { hangup: signal(SignalKind::hangup())?, tried: Arc::new(loaded), retry: None })
    }

    /// The configuration file.
    pub fn path(&self) -> &Path {
        self.tried.configuration()
    }

    /// Waits for the next occasion, and says what it is. [`Self::applied`] or [`Self::refused`] follows it.
    pub async fn next(&mut self) -> Occasion {
        let Self { hangup, tried, retry } = self;
        let occasion = tokio::select! {
            _ = hangup.recv() => Occasion::Hangup,
            occasion = change_or_retry(tried, retry.as_ref().map(|retry| retry.at)) => occasion,
        };
        if occasion != Occasion::Retry {
            self.retry = None;
        }
        occasion
    }

    /// What is on disk is in force. `tried` was taken before it was read: what changes from there on is the next occasion.
    pub fn applied(&mut self, tried: Snapshot) {
        self.tried = Arc::new(tried);
        self.retry = None;
    }

    /// What is on disk was found wrong, of which `tried` is as for [`Self::applied`]; without it, the try came to no end, and
    /// what changes in what was known is the next occasion. Gives whether that is news: not what a try before this one came
    /// to, with nothing changed.
    pub fn refused(&mut self, tried: Option<Snapshot>, cause: &str) -> bool {
        self.tried = Arc::new(tried.unwrap_or_else(|| {
            let mut files = (*self.tried).clone();
            files.look_again();
            files
        }));
        let pause = self.retry.as_ref().map_or(FIRST_RETRY, |retry| (retry.pause * 2).min(LONGEST_RETRY));
        let retry = Retry { at: Instant::now() + pause, pause, cause: cause.to_owned() };
        self.retry.replace(retry).is_none_or(|before| before.cause != cause)
    }
}

/// Waits until a file is another than was tried, or until `retry` where none is: what changes is not loaded by halves.
async fn change_or_retry(tried: &Arc<Snapshot>, retry: Option<Instant>) -> Occasion {
    let (mut seen, mut interval, mut took) = (Vec::new(), INTERVAL, Duration::ZERO);
    loop {
        sleep(interval).await;
        let began = Instant::now();
        let changes = look(tried).await;
        // One look that took long says little: it may have been held up by whatever else the machine does.
        let took_before = std::mem::replace(&mut took, began.elapsed());
        interval = (took.min(took_before) * INTERVAL_OF_LOOK).clamp(INTERVAL, LONGEST_INTERVAL);
        let first = changes.first().and_then(|change| tried.path(change));
        if let Some(file) = first {
            if changes == seen {
                return Occasion::Changed { file: file.to_owned(), files: changes.len() };
            }
            interval = INTERVAL;
        } else if retry.is_some_and(|retry| retry <= began) {
            return Occasion::Retry;
        }
        seen = changes;
    }
}

/// Off the reactor, for a file system may take its time.
async fn look(tried: &Arc<Snapshot>) -> Vec<Change> {
    let tried = tried.clone();
    spawn_blocking(move || tried.changes()).await.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use tokio::time::timeout;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn what_is_written_while_files_are_loaded_is_a_change() {
        let directory = tempfile::tempdir().unwrap();
        let (file, named) = (directory.path().join("config.toml"), directory.path().join("named.pem"));
        std::fs::write(&file, "loaded").unwrap();
        std::fs::write(&named, "loaded").unwrap();
        let look = || {
            let mut snapshot = Snapshot::of(&file);
            snapshot.look_at([named.clone()]);
            snapshot
        };
        let snapshot = look();
        std::fs::write(&named, "written meanwhile").unwrap();
        let mut occasions = Occasions::since(snapshot).unwrap();
        let expected = Occasion::Changed { file: named.clone(), files: 1 };
        assert_eq!(timeout(PATIENCE, occasions.next()).await, Ok(expected));

        occasions.applied(look());
        assert!(timeout(INTERVAL * 3, occasions.next()).await.is_err(), "once");
        std::fs::remove_file(&file).unwrap();
        std::fs::remove_file(&named).unwrap();
        let told = timeout(PATIENCE, occasions.next()).await.unwrap().to_string();
        assert_eq!(told, format!("{} and 1 more files changed", file.display()));
    }

    #[tokio::test]
    async fn what_was_refused_is_tried_again_and_less_and_less_often() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.toml");
        std::fs::write(&file, "refused").unwrap();
        let mut occasions = Occasions::since(Snapshot::of(&file)).unwrap();
        let mut waited = Vec::new();
        for round in 1..=3 {
            let cause = if round < 3 { "cause" } else { "another cause" };
            assert_eq!(occasions.refused(Some(Snapshot::of(&file)), cause), round != 2, "news");
            let began = Instant::now();
            assert_eq!(timeout(PATIENCE, occasions.next()).await, Ok(Occasion::Retry));
            waited.push(began.elapsed());
        }
        let longest: Vec<_> = [1, 2, 4].map(Duration::from_secs).into();
        assert!(waited.iter().zip(&longest).all(|(waited, pause)| waited >= pause), "{waited:?}");

        // What changes meanwhile is seen twice, as ever.
        std::fs::write(&file, "changed").unwrap();
        occasions.refused(Some(Snapshot::of(&file)), "cause");
        std::fs::write(&file, "changed again").unwrap();
        let changed = Occasion::Changed { file: file.clone(), files: 1 };
        assert_eq!(timeout(PATIENCE, occasions.next()).await, Ok(changed));
        assert!(occasions.refused(Some(Snapshot::of(&file)), "cause"), "news of what has changed");
        occasions.applied(Snapshot::of(&file));
        assert!(timeout(FIRST_RETRY * 3, occasions.next()).await.is_err());
    }
}
