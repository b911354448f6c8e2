//! Files that a configuration names, and whether they are still the ones that were loaded.
//!
//! They are looked at with `stat`, which works on every file system, and follows the links by which orchestrators put a
//! whole directory in the place of another.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What changes when a file does: by being written, replaced, or made readable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    device: u64,
    inode: u64,
    length: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Fingerprint {
    /// That of the file at `path`; `None` where there is none to be seen.
    pub fn of(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().map(|metadata| Self::from(&metadata))
    }
}

impl From<&Metadata> for Fingerprint {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// A configuration file and the files that it names, as they were before they were read: whatever is written from there on
/// is a change. Each path stands once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    configuration: PathBuf,
    /// By path.
    files: Vec<(Box<Path>, Option<Fingerprint>)>,
}

impl Snapshot {
    /// Looks at a configuration file, and at none of what it names.
    pub fn of(configuration: &Path) -> Self {
        let file = (configuration.into(), Fingerprint::of(configuration));
        Self { configuration: configuration.to_owned(), files: vec![file] }
    }

    /// The configuration file.
    pub fn configuration(&self) -> &Path {
        &self.configuration
    }

    /// Every file, the configuration itself among them.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_ref())
    }

    /// Looks at these files too, before any of them is read.
    pub fn look_at(&mut self, paths: impl IntoIterator<Item = PathBuf>) {
        let mut paths: Vec<Box<Path>> = paths.into_iter().map(PathBuf::into_boxed_path).collect();
        paths.sort_unstable();
        paths.dedup();
        paths.retain(|path| self.place(path).is_err());
        self.files.extend(paths.into_iter().map(|path| {
            let fingerprint = Fingerprint::of(&path);
            (path, fingerprint)
        }));
        self.files.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    }

    /// What the file at `path` was seen to be: `None` where there was none, and for one that was not looked at.
    pub fn fingerprint(&self, path: &Path) -> Option<Fingerprint> {
        let place = self.place(path).ok()?;
        self.files.get(place).and_then(|(_, fingerprint)| *fingerprint)
    }

    /// Whether each of these files was there, and is in `other` what it is here.
    pub fn agrees_on(&self, other: &Self, paths: impl IntoIterator<Item = PathBuf>) -> bool {
        paths.into_iter().all(|path| {
            let seen = self.fingerprint(&path);
            seen.is_some() && seen == other.fingerprint(&path)
        })
    }

    /// Looks at every file again, and tells of those that are not what they were.
    pub fn changes(&self) -> Vec<Change> {
        let looks = self.files.iter().zip(0..).map(|((path, before), place)| (place, *before, Fingerprint::of(path)));
        looks.filter(|(_, before, now)| before != now).map(|(place, _, now)| Change { place, now }).collect()
    }

    /// Takes every file for what it is at this moment.
    pub fn look_again(&mut self) {
        self.files.iter_mut().for_each(|(path, fingerprint)| *fingerprint = Fingerprint::of(path));
    }

    /// The file that a change is of.
    pub fn path(&self, change: &Change) -> Option<&Path> {
        self.files.get(change.place).map(|(path, _)| path.as_ref())
    }

    /// How many files there are, the configuration itself among them.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Never, since the configuration itself is one.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    fn place(&self, path: &Path) -> Result<usize, usize> {
        self.files.binary_search_by(|(other, _)| other.as_ref().cmp(path))
    }
}

/// A file that is not what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    place: usize,
    now: Option<Fingerprint>,
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_file_that_is_written_replaced_removed_or_made_readable_has_changed() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let changes: [(&str, &dyn Fn()); 4] = [
            ("written", &|| fs::write(at("file"), "longer than before").unwrap()),
            ("replaced", &|| {
                fs::write(at("next"), "before").unwrap();
                fs::rename(at("next"), at("file")).unwrap();
            }),
            ("removed", &|| fs::remove_file(at("file")).unwrap()),
            ("made readable", &|| fs::set_permissions(at("file"), fs::Permissions::from_mode(0o640)).unwrap()),
        ];
        for (what, change) in changes {
            fs::write(at("file"), "before").unwrap();
            fs::set_permissions(at("file"), fs::Permissions::from_mode(0o600)).unwrap();
            fs::write(at("other"), "stays").unwrap();
            let mut snapshot = Snapshot::of(&at("none.toml"));
            snapshot.look_at([at("other"), at("file"), at("other")]);
            assert_eq!((snapshot.len(), snapshot.changes()), (3, Vec::new()), "{what}");
            // A file system may count time in steps of some milliseconds.
            std::thread::sleep(std::time::Duration::from_millis(20));
            change();
            let found = snapshot.changes();
            assert_eq!(
                found.iter().filter_map(|change| snapshot.path(change)).collect::<Vec<_>>(),
                [at("file")],
                "{what}"
            );
        }
    }

    #[test]
    fn what_a_link_leads_to_is_looked_at() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for version in ["one", "two"] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("tls.crt"), "of the same length").unwrap();
        }
        symlink("one", at("data")).unwrap();
        symlink("data/tls.crt", at("tls.crt")).unwrap();
        let mut snapshot = Snapshot::of(&at("none.toml"));
        snapshot.look_at([at("tls.crt")]);
        assert!(snapshot.changes().is_empty());
        symlink("two", at("next")).unwrap();
        fs::rename(at("next"), at("data")).unwrap();
        assert_eq!(snapshot.changes().len(), 1);
    }

    #[test]
    fn snapshots_agree_on_files_that_are_there_and_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("a"), "a").unwrap();
        fs::write(at("b"), "b").unwrap();
        let look = || {
            let mut snapshot = Snapshot::of(&at("none.toml"));
            snapshot.look_at([at("a"), at("b"), at("lost")]);
            snapshot
        };
        let before = look();
        fs::write(at("b"), "another").unwrap();
        let after = look();
        assert!(after.agrees_on(&before, [at("a")]) && !after.agrees_on(&before, [at("a"), at("b")]));
        assert!(!after.agrees_on(&before, [at("lost")]), "a file that is not there is like no other");
        assert!(after.agrees_on(&before, []));
    }
}
