//! sled databases below the state directory. What a crash left behind is cleared away before they open, and one that is
//! broken is set aside for an empty one. They are caches: losing one costs time alone.

use std::any::Any;
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::metrics::counter::Counter;
use rustix::io::Errno;

/// Stands between a broken database's name and the time at which it was set aside.
const BROKEN: &str = ".broken-";

/// Where a database is, and how it is opened. All methods block.
#[derive(Clone, Debug)]
pub struct Database {
    /// The state directory.
    pub directory: PathBuf,
    /// The database's own directory below it.
    pub name: &'static str,
    /// Bytes of sled's own cache.
    pub cache: u64,
    /// How often sled flushes what was written; `None` where whoever writes does.
    pub flush_every: Option<Duration>,
    /// Counts the times it was broken and begun anew.
    pub rebuilt: Counter,
}

impl Database {
    /// Opens it, and makes it where there is none. One that is broken is set aside, and an empty one takes its place.
    ///
    /// # Errors
    /// [`OpenError`], when there is no place for one, or another process has it.
    pub fn open(&self) -> Result<sled::Db, OpenError> {
        match self.try_open() {
            Err(cause) if !cause.is_of_the_place() => self.rebuild(&cause),
            opened => opened,
        }
    }

    /// Sets it aside because of `cause`, and opens an empty one in its place.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub fn rebuild(&self, cause: &dyn std::fmt::Display) -> Result<sled::Db, OpenError> {
        self.rebuilt.inc();
        let aside = self.set_aside()?;
        tracing::warn!(database = self.name, %cause, aside = %aside.display(), "database broken; set aside and begun anew");
        self.try_open()
    }

    /// The database's directory.
    pub fn path(&self) -> PathBuf {
        self.directory.join(self.name)
    }

    fn try_open(&self) -> Result<sled::Db, OpenError> {
        let path = self.path();
        fs::create_dir_all(&path)?;
        remove_torn_snapshots(&path)?;
        let flush_every = self.flush_every.map(|period| u64::try_from(period.as_millis()).unwrap_or(u64::MAX));
        let config = sled::Config::new().path(path).cache_capacity(self.cache).flush_every_ms(flush_every);
        // sled panics on some files that were cut short. Nothing of this process is in its hands while it opens.
        let opened = catch_unwind(AssertUnwindSafe(|| config.open()));
        opened.map_err(|panic| OpenError::Panic(words(panic.as_ref())))?.map_err(OpenError::Sled)
    }

    /// Renames the database, and removes those renamed before: one is enough to look into.
    fn set_aside(&self) -> io::Result<PathBuf> {
        let prefix = format!("{}{BROKEN}", self.name);
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let aside = self.directory.join(format!("{prefix}{seconds}"));
        fs::rename(self.path(), &aside)?;
        Ok(aside)
    }
}

/// A process killed while it opened a database leaves a torn snapshot, and sled then opens it never again. Without any
/// snapshot nothing is lost.
fn remove_torn_snapshots(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// What a panic said.
pub fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("of no words").to_owned()
}

/// Why a database did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be made, read or renamed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// sled's cause.
    #[error("{0}")]
    Sled(sled::Error),
    /// sled panicked, with these words.
    #[error("panic in sled: {0}")]
    Panic(String),
}

impl OpenError {
    /// Whether another process has the database open. sled says so in words alone.
    pub fn is_lock(&self) -> bool {
        matches!(self, Self::Sled(sled::Error::Io(cause)) if cause.to_string().contains("could not acquire lock"))
    }

    /// Whether the cause lies in the place and not in the database: it may be whole, and open later.
    pub fn is_of_the_place(&self) -> bool {
        match self {
            Self::Io(cause) | Self::Sled(sled::Error::Io(cause)) => self.is_lock() || is_of_the_place(cause),
            Self::Sled(_) | Self::Panic(_) => false,
        }
    }
}

/// Whether an input or output failed for want of room or rights, rather than for what a file holds.
pub fn is_of_the_place(cause: &io::Error) -> bool {
    use io::ErrorKind;
    let of_the_place = matches!(
        cause.kind(),
        ErrorKind::StorageFull
            | ErrorKind::QuotaExceeded
            | ErrorKind::FileTooLarge
            | ErrorKind::PermissionDenied
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::NotADirectory
            | ErrorKind::OutOfMemory
    );
    of_the_place || [Errno::MFILE, Errno::NFILE].map(|errno| Some(errno.raw_os_error())).contains(&cause.raw_os_error())
}
