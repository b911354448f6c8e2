//! The portable provider: pure Rust, of the RustCrypto and dalek families.

mod aead;
mod agreement;
mod signature;

use rand_core::CryptoRng;

use super::{Aead, BadSignature, InvalidPoint, KeyPair, Provider, RecordCipher};
use crate::code_point::{NamedGroup, SignatureScheme};
use crate::identity::PublicKey;

#[derive(Debug)]
pub(super) struct Portable;

impl Provider for Portable {
    fn name(&self) -> &'static str {
        "portable"
    }

    fn record_cipher(&self, aead: Aead, key: &[u8]) -> Box<dyn RecordCipher> {
        aead::cipher(aead, key)
    }

    fn key_pair(&self, group: NamedGroup, rng: &mut dyn CryptoRng) -> Option<Box<dyn KeyPair>> {
        agreement::key_pair(group, rng)
    }

    fn check_public(&self, group: NamedGroup, public: &[u8]) -> Result<(), InvalidPoint> {
        agreement::check_public(group, public)
    }

    fn verify(
        &self,
        scheme: SignatureScheme,
        key: &PublicKey,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), BadSignature> {
        signature::verify(scheme, key, message, signature)
    }
}
