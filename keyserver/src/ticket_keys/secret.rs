//! The secret of one generation, and what is derived from it.

use std::fmt;

use hkdf::Hkdf;
use rand_core::CryptoRng;
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::group::TicketGroup;

const RATCHET: &[u8] = b"keystead ratchet v1";
const TICKET: &[u8] = b"keystead ticket v1";

/// From which everything of one generation, and every later secret, is derived.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(super) struct GenerationSecret([u8; Self::LENGTH]);

impl GenerationSecret {
    pub(super) const LENGTH: usize = 32;

    /// Takes over the bytes in `source`, and wipes them there.
    pub(super) fn take(source: &mut [u8; Self::LENGTH]) -> Self {
        let secret = Self(*source);
        source.zeroize();
        secret
    }

    pub(super) fn draw(rng: &mut dyn CryptoRng) -> Self {
        let mut secret = Self([0; Self::LENGTH]);
        rng.fill_bytes(&mut secret.0);
        secret
    }

    /// The secret of the generation after.
    pub(super) fn next(&self) -> Self {
        let mut next = Self([0; Self::LENGTH]);
        self.expand(&[RATCHET], &mut next.0);
        next
    }

    /// What edges of `group` seal under.
    pub(super) fn sealing_key(&self, group: &TicketGroup) -> SealingKey {
        let mut key = SealingKey { name: [0; 16], key: [0; 32] };
        let mut both = [0; 48];
        // A group's name has no 0 in it and the digest has one length, so no two groups give the same bytes.
        self.expand(&[TICKET, &[0], group.name().as_str().as_bytes(), &[0], group.revocations()], &mut both);
        let (name, rest) = both.split_at(key.name.len());
        key.name.copy_from_slice(name);
        key.key.copy_from_slice(rest);
        both.zeroize();
        key
    }

    #[expect(clippy::expect_used, reason = "a secret is as long as the hash, and outputs are far below 255 of them")]
    fn expand(&self, info: &[&[u8]], output: &mut [u8]) {
        // Uniform, so it needs no extraction (RFC 5869 §3.3).
        let hkdf = Hkdf::<Sha256>::from_prk(&self.0).expect("a key for HKDF");
        hkdf.expand_multi_info(info, output).expect("an output of HKDF");
    }

    /// For the state file alone.
    pub(super) fn expose(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }
}

impl fmt::Debug for GenerationSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GenerationSecret([redacted])")
    }
}

/// A key for tickets, with the name that stands in front of what it seals.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct SealingKey {
    name: [u8; 16],
    key: [u8; 32],
}

impl SealingKey {
    /// Tells which key sealed a ticket; public.
    pub fn name(&self) -> &[u8; 16] {
        &self.name
    }

    /// For the edges of its group alone.
    pub fn expose(&self) -> &[u8; 32] {
        &self.key
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealingKey([redacted])")
    }
}
