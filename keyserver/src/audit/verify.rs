//! Reads a log and finds what was altered.
//!
//! A record that was altered, added, removed or moved breaks the chain; a chain that was made anew fits no signature. What
//! stands behind the last checkpoint is chained and not signed yet.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::chain::{Hash, Head, split};
use super::signing_key::{PublicKey, Statement};

/// The version of the format.
pub(super) const FORMAT: u32 = 1;

/// Records from one checkpoint to the next at the most, the second not counted.
pub const CHECKPOINT_RECORDS: u64 = 8192;

/// One file of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The number of its first record.
    pub first: u64,
    /// Where it is.
    pub path: PathBuf,
}

impl Segment {
    /// The file in `directory` that begins with the record `first`.
    pub fn new(directory: &Path, first: u64) -> Self {
        Self { first, path: directory.join(format!("audit-{first:016}.jsonl")) }
    }

    /// The files in `directory`, in order.
    ///
    /// # Errors
    /// The system's, when the directory cannot be read.
    pub fn all(directory: &Path) -> io::Result<Vec<Self>> {
        let mut segments = Vec::new();
        for entry in fs::read_dir(directory)? {
            let name = entry?.file_name();
            let digits = name.to_str().and_then(|name| name.strip_prefix("audit-")?.strip_suffix(".jsonl"));
            let first = digits.and_then(|digits| digits.parse().ok()).map(|first| Self::new(directory, first));
            segments.extend(first.filter(|segment| segment.path.file_name() == Some(&name)));
        }
        segments.sort_by_key(|segment| segment.first);
        Ok(segments)
    }
}

/// What a log must have, beside being unaltered.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// The record from whose file on it is read, and which must be there; all files where this is missing.
    pub from: Option<u64>,
    /// A record that must be there, with its hash.
    pub last: Option<Head>,
}

/// What was found of a log that is unaltered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Which log it is.
    pub log: String,
    /// Files that were read.
    pub files: usize,
    /// The number of the first record that was read.
    pub first: u64,
    /// The last record.
    pub last: Head,
    /// Its time.
    pub last_time: String,
    /// The number of the last checkpoint.
    pub signed: u64,
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { log, files, first, last, last_time, signed } = self;
        let Head { sequence, hash } = last;
        writeln!(f, "log {log}: unaltered from record {first} to {sequence}, in {files} files")?;
        match first {
            1 => writeln!(f, "complete from its beginning")?,
            _ => writeln!(f, "complete from record {first} on; the files before are not there, or were not asked for")?,
        }
        writeln!(f, "signed up to record {signed}; {} records behind it are chained alone", sequence - signed)?;
        writeln!(f, "last: {sequence}:{hash} of {last_time}")
    }
}

/// Reads the log in `directory`.
///
/// # Errors
/// [`Fault`]: the first that there is.
pub fn verify(directory: &Path, key: &PublicKey, wanted: Wanted) -> Result<Verified, Fault> {
    let at_directory = |cause| Fault { file: directory.to_owned(), line: 0, cause };
    let mut segments = Segment::all(directory).map_err(|cause| at_directory(FaultCause::Unreadable(cause)))?;
    if let Some(from) = wanted.from {
        let begin = segments.iter().rposition(|segment| segment.first <= from);
        segments.drain(..begin.ok_or_else(|| at_directory(FaultCause::Missing(from)))?);
    }
    let Some(first) = segments.first().map(|segment| segment.first) else {
        return Err(at_directory(FaultCause::NoFile));
    };
    let mut walk = Walk::new(*key, wanted.last);
    let mut place = (directory.to_owned(), 0);
    for segment in &segments {
        let end = walk.file(segment)?;
        place = (segment.path.clone(), end.lines);
        if end.torn > 0 {
            return Err(Fault { file: segment.path.clone(), line: end.lines + 1, cause: FaultCause::Torn });
        }
    }
    let at_end = |cause| Fault { file: place.0, line: place.1, cause };
    let Walk { head: last, last_time, signed, log: Some(log), .. } = walk else {
        return Err(at_end(FaultCause::NoHeader));
    };
    let sought = wanted.last.map(|last| last.sequence).into_iter().chain(wanted.from);
    if let Some(sought) = sought.clone().find(|sought| *sought > last.sequence || *sought < first) {
        return Err(at_end(FaultCause::Missing(sought)));
    }
    let Some(signed) = signed else { return Err(at_end(FaultCause::NothingSigned)) };
    Ok(Verified { log, files: segments.len(), first, last, last_time, signed })
}

/// The way along a chain.
#[derive(Debug)]
pub(super) struct Walk {
    key: PublicKey,
    sought: Option<Head>,
    pub(super) head: Head,
    last_time: String,
    /// `None` before the first record.
    pub(super) log: Option<String>,
    /// The number of the last checkpoint.
    signed: Option<u64>,
    /// Records since.
    pub(super) unsigned: u64,
}

/// The end of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct FileEnd {
    /// Whole lines.
    pub(super) lines: u64,
    /// Their bytes.
    pub(super) length: u64,
    /// Bytes behind the last whole line.
    pub(super) torn: u64,
}

/// What the verifier reads of a line. What else stands there is hashed and for others to read.
#[derive(Debug, Deserialize)]
struct Line {
    seq: u64,
    time: String,
    event: String,
    signature: Option<String>,
    format: Option<u32>,
    log: Option<String>,
    previous: Option<String>,
    public_key: Option<String>,
}

impl Walk {
    pub(super) fn new(key: PublicKey, sought: Option<Head>) -> Self {
        Self { key, sought, head: Head::default(), last_time: String::new(), log: None, signed: None, unsigned: 0 }
    }

    /// Goes through one file, which must be the next.
    pub(super) fn file(&mut self, segment: &Segment) -> Result<FileEnd, Fault> {
        let at = |line, cause| Fault { file: segment.path.clone(), line, cause };
        let unreadable = |line| move |cause| at(line, FaultCause::Unreadable(cause));
        let mut file = BufReader::new(File::open(&segment.path).map_err(unreadable(0))?);
        let mut end = FileEnd { lines: 0, length: 0, torn: 0 };
        let mut line = Vec::new();
        while file.read_until(b'\n', &mut line).map_err(unreadable(end.lines + 1))? > 0 {
            let Some(whole) = line.strip_suffix(b"\n") else {
                end.torn = line.len() as u64;
                break;
            };
            let number = end.lines + 1;
            let walked = if number == 1 { self.header(whole, segment) } else { self.record(whole) };
            walked.map_err(|cause| at(number, cause))?;
            end = FileEnd { lines: number, length: end.length + line.len() as u64, torn: 0 };
            line.clear();
        }
        if end.lines == 0 {
            return Err(at(1, FaultCause::NoHeader));
        }
        Ok(end)
    }

    fn header(&mut self, line: &[u8], segment: &Segment) -> Result<(), FaultCause> {
        let (_, header) = parse(line)?;
        let (Some(FORMAT), Some(log), Some(previous), Some(key)) =
            (header.format, &header.log, &header.previous, &header.public_key)
        else {
            return Err(FaultCause::NoHeader);
        };
        let previous: Hash = previous.parse().map_err(|_| FaultCause::Malformed)?;
        match &self.log {
            None => {
                let sequence = segment.first.checked_sub(1).ok_or(FaultCause::WrongName)?;
                self.head = Head { sequence, hash: previous };
                self.log = Some(log.clone());
                if sequence == 0 && previous != Hash::default() {
                    return Err(FaultCause::WrongHash);
                }
            }
            Some(_) if segment.first != self.head.sequence + 1 => {
                return Err(FaultCause::Missing(self.head.sequence + 1));
            }
            Some(before) if before != log => return Err(FaultCause::OtherLog),
            Some(_) if previous != self.head.hash => return Err(FaultCause::WrongHash),
            Some(_) if self.unsigned > 0 => return Err(FaultCause::Unsigned),
            Some(_) => {}
        }
        let is_header = header.event == "file";
        self.link(line)?;
        if !is_header || key != &self.key.to_string() {
            return Err(if is_header { FaultCause::OtherKey } else { FaultCause::NoHeader });
        }
        Ok(())
    }

    fn record(&mut self, line: &[u8]) -> Result<(), FaultCause> {
        let before = self.head;
        let record = self.link(line)?;
        match record.event.as_str() {
            "file" => return Err(FaultCause::Misplaced),
            "checkpoint" => {
                let log = self.log.as_deref().unwrap_or_default();
                let statement = Statement { log, sequence: record.seq, previous: before.hash, time: &self.last_time };
                if !record.signature.is_some_and(|signature| self.key.verifies(&statement, &signature)) {
                    return Err(FaultCause::BadSignature);
                }
                (self.signed, self.unsigned) = (Some(record.seq), 0);
            }
            _ => {}
        }
        Ok(())
    }

    /// Goes on to the record of this line.
    fn link(&mut self, line: &[u8]) -> Result<Line, FaultCause> {
        let (content, hash) = split(line).ok_or(FaultCause::Malformed)?;
        if self.head.hash.followed_by(content) != hash {
            return Err(FaultCause::WrongHash);
        }
        let (_, record) = parse(line)?;
        if record.seq != self.head.sequence + 1 {
            return Err(FaultCause::WrongSequence);
        }
        self.head = Head { sequence: record.seq, hash };
        if self.sought.is_some_and(|sought| sought.sequence == record.seq && sought.hash != hash) {
            return Err(FaultCause::OtherRecord);
        }
        self.last_time.clone_from(&record.time);
        self.unsigned += 1;
        if self.unsigned > CHECKPOINT_RECORDS + 1 {
            return Err(FaultCause::Unsigned);
        }
        Ok(record)
    }
}

fn parse(line: &[u8]) -> Result<(Hash, Line), FaultCause> {
    let (_, hash) = split(line).ok_or(FaultCause::Malformed)?;
    let record = serde_json::from_slice(line).map_err(|_| FaultCause::Malformed)?;
    Ok((hash, record))
}

/// Where a log is not what was written.
#[derive(Debug, thiserror::Error)]
#[error("{}:{line}: {cause}", file.display())]
pub struct Fault {
    /// The file, or the directory.
    pub file: PathBuf,
    /// The line, counted from 1; 0 where it is none in particular.
    pub line: u64,
    /// What is wrong.
    pub cause: FaultCause,
}

/// What is wrong with a log.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum FaultCause {
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
    #[error("there is no file of an audit log")]
    NoFile,
    #[error("the file does not begin with the header of an audit log")]
    NoHeader,
    #[error("no record has the number 0")]
    WrongName,
    #[error("the line is no record of an audit log")]
    Malformed,
    #[error("the hash does not fit: this record or the one before it was altered, removed, added or moved")]
    WrongHash,
    #[error("the number is not the next one")]
    WrongSequence,
    #[error("the header of a file stands within it")]
    Misplaced,
    #[error("record {0} is missing")]
    Missing(u64),
    #[error("the record is another than was expected")]
    OtherRecord,
    #[error("the file is of another log")]
    OtherLog,
    #[error("the log is signed with another key")]
    OtherKey,
    #[error("the checkpoint's signature is not of this key, or is over another log")]
    BadSignature,
    #[error("there should be a checkpoint before this record")]
    Unsigned,
    #[error("no checkpoint signs this log")]
    NothingSigned,
    #[error("the last line is cut off")]
    Torn,
}
