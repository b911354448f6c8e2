//! Private keys sealed under one key of the key server.
//!
//! Where a passphrase is stretched at a cost on purpose, a sealing key is random and opens thousands of files at once.
//! A file has one PEM section `KEYSTEAD SEALED PRIVATE KEY`:
//!
//! ```text
//! version 1 ‖ key id 32 ‖ salt 32 ‖ AES-256-GCM(PKCS#8)
//! ```
//!
//! The AEAD's key is `HKDF-SHA256(sealing key, salt, "keystead sealed key v1")`, one for each file, so that its nonce can
//! be zero. Everything in front of the ciphertext is authenticated: a file opens as the key of that id (the SHA-256 of its
//! SubjectPublicKeyInfo) or not at all, and cannot be passed off as another's.

use std::fmt;

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit, Nonce};
use hkdf::Hkdf;
use keystead_tls::KeyId;
use pkcs8::{LineEnding, SecretDocument};
use rand_core::CryptoRng;
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use super::secret::Secret;

/// The label of the PEM section.
pub const LABEL: &str = "KEYSTEAD SEALED PRIVATE KEY";

const VERSION: u8 = 1;
const INFO: &[u8] = b"keystead sealed key v1";
const KEY_ID: usize = 32;
const SALT: usize = 32;
const HEADER: usize = 1 + KEY_ID + SALT;

/// What private keys are sealed under: 32 random bytes.
pub struct SealingKey(Zeroizing<[u8; 32]>);

impl SealingKey {
    /// Reads 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`SealError::SealingKey`] for anything else.
    pub fn read(secret: &Secret) -> Result<Self, SealError> {
        let mut key = Zeroizing::new([0; 32]);
        let digits = secret.expose();
        if digits.len() != 2 * key.len() {
            return Err(SealError::SealingKey);
        }
        for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
            for digit in pair {
                let digit = char::from(*digit).to_digit(16).ok_or(SealError::SealingKey)?;
                *byte = *byte << 4 | u8::try_from(digit).map_err(|_| SealError::SealingKey)?;
            }
        }
        Ok(Self(key))
    }

    fn cipher(&self, salt: &[u8]) -> Result<Aes256Gcm, SealError> {
        let mut key = Zeroizing::new([0; 32]);
        // An output of 32 bytes is never too long (RFC 5869 §2.3).
        Hkdf::<Sha256>::new(Some(salt), self.0.as_slice()).expand(INFO, key.as_mut()).map_err(|_| SealError::Wrong)?;
        Aes256Gcm::new_from_slice(key.as_slice()).map_err(|_| SealError::Wrong)
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealingKey([redacted])")
    }
}

/// A private key under seal, with the id of the key that it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedKey {
    header: [u8; HEADER],
    ciphertext: Vec<u8>,
}

impl SealedKey {
    /// Seals a PKCS#8 document that is the key `key_id`.
    ///
    /// # Errors
    /// [`SealError::Wrong`] when the AEAD fails, which it does for gigabytes alone.
    pub fn seal(
        key: &SealingKey,
        key_id: KeyId,
        pkcs8: &SecretDocument,
        rng: &mut dyn CryptoRng,
    ) -> Result<Self, SealError> {
        let mut salt = [0; SALT];
        rng.fill_bytes(&mut salt);
        let mut header = [VERSION; HEADER];
        for (place, byte) in header.iter_mut().skip(1).zip(key_id.0.iter().chain(&salt)) {
            *place = *byte;
        }
        let payload = Payload { msg: pkcs8.as_bytes(), aad: &header };
        let sealed = key.cipher(&salt)?.encrypt(&Nonce::default(), payload).map_err(|_| SealError::Wrong)?;
        Ok(Self { header, ciphertext: sealed })
    }

    /// Reads what [`Self::to_pem`] writes, without the armour.
    ///
    /// # Errors
    /// [`SealError`] for another version, and for what is too short.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SealError> {
        let (header, ciphertext) = bytes.split_first_chunk::<HEADER>().ok_or(SealError::Truncated)?;
        match header.first() {
            Some(&VERSION) => Ok(Self { header: *header, ciphertext: ciphertext.to_vec() }),
            Some(&other) => Err(SealError::Version(other)),
            None => Err(SealError::Truncated),
        }
    }

    /// As a file holds it.
    ///
    /// # Errors
    /// [`SealError::Truncated`] never in practice: the encoder has no length that it refuses below gigabytes.
    pub fn to_pem(&self) -> Result<String, SealError> {
        let bytes = [self.header.as_slice(), &self.ciphertext].concat();
        pkcs8::der::pem::encode_string(LABEL, LineEnding::LF, &bytes).map_err(|_| SealError::Truncated)
    }

    /// Which key it is.
    pub fn key_id(&self) -> KeyId {
        let mut id = [0; KEY_ID];
        for (place, byte) in id.iter_mut().zip(self.header.iter().skip(1)) {
            *place = *byte;
        }
        KeyId(id)
    }

    /// Opens it.
    ///
    /// # Errors
    /// [`SealError::Wrong`] for another sealing key, and for a file that was altered.
    pub fn open(&self, key: &SealingKey) -> Result<SecretDocument, SealError> {
        let salt = self.header.get(HEADER - SALT..).ok_or(SealError::Truncated)?;
        let payload = Payload { msg: &self.ciphertext, aad: &self.header };
        let mut opened = key.cipher(salt)?.decrypt(&Nonce::default(), payload).map_err(|_| SealError::Wrong)?;
        let document = SecretDocument::try_from(opened.as_slice());
        opened.zeroize();
        document.map_err(|_| SealError::Wrong)
    }
}

/// Why a sealed key does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The sealing key is no 64 hexadecimal digits.
    #[error("the sealing key is not 64 hexadecimal digits; make one with `openssl rand -hex 32`")]
    SealingKey,
    /// A later program's.
    #[error("the private key is sealed in version {0}, which this program does not know")]
    Version(u8),
    /// Cut.
    #[error("the sealed private key is cut short")]
    Truncated,
    /// It does not open.
    #[error("the sealed private key does not open: it was sealed under another sealing key, or was altered")]
    Wrong,
}
