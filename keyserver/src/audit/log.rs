//! The files of the log, written by one process alone.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::chain::{Head, hex};
use super::config::AuditSettings;
use super::record::{Event, FileHeader};
use super::signing_key::{SigningKey, Statement};
use super::verify::{CHECKPOINT_RECORDS, FORMAT, Fault, Segment, Walk};

/// A log that records are appended to.
#[derive(Debug)]
pub struct Log {
    directory: PathBuf,
    /// Opened for appending.
    file: File,
    /// Bytes in it, once everything is written.
    length: u64,
    rotate_bytes: u64,
    id: String,
    signing_key: Arc<SigningKey>,
    head: Head,
    /// Records since the last checkpoint.
    unsigned: u64,
    /// Whether there is a checkpoint that may not be on the disk.
    awaits_sync: bool,
    /// What is chained and not written yet.
    pending: Vec<u8>,
    /// Held for as long as the log is open.
    _lock: File,
}

impl Log {
    /// Goes on with the log in the directory, whose last file is verified first, or begins one. Gives the bytes that
    /// stood behind the last whole record, which a process that was killed has left; they are removed.
    ///
    /// # Errors
    /// [`LogError`] when the directory cannot be written, when another process does, and for a log that does not verify.
    pub fn open(settings: &AuditSettings) -> Result<(Self, u64), LogError> {
        let directory = &settings.directory;
        let unusable = |cause| LogError::Unusable { directory: directory.clone(), cause };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(unusable)?;
        let lock = lock(directory)?;
        let mut segments = Segment::all(directory).map_err(unusable)?;
        let mut torn = 0;
        // A process that was killed in the middle of a rotation leaves a file without a header.
        while let Some(last) = segments.last()
            && let Some(length) = headless(&last.path).map_err(unusable)?
        {
            fs::remove_file(&last.path).map_err(unusable)?;
            torn += length;
            segments.pop();
        }
        let Some(last) = segments.last() else {
            return Ok((Self::begin(settings, lock).map_err(unusable)?, torn));
        };
        let mut walk = Walk::new(settings.signing_key.public(), None);
        let end = walk.file(last).map_err(LogError::Altered)?;
        let file = append(&last.path).map_err(unusable)?;
        if end.torn > 0 {
            file.set_len(end.length).map_err(unusable)?;
        }
        let log = Self {
            directory: directory.clone(),
            file,
            length: end.length,
            rotate_bytes: settings.rotate_bytes,
            id: walk.log.unwrap_or_default(),
            signing_key: settings.signing_key.clone(),
            head: walk.head,
            unsigned: walk.unsigned,
            awaits_sync: false,
            pending: Vec::new(),
            _lock: lock,
        };
        Ok((log, torn + end.torn))
    }

    fn begin(settings: &AuditSettings, lock: File) -> io::Result<Self> {
        let head = Head::default();
        let file = create(&settings.directory, head)?;
        let mut log = Self {
            directory: settings.directory.clone(),
            file,
            length: 0,
            rotate_bytes: settings.rotate_bytes,
            id: hex(&rand::random::<[u8; 16]>()),
            signing_key: settings.signing_key.clone(),
            head,
            unsigned: 0,
            awaits_sync: false,
            pending: Vec::new(),
            _lock: lock,
        };
        log.header(SystemTime::now());
        Ok(log)
    }

    /// The last record, written or not.
    pub fn head(&self) -> Head {
        self.head
    }

    /// Whether there are records that no checkpoint signs.
    pub fn is_unsigned(&self) -> bool {
        self.unsigned > 0
    }

    /// Whether there is a checkpoint that may not be on the disk.
    pub fn awaits_sync(&self) -> bool {
        self.awaits_sync
    }

    /// Appends a record, to be written later; and a checkpoint, where there were many records without.
    pub fn append(&mut self, time: SystemTime, event: &Event) {
        if self.unsigned >= CHECKPOINT_RECORDS {
            self.checkpoint(time);
        }
        self.push(time, event);
    }

    /// Signs what there is, if that is not signed yet.
    pub fn checkpoint(&mut self, time: SystemTime) {
        if self.unsigned == 0 {
            return;
        }
        let statement = Statement {
            log: &self.id,
            sequence: self.head.sequence + 1,
            previous: self.head.hash,
            time: &humantime::format_rfc3339_millis(time).to_string(),
        };
        let signature = self.signing_key.sign(&statement);
        self.push(time, &Event::Checkpoint { signature });
        (self.unsigned, self.awaits_sync) = (0, true);
    }

    fn push(&mut self, time: SystemTime, event: &Event) {
        let before = self.pending.len();
        if let Err(cause) = self.head.append(time, event, &mut self.pending) {
            tracing::error!(%cause, ?event, "a record has no form in JSON");
            return;
        }
        self.length += (self.pending.len() - before) as u64;
        self.unsigned += 1;
    }

    fn header(&mut self, time: SystemTime) {
        let (previous, public_key) = (self.head.hash.to_string(), self.signing_key.public().to_string());
        self.push(time, &Event::File(FileHeader { format: FORMAT, log: self.id.clone(), previous, public_key }));
    }

    /// Writes what was appended. After an error the rest is still to be written, and the file goes on where it ends.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&mut self) -> io::Result<()> {
        while !self.pending.is_empty() {
            match self.file.write(&self.pending) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => drop(self.pending.drain(..written)),
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => return Err(cause),
            }
        }
        Ok(())
    }

    /// Writes what was appended, and has it on the disk.
    ///
    /// # Errors
    /// The system's.
    pub fn sync(&mut self) -> io::Result<()> {
        self.write()?;
        self.file.sync_data()?;
        self.awaits_sync = false;
        Ok(())
    }

    /// Whether the file is long enough for another to follow.
    pub fn is_full(&self) -> bool {
        self.length >= self.rotate_bytes
    }

    /// Goes on in another file, if this one is long enough. To be called again after an error.
    ///
    /// # Errors
    /// The system's.
    pub fn rotate(&mut self) -> io::Result<bool> {
        if !self.is_full() {
            return Ok(false);
        }
        let now = SystemTime::now();
        self.checkpoint(now);
        self.sync()?;
        self.file = create(&self.directory, self.head)?;
        self.length = 0;
        self.header(now);
        Ok(true)
    }
}

fn lock(directory: &Path) -> Result<File, LogError> {
    let unusable = |cause| LogError::Unusable { directory: directory.to_owned(), cause };
    let file = directory.join("lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(file).map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LogError::InUse { directory: directory.to_owned() }),
        Err(TryLockError::Error(cause)) => Err(unusable(cause)),
    }
}

/// The length of the file, if not even its first line is whole.
fn headless(file: &Path) -> io::Result<Option<u64>> {
    let mut line = Vec::new();
    io::BufRead::read_until(&mut io::BufReader::new(File::open(file)?), b'\n', &mut line)?;
    Ok((!line.ends_with(b"\n")).then_some(line.len() as u64))
}

fn append(file: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).open(file)
}

/// Makes the file that follows on `head`, or takes the empty one that a try before has left.
fn create(directory: &Path, head: Head) -> io::Result<File> {
    // Opened first, so that want of file descriptors leaves nothing behind.
    let entries = File::open(directory)?;
    let path = Segment::new(directory, head.sequence + 1).path;
    let made = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path);
    let file = match made {
        Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists && fs::metadata(&path)?.len() == 0 => append(&path)?,
        made => made?,
    };
    entries.sync_all()?;
    Ok(file)
}

/// Why a log cannot be gone on with.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The directory or a file in it cannot be used.
    #[error("{}: {cause}", directory.display())]
    Unusable {
        /// The directory.
        directory: PathBuf,
        /// The system's reason.
        cause: io::Error,
    },
    /// Two processes would write one chain.
    #[error("{}: another process writes this log", directory.display())]
    InUse {
        /// The directory.
        directory: PathBuf,
    },
    /// It was altered, or signed with another key.
    #[error("{0}; keep the directory for whoever is to look into it, and begin another: move it away")]
    Altered(Fault),
}
