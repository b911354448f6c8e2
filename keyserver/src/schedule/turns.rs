//! A bounded queue in which peers take turns.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};

use keystead_program::channel::PeerIdentity;

/// What waits: each peer's first come, first served, and the peers in turn.
#[derive(Debug)]
pub(super) struct Turns<T> {
    /// None of them empty.
    by_peer: HashMap<PeerIdentity, VecDeque<T>>,
    /// Each peer of `by_peer` once, the next one first.
    turns: VecDeque<PeerIdentity>,
    length: usize,
    bound: usize,
}

impl<T> Turns<T> {
    pub(super) fn new(bound: usize) -> Self {
        Self { by_peer: HashMap::new(), turns: VecDeque::new(), length: 0, bound }
    }

    /// Takes `item` in behind the others of `peer`. Beyond the bound the newest of the peer with the most waiting comes
    /// back in exchange, which is `item` itself where that is `peer`.
    pub(super) fn push(&mut self, peer: &PeerIdentity, item: T) -> Option<T> {
        let displaced = match self.length < self.bound {
            true => None,
            false => match self.newest_of_the_longest(peer) {
                None => return Some(item),
                displaced => displaced,
            },
        };
        self.length += 1;
        match self.by_peer.entry(peer.clone()) {
            Entry::Occupied(waiting) => waiting.into_mut().push_back(item),
            Entry::Vacant(none) => {
                self.turns.push_back(none.key().clone());
                none.insert(VecDeque::from([item]));
            }
        }
        displaced
    }

    /// The oldest of the peer whose turn it is.
    pub(super) fn pop(&mut self) -> Option<T> {
        let peer = self.turns.pop_front()?;
        let waiting = self.by_peer.get_mut(&peer)?;
        let item = waiting.pop_front()?;
        match waiting.is_empty() {
            true => drop(self.by_peer.remove(&peer)),
            false => self.turns.push_back(peer),
        }
        self.length -= 1;
        Some(item)
    }

    /// Whether anything of `peer` waits.
    pub(super) fn has(&self, peer: &PeerIdentity) -> bool {
        self.by_peer.contains_key(peer)
    }

    /// Takes the newest item of the peer with the most, if that peer would still have the most with one more of
    /// `newcomer`. It keeps others, and so its turn.
    ///
    /// Looks at every peer that waits. These are at most as many as edges, and it only happens when the queue is full.
    fn newest_of_the_longest(&mut self, newcomer: &PeerIdentity) -> Option<T> {
        let newcomers = self.by_peer.get(newcomer).map_or(0, VecDeque::len);
        let longest = self.by_peer.values_mut().max_by_key(|waiting| waiting.len())?;
        if longest.len() <= newcomers + 1 {
            return None;
        }
        self.length -= 1;
        longest.pop_back()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn peer(name: &str) -> PeerIdentity {
        format!("spiffe://keystead.test/edge/{name}").parse().unwrap()
    }

    /// Items are named for their peers, by their first letter.
    fn push(turns: &mut Turns<&'static str>, item: &'static str) -> Option<&'static str> {
        turns.push(&peer(item.get(..1).unwrap()), item)
    }

    fn all<T>(mut turns: Turns<T>) -> Vec<T> {
        std::iter::from_fn(|| turns.pop()).collect()
    }

    #[test]
    fn peers_take_turns_and_each_is_served_in_its_order() {
        let mut turns = Turns::new(10);
        for item in ["a1", "a2", "a3", "a4", "b1", "b2", "c1"] {
            assert_eq!(push(&mut turns, item), None);
        }
        assert_eq!(all(turns), ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]);
    }

    #[test]
    fn who_comes_back_after_its_last_item_goes_behind_the_others() {
        let mut turns = Turns::new(10);
        for item in ["a1", "b1", "b2"] {
            push(&mut turns, item);
        }
        assert_eq!(turns.pop(), Some("a1"));
        assert_eq!([turns.has(&peer("a")), turns.has(&peer("b"))], [false, true]);
        push(&mut turns, "a2");
        assert_eq!(all(turns), ["b1", "a2", "b2"]);
    }

    #[test]
    fn when_it_is_full_the_newest_of_the_peer_with_the_most_makes_room() {
        let mut turns = Turns::new(4);
        for item in ["a1", "a2", "a3", "b1"] {
            assert_eq!(push(&mut turns, item), None);
        }
        assert_eq!(push(&mut turns, "a4"), Some("a4"), "the flooding peer hurts itself");
        assert_eq!(push(&mut turns, "c1"), Some("a3"), "and makes room for a newcomer");
        assert_eq!(push(&mut turns, "b2"), Some("b2"), "who would have as many pushes nobody out");
        assert_eq!(all(turns), ["a1", "b1", "c1", "a2"]);
    }

    #[test]
    fn the_bound_holds_whatever_comes() {
        let mut turns = Turns::new(7);
        let (mut within, mut returned) = (0, 0);
        for number in 0..1000_u32 {
            match turns.push(&peer(&(number % 13).to_string()), number) {
                Some(_) => returned += 1,
                None => within += 1,
            }
            if number % 3 == 0 && turns.pop().is_some() {
                within -= 1;
            }
            assert!(turns.length == within && within <= 7, "{within}");
            assert_eq!(turns.by_peer.len(), turns.turns.len());
        }
        assert!(returned > 0);
        assert_eq!(all(turns).len(), within);
    }
}
