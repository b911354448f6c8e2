//! Which keys each peer may use, and with whom it shares tickets.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use keystead_program::channel::PeerIdentity;
use keystead_tls::KeyId;

use crate::key::Key;
use crate::policy::{Budget, Grant, NotAfter};
use crate::rate::Cost;
use crate::refusal::Refusal;
use crate::ticket_keys::group::TicketGroup;
use crate::ticket_keys::ratchet::UnixTime;

/// What every peer may have. A peer is who its certificate says, and nothing else.
#[derive(Debug, Default)]
pub struct Authorizations(HashMap<PeerIdentity, Arc<Rights>>);

/// What one peer may have.
#[derive(Clone, Debug)]
pub struct Rights {
    grants: Grants,
    /// Keys that it had under names that are other keys' since.
    superseded: HashMap<KeyId, Superseded>,
    /// The group whose ticket keys it is told.
    pub ticket_group: TicketGroup,
    budget: Budget,
    not_after: NotAfter,
}

/// How long edges may go on asking for a key that another has replaced under its name. They hear of it at once; this is for
/// handshakes that have begun, and for a key server that has much to tell.
pub(crate) const SUPERSEDED_FOR: Duration = Duration::from_secs(60);

/// A key that another has replaced under its name. Whoever loaded the other keeps it for as long as it is good.
#[derive(Clone, Debug)]
struct Superseded {
    key: Weak<Key>,
    /// From when on it is good for nothing, whoever keeps it.
    until: Instant,
}

impl Authorizations {
    /// What `peer` may have at that time.
    ///
    /// # Errors
    /// [`Refusal::UnknownPeer`] for one that is not known, [`Refusal::RightsExpired`] for one whose time is over.
    pub fn of(&self, peer: &PeerIdentity, now: UnixTime) -> Result<&Arc<Rights>, Refusal> {
        let rights = self.0.get(peer).ok_or(Refusal::UnknownPeer)?;
        if rights.is_over(now) { Err(Refusal::RightsExpired) } else { Ok(rights) }
    }

    /// The peers that are known.
    pub fn peers(&self) -> impl Iterator<Item = (&PeerIdentity, &Rights)> {
        self.0.iter().map(|(peer, rights)| (peer, rights.as_ref()))
    }

    /// How many groups of edges share tickets.
    pub fn ticket_groups(&self) -> usize {
        let names: HashSet<_> = self.0.values().map(|rights| rights.ticket_group.name()).collect();
        names.len()
    }

    /// The same, in which rates that are those of `before` go on from what was left: to load a configuration again
    /// must not fill them up. Keys that peers had in `before` and whose names other keys have are found for
    /// a minute longer, by those peers, and told to nobody.
    pub fn continuing(self, before: &Self) -> Self {
        let at = Instant::now();
        let continued = |(peer, rights): (PeerIdentity, Arc<Rights>)| {
            let rights = match before.0.get(&peer) {
                Some(before) => Arc::new(Arc::unwrap_or_clone(rights).continuing(before, at)),
                None => rights,
            };
            (peer, rights)
        };
        Self(self.0.into_iter().map(continued).collect())
    }

    /// Every end of rights that was told: whose, and for which key, where it is not all of them.
    pub fn ends(&self) -> impl Iterator<Item = (UnixTime, &PeerIdentity, Option<&Key>)> {
        self.peers().flat_map(|(peer, rights)| {
            let of_all = rights.not_after.time().map(|time| (time, peer, None));
            let of_keys =
                rights.grants.in_order.iter().filter_map(move |grant| {
                    grant.not_after.time().map(|time| (time, peer, Some(grant.key().as_ref())))
                });
            of_all.into_iter().chain(of_keys)
        })
    }
}

impl FromIterator<(PeerIdentity, Rights)> for Authorizations {
    fn from_iter<I: IntoIterator<Item = (PeerIdentity, Rights)>>(peers: I) -> Self {
        Self(peers.into_iter().map(|(peer, rights)| (peer, Arc::new(rights))).collect())
    }
}

impl Rights {
    /// `grants`, without bounds on them together.
    pub fn new(grants: impl IntoIterator<Item = Grant>, ticket_group: TicketGroup) -> Self {
        let grants = grants.into_iter().collect();
        Self {
            grants,
            ticket_group,
            superseded: HashMap::new(),
            budget: Budget::default(),
            not_after: NotAfter::default(),
        }
    }

    /// The same, within these bounds on all of them together.
    pub fn within(self, budget: Budget, not_after: NotAfter) -> Self {
        Self { budget, not_after, ..self }
    }

    /// The grant of a key at that moment.
    ///
    /// # Errors
    /// [`Refusal::KeyNotAllowed`] where there is no such key or it is not this peer's, which the peer must not be able
    /// to tell apart.
    pub fn grant(&self, key_id: &KeyId, at: Instant) -> Result<Arc<Grant>, Refusal> {
        if let Some(grant) = self.grants.by_id.get(key_id) {
            return Ok(grant.clone());
        }
        let superseded = self.superseded.get(key_id).filter(|superseded| at < superseded.until);
        let key = superseded.and_then(|superseded| superseded.key.upgrade()).ok_or(Refusal::KeyNotAllowed)?;
        let grant = self.grants.by_name.get(key.name()).ok_or(Refusal::KeyNotAllowed)?;
        Ok(Arc::new(grant.for_key(key)))
    }

    /// What is not over at that time, in the order of the configuration.
    pub fn grants(&self, now: UnixTime) -> impl Iterator<Item = &Grant> {
        self.grants.in_order.iter().map(AsRef::as_ref).filter(move |grant| !grant.is_over(now))
    }

    /// That randoms are of any use to it.
    ///
    /// # Errors
    /// [`Refusal`] when not: why it may not recover with the one of its keys that comes closest.
    pub fn may_lease(&self, now: UnixTime) -> Result<(), Refusal> {
        let mut refused = Refusal::KeyTransportNotAllowed;
        for grant in &self.grants.in_order {
            match grant.may_recover(now) {
                Ok(()) => return Ok(()),
                Err(Refusal::KeyTransportNotAllowed) => {}
                Err(reason) => refused = reason,
            }
        }
        Err(refused)
    }

    /// Pays `cost` from what the peer may have done: with its key where it names one.
    ///
    /// # Errors
    /// [`Refusal::RateLimited`] when there is not as much left, and then nothing is taken.
    pub fn pay(&self, grant: Option<&Grant>, cost: Cost, at: Instant) -> Result<(), Refusal> {
        if !self.budget.take(cost, at) {
            return Err(Refusal::RateLimited);
        }
        if grant.is_none_or(|grant| grant.budget.take(cost, at)) {
            return Ok(());
        }
        self.budget.give_back(cost);
        Err(Refusal::RateLimited)
    }

    /// Pays for a batch of leases: from what it may have done with one of the keys that they can be used with.
    ///
    /// # Errors
    /// [`Refusal::RateLimited`] when none of them has anything left.
    pub fn pay_for_leases(&self, now: UnixTime, at: Instant) -> Result<(), Refusal> {
        let mut keys = self.grants(now).filter(|grant| grant.may_recover(now).is_ok());
        let paid = keys.any(|grant| self.pay(Some(grant), Cost::LEAST, at).is_ok());
        if paid { Ok(()) } else { Err(Refusal::RateLimited) }
    }

    /// Whether all of it is over at that time.
    pub fn is_over(&self, now: UnixTime) -> bool {
        self.not_after.is_over(now)
    }

    fn continuing(self, before: &Self, at: Instant) -> Self {
        let superseded = self.superseding(before, at);
        let continued = |grant: Arc<Grant>| {
            let mut grant = Arc::unwrap_or_clone(grant);
            if let Some(before) = before.grants.by_name.get(grant.key().name()) {
                grant.budget = grant.budget.continuing(&before.budget);
            }
            grant
        };
        let grants = self.grants.in_order.into_iter().map(continued).collect();
        Self { grants, superseded, budget: self.budget.continuing(&before.budget), ..self }
    }

    /// Keys of `before` whose names it still has, and for other keys: those that are replaced by it, and those that were
    /// replaced not long ago.
    fn superseding(&self, before: &Self, at: Instant) -> HashMap<KeyId, Superseded> {
        let is_replaced =
            |key: &Key| self.grants.by_name.get(key.name()).is_some_and(|grant| grant.key().key_id() != key.key_id());
        let good = before.superseded.iter().filter(|(_, superseded)| at < superseded.until);
        let good = good.filter(|(_, superseded)| superseded.key.upgrade().is_some_and(|key| is_replaced(&key)));
        let replaced = before.grants.in_order.iter().map(|grant| grant.key()).filter(|key| is_replaced(key));
        let until = at + SUPERSEDED_FOR;
        let replaced = replaced.map(|key| (key.key_id(), Superseded { key: Arc::downgrade(key), until }));
        good.map(|(key_id, superseded)| (*key_id, superseded.clone())).chain(replaced).collect()
    }
}

/// The keys that one peer may use, and for what.
#[derive(Clone, Debug, Default)]
struct Grants {
    in_order: Vec<Arc<Grant>>,
    by_id: HashMap<KeyId, Arc<Grant>>,
    by_name: HashMap<Arc<str>, Arc<Grant>>,
}

impl FromIterator<Grant> for Grants {
    fn from_iter<I: IntoIterator<Item = Grant>>(grants: I) -> Self {
        let in_order: Vec<_> = grants.into_iter().map(Arc::new).collect();
        let by_id = in_order.iter().map(|grant| (grant.key().key_id(), grant.clone())).collect();
        let by_name = in_order.iter().map(|grant| (grant.key().name().clone(), grant.clone())).collect();
        Self { in_order, by_id, by_name }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use keystead_program::crypto::Crypto;

    use super::*;
    use crate::fixture::{EDGE_ONE, EDGE_TWO, Files, Kind};
    use crate::ticket_keys::group::GroupName;

    /// Another key of the name on each call.
    fn key(files: &Files, name: &str) -> Arc<Key> {
        files.add_key(name, Kind::P256);
        Arc::new(files.load_key(name, Crypto::Fast, None).unwrap())
    }

    fn table(entries: &[(&str, &[&Arc<Key>])]) -> Authorizations {
        let rights = |keys: &[&Arc<Key>]| {
            let grants = keys.iter().map(|key| Grant::whole(Arc::clone(key)));
            Rights::new(grants, TicketGroup::new(GroupName::default(), []))
        };
        entries.iter().map(|(peer, keys)| (peer.parse().unwrap(), rights(keys))).collect()
    }

    fn may_use(table: &Authorizations, peer: &str, key: &Key, at: Instant) -> bool {
        let rights = table.of(&peer.parse().unwrap(), UnixTime::now()).unwrap();
        rights.grant(&key.key_id(), at).is_ok()
    }

    #[test]
    fn a_key_that_was_replaced_is_good_for_a_while_whoever_keeps_it() {
        let files = Files::new();
        let (old, other) = (key(&files, "ec"), key(&files, "ec"));
        let table = table(&[(EDGE_ONE, &[&other])]).continuing(&table(&[(EDGE_ONE, &[&old])]));
        let at = Instant::now();
        assert!(may_use(&table, EDGE_ONE, &old, at));
        assert!(!may_use(&table, EDGE_ONE, &old, at + SUPERSEDED_FOR), "{}", Arc::strong_count(&old));
        assert!(may_use(&table, EDGE_ONE, &other, at + SUPERSEDED_FOR));
    }

    #[test]
    fn a_key_that_was_replaced_is_kept_by_no_table() {
        let files = Files::new();
        let (old, other) = (key(&files, "ec"), key(&files, "ec"));
        let table = table(&[(EDGE_ONE, &[&other])]).continuing(&table(&[(EDGE_ONE, &[&old])]));
        assert!(Arc::into_inner(old).is_some());
        drop(table);
    }

    #[test]
    fn a_key_that_was_replaced_is_nobodys_who_did_not_have_it() {
        let files = Files::new();
        let (old, other) = (key(&files, "ec"), key(&files, "ec"));
        let further = key(&files, "further");
        let before = table(&[(EDGE_ONE, &[&old]), (EDGE_TWO, &[&further])]);
        let after = table(&[(EDGE_ONE, &[&other]), (EDGE_TWO, &[&further, &other])]).continuing(&before);
        let at = Instant::now();
        assert!(may_use(&after, EDGE_ONE, &old, at));
        assert!(!may_use(&after, EDGE_TWO, &old, at));
    }

    #[test]
    fn keys_that_were_replaced_outlast_further_changes_for_as_long_as_their_name_is_had() {
        let files = Files::new();
        let keys = [key(&files, "ec"), key(&files, "ec"), key(&files, "ec")];
        let further = key(&files, "further");
        let [first, second, third] = &keys;
        let began = Instant::now();
        let before = table(&[(EDGE_ONE, &[second])]).continuing(&table(&[(EDGE_ONE, &[first])]));
        let after = table(&[(EDGE_ONE, &[third])]).continuing(&before);
        for key in &keys {
            assert!(may_use(&after, EDGE_ONE, key, Instant::now()));
        }
        // Time goes on from where it was.
        let rights = after.of(&EDGE_ONE.parse().unwrap(), UnixTime::now()).unwrap();
        let until = |key: &Key| rights.superseded.get(&key.key_id()).unwrap().until;
        assert!(began + SUPERSEDED_FOR <= until(first) && until(first) < until(second));

        let without = table(&[(EDGE_ONE, &[&further])]).continuing(&after);
        let again = table(&[(EDGE_ONE, &[&further, third])]).continuing(&without);
        assert!(!may_use(&again, EDGE_ONE, first, Instant::now()));
        let back = table(&[(EDGE_ONE, &[first])]).continuing(&after);
        assert!(may_use(&back, EDGE_ONE, first, Instant::now() + SUPERSEDED_FOR), "it is the name's once more");
    }
}
