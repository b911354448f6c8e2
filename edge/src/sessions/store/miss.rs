//! Why a session was not found.

use strum::{EnumIter, IntoStaticStr};

/// Why a session was not found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, IntoStaticStr, EnumIter)]
#[strum(serialize_all = "snake_case")]
pub enum Miss {
    /// The local store does not have it: it was never kept, is older than the store's bounds allow, or was lost.
    NotFound,
    /// It was ended, and must not be resumed.
    Ended,
    /// Its time is over.
    Expired,
    /// The local store is being opened.
    StoreOpening,
    /// The local store did not answer in time.
    StoreSlow,
    /// Too many lookups wait for the local store.
    StoreOverloaded,
    /// The local store has no database: there is no place for one, or it has failed and is about to be tried again.
    StoreUnavailable,
    /// The shared store does not have it.
    SharedNotFound,
    /// The shared store did not answer in time.
    SharedSlow,
    /// The shared store is not reached, or refuses.
    SharedDown,
    /// The shared store failed too often just before, and was not asked.
    SharedBreakerOpen,
}

impl Miss {
    /// The word by which log and metric name it.
    pub fn reason(self) -> &'static str {
        self.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use strum::IntoEnumIterator;

    #[test]
    fn each_reason_has_a_word_of_its_own() {
        let words: std::collections::HashSet<_> = Miss::iter().map(Miss::reason).collect();
        assert_eq!(words.len(), Miss::iter().count());
        assert!(words.contains("store_opening") && words.contains("shared_breaker_open"));
    }
}
