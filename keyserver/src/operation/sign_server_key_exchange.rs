//! Signs a TLS 1.2 ServerKeyExchange (RFC 8422 §5.4).
//!
//! What is signed is `client_random ‖ server_random ‖ ServerECDHParams`. The key server draws `server_random` itself, in
//! the same step, so that the bytes 32 to 63 of what it signs are none that the edge chose: the signature fits no other
//! protocol, cannot be prepared in advance and cannot be used again.

use keystead_tls::crypto::Provider;
use keystead_tls::message::server_key_exchange::{ServerEcdhParams, signed_content};
use keystead_tls::{KeyKind, NamedGroup, SignatureScheme};
use rand_core::CryptoRng;

use super::Failed;
use crate::key::Key;
use crate::refusal::Refusal;

/// What an edge asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignServerKeyExchange {
    /// ClientHello.random.
    pub client_random: [u8; 32],
    /// How to sign.
    pub scheme: SignatureScheme,
    /// The group of the edge's ephemeral key.
    pub group: NamedGroup,
    /// Its public value, as the edge gave it.
    pub public: Vec<u8>,
    /// The name that the client asked for, empty for none. It is the edge's word and nothing of it is signed: it is for
    /// the edge's policy and for the record.
    pub server_name: String,
}

/// What it gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The ServerHello.random to send.
    pub server_random: [u8; 32],
    /// The signature of ServerKeyExchange.
    pub signature: Vec<u8>,
}

impl SignServerKeyExchange {
    /// Signs with `key`. ServerHello.random is all random (32 bytes of `rng`), with no clock in it.
    ///
    /// # Errors
    /// [`Failed`] when the key does not sign with the scheme, the group is not known, the public value is no point of
    /// it, or the key fails.
    pub fn run(&self, key: &Key, provider: &dyn Provider, rng: &mut dyn CryptoRng) -> Result<Signed, Failed> {
        if !key.identity().schemes().contains(&self.scheme) {
            return Err(Refusal::SchemeNotAllowed.into());
        }
        if !NamedGroup::KNOWN.contains(&self.group) {
            return Err(Refusal::UnknownGroup.into());
        }
        provider.check_public(self.group, &self.public).map_err(|_| Refusal::InvalidPoint)?;

        let mut server_random = [0; 32];
        rng.fill_bytes(&mut server_random);
        let params = ServerEcdhParams { group: self.group, public: &self.public };
        let content = signed_content(&self.client_random, &server_random, &params);
        let failed = |reason| Failed { reason, tried_for: Some(server_random) };
        let signature = key.sign(self.scheme, &content, rng);
        let signature = signature.map_err(|fault| failed(fault.refusal(Refusal::SigningFailed)))?;
        self.check_fault(key, provider, &content, &signature).map_err(failed)?;
        Ok(Signed { server_random, signature })
    }

    /// A fault in the half-sized exponentiations of RSA makes a signature that gives the key away, so each is verified
    /// before it leaves, at 3 % of its cost. Elliptic-curve signatures have no such halves, their verification costs
    /// three times what they do, and the edge verifies each.
    fn check_fault(&self, key: &Key, provider: &dyn Provider, content: &[u8], signature: &[u8]) -> Result<(), Refusal> {
        let public_key = key.identity().public_key();
        match public_key.kind() {
            KeyKind::Rsa { .. } => {
                provider.verify(self.scheme, public_key, content, signature).map_err(|_| Refusal::FaultySignature)
            }
            KeyKind::EcdsaP256 | KeyKind::EcdsaP384 | KeyKind::Ed25519 => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
