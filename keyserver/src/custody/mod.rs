//! Where a private key lives.
//!
//! [`fast`] and [`portable`] hold it in memory. The rest of the key server knows a key only by what it can do.

pub mod fast;
pub mod pem;
pub mod portable;

use keystead_tls::{KeyKind, SignatureScheme};
use rand_core::CryptoRng;

use crate::config::Crypto;
use pem::PrivateKeyPem;

/// A private key that can be used and not seen, nor printed.
pub trait Custody: Send + Sync {
    /// Signs `message`, which is hashed as `scheme` says. RSA-PSS takes a salt as long as the hash
    /// (RFC 8446 §4.2.3), ECDSA gives DER (RFC 8422 §5.4).
    ///
    /// # Errors
    /// [`SigningFailed`] for a scheme that does not fit the key, and for what goes wrong where the key lives.
    fn sign(&self, scheme: SignatureScheme, message: &[u8], rng: &mut dyn CryptoRng) -> Result<Vec<u8>, SigningFailed>;
}

/// The private key could not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the private key could not be used")]
pub struct SigningFailed;

/// The bytes are no private key of the kind that the certificate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPrivateKey {
    /// The PEM label and the certificate's kind of key do not go together.
    #[error("the private key is of another kind than the certificate's key")]
    OtherKind,
    /// The content does not parse, or not as a key of that kind, or its parts do not agree with each other.
    #[error("the private key is damaged or of another kind than the certificate's key")]
    Malformed,
}

/// Takes a private key of kind `kind` into the memory of the libraries that `crypto` names.
///
/// # Errors
/// [`InvalidPrivateKey`] when it is not of that kind, or is damaged.
pub fn in_memory(crypto: Crypto, kind: KeyKind, key: &PrivateKeyPem) -> Result<Box<dyn Custody>, InvalidPrivateKey> {
    if matches!(kind, KeyKind::Rsa { .. }) {
        // Whoever signs with it, the key is checked by code that is not the signer's.
        portable::rsa_key(key)?;
    }
    match crypto {
        Crypto::Fast => fast::take(kind, key),
        Crypto::Portable => portable::take(kind, key),
    }
}

#[cfg(test)]
mod tests;
