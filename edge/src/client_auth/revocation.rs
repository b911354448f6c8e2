//! Certificate revocation lists (RFC 5280 §5) from files, read anew as they change.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateRevocationListDer, UnixTime};
use webpki::{
    CertRevocationList, ExpirationPolicy, OwnedCertRevocationList, RevocationCheckDepth, RevocationOptions,
    RevocationOptionsBuilder, UnknownStatusPolicy,
};
use x509_parser::prelude::{CertificateRevocationList as ParsedList, FromDer};

/// The lists of a virtual host. Of two by one issuer, the first counts.
#[derive(Debug)]
pub struct RevocationLists {
    lists: ArcSwap<Vec<Arc<CertRevocationList<'static>>>>,
    files: Mutex<Vec<ListFile>>,
}

/// A file, and what it held when it was last good.
#[derive(Debug)]
struct ListFile {
    path: PathBuf,
    /// What the file looked like when it was last read, good or bad: `None` while it is not there.
    stamp: Option<Stamp>,
    content: Content,
    told_stale: bool,
    /// Whether a log line has said that the file cannot be read.
    told_unreadable: bool,
}

#[derive(Debug)]
struct Content {
    lists: Vec<Arc<CertRevocationList<'static>>>,
    /// The earliest nextUpdate, in seconds since 1970.
    next_update: Option<i64>,
}

/// What changes when a file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: SystemTime,
    length: u64,
    inode: u64,
}

impl RevocationLists {
    /// Reads the files: each holds one list in DER, or one or more in PEM.
    ///
    /// # Errors
    /// The first file that cannot be read, in words for a person.
    pub fn load(paths: Vec<PathBuf>) -> Result<Self, String> {
        let files = paths.into_iter().map(ListFile::open).collect::<Result<Vec<_>, _>>()?;
        let lists = ArcSwap::from_pointee(all(&files));
        Ok(Self { lists, files: Mutex::new(files) })
    }

    /// Reads those files again that have changed. One that is no longer good is logged, and counts as it last was good.
    /// Returns how many of the changed ones were not good.
    pub(super) fn reload(&self, now: UnixTime) -> u64 {
        let mut files = self.files();
        let outcomes: Vec<_> = files.iter_mut().map(ListFile::reload).collect();
        if outcomes.contains(&Outcome::Renewed) {
            self.lists.store(Arc::new(all(&files)));
        }
        files.iter_mut().for_each(|file| file.tell_if_stale(now));
        outcomes.into_iter().map(|outcome| u64::from(outcome == Outcome::Failed)).sum()
    }

    /// Runs `verify` with what webpki is to check against the lists there are at this moment.
    pub(super) fn with_options<T>(&self, verify: impl FnOnce(Option<RevocationOptions<'_>>) -> T) -> T {
        let lists = self.lists.load();
        let lists: Vec<&CertRevocationList<'_>> = lists.iter().map(Arc::as_ref).collect();
        // Fails for no lists alone.
        let options = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
            options
                .with_depth(RevocationCheckDepth::Chain)
                .with_status_policy(UnknownStatusPolicy::Deny)
                .with_expiration_policy(ExpirationPolicy::Enforce)
                .build()
        });
        verify(options)
    }

    fn files(&self) -> MutexGuard<'_, Vec<ListFile>> {
        // Each change under the lock is one assignment.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn all(files: &[ListFile]) -> Vec<Arc<CertRevocationList<'static>>> {
    files.iter().flat_map(|file| &file.content.lists).cloned().collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Unchanged,
    Renewed,
    Failed,
}

impl ListFile {
    fn open(path: PathBuf) -> Result<Self, String> {
        // Before the content: a change in between is seen the next time.
        let stamp = stamp(&path);
        let content = read(&path).map_err(|cause| format!("{}: {cause}", path.display()))?;
        Ok(Self { path, stamp, content, told_stale: false, told_unreadable: false })
    }

    fn reload(&mut self) -> Outcome {
        let stamp = stamp(&self.path);
        if stamp == self.stamp {
            return Outcome::Unchanged;
        }
        match read(&self.path) {
            Ok(content) => {
                // Only a file that was read counts as seen: one that was not is tried again.
                self.stamp = stamp;
                tracing::info!(file = %self.path.display(), lists = content.lists.len(), "revocation list read again");
                self.content = content;
                self.told_stale = false;
                self.told_unreadable = false;
                Outcome::Renewed
            }
            Err(cause) => {
                let file = self.path.display();
                if !self.told_unreadable {
                    tracing::warn!(%file, %cause, "revocation list not readable; the last good one stays in force");
                }
                self.told_unreadable = true;
                Outcome::Failed
            }
        }
    }

    /// Once for each content.
    fn tell_if_stale(&mut self, now: UnixTime) {
        let stale = self.content.next_update.is_some_and(|next| next.cast_unsigned() <= now.as_secs());
        if stale && !self.told_stale {
            let file = self.path.display();
            tracing::warn!(%file, "revocation list past its nextUpdate; its issuer's clients are refused");
            self.told_stale = true;
        }
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some(Stamp { modified: metadata.modified().ok()?, length: metadata.len(), inode: metadata.ino() })
}

fn read(path: &Path) -> Result<Content, ListError> {
    let bytes = fs::read(path)?;
    let ders = if bytes.first() == Some(&DER_SEQUENCE) {
        vec![CertificateRevocationListDer::from(bytes)]
    } else {
        CertificateRevocationListDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>()?
    };
    if ders.is_empty() {
        return Err(ListError::None);
    }
    let lists = ders.iter().map(|der| OwnedCertRevocationList::from_der(der)).collect::<Result<Vec<_>, _>>()?;
    Ok(Content {
        lists: lists.into_iter().map(|list| Arc::new(CertRevocationList::Owned(list))).collect(),
        next_update: ders.iter().filter_map(|der| next_update(der)).min(),
    })
}

const DER_SEQUENCE: u8 = 0x30;

fn next_update(der: &[u8]) -> Option<i64> {
    let (_, list) = ParsedList::from_der(der).ok()?;
    Some(list.next_update()?.timestamp())
}

/// Why a file holds no revocation list.
#[derive(Debug, thiserror::Error)]
enum ListError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Pem(#[from] rustls_pki_types::pem::Error),
    #[error("{0}")]
    List(#[from] webpki::Error),
    #[error("neither DER nor a PEM section `X509 CRL`")]
    None,
}
