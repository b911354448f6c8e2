//! Randoms for handshakes by RSA key transport, leased before they are used (RFC 5246 §7.4.1.3, §7.4.7.1).
//!
//! There ServerHello leaves before the private key is needed, so its random is given out beforehand:
//!
//! ```text
//! server_random = HMAC-SHA256(K, "keystead random v1" ‖ server_id ‖ edge_id ‖ epoch ‖ counter)
//! ```
//!
//! `K` and `server_id` are drawn at the start of the process and never leave it, so a random is known again by its own
//! process alone. `edge_id` is the peer's identity, so nobody else can use it. `epoch` counts the ledgers that the
//! process has opened, so what was leased to a peer dies when the peer is removed, also if it comes back. `counter` is
//! spent once. Nothing but one bit is kept for each.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hmac::{Hmac, KeyInit, Mac};
use keystead_program::channel::PeerIdentity;
use keystead_program::share::{Share, Shares};
use keystead_tls::handshake::Lease;
use rand_core::CryptoRng;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::refusal::Refusal;

const LABEL: &[u8] = b"keystead random v1";
const SERVER_ID_LENGTH: usize = 16;
/// server_id, epoch and counter.
const TOKEN_LENGTH: usize = SERVER_ID_LENGTH + 8 + 8;

/// Bounds on what is leased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseLimits {
    /// Randoms given by one call at the most.
    pub per_call: u32,
    /// Randoms of one edge that are good at one time: the oldest make way for what is leased beyond that. Each takes
    /// one bit.
    pub outstanding: u32,
}

/// Batches of one edge that may be on their way to it. Each takes some 60 KB, for as long as nobody reads it.
const MOST_UNREAD: usize = 64;

/// Leases on their way to an edge, until this is dropped.
#[derive(Debug)]
pub struct Batch {
    /// What is leased.
    pub leases: Vec<Lease>,
    _unread: Share<PeerIdentity>,
}

/// The randoms that one process of a key server leases.
#[derive(Debug)]
pub struct Leases {
    source: RandomSource,
    limits: LeaseLimits,
    ledgers: Mutex<Ledgers>,
    unread: Arc<Shares<PeerIdentity>>,
}

impl Leases {
    /// Draws what identifies this process.
    pub fn new(limits: LeaseLimits, rng: &mut dyn CryptoRng) -> Self {
        Self { source: RandomSource::new(rng), limits, ledgers: Mutex::default(), unread: Shares::new(MOST_UNREAD) }
    }

    /// Leases up to `count` randoms to `edge`, at most as many as a call may have, if it `may` have any.
    ///
    /// # Errors
    /// What `may` says, and [`Refusal::TooMuchUnread`].
    ///
    /// `may` is asked while no ledger can be removed. So a ledger is only opened for an edge of which [`Self::retain`],
    /// once the edge is removed, is yet to hear.
    pub fn lease_if(
        &self,
        edge: &PeerIdentity,
        count: u32,
        may: impl FnOnce() -> Result<(), Refusal>,
    ) -> Result<Batch, Refusal> {
        let unread = self.unread.take(edge.clone()).ok_or(Refusal::TooMuchUnread)?;
        let count = count.min(self.limits.per_call).min(self.limits.outstanding);
        let (epoch, first) = {
            let mut ledgers = self.ledgers();
            may()?;
            ledgers.issue(edge, count, self.limits.outstanding)
        };
        let serials = (first..).take(count as usize).map(|counter| Serial { epoch, counter });
        Ok(Batch { leases: serials.map(|serial| self.source.lease(edge, serial)).collect(), _unread: unread })
    }

    /// Leases to an edge that may have randoms.
    #[cfg(test)]
    pub(crate) fn lease(&self, edge: &PeerIdentity, count: u32) -> Vec<Lease> {
        self.lease_if(edge, count, || Ok(())).map(|batch| batch.leases).unwrap_or_default()
    }

    /// The random that `token` stands for, if it was leased to `edge` by this process, is not too old, and is asked for
    /// the first time.
    pub fn spend(&self, edge: &PeerIdentity, token: &[u8]) -> Option<[u8; 32]> {
        let serial = self.source.serial(token)?;
        self.ledgers().spend(edge, serial).then(|| self.source.random(edge, serial))
    }

    /// Ends what is leased to edges for which `known` is false.
    pub fn retain(&self, known: impl Fn(&PeerIdentity) -> bool) {
        self.ledgers().by_edge.retain(|edge, _| known(edge));
    }

    /// A panic elsewhere leaves the ledgers as they are, and no operation on them can be half done.
    fn ledgers(&self) -> MutexGuard<'_, Ledgers> {
        self.ledgers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a random stands in what this process leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Serial {
    epoch: u64,
    counter: u64,
}

/// Makes randoms from serials.
struct RandomSource {
    server_id: [u8; SERVER_ID_LENGTH],
    /// Under the key K, which it holds and wipes.
    hmac: Hmac<Sha256>,
}

impl RandomSource {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of every length (RFC 2104 §3)")]
    fn new(rng: &mut dyn CryptoRng) -> Self {
        let mut key = Zeroizing::new([0; 32]);
        let mut server_id = [0; SERVER_ID_LENGTH];
        rng.fill_bytes(key.as_mut());
        rng.fill_bytes(&mut server_id);
        Self { server_id, hmac: Hmac::new_from_slice(key.as_ref()).expect("a key for HMAC") }
    }

    fn lease(&self, edge: &PeerIdentity, serial: Serial) -> Lease {
        let epoch = serial.epoch.to_be_bytes();
        let counter = serial.counter.to_be_bytes();
        let token = [&self.server_id[..], &epoch, &counter].concat();
        Lease { server_random: self.random(edge, serial), token }
    }

    /// The edge's identity is the one part whose length varies, so no two lists of parts give the same bytes.
    fn random(&self, edge: &PeerIdentity, serial: Serial) -> [u8; 32] {
        let mut mac = self.hmac.clone();
        mac.update(LABEL);
        mac.update(&self.server_id);
        mac.update(edge.as_str().as_bytes());
        mac.update(&serial.epoch.to_be_bytes());
        mac.update(&serial.counter.to_be_bytes());
        mac.finalize().into_bytes().into()
    }

    /// What `token` says, if it is one of this process by its look. Anybody can make one that looks so.
    fn serial(&self, token: &[u8]) -> Option<Serial> {
        let token: &[u8; TOKEN_LENGTH] = token.try_into().ok()?;
        let (server_id, rest) = token.split_first_chunk::<SERVER_ID_LENGTH>()?;
        let (epoch, counter) = rest.split_first_chunk()?;
        let serial =
            Serial { epoch: u64::from_be_bytes(*epoch), counter: u64::from_be_bytes(counter.try_into().ok()?) };
        (*server_id == self.server_id).then_some(serial)
    }
}

impl fmt::Debug for RandomSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RandomSource([redacted])")
    }
}

#[derive(Debug, Default)]
struct Ledgers {
    by_edge: HashMap<PeerIdentity, Ledger>,
    opened: u64,
}

impl Ledgers {
    /// Takes the next `count` counters of `edge`; returns the epoch and the first of them.
    fn issue(&mut self, edge: &PeerIdentity, count: u32, window: u32) -> (u64, u64) {
        let ledger = self.by_edge.entry(edge.clone()).or_insert_with(|| {
            self.opened += 1;
            Ledger::open(self.opened, window)
        });
        (ledger.epoch, ledger.issue(count))
    }

    fn spend(&mut self, edge: &PeerIdentity, serial: Serial) -> bool {
        let ledger = self.by_edge.get_mut(edge).filter(|ledger| ledger.epoch == serial.epoch);
        ledger.is_some_and(|ledger| ledger.spend(serial.counter))
    }
}

/// What one edge was leased: counters from 0, of which the last `window` are good until they are spent.
#[derive(Debug)]
struct Ledger {
    epoch: u64,
    next: u64,
    window: u64,
    /// A bit for each counter in the window, at its remainder by the window.
    spent: Vec<u64>,
}

impl Ledger {
    fn open(epoch: u64, window: u32) -> Self {
        let words = window.div_ceil(u64::BITS) as usize;
        Self { epoch, next: 0, window: window.into(), spent: vec![0; words] }
    }

    /// Counters are never used twice: 2^64 are not leased in a process's life.
    fn issue(&mut self, count: u32) -> u64 {
        let first = self.next;
        self.next += u64::from(count);
        for counter in first..self.next {
            // The bit was that of the counter that leaves the window.
            self.with_bit(counter, |word, bit| *word &= !bit);
        }
        first
    }

    /// Whether `counter` was good; it no longer is.
    fn spend(&mut self, counter: u64) -> bool {
        let is_in_window = counter < self.next && self.next - counter <= self.window;
        is_in_window
            && self.with_bit(counter, |word, bit| {
                let was_good = *word & bit == 0;
                *word |= bit;
                was_good
            }) == Some(true)
    }

    fn with_bit<T>(&mut self, counter: u64, action: impl FnOnce(&mut u64, u64) -> T) -> Option<T> {
        let place = counter % self.window;
        let word = self.spent.get_mut((place / u64::from(u64::BITS)) as usize)?;
        Some(action(word, 1 << (place % u64::from(u64::BITS))))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn edge(name: &str) -> PeerIdentity {
        format!("spiffe://keystead.test/edge/{name}").parse().unwrap()
    }

    fn leases(per_call: u32, outstanding: u32) -> Leases {
        Leases::new(LeaseLimits { per_call, outstanding }, &mut rand::rng())
    }

    #[test]
    fn a_lease_is_spent_once() {
        let (leases, edge) = (leases(64, 100), edge("one"));
        let batch = leases.lease(&edge, 10);
        for lease in batch.iter().rev() {
            assert_eq!(leases.spend(&edge, &lease.token), Some(lease.server_random));
            assert_eq!(leases.spend(&edge, &lease.token), None);
        }
    }

    #[test]
    fn every_random_and_every_token_is_another() {
        let leases = leases(64, 1000);
        let both: Vec<_> = [edge("one"), edge("two")].iter().flat_map(|edge| leases.lease(edge, 64)).collect();
        assert_eq!(both.iter().map(|lease| lease.server_random).collect::<HashSet<_>>().len(), 128);
        assert_eq!(both.iter().map(|lease| &lease.token).collect::<HashSet<_>>().len(), 128);
    }

    #[test]
    fn a_lease_is_its_own_edges() {
        let leases = leases(8, 8);
        let (one, two) = (edge("one"), edge("two"));
        let stolen = leases.lease(&one, 1).remove(0);
        assert_eq!(leases.spend(&two, &stolen.token), None, "of an edge without leases");
        let own = leases.lease(&two, 1).remove(0);
        assert_eq!(leases.spend(&two, &stolen.token), None, "of an edge with the same counter");
        // The theft has spent neither.
        assert_eq!(leases.spend(&one, &stolen.token), Some(stolen.server_random));
        assert_eq!(leases.spend(&two, &own.token), Some(own.server_random));
    }

    #[test]
    fn even_a_forged_epoch_gives_no_random_of_another_edge() {
        let leases = leases(8, 8);
        let (one, two) = (edge("one"), edge("two"));
        let others = leases.lease(&one, 1).remove(0);
        let own = leases.lease(&two, 1).remove(0);
        assert_eq!(leases.spend(&two, &own.token), Some(own.server_random));
        for epoch in 0..5_u64 {
            let mut token = others.token.clone();
            token[16..24].copy_from_slice(&epoch.to_be_bytes());
            assert_ne!(leases.spend(&two, &token), Some(others.server_random));
        }
    }

    #[test]
    fn a_random_hangs_on_every_part_of_its_name() {
        let (source, other) = (RandomSource::new(&mut rand::rng()), RandomSource::new(&mut rand::rng()));
        let serial = Serial { epoch: 1, counter: 1 };
        let randoms = [
            source.random(&edge("one"), serial),
            source.random(&edge("two"), serial),
            source.random(&edge("one"), Serial { epoch: 2, ..serial }),
            source.random(&edge("one"), Serial { counter: 2, ..serial }),
            other.random(&edge("one"), serial),
        ];
        assert_eq!(HashSet::from(randoms).len(), randoms.len());
        assert_eq!(source.random(&edge("one"), serial), randoms[0]);
    }

    #[test]
    fn a_lease_of_another_process_is_nothing() {
        let (edge, before, after) = (edge("one"), leases(8, 8), leases(8, 8));
        let lease = before.lease(&edge, 1).remove(0);
        after.lease(&edge, 8);
        assert_eq!(after.spend(&edge, &lease.token), None);
    }

    #[test]
    fn leases_die_with_the_edge_and_stay_dead() {
        let (leases, edge) = (leases(8, 8), edge("one"));
        let lease = leases.lease(&edge, 1).remove(0);
        leases.retain(|_| true);
        leases.retain(|_| false);
        assert_eq!(leases.spend(&edge, &lease.token), None);
        let next = leases.lease(&edge, 1).remove(0);
        assert_eq!(leases.spend(&edge, &lease.token), None);
        assert_ne!(lease.server_random, next.server_random);
        assert_eq!(leases.spend(&edge, &next.token), Some(next.server_random));
    }

    #[test]
    fn an_edge_that_may_have_none_opens_no_ledger() {
        let (leases, edge) = (leases(8, 8), edge("one"));
        assert_eq!(leases.lease_if(&edge, 1, || Err(Refusal::UnknownPeer)).unwrap_err(), Refusal::UnknownPeer);
        assert!(leases.ledgers().by_edge.is_empty());
    }

    #[test]
    fn an_edge_that_leaves_much_unread_gets_no_more_until_it_has_read_some() {
        let (leases, reads_not, other) = (leases(7, 7), edge("one"), edge("two"));
        let mut unread: Vec<_> = (0..MOST_UNREAD).map(|_| leases.lease_if(&reads_not, 7, || Ok(())).unwrap()).collect();
        let refused = |edge| leases.lease_if(edge, 7, || Ok(())).err();
        assert_eq!((refused(&reads_not), refused(&other)), (Some(Refusal::TooMuchUnread), None));
        unread.pop();
        assert_eq!(refused(&reads_not), None);
    }

    #[test]
    fn the_oldest_make_way_and_memory_stays_the_same() {
        for window in [1_u32, 63, 64, 65, 100] {
            let (leases, edge) = (leases(7, window), edge("one"));
            let batches = std::iter::repeat_with(|| leases.lease(&edge, 7)).take(50);
            let all: Vec<_> = batches.flatten().collect();
            let good = all.len() - window as usize;
            for (number, lease) in all.iter().enumerate() {
                assert_eq!(leases.spend(&edge, &lease.token).is_some(), number >= good, "{number} of {window}");
                assert_eq!(leases.spend(&edge, &lease.token), None);
            }
            assert_eq!(leases.ledgers().by_edge[&edge].spent.len(), window.div_ceil(64) as usize);
        }
    }

    #[test]
    fn a_call_gives_no_more_than_it_may() {
        let leases = leases(64, 100);
        for (asked, given) in [(0, 0), (1, 1), (64, 64), (65, 64), (u32::MAX, 64)] {
            assert_eq!(leases.lease(&edge("one"), asked).len(), given);
        }
    }

    #[test]
    fn tokens_that_were_not_leased_are_nothing() {
        let (leases, edge) = (leases(8, 8), edge("one"));
        let lease = leases.lease(&edge, 4).remove(0);
        for place in 0..lease.token.len() {
            let mut token = lease.token.clone();
            // The last bit of the counter would make another leased one.
            token[place] ^= 0x80;
            assert_eq!(leases.spend(&edge, &token), None, "byte {place}");
        }
        for length in 0..lease.token.len() {
            assert_eq!(leases.spend(&edge, &lease.token[..length]), None);
        }
        assert_eq!(leases.spend(&edge, &[&lease.token[..], &[0]].concat()), None);
        assert_eq!(leases.spend(&edge, &lease.token), Some(lease.server_random));
    }
}
