//! The identities that key servers let this edge use.

use std::collections::BTreeMap;
use std::sync::Arc;

use keystead_proto::v1;
use keystead_tls::{Identity, IdentityError, KeyId, SignatureScheme};

use crate::certificate;
use crate::proxy_protocol::CertificateWords;

/// An identity with what a backend may be told about it.
#[derive(Debug)]
pub struct KnownIdentity {
    /// For the handshake.
    pub identity: Arc<Identity>,
    /// For the PROXY protocol.
    pub words: CertificateWords,
}

impl KnownIdentity {
    /// Reads from the certificate what the handshake does not need.
    pub fn new(identity: Arc<Identity>) -> Self {
        let words = certificate::words(&identity);
        Self { identity, words }
    }

    /// The key's name between edge and key server.
    pub fn key_id(&self) -> KeyId {
        self.identity.public_key().key_id()
    }
}

/// Identities by the key server's name for their key.
#[derive(Clone, Debug, Default)]
pub struct IdentitySet(BTreeMap<String, Arc<KnownIdentity>>);

impl IdentitySet {
    /// Reads what a key server sent. An identity that cannot be used is logged and left out; one that `before` holds
    /// unchanged is shared with it.
    pub fn read(message: v1::Identities, before: &Self) -> Self {
        let mut set = Self::default();
        set.add(message.identities, before);
        set
    }

    /// Takes a change that a key server sent, to what it sent before. Identities are read as in [`Self::read`].
    pub fn change(&mut self, changes: v1::IdentityChanges, before: &Self) {
        for removed in changes.removed {
            self.0.remove(&removed.name);
        }
        self.add(changes.changed, before);
    }

    fn add(&mut self, entries: Vec<v1::Identity>, before: &Self) {
        for entry in entries {
            if let Some(known) = before.get(&entry.name).filter(|known| is_same(&known.identity, &entry)) {
                self.0.insert(entry.name, known.clone());
                continue;
            }
            let name = entry.name.clone();
            match read_identity(entry) {
                Ok(identity) => {
                    self.0.insert(name, Arc::new(KnownIdentity::new(Arc::new(identity))));
                }
                Err(cause) => {
                    self.0.remove(&name);
                    tracing::warn!(key = name, %cause, "unusable identity from the key server");
                }
            }
        }
    }

    /// The identity of the key that the key server calls `name`.
    pub fn get(&self, name: &str) -> Option<&Arc<KnownIdentity>> {
        self.0.get(name)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those of `self`, and those of `other` whose names `self` does not have.
    pub fn or(mut self, other: &Self) -> Self {
        for (name, identity) in &other.0 {
            self.0.entry(name.clone()).or_insert_with(|| identity.clone());
        }
        self
    }

    /// Those of `self` whose names `other` does not have.
    pub fn without(mut self, other: &Self) -> Self {
        self.0.retain(|name, _| other.get(name).is_none());
        self
    }

    /// Whether both hold the same identities, as [`IdentitySet::read`] shares them.
    pub fn is_same(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self
                .0
                .iter()
                .zip(&other.0)
                .all(|((name, one), (other_name, other))| name == other_name && Arc::ptr_eq(one, other))
    }

    /// What a key server would send to make this set known.
    pub fn to_message(&self) -> v1::Identities {
        v1::Identities { identities: self.0.iter().map(|(name, known)| message(name, known)).collect() }
    }

    /// What a key server would send to make this set of `before`, one at a time.
    pub fn changes_since(&self, before: &Self) -> impl Iterator<Item = IdentityChange> {
        let is_gone = |name: &&String| self.get(name).is_none();
        let gone = before.0.keys().filter(is_gone).map(|name| IdentityChange::Removed(name.clone()));
        let is_other =
            |name: &str, known: &Arc<KnownIdentity>| before.get(name).is_none_or(|before| !Arc::ptr_eq(before, known));
        let others = self.0.iter().filter(move |(name, known)| is_other(name, known));
        gone.chain(others.map(|(name, known)| IdentityChange::Told(message(name, known))))
    }
}

/// One identity that is otherwise than before.
#[derive(Clone, Debug, PartialEq)]
pub enum IdentityChange {
    /// The name of one that is gone.
    Removed(String),
    /// One that there is now.
    Told(v1::Identity),
}

fn message(name: &str, known: &KnownIdentity) -> v1::Identity {
    v1::Identity {
        name: name.to_owned(),
        key_id: known.key_id().0.to_vec(),
        certificate_chain: known.identity.chain().to_vec(),
        signature_schemes: known.identity.schemes().iter().map(|scheme| scheme.0.into()).collect(),
        ocsp_response: known.identity.ocsp_response().unwrap_or_default().to_vec(),
        danger_rsa_key_transport: known.identity.allows_key_transport(),
    }
}

fn read_identity(entry: v1::Identity) -> Result<Identity, UnusableIdentity> {
    let schemes: Vec<_> = schemes(&entry).collect();
    let ocsp_response = (!entry.ocsp_response.is_empty()).then_some(entry.ocsp_response);
    let identity = match schemes.is_empty() && entry.danger_rsa_key_transport {
        true => Identity::for_key_transport_alone(entry.certificate_chain, ocsp_response)?,
        false => Identity::new(entry.certificate_chain, &schemes, ocsp_response)?,
    };
    if identity.public_key().key_id().0 != entry.key_id.as_slice() {
        return Err(UnusableIdentity::OtherKey);
    }
    Ok(identity.with_key_transport(entry.danger_rsa_key_transport))
}

/// The schemes that fit in a code point.
fn schemes(entry: &v1::Identity) -> impl Iterator<Item = SignatureScheme> {
    entry.signature_schemes.iter().filter_map(|scheme| u16::try_from(*scheme).ok()).map(SignatureScheme)
}

fn is_same(identity: &Identity, entry: &v1::Identity) -> bool {
    let fitting = identity.public_key().kind().schemes();
    identity.chain() == entry.certificate_chain
        && identity.ocsp_response().unwrap_or_default() == entry.ocsp_response
        && schemes(entry).filter(|scheme| fitting.contains(scheme)).eq(identity.schemes().iter().copied())
        && identity.public_key().key_id().0 == entry.key_id.as_slice()
        && identity.allows_key_transport() == entry.danger_rsa_key_transport
}

/// Why an identity from a key server cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum UnusableIdentity {
    /// The chain, its key or its schemes.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The key id belongs to another key.
    #[error("the certificate is for another key than the key id says")]
    OtherKey,
}

#[cfg(test)]
pub(crate) mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
    use super::*;
    use keystead_tls::identity::LONGEST_CHAIN;

    /// An identity as a key server would send it, with a fresh P-256 key.
    pub(crate) fn entry(name: &str, server_name: &str) -> v1::Identity {
        let certified = rcgen::generate_simple_self_signed([server_name.to_owned()]).unwrap();
        let chain = vec![certified.cert.der().to_vec()];
        let identity = Identity::new(chain.clone(), SignatureScheme::KNOWN, None).unwrap();
        v1::Identity {
            name: name.to_owned(),
            key_id: identity.public_key().key_id().0.to_vec(),
            certificate_chain: chain,
            signature_schemes: vec![SignatureScheme::ECDSA_SECP256R1_SHA256.0.into()],
            ocsp_response: Vec::new(),
            danger_rsa_key_transport: false,
        }
    }

    fn read(entries: &[&v1::Identity], before: &IdentitySet) -> IdentitySet {
        let identities = entries.iter().map(|entry| (*entry).clone()).collect();
        IdentitySet::read(v1::Identities { identities }, before)
    }

    #[test]
    fn what_cannot_be_used_is_left_out_and_the_rest_kept() {
        let good = entry("good", "a.example");
        let other_key = v1::Identity { key_id: vec![0; 32], ..entry("other", "a.example") };
        let no_chain = v1::Identity { certificate_chain: Vec::new(), ..entry("empty", "a.example") };
        let no_scheme = v1::Identity { signature_schemes: vec![0x0401, 0xf_ffff], ..entry("rsa", "a.example") };
        let set = read(&[&other_key, &good, &no_chain, &no_scheme], &IdentitySet::default());
        assert_eq!(set.len(), 1);
        assert_eq!(set.get("good").unwrap().key_id().0, good.key_id.as_slice());
    }

    #[test]
    fn a_chain_with_its_status_has_a_longest_length() {
        let chain = entry("a", "a.example").certificate_chain;
        let of_length = |length: usize, status: usize| {
            let rest = vec![0; length - chain[0].len() - 2 * 3 - status];
            let status = (status > 0).then(|| vec![0; status - 3]);
            Identity::new(vec![chain[0].clone(), rest], SignatureScheme::KNOWN, status).map(|_| ())
        };
        for status in [0, 1000] {
            assert_eq!(of_length(LONGEST_CHAIN, status), Ok(()));
            assert_eq!(of_length(LONGEST_CHAIN + 1, status), Err(IdentityError::ChainTooLong));
        }
    }

    #[test]
    fn what_did_not_change_is_shared() {
        let (a, b) = (entry("a", "a.example"), entry("b", "b.example"));
        let before = read(&[&a, &b], &IdentitySet::default());
        assert!(read(&[&b, &a], &before).is_same(&before));
        assert!(read(&[&before.to_message().identities[0], &b], &before).is_same(&before));

        let renewed = v1::Identity { ocsp_response: vec![1], ..a.clone() };
        let after = read(&[&renewed, &b], &before);
        assert!(!after.is_same(&before));
        assert!(Arc::ptr_eq(after.get("b").unwrap(), before.get("b").unwrap()));
        assert!(!read(&[&a], &before).is_same(&before));

        let dangerous = v1::Identity { danger_rsa_key_transport: true, ..a.clone() };
        let after = read(&[&dangerous, &b], &before);
        assert!(after.get("a").unwrap().identity.allows_key_transport());
        assert!(read(&[&after.to_message().identities[0], &b], &after).is_same(&after));
    }

    #[test]
    fn a_key_for_key_transport_alone_has_no_schemes() {
        let alone =
            v1::Identity { danger_rsa_key_transport: true, signature_schemes: Vec::new(), ..entry("a", "a.example") };
        let set = read(&[&alone], &IdentitySet::default());
        let identity = &set.get("a").unwrap().identity;
        assert!(identity.schemes().is_empty() && identity.allows_key_transport());
        assert!(read(&[&set.to_message().identities[0]], &set).is_same(&set));
        let of_no_use = v1::Identity { danger_rsa_key_transport: false, ..alone };
        assert!(read(&[&of_no_use], &IdentitySet::default()).is_empty());
    }

    #[test]
    fn the_first_of_two_sets_prevails() {
        let (one, other) = (entry("a", "a.example"), entry("a", "a.example"));
        let one = read(&[&one], &IdentitySet::default());
        let both = one.clone().or(&read(&[&other, &entry("b", "b.example")], &IdentitySet::default()));
        assert_eq!(both.len(), 2);
        assert!(Arc::ptr_eq(both.get("a").unwrap(), one.get("a").unwrap()));
    }
}
