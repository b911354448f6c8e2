//! A private key as its numbers, for what is done with it once: naming it, writing it in another form, handing it to a
//! token. What signs holds a key of its own.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair,
};
use keystead_tls::{KeyId, PublicKey};
use pkcs8::{DecodePrivateKey, EncodePrivateKey, EncodePublicKey, LineEnding, SecretDocument};
use rand_core::CryptoRng;
use rsa::pkcs1::DecodeRsaPrivateKey;

use super::InvalidPrivateKey;
use super::encrypted::{self, EncryptionError};
use super::pem::{Encoding, PrivateKeyPem};
use super::sealed::{SealError, SealedKey, SealingKey};
use super::secret::Secret;

/// The kinds of keys that can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::EnumString, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
pub enum KeyType {
    /// RSA with 2048 bits.
    #[strum(serialize = "rsa-2048")]
    Rsa2048,
    /// RSA with 3072 bits.
    #[strum(serialize = "rsa-3072")]
    Rsa3072,
    /// RSA with 4096 bits.
    #[strum(serialize = "rsa-4096")]
    Rsa4096,
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// Ed25519.
    Ed25519,
}

/// A private key.
pub struct KeyMaterial {
    pub(super) numbers: Numbers,
    pkcs8: SecretDocument,
    public_key: PublicKey,
    subject_public_key_info: Vec<u8>,
}

/// The numbers of a private key, which are wiped when dropped.
pub(super) enum Numbers {
    Rsa(Box<rsa::PrivateKey>),
    P256(p256::SecretKey),
    P384(p384::SecretKey),
    Ed25519(ed25519_dalek::SigningKey),
}

impl KeyMaterial {
    /// Makes a key.
    ///
    /// # Errors
    /// [`InvalidPrivateKey`] when the library fails.
    pub fn generate(key_type: KeyType) -> Result<Self, InvalidPrivateKey> {
        match key_type {
            KeyType::Rsa2048 => Self::generate_rsa(KeySize::Rsa2048),
            KeyType::Rsa3072 => Self::generate_rsa(KeySize::Rsa3072),
            KeyType::Rsa4096 => Self::generate_rsa(KeySize::Rsa4096),
            KeyType::P256 => Self::generate_ecdsa(&ECDSA_P256_SHA256_ASN1_SIGNING),
            KeyType::P384 => Self::generate_ecdsa(&ECDSA_P384_SHA384_ASN1_SIGNING),
            KeyType::Ed25519 => {
                let pair = Ed25519KeyPair::generate().map_err(|_| InvalidPrivateKey::Malformed)?;
                Self::from_pkcs8(pair.to_pkcs8v1().map_err(|_| InvalidPrivateKey::Malformed)?.as_ref())
            }
        }
    }

    fn generate_rsa(size: KeySize) -> Result<Self, InvalidPrivateKey> {
        let pair = aws_lc_rs::rsa::KeyPair::generate(size).map_err(|_| InvalidPrivateKey::Malformed)?;
        let der: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| InvalidPrivateKey::Malformed)?;
        Self::from_pkcs8(der.as_ref())
    }

    fn generate_ecdsa(algorithm: &'static EcdsaSigningAlgorithm) -> Result<Self, InvalidPrivateKey> {
        let pair = EcdsaKeyPair::generate(algorithm).map_err(|_| InvalidPrivateKey::Malformed)?;
        Self::from_pkcs8(pair.to_pkcs8v1().map_err(|_| InvalidPrivateKey::Malformed)?.as_ref())
    }

    fn from_pkcs8(der: &[u8]) -> Result<Self, InvalidPrivateKey> {
        let document = SecretDocument::try_from(der).map_err(|_| InvalidPrivateKey::Malformed)?;
        Self::of(&PrivateKeyPem::from_pkcs8(document))
    }

    /// Takes a private key of whatever kind.
    ///
    /// # Errors
    /// [`InvalidPrivateKey`] for kinds that are not for TLS, and for damaged keys.
    pub fn of(key: &PrivateKeyPem) -> Result<Self, InvalidPrivateKey> {
        let numbers = Numbers::read(key)?;
        let subject_public_key_info = numbers.subject_public_key_info().ok_or(InvalidPrivateKey::Malformed)?;
        let public_key =
            PublicKey::from_spki_der(&subject_public_key_info).map_err(|_| InvalidPrivateKey::Malformed)?;
        let pkcs8 = match key.encoding() {
            Encoding::Pkcs8 => SecretDocument::try_from(key.expose()).ok(),
            Encoding::Pkcs1 | Encoding::Sec1 => numbers.to_pkcs8(),
        };
        Ok(Self { numbers, pkcs8: pkcs8.ok_or(InvalidPrivateKey::Malformed)?, public_key, subject_public_key_info })
    }

    /// Its public part.
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// Its public part in DER (RFC 5280 §4.1.2.7).
    pub fn subject_public_key_info(&self) -> &[u8] {
        &self.subject_public_key_info
    }

    /// SHA-256 of its SubjectPublicKeyInfo.
    pub fn key_id(&self) -> KeyId {
        self.public_key.key_id()
    }

    /// The key as the memory of a custody takes it.
    ///
    /// # Errors
    /// [`InvalidPrivateKey::Malformed`] never in practice, since it was read before.
    pub fn to_private_key(&self) -> Result<PrivateKeyPem, InvalidPrivateKey> {
        let document = SecretDocument::try_from(self.pkcs8.as_bytes()).map_err(|_| InvalidPrivateKey::Malformed)?;
        Ok(PrivateKeyPem::from_pkcs8(document))
    }

    /// PEM with the key in the clear.
    ///
    /// # Errors
    /// [`InvalidPrivateKey::Malformed`] never in practice.
    pub fn to_plain_pem(&self) -> Result<zeroize::Zeroizing<String>, InvalidPrivateKey> {
        self.pkcs8.to_pem("PRIVATE KEY", LineEnding::LF).map_err(|_| InvalidPrivateKey::Malformed)
    }

    /// PEM with the key under seal.
    ///
    /// # Errors
    /// [`SealError`] when the library fails.
    pub fn to_sealed_pem(&self, key: &SealingKey, rng: &mut dyn CryptoRng) -> Result<String, SealError> {
        SealedKey::seal(key, self.key_id(), &self.pkcs8, rng)?.to_pem()
    }

    /// PEM with the key under a passphrase.
    ///
    /// # Errors
    /// [`EncryptionError`] when the library fails.
    pub fn to_encrypted_pem(&self, passphrase: &Secret, rng: &mut dyn CryptoRng) -> Result<String, EncryptionError> {
        encrypted::seal(&self.pkcs8, passphrase, rng)
    }
}

impl std::fmt::Debug for KeyMaterial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyMaterial").field("key_id", &self.key_id()).finish_non_exhaustive()
    }
}

impl Numbers {
    /// The kind is what parses: no encoding of one is one of another.
    fn read(key: &PrivateKeyPem) -> Result<Self, InvalidPrivateKey> {
        let der = key.expose();
        let read = match key.encoding() {
            Encoding::Pkcs1 => rsa::PrivateKey::from_pkcs1_der(der).ok().map(|key| Self::Rsa(Box::new(key))),
            Encoding::Sec1 => (p256::SecretKey::from_sec1_der(der).map(Self::P256).ok())
                .or_else(|| p384::SecretKey::from_sec1_der(der).map(Self::P384).ok()),
            Encoding::Pkcs8 => (rsa::PrivateKey::from_pkcs8_der(der).map(|key| Self::Rsa(Box::new(key))).ok())
                .or_else(|| p256::SecretKey::from_pkcs8_der(der).map(Self::P256).ok())
                .or_else(|| p384::SecretKey::from_pkcs8_der(der).map(Self::P384).ok())
                .or_else(|| ed25519_dalek::SigningKey::from_pkcs8_der(der).map(Self::Ed25519).ok()),
        };
        read.ok_or(InvalidPrivateKey::Unusable)
    }

    fn subject_public_key_info(&self) -> Option<Vec<u8>> {
        let document = match self {
            Self::Rsa(key) => key.to_public_key().to_public_key_der(),
            Self::P256(key) => key.public_key().to_public_key_der(),
            Self::P384(key) => key.public_key().to_public_key_der(),
            Self::Ed25519(key) => return Some(ed25519_public_key_info(key.verifying_key().as_bytes())),
        };
        Some(document.ok()?.as_bytes().to_vec())
    }

    fn to_pkcs8(&self) -> Option<SecretDocument> {
        match self {
            Self::Rsa(key) => key.to_pkcs8_der().ok(),
            Self::P256(key) => key.to_pkcs8_der().ok(),
            Self::P384(key) => key.to_pkcs8_der().ok(),
            // PKCS#8 is the one form it is ever read from.
            Self::Ed25519(_) => None,
        }
    }
}

/// The SubjectPublicKeyInfo of an Ed25519 key (RFC 8410 §4).
pub(crate) fn ed25519_public_key_info(public: &[u8; 32]) -> Vec<u8> {
    const HEADER: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
    [HEADER.as_slice(), public].concat()
}
