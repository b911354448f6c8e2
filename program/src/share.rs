//! Bounds on what one peer may take of something that all share, such as connections.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// At most so many at one time for each key, such as connections for each address.
#[derive(Debug)]
pub struct Shares<K: Clone + Eq + Hash> {
    most: usize,
    /// Only keys that have any: memory is bounded by what is taken in all.
    taken: Mutex<HashMap<K, usize>>,
}

impl<K: Clone + Eq + Hash> Shares<K> {
    /// Nothing is taken, and at most `most` will be for each key.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, taken: Mutex::default() })
    }

    /// Takes one for `key` until the value is dropped; `None` when it has as many as it may.
    pub fn take(self: &Arc<Self>, key: K) -> Option<Share<K>> {
        let mut taken = self.lock();
        let count = taken.get(&key).copied().unwrap_or_default();
        if count >= self.most {
            return None;
        }
        taken.insert(key.clone(), count + 1);
        Some(Share { of: self.clone(), key })
    }

    /// Keys that have any.
    pub fn keys(&self) -> usize {
        self.lock().len()
    }

    fn give_back(&self, key: &K) {
        let mut taken = self.lock();
        if let Some(count) = taken.get_mut(key).filter(|count| **count > 1) {
            *count -= 1;
        } else {
            taken.remove(key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, usize>> {
        // Nothing panics while it is held.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of [`Shares`], given back when dropped.
#[derive(Debug)]
pub struct Share<K: Clone + Eq + Hash> {
    of: Arc<Shares<K>>,
    key: K,
}

impl<K: Clone + Eq + Hash> Drop for Share<K> {
    fn drop(&mut self) {
        self.of.give_back(&self.key);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn each_key_has_a_bound_of_its_own_and_is_forgotten_with_its_last_share() {
        let shares = Shares::new(2);
        let (first, second) = (shares.take('a').unwrap(), shares.take('a').unwrap());
        assert!(shares.take('a').is_none());
        let other = shares.take('b').unwrap();
        assert_eq!(shares.keys(), 2);
        drop(first);
        let third = shares.take('a').unwrap();
        assert!(shares.take('a').is_none());
        drop((second, third, other));
        assert_eq!(shares.keys(), 0);
    }
}
