//! The seam between the engine and its cryptography.
//!
//! Two providers fill it, [`FAST`] and [`PORTABLE`]; each is the other's differential test. Hashes and the TLS 1.2 PRF
//! are the same code in both.

pub mod hash;
pub mod prf;

mod fast;
pub(crate) mod form;
mod portable;
mod scalar;

use std::fmt::Debug;

use rand_core::CryptoRng;

use crate::code_point::{NamedGroup, SignatureScheme};
use crate::identity::PublicKey;
use crate::secret::SharedSecret;

/// ring for records, aws-lc-rs for key agreement and signatures: the fastest measured.
pub static FAST: &dyn Provider = &fast::Fast;

/// Pure Rust: aes-gcm, chacha20poly1305, x25519-dalek, p256, p384, ed25519-dalek and rsa.
pub static PORTABLE: &dyn Provider = &portable::Portable;

/// The primitives that one set of libraries gives.
pub trait Provider: Debug + Send + Sync {
    /// The word by which configuration and log name this provider.
    fn name(&self) -> &'static str;

    /// A cipher for the records of one direction. `key` has [`Aead::key_length`] bytes.
    fn record_cipher(&self, aead: Aead, key: &[u8]) -> Box<dyn RecordCipher>;

    /// A fresh ephemeral key pair whose private part is drawn from `rng` alone, so that the same generator state gives
    /// the same pair, in every provider. `None` for a group this engine does not have, and for a generator that gives
    /// no scalar of the group in a hundred draws, as one that is broken does.
    fn key_pair(&self, group: NamedGroup, rng: &mut dyn CryptoRng) -> Option<Box<dyn KeyPair>>;

    /// Whether `public` is a point a key exchange in `group` may use: right length, uncompressed form, on the curve
    /// (RFC 8422 §5.4.1). Every 32-byte string is one for x25519 (RFC 7748 §5).
    fn check_public(&self, group: NamedGroup, public: &[u8]) -> Result<(), InvalidPoint>;

    /// Verifies `signature` over `message`.
    ///
    /// # Errors
    /// [`BadSignature`] for one that does not verify, and for a scheme that does not fit the key.
    fn verify(
        &self,
        scheme: SignatureScheme,
        key: &PublicKey,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), BadSignature>;
}

/// The AEAD of a suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aead {
    /// RFC 5288.
    Aes128Gcm,
    /// RFC 5288.
    Aes256Gcm,
    /// RFC 7905.
    ChaCha20Poly1305,
}

impl Aead {
    /// Bytes of a key.
    pub const fn key_length(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => 32,
        }
    }

    /// Bytes of the implicit part of the nonce, which comes from the key block.
    pub const fn fixed_iv_length(self) -> usize {
        match self {
            Self::Aes128Gcm | Self::Aes256Gcm => 4,
            Self::ChaCha20Poly1305 => 12,
        }
    }
}

/// Bytes of the tag of every AEAD here.
pub const TAG_LENGTH: usize = 16;

/// Protects or opens the records of one direction.
pub trait RecordCipher: Send + Sync {
    /// Encrypts `data` in place and returns the tag that follows it.
    fn seal(&self, nonce: [u8; 12], additional_data: &[u8], data: &mut [u8]) -> [u8; TAG_LENGTH];

    /// Verifies and decrypts `data`, which ends with its tag, in place; returns the plaintext, the front part of it.
    ///
    /// # Errors
    /// [`BadTag`] when it does not verify or is shorter than a tag; what `data` then holds is unspecified.
    fn open<'d>(&self, nonce: [u8; 12], additional_data: &[u8], data: &'d mut [u8]) -> Result<&'d mut [u8], BadTag>;
}

/// An ephemeral key pair, used for one agreement.
pub trait KeyPair: Send + Sync {
    /// The public part as it stands in ServerKeyExchange (RFC 8422 §5.4).
    fn public(&self) -> &[u8];

    /// Agrees on a secret with the peer's public part.
    ///
    /// # Errors
    /// [`InvalidPoint`] for a wrong length or form, a point off the curve, and X25519's all-zero result
    /// (RFC 8422 §5.11).
    fn agree(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, InvalidPoint>;
}

/// The record's tag does not verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadTag;

/// The peer's public value is none the group may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the public value is not a point of the group")]
pub struct InvalidPoint;

/// The signature does not verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not verify")]
pub struct BadSignature;
