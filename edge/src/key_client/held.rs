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
        let key = |identity: &v1::Identity| {
            let key_id = identity.key_id.as_slice().try_into().ok()?;
            Some((KeyId(key_id), identity.danger_rsa_key_transport))
        };
        Self(message.identities.iter().filter_map(key).collect())
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
    fn who_holds_a_key_is_asked_before_who_may() {
        assert!(Holding::Held < Holding::NotTold && Holding::NotTold < Holding::NotHeld);
    }
}
