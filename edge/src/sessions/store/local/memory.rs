//! The tier in front of the database: what was just kept or found, bounded by its bytes.

use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::super::SessionId;

/// Sessions in memory.
#[derive(Debug)]
pub(super) struct Memory {
    sessions: Cache<SessionId, Remembered, Bytewise>,
}

/// What is remembered of a session id.
#[derive(Clone, Debug)]
pub(super) enum Remembered {
    /// Its session, and when that expires, in seconds since 1970.
    Session { value: Bytes, expires: u64 },
    /// That it was ended. It stays when the database is slow to hear of it.
    Ended,
}

#[derive(Clone, Debug)]
struct Bytewise;

/// What an entry takes beside its value: the id, the cache's own fields and the value's allocation.
const OVERHEAD: u64 = 160;
/// Guessed, for the cache's table. It grows and shrinks with the real ones.
const USUAL_VALUE: u64 = 256;

impl Weighter<SessionId, Remembered> for Bytewise {
    fn weight(&self, _: &SessionId, remembered: &Remembered) -> u64 {
        match remembered {
            Remembered::Session { value, .. } => OVERHEAD + value.len() as u64,
            Remembered::Ended => OVERHEAD,
        }
    }
}

impl Memory {
    pub(super) fn new(bytes: u64) -> Self {
        let entries = usize::try_from(bytes / (OVERHEAD + USUAL_VALUE)).unwrap_or(usize::MAX);
        Self { sessions: Cache::with_weighter(entries, bytes, Bytewise) }
    }

    pub(super) fn find(&self, id: &SessionId) -> Option<Remembered> {
        self.sessions.get(id)
    }

    pub(super) fn keep(&self, id: SessionId, value: Bytes, expires: u64) {
        self.sessions.insert(id, Remembered::Session { value, expires });
    }

    pub(super) fn end(&self, id: SessionId) {
        self.sessions.insert(id, Remembered::Ended);
    }

    /// Remembers what the database had, unless something is remembered that is younger. Returns what is.
    pub(super) fn learn(&self, id: &SessionId, value: Bytes, expires: u64) -> Remembered {
        let learned = Remembered::Session { value, expires };
        let known = self.sessions.get_or_insert_with(id, || Ok::<_, std::convert::Infallible>(learned));
        match known {
            Ok(remembered) => remembered,
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.sessions.weight()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_no_more_bytes_than_it_may() {
        let memory = Memory::new(1 << 20);
        for number in 0_u32..10_000 {
            let mut id = [0; 32];
            id[..4].copy_from_slice(&number.to_be_bytes());
            memory.keep(id, Bytes::from(vec![0; 1000]), u64::MAX);
        }
        assert!(memory.bytes() <= 1 << 20 && memory.bytes() > 1 << 19, "{}", memory.bytes());
    }

    #[test]
    fn what_was_ended_is_not_learned_again() {
        let memory = Memory::new(1 << 20);
        memory.end([1; 32]);
        assert!(matches!(memory.learn(&[1; 32], Bytes::from_static(b"a"), 9), Remembered::Ended));
        assert!(matches!(memory.learn(&[2; 32], Bytes::from_static(b"a"), 9), Remembered::Session { .. }));
    }
}
