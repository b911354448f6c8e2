//! Recovers the master secret of a handshake by RSA key transport (RFC 5246 §7.4.7.1), and is no oracle for anything else.
//!
//! The edge gives the handshake as it stood on the wire, up to the client's Finished, which it cannot read. The master
//! secret is released only if that Finished verifies, so whoever asks with a ciphertext of its own making learns nothing:
//! it would have to know the pre-master secret already. It is released only for the ServerHello.random that was leased to
//! that very edge and not used before, so a handshake on record is never opened afterwards.
//!
//! What is public decides about the first part of the work: the lease, whether the messages are a handshake, and whether the
//! edge may use the key for the name in ClientHello. From the private operation on, every request takes the same steps, and
//! there is one way to say no.

mod handshake;

use keystead_program::channel::PeerIdentity;
use keystead_tls::crypto::hash::{Digest, Hash};
use keystead_tls::crypto::{Provider, prf};
use keystead_tls::message::finished;
use keystead_tls::record::protect::ProtectionPair;
use keystead_tls::secret::{MasterSecret, SharedSecret};
use keystead_tls::{ContentType, ProtocolVersion};
use rand_core::CryptoRng;
use rsa::pkcs1::RsaPublicKeyRef;
use subtle::{Choice, ConstantTimeEq};
use zeroize::Zeroizing;

use super::Failed;
use super::pkcs1_unpad::{PRE_MASTER_SECRET_LENGTH, pre_master_secret};
use crate::key::Key;
use crate::lease::Leases;
use crate::policy::Grant;
use crate::refusal::Refusal;
use handshake::{FINISHED_LENGTH, FRAGMENT_LENGTH, Handshake};

pub(crate) use handshake::Claimed;

/// What an edge asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoverMasterSecret {
    /// The token of the lease.
    pub lease: Vec<u8>,
    /// The handshake messages from ClientHello to the last one before ChangeCipherSpec, headers included.
    pub handshake_messages: Vec<u8>,
    /// The record of the client's Finished, header included.
    pub finished_record: Vec<u8>,
}

/// A request that is about a handshake of this key, on a lease that is spent with it.
struct Accepted<'m> {
    handshake: Handshake<'m>,
    sealed_finished: [u8; FRAGMENT_LENGTH],
}

impl RecoverMasterSecret {
    /// Recovers it with the key of `grant`, for the peer `edge`. The lease is spent whatever comes of it.
    ///
    /// # Errors
    /// [`Refusal::KeyTransportRefused`] for every cause but [`Refusal::KeyTransportServerName`], which is the grant's, and
    /// [`Refusal::RecoveryFailed`], which is the key's: the peer is told the same of all three. Those of the token that the
    /// key is in come whatever the ciphertext.
    pub fn run(
        &self,
        grant: &Grant,
        edge: &PeerIdentity,
        leases: &Leases,
        provider: &dyn Provider,
        rng: &mut dyn CryptoRng,
    ) -> Result<MasterSecret, Failed> {
        let key = grant.key();
        let accepted = self.accept(key, edge, leases).ok_or(Refusal::KeyTransportRefused)?;
        if !grant.serves(accepted.handshake.server_name.as_deref()) {
            return Err(Refusal::KeyTransportServerName.into());
        }
        let failed = |reason| Failed { reason, tried_for: Some(accepted.handshake.server_random) };
        let pre_master_secret = accepted.handshake.pre_master_secret(key, rng).map_err(failed)?;
        let master_secret = accepted.handshake.master_secret(&pre_master_secret);
        match bool::from(accepted.finished_verifies(&master_secret, provider)) {
            true => Ok(master_secret),
            false => Err(failed(Refusal::KeyTransportRefused)),
        }
    }

    fn accept(&self, key: &Key, edge: &PeerIdentity, leases: &Leases) -> Option<Accepted<'_>> {
        let leased_random = leases.spend(edge, &self.lease)?;
        let handshake = Handshake::read(&self.handshake_messages)?;
        let sealed_finished = handshake::sealed_finished(&self.finished_record)?;
        let fits = handshake.server_random == leased_random && handshake.key_id == key.key_id();
        fits.then_some(Accepted { handshake, sealed_finished })
    }
}

impl Handshake<'_> {
    /// The client's, or a random one that nobody knows.
    fn pre_master_secret(&self, key: &Key, rng: &mut dyn CryptoRng) -> Result<SharedSecret, Refusal> {
        let modulus = RsaPublicKeyRef::try_from(key.identity().public_key().subject_public_key());
        let modulus = modulus.map_err(|_| Refusal::RecoveryFailed)?.modulus.as_bytes();
        let mut random = Zeroizing::new([0; PRE_MASTER_SECRET_LENGTH]);
        rng.fill_bytes(random.as_mut());

        // A ciphertext that RSA is not defined for costs what every other costs. Its look is no secret.
        let is_ciphertext = is_in_range(self.encrypted_pre_master_secret, modulus);
        let replacement = [&[0], &[0x5a; 1024][..]].concat();
        let replacement = replacement.get(..modulus.len()).ok_or(Refusal::RecoveryFailed)?;
        let ciphertext = if is_ciphertext { self.encrypted_pre_master_secret } else { replacement };

        let block = key.raw_rsa(ciphertext, rng).map_err(|fault| fault.refusal(Refusal::RecoveryFailed))?;
        Ok(pre_master_secret(&block, self.client_version, u8::from(is_ciphertext).into(), random))
    }

    /// RFC 7627 §4 where it was agreed on, else RFC 5246 §8.1.
    fn master_secret(&self, pre_master_secret: &SharedSecret) -> MasterSecret {
        let hash = self.suite.hash;
        match self.extended_master_secret {
            true => prf::extended_master_secret(hash, pre_master_secret, digest(hash, self.session).as_ref()),
            false => prf::master_secret(hash, pre_master_secret, &self.client_random, &self.server_random),
        }
    }
}

impl Accepted<'_> {
    /// Whether the client's Finished opens and is right. Without the pre-master secret nobody makes one that opens.
    fn finished_verifies(&self, master_secret: &MasterSecret, provider: &dyn Provider) -> Choice {
        let Handshake { suite, client_random, server_random, all, .. } = &self.handshake;
        let transcript = digest(suite.hash, all);
        let mut expected = Vec::with_capacity(FINISHED_LENGTH);
        let verify_data = prf::verify_data(suite.hash, master_secret, prf::FinishedLabel::Client, transcript.as_ref());
        finished::write(&verify_data, &mut expected);

        let mut protection = ProtectionPair::derive(provider, suite, master_secret, client_random, server_random);
        let mut fragment = self.sealed_finished;
        let opened = protection.client.open(ContentType::HANDSHAKE, ProtocolVersion::TLS_1_2, &mut fragment);
        Choice::from(u8::from(opened.is_ok())) & handshake::finished_in(&fragment).ct_eq(&expected)
    }
}

fn digest(hash: Hash, messages: &[u8]) -> Digest {
    let mut running = hash.start();
    running.update(messages);
    running.current()
}

/// Whether `ciphertext` is as long as `modulus`, which is odd and has no leading zero, and between 2 and the modulus - 2:
/// 0, 1 and the modulus - 1 are their own powers.
fn is_in_range(ciphertext: &[u8], modulus: &[u8]) -> bool {
    let (Some((low, high)), Some((modulus_low, modulus_high))) = (ciphertext.split_last(), modulus.split_last()) else {
        return false;
    };
    let is_above_one = *low > 1 || high.iter().any(|byte| *byte != 0);
    // Numbers of one length compare as their bytes do. The modulus - 1 differs from the modulus in the last bit.
    let is_below = (high, *low) < (modulus_high, *modulus_low & !1);
    ciphertext.len() == modulus.len() && is_above_one && is_below
}

#[cfg(test)]
mod tests;
