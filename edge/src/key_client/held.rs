//! Which keys a key server holds, as it has told.

use std::collections::HashMap;

use keystead_proto::v1;
use keystead_tls::KeyId;

/// What a key is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Signatures.
    Signing(KeyId),
    /// The master secrets of RSA key transport.
    KeyTransport(KeyId),
}

/// Whether a key server has what is needed. The least is the best one to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Holding {
    /// It has told so.
    Held,
    /// It is connected, and its first word on its keys is on the way.
    NotTold,
    /// It has told of other keys, or other uses, alone.
    NotHeld,
}

/// The keys of a key server, each with whether it is for RSA key transport.
#[derive(Debug)]
pub(super) struct HeldKeys(HashMap<KeyId, bool>);

impl HeldKeys {
    /// What a key server tells. An entry whose key id is none is for nobody to ask for.
    pub(super) fn read(message: &v1::Identities) -> Self {
        Self(keys(&message.identities).collect())
    }

    /// The same keys, but for what a key server tells to be otherwise.
    pub(super) fn changed(&self, changes: &v1::IdentityChanges) -> Self {
        let mut held = self.0.clone();
        let removed = changes.removed.iter().filter_map(|removed| removed.key_id.as_slice().try_into().ok());
        removed.for_each(|key_id| {
            held.remove(&KeyId(key_id));
        });
        held.extend(keys(&changes.changed));
        Self(held)
    }

    /// Whether there is what `need` says.
    pub(super) fn holding(&self, need: Need) -> Holding {
        let held = match need {
            Need::Signing(key_id) => self.0.contains_key(&key_id),
            Need::KeyTransport(key_id) => self.0.get(&key_id).is_some_and(|for_key_transport| *for_key_transport),
        };
        if held { Holding::Held } else { Holding::NotHeld }
    }
}

fn keys(identities: &[v1::Identity]) -> impl Iterator<Item = (KeyId, bool)> {
    identities.iter().filter_map(|identity| {
        let key_id = identity.key_id.as_slice().try_into().ok()?;
        Some((KeyId(key_id), identity.danger_rsa_key_transport))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_held_for_the_uses_that_were_told() {
        let identity = |key: u8, length, danger_rsa_key_transport| v1::Identity {
            key_id: vec![key; length],
            danger_rsa_key_transport,
            ..v1::Identity::default()
        };
        let identities = vec![identity(1, 32, false), identity(2, 32, true), identity(3, 31, true)];
        let held = HeldKeys::read(&v1::Identities { identities });
        for (key, signing, key_transport) in [
            (1, Holding::Held, Holding::NotHeld),
            (2, Holding::Held, Holding::Held),
            (3, Holding::NotHeld, Holding::NotHeld),
        ] {
            let key_id = KeyId([key; 32]);
            assert_eq!(held.holding(Need::Signing(key_id)), signing, "{key}");
            assert_eq!(held.holding(Need::KeyTransport(key_id)), key_transport, "{key}");
        }
    }

    #[test]
    fn a_change_takes_keys_away_and_then_brings_others() {
        let identity = |key: u8, danger_rsa_key_transport| v1::Identity {
            key_id: vec![key; 32],
            danger_rsa_key_transport,
            ..v1::Identity::default()
        };
        let identities = vec![identity(1, false), identity(2, true), identity(3, false)];
        let held = HeldKeys::read(&v1::Identities { identities });
        let removed = [1, 3].map(|key| v1::RemovedIdentity { name: String::new(), key_id: vec![key; 32] }).to_vec();
        let held = held.changed(&v1::IdentityChanges { removed, changed: vec![identity(3, true), identity(4, false)] });
        for (key, expected) in [(1, Holding::NotHeld), (2, Holding::Held), (3, Holding::Held), (4, Holding::Held)] {
            assert_eq!(held.holding(Need::Signing(KeyId([key; 32]))), expected, "{key}");
        }
        assert_eq!(held.holding(Need::KeyTransport(KeyId([3; 32]))), Holding::Held);
    }

    #[test]
    fn who_holds_a_key_is_asked_before_who_may() {
        assert!(Holding::Held < Holding::NotTold && Holding::NotTold < Holding::NotHeld);
    }
}
