//! Which keys each peer may use, and with whom it shares tickets.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};

use keystead_program::channel::PeerIdentity;
use keystead_tls::KeyId;

use crate::key::Key;
use crate::ticket_keys::group::TicketGroup;

/// What every peer may have. A peer is who its certificate says, and nothing else.
#[derive(Debug, Default)]
pub struct Authorizations(HashMap<PeerIdentity, Arc<Rights>>);

/// What one peer may have.
#[derive(Debug)]
pub struct Rights {
    /// The keys it may use.
    pub keys: AllowedKeys,
    /// The group whose ticket keys it is told.
    pub ticket_group: TicketGroup,
}

impl Authorizations {
    /// What `peer` may have; `None` for one that is not known.
    pub fn of(&self, peer: &PeerIdentity) -> Option<&Arc<Rights>> {
        self.0.get(peer)
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
}

impl FromIterator<(PeerIdentity, Rights)> for Authorizations {
    fn from_iter<I: IntoIterator<Item = (PeerIdentity, Rights)>>(peers: I) -> Self {
        Self(peers.into_iter().map(|(peer, rights)| (peer, Arc::new(rights))).collect())
    }
}

/// The keys that one peer may use.
#[derive(Debug, Default)]
pub struct AllowedKeys {
    in_order: Vec<Arc<Key>>,
    by_id: HashMap<KeyId, Arc<Key>>,
    /// Keys whose names others have now, for as long as somebody keeps them.
    superseded: HashMap<KeyId, Weak<Key>>,
}

impl AllowedKeys {
    /// The key of that id; `None` where there is none or it is not this peer's, which the peer must not be able to tell
    /// apart.
    pub fn find(&self, key_id: &KeyId) -> Option<Arc<Key>> {
        self.by_id.get(key_id).cloned().or_else(|| self.superseded.get(key_id)?.upgrade())
    }

    /// The same keys, and those of `superseded` whose names they have: they are found, for peers that have not heard of the
    /// change, and told to nobody.
    pub fn with_superseded(mut self, superseded: &[Arc<Key>]) -> Self {
        if !superseded.is_empty() {
            let names: HashSet<_> = self.in_order.iter().map(|key| key.name()).collect();
            let had_name = superseded.iter().filter(|key| names.contains(key.name()));
            self.superseded = had_name.map(|key| (key.key_id(), Arc::downgrade(key))).collect();
        }
        self
    }

    /// Every key, in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        self.in_order.iter().map(AsRef::as_ref)
    }
}

impl FromIterator<Arc<Key>> for AllowedKeys {
    fn from_iter<I: IntoIterator<Item = Arc<Key>>>(keys: I) -> Self {
        let in_order: Vec<_> = keys.into_iter().collect();
        let by_id = in_order.iter().map(|key| (key.key_id(), key.clone())).collect();
        Self { in_order, by_id, superseded: HashMap::new() }
    }
}
