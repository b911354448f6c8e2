//! Keys in memory, used by pure Rust.

use ed25519_dalek::Signer;
use keystead_tls::{KeyKind, SignatureScheme};
use pkcs8::DecodePrivateKey;
use rand_core::CryptoRng;
use rsa::pkcs1::DecodeRsaPrivateKey;
use sha2::{Sha256, Sha384, Sha512};
use signature::RandomizedSigner;

use super::pem::{Encoding, PrivateKeyPem};
use super::{Custody, InvalidPrivateKey, KeyFault};

/// Takes a key into memory that is wiped when it is dropped.
pub(super) fn take(kind: KeyKind, key: &PrivateKeyPem) -> Result<Box<dyn Custody>, InvalidPrivateKey> {
    match kind {
        KeyKind::Rsa { .. } => Ok(Box::new(Rsa(rsa_key(key)?))),
        KeyKind::EcdsaP256 => Ok(Box::new(p256_key(key)?)),
        KeyKind::EcdsaP384 => Ok(Box::new(p384_key(key)?)),
        KeyKind::Ed25519 => Ok(Box::new(ed25519(key)?)),
    }
}

/// Reads an RSA key and checks that modulus, exponents and primes agree with each other.
pub(super) fn rsa_key(key: &PrivateKeyPem) -> Result<rsa::PrivateKey, InvalidPrivateKey> {
    let private = match key.encoding() {
        Encoding::Pkcs8 => rsa::PrivateKey::from_pkcs8_der(key.expose()).ok(),
        Encoding::Pkcs1 => rsa::PrivateKey::from_pkcs1_der(key.expose()).ok(),
        Encoding::Sec1 => return Err(InvalidPrivateKey::OtherKind),
    };
    private.ok_or(InvalidPrivateKey::Malformed)
}

struct Rsa(rsa::PrivateKey);

impl Custody for Rsa {
    /// `rng` gives the blinding, and the salt of RSA-PSS.
    fn sign(&self, scheme: SignatureScheme, message: &[u8], rng: &mut dyn CryptoRng) -> Result<Vec<u8>, KeyFault> {
        let signature = match scheme {
            SignatureScheme::RSA_PKCS1_SHA256 => self.0.pkcs1v15_sign_with_rng::<Sha256, _>(rng, message),
            SignatureScheme::RSA_PKCS1_SHA384 => self.0.pkcs1v15_sign_with_rng::<Sha384, _>(rng, message),
            SignatureScheme::RSA_PKCS1_SHA512 => self.0.pkcs1v15_sign_with_rng::<Sha512, _>(rng, message),
            SignatureScheme::RSA_PSS_RSAE_SHA256 => self.0.pss_sign_with_rng::<Sha256, _>(rng, message),
            SignatureScheme::RSA_PSS_RSAE_SHA384 => self.0.pss_sign_with_rng::<Sha384, _>(rng, message),
            SignatureScheme::RSA_PSS_RSAE_SHA512 => self.0.pss_sign_with_rng::<Sha512, _>(rng, message),
            _ => return Err(KeyFault::Failed),
        };
        signature.map_err(|_| KeyFault::Failed)
    }
}

macro_rules! ecdsa {
    ($custody:ident, $read:ident, $curve:ident, $scheme:expr) => {
        struct $custody($curve::ecdsa::SigningKey);

        fn $read(key: &PrivateKeyPem) -> Result<$custody, InvalidPrivateKey> {
            let secret = match key.encoding() {
                Encoding::Pkcs8 => $curve::SecretKey::from_pkcs8_der(key.expose()).ok(),
                Encoding::Sec1 => $curve::SecretKey::from_sec1_der(key.expose()).ok(),
                Encoding::Pkcs1 => return Err(InvalidPrivateKey::OtherKind),
            };
            secret.map(|secret| $custody(secret.into())).ok_or(InvalidPrivateKey::Malformed)
        }

        impl Custody for $custody {
            /// The nonce comes from the key, the message and `rng` together.
            fn sign(
                &self,
                scheme: SignatureScheme,
                message: &[u8],
                rng: &mut dyn CryptoRng,
            ) -> Result<Vec<u8>, KeyFault> {
                if scheme != $scheme {
                    return Err(KeyFault::Failed);
                }
                let signature: $curve::ecdsa::DerSignature =
                    self.0.try_sign_with_rng(rng, message).map_err(|_| KeyFault::Failed)?;
                Ok(signature.as_bytes().to_vec())
            }
        }
    };
}

ecdsa!(EcdsaP256, p256_key, p256, SignatureScheme::ECDSA_SECP256R1_SHA256);
ecdsa!(EcdsaP384, p384_key, p384, SignatureScheme::ECDSA_SECP384R1_SHA384);

struct Ed25519(ed25519_dalek::SigningKey);

fn ed25519(key: &PrivateKeyPem) -> Result<Ed25519, InvalidPrivateKey> {
    if key.encoding() != Encoding::Pkcs8 {
        return Err(InvalidPrivateKey::OtherKind);
    }
    ed25519_dalek::SigningKey::from_pkcs8_der(key.expose()).map(Ed25519).map_err(|_| InvalidPrivateKey::Malformed)
}

impl Custody for Ed25519 {
    /// The nonce comes from the key and the message (RFC 8032 §5.1.6).
    fn sign(&self, scheme: SignatureScheme, message: &[u8], _: &mut dyn CryptoRng) -> Result<Vec<u8>, KeyFault> {
        if scheme != SignatureScheme::ED25519 {
            return Err(KeyFault::Failed);
        }
        let signature = self.0.try_sign(message).map_err(|_| KeyFault::Failed)?;
        Ok(signature.to_bytes().to_vec())
    }
}
