//! What the edge remembers over a restart, in a sled database. It is a cache: without it the edge works, and starts
//! slower.

use std::path::Path;

use keystead_proto::v1;
use prost::Message;

use crate::database::Database;
use crate::identity::IdentitySet;
use crate::telemetry::Telemetry;

/// The database's directory below the state directory.
const DATABASE: &str = "sled";
/// Bytes of sled's own cache.
const CACHE: u64 = 16 << 20;

const IDENTITIES: &[u8] = b"identities";

/// The state on disk. All methods block.
#[derive(Debug)]
pub struct State {
    /// `None` where the disk gives no place for one.
    database: Option<sled::Db>,
}

impl State {
    /// Opens the database below `directory`. One that does not open is set aside, and an empty one takes its place;
    /// where that does not open either, nothing is remembered.
    pub fn open(directory: &Path, telemetry: &Telemetry) -> Self {
        let rebuilt = telemetry.state_rebuilt.clone();
        // What is written is flushed by whoever writes it; no timer is needed.
        let place =
            Database { directory: directory.to_owned(), name: DATABASE, cache: CACHE, flush_every: None, rebuilt };
        match place.open() {
            Ok(database) => Self { database: Some(database) },
            Err(cause) => {
                tracing::warn!(path = %place.path().display(), %cause, "no place for state; nothing is remembered");
                Self { database: None }
            }
        }
    }

    /// The identities remembered last.
    pub fn identities(&self) -> IdentitySet {
        let read = || {
            let bytes = self.database.as_ref()?.get(IDENTITIES).ok()??;
            v1::Identities::decode(bytes.as_ref()).ok()
        };
        IdentitySet::read(read().unwrap_or_default(), &IdentitySet::default())
    }

    /// Remembers identities in place of those before.
    pub fn remember(&self, identities: &IdentitySet) {
        let Some(database) = &self.database else { return };
        let bytes = identities.to_message().encode_to_vec();
        if let Err(cause) = database.insert(IDENTITIES, bytes).and_then(|_| database.flush()) {
            tracing::warn!(%cause, "state not written");
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::identity::tests::entry;
    use prometheus_client::registry::Registry;
    use std::fs;

    /// What the name of a database set aside begins with.
    const SET_ASIDE: &str = "sled.broken-";

    fn telemetry() -> Telemetry {
        Telemetry::register(&mut Registry::default())
    }

    fn identities() -> IdentitySet {
        let identities = vec![entry("a", "a.example"), entry("b", "b.example")];
        IdentitySet::read(v1::Identities { identities }, &IdentitySet::default())
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
        let state = State::open(directory.path(), &telemetry);
        assert_eq!(state.identities().to_message(), identities.to_message());
        assert_eq!(telemetry.state_rebuilt.get(), 0);
    }

    #[test]
    fn a_torn_snapshot_does_no_harm() {
        let directory = tempfile::tempdir().unwrap();
        let before = remembered(directory.path());
        fs::write(directory.path().join(DATABASE).join("snap.0000000000000001.generating"), b"torn").unwrap();
        let telemetry = telemetry();
        let state = State::open(directory.path(), &telemetry);
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
        let state = State::open(directory.path(), &telemetry);
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
