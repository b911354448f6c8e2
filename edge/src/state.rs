//! What the edge remembers over a restart, in a sled database. It is a cache: without it the edge works, and starts
//! slower.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use keystead_proto::v1;
use prost::Message;

use crate::database::Database;
use crate::identity::{IdentityChange, IdentitySet};
use crate::telemetry::Telemetry;

/// The database's directory below the state directory.
const DATABASE: &str = "sled";
/// Bytes of sled's own cache.
const CACHE: u64 = 16 << 20;

/// The tree of identities, by their names.
const IDENTITIES: &str = "identities";

/// The state on disk. All methods block.
#[derive(Debug)]
pub struct State {
    /// `None` where the disk gives no place for one.
    places: Option<Places>,
    /// What was written last: the next time, what is otherwise is written.
    written: Mutex<IdentitySet>,
}

#[derive(Debug)]
struct Places {
    database: sled::Db,
    identities: sled::Tree,
}

impl State {
    /// Opens the database below `directory`. One that does not open is set aside, and an empty one takes its place;
    /// where that does not open either, nothing is remembered.
    pub fn open(directory: &Path, telemetry: &Telemetry) -> Self {
        let rebuilt = telemetry.state_rebuilt.clone();
        // What is written is flushed by whoever writes it; no timer is needed.
        let place =
            Database { directory: directory.to_owned(), name: DATABASE, cache: CACHE, flush_every: None, rebuilt };
        let opened = place.open().map_err(anyhow::Error::from).and_then(|database| {
            let identities = database.open_tree(IDENTITIES)?;
            Ok(Places { database, identities })
        });
        match opened {
            Ok(places) => Self { written: Mutex::new(read(&places.identities)), places: Some(places) },
            Err(cause) => {
                tracing::warn!(path = %place.path().display(), %cause, "no place for state; nothing is remembered");
                Self { places: None, written: Mutex::default() }
            }
        }
    }

    /// The identities remembered last.
    pub fn identities(&self) -> IdentitySet {
        self.written().clone()
    }

    /// Remembers identities in place of those before.
    pub fn remember(&self, identities: &IdentitySet) {
        let Some(places) = &self.places else { return };
        let mut written = self.written();
        let write = || {
            for change in identities.changes_since(&written) {
                match change {
                    IdentityChange::Removed(name) => places.identities.remove(name)?,
                    IdentityChange::Told(entry) => places.identities.insert(&entry.name, entry.encode_to_vec())?,
                };
            }
            places.database.flush()
        };
        match write() {
            Ok(_) => *written = identities.clone(),
            Err(cause) => tracing::warn!(%cause, "state not written"),
        }
    }

    fn written(&self) -> MutexGuard<'_, IdentitySet> {
        // The one change under the lock is an assignment.
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What does not read is left out: it is only a cache.
fn read(identities: &sled::Tree) -> IdentitySet {
    let entries = identities.iter().values().filter_map(Result::ok);
    let identities = entries.filter_map(|entry| v1::Identity::decode(entry.as_ref()).ok()).collect();
    IdentitySet::read(v1::Identities { identities }, &IdentitySet::default())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::identity::tests::entry;
    use prometheus_client::registry::Registry;
    use std::fs;
    use std::time::{Duration, Instant};

    /// What the name of a database set aside begins with.
    const SET_ASIDE: &str = "sled.broken-";

    fn telemetry() -> Telemetry {
        Telemetry::register(&mut Registry::default())
    }

    fn identities() -> IdentitySet {
        let identities = vec![entry("a", "a.example"), entry("b", "b.example")];
        IdentitySet::read(v1::Identities { identities }, &IdentitySet::default())
    }

    /// The state after it was closed: a process forked by another test may still have its lock for a while.
    fn reopened(directory: &Path, telemetry: &Telemetry) -> State {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let state = State::open(directory, telemetry);
            if state.places.is_some() || Instant::now() > deadline {
                return state;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn remembered(directory: &Path) -> IdentitySet {
        let state = State::open(directory, &telemetry());
        state.remember(&identities());
        state.identities()
    }

    #[test]
    fn identities_are_remembered_over_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let telemetry = telemetry();
        let state = State::open(directory.path(), &telemetry);
        assert!(state.identities().is_empty());
        let identities = identities();
        state.remember(&identities);
        drop(state);
        let state = reopened(directory.path(), &telemetry);
        assert_eq!(state.identities().to_message(), identities.to_message());
        assert_eq!(telemetry.state_rebuilt.get(), 0);
    }

    #[test]
    fn what_has_changed_is_written_and_what_is_gone_removed() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path(), &telemetry());
        let before = identities();
        state.remember(&before);
        let after = vec![entry("b", "b.example"), entry("c", "c.example")];
        let after = IdentitySet::read(v1::Identities { identities: after }, &before);
        state.remember(&after);
        drop(state);
        let state = reopened(directory.path(), &telemetry());
        assert_eq!(state.identities().to_message(), after.to_message());
    }

    #[test]
    fn a_torn_snapshot_does_no_harm() {
        let directory = tempfile::tempdir().unwrap();
        let before = remembered(directory.path());
        fs::write(directory.path().join(DATABASE).join("snap.0000000000000001.generating"), b"torn").unwrap();
        let telemetry = telemetry();
        let state = reopened(directory.path(), &telemetry);
        assert_eq!(state.identities().to_message(), before.to_message());
        assert_eq!(telemetry.state_rebuilt.get(), 0);
    }

    #[test]
    fn a_broken_database_is_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        remembered(directory.path());
        for file in fs::read_dir(directory.path().join(DATABASE)).unwrap() {
            let file = file.unwrap();
            if file.file_type().unwrap().is_file() {
                fs::write(file.path(), b"not what sled wrote").unwrap();
            }
        }
        let telemetry = telemetry();
        let state = reopened(directory.path(), &telemetry);
        assert_eq!(telemetry.state_rebuilt.get(), 1);
        assert!(state.identities().is_empty());
        state.remember(&identities());
        assert_eq!(state.identities().len(), 2);
        let aside = fs::read_dir(directory.path())
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with(SET_ASIDE));
        assert_eq!(aside.count(), 1);
    }

    #[test]
    fn a_database_in_use_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let first = State::open(directory.path(), &telemetry());
        first.remember(&identities());
        let telemetry = telemetry();
        let second = State::open(directory.path(), &telemetry);
        assert!(second.identities().is_empty());
        second.remember(&IdentitySet::default());
        assert_eq!(telemetry.state_rebuilt.get(), 0);
        assert_eq!(first.identities().len(), 2);
    }

    #[test]
    fn without_a_place_nothing_is_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, b"").unwrap();
        let state = State::open(&file, &telemetry());
        state.remember(&identities());
        assert!(state.identities().is_empty());
    }
}
