//! Where a private key lives.
//!
//! [`fast`] and [`portable`] hold it in memory, [`token`] is the way to those in PKCS#11 tokens. The rest of the key
//! server knows a key only by what it can do. On its way into memory a key comes through [`pem`] and [`protection`], which
//! opens what is [`encrypted`] or [`sealed`].

pub mod custodian;
pub mod encrypted;
pub mod fast;
pub mod material;
pub mod pem;
pub mod portable;
pub mod protection;
mod raw_rsa;
pub mod sealed;
pub mod secret;
pub mod token;

use keystead_program::crypto::Crypto;
use keystead_tls::{KeyKind, SignatureScheme};
use rand_core::CryptoRng;
use zeroize::Zeroizing;

use crate::refusal::Refusal;
use pem::PrivateKeyPem;

/// A private key that can be used and not seen, nor printed.
pub trait Custody: Send + Sync {
    /// Signs `message`, which is hashed as `scheme` says. RSA-PSS takes a salt as long as the hash
    /// (RFC 8446 §4.2.3), ECDSA gives DER (RFC 8422 §5.4).
    ///
    /// # Errors
    /// [`KeyFault`] for a scheme that does not fit the key, and for what goes wrong where the key lives.
    fn sign(&self, scheme: SignatureScheme, message: &[u8], rng: &mut dyn CryptoRng) -> Result<Vec<u8>, KeyFault>;

    /// Raises `ciphertext` to the private exponent of an RSA key, in constant time and blinded (RFC 8017 §5.1.2). What
    /// comes out is as long as the modulus and is not looked at. `ciphertext` is as long as the modulus, and between 2
    /// and the modulus - 2.
    ///
    /// # Errors
    /// [`KeyFault`] for a key that was not taken for [`Uses::KeyTransport`], for other ciphertexts, and for what
    /// goes wrong where the key lives.
    fn raw_rsa(&self, _ciphertext: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyFault> {
        Err(KeyFault::Failed)
    }
}

/// What a private key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uses {
    /// Signatures alone.
    Signing,
    /// Signatures, and the raw operation for RSA key transport.
    KeyTransport,
}

/// Why a private key could not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// It failed, or is not for this.
    #[error("the private key could not be used")]
    Failed,
    /// The token that it is in cannot be reached, or does not have it.
    #[error("the private key's token is not available")]
    TokenUnavailable,
    /// All sessions with the token that it is in were in use for as long as one may wait.
    #[error("the private key's token is busy")]
    TokenBusy,
}

impl KeyFault {
    /// What a request is refused for; `failed` where the key itself failed.
    pub(crate) fn refusal(self, failed: Refusal) -> Refusal {
        match self {
            Self::Failed => failed,
            Self::TokenUnavailable => Refusal::TokenUnavailable,
            Self::TokenBusy => Refusal::TokenBusy,
        }
    }
}

/// The bytes are no private key of the kind that the certificate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPrivateKey {
    /// The PEM label and the certificate's kind of key do not go together.
    #[error("the private key is of another kind than the certificate's key")]
    OtherKind,
    /// The content does not parse, or not as a key of that kind, or its parts do not agree with each other.
    #[error("the private key is damaged or of another kind than the certificate's key")]
    Malformed,
    /// A kind of key that is none of those for TLS here.
    #[error("the private key is none of RSA with 2048 to 8192 bits, P-256, P-384 and Ed25519, or it is damaged")]
    Unusable,
    /// Key transport with a key that cannot encrypt.
    #[error("danger_rsa_key_transport is for RSA keys alone")]
    KeyTransportNeedsRsa,
    /// Key transport without a raw operation in constant time (RUSTSEC-2023-0071).
    #[error("danger_rsa_key_transport needs crypto = \"fast\": the portable RSA operation is not constant in time")]
    KeyTransportNeedsFast,
}

/// Takes a private key of kind `kind` into the memory of the libraries that `crypto` names, for `uses`.
///
/// # Errors
/// [`InvalidPrivateKey`] when it is not of that kind, is damaged, or cannot be used so.
pub fn in_memory(
    crypto: Crypto,
    kind: KeyKind,
    key: &PrivateKeyPem,
    uses: Uses,
) -> Result<Box<dyn Custody>, InvalidPrivateKey> {
    if uses == Uses::KeyTransport {
        check_key_transport(crypto, kind)?;
    }
    if matches!(kind, KeyKind::Rsa { .. }) {
        // Whoever signs with it, the key is checked by code that is not the signer's.
        portable::rsa_key(key)?;
    }
    match crypto {
        Crypto::Fast => fast::take(kind, key, uses),
        Crypto::Portable => portable::take(kind, key),
    }
}

fn check_key_transport(crypto: Crypto, kind: KeyKind) -> Result<(), InvalidPrivateKey> {
    match (kind, crypto) {
        (KeyKind::EcdsaP256 | KeyKind::EcdsaP384 | KeyKind::Ed25519, _) => Err(InvalidPrivateKey::KeyTransportNeedsRsa),
        (KeyKind::Rsa { .. }, Crypto::Portable) => Err(InvalidPrivateKey::KeyTransportNeedsFast),
        (KeyKind::Rsa { .. }, Crypto::Fast) => Ok(()),
    }
}

#[cfg(test)]
mod tests;
