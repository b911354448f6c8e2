//! The key that checkpoints are signed with, and its public part that verifies them.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use pkcs8::LineEnding;
use pkcs8::der::pem::encode_string;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};

use super::chain::{Hash, hex, hex_into};
use crate::private_file;

/// What a signature of a checkpoint is over.
#[derive(Clone, Copy, Debug)]
pub struct Statement<'s> {
    /// Which log.
    pub log: &'s str,
    /// The number of the checkpoint's own record.
    pub sequence: u64,
    /// The hash of the record before it.
    pub previous: Hash,
    /// The checkpoint's time, as it stands in its record.
    pub time: &'s str,
}

impl Statement<'_> {
    fn text(&self) -> String {
        let Self { log, sequence, previous, time } = self;
        format!("keystead audit checkpoint v1\nlog {log}\nsequence {sequence}\nprevious {previous}\ntime {time}\n")
    }
}

/// An Ed25519 key. It is a file of its own, which the key server alone reads.
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// Makes a key in `file`, for its owner alone.
    ///
    /// # Errors
    /// [`SigningKeyError`] when there is such a file, and when it cannot be written.
    pub fn create(file: &Path) -> Result<Self, SigningKeyError> {
        let key = Ed25519KeyPair::generate().map_err(|_| SigningKeyError::NoRandomness)?;
        // Version 1 (RFC 5208), which OpenSSL reads too.
        let der = key.to_pkcs8v1().map_err(|_| SigningKeyError::NoRandomness)?;
        let text = zeroize::Zeroizing::new(pem("PRIVATE KEY", der.as_ref()));
        private_file::create(file, text.as_bytes()).map_err(|cause| {
            let (file, exists) = (file.to_owned(), cause.kind() == io::ErrorKind::AlreadyExists);
            if exists { SigningKeyError::Exists { file } } else { SigningKeyError::Unwritable { file, cause } }
        })?;
        Ok(Self(key))
    }

    /// Reads PEM: PKCS#8.
    ///
    /// # Errors
    /// [`SigningKeyError`] when the file cannot be read, or holds another kind of key.
    pub fn read(file: &Path) -> Result<Self, SigningKeyError> {
        let key = PrivatePkcs8KeyDer::from_pem_file(file)
            .map_err(|cause| SigningKeyError::Unreadable { file: file.to_owned(), cause })?;
        let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(key.secret_pkcs8_der());
        key.map(Self).map_err(|_| SigningKeyError::NotEd25519 { file: file.to_owned() })
    }

    /// Its public part.
    pub fn public(&self) -> PublicKey {
        let mut key = [0; 32];
        key.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(key)
    }

    /// The signature over `statement`, in hexadecimal digits.
    pub fn sign(&self, statement: &Statement<'_>) -> String {
        hex(self.0.sign(statement.text().as_bytes()).as_ref())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey([redacted])")
    }
}

/// The public part of a [`SigningKey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

/// A SubjectPublicKeyInfo of Ed25519 up to the key (RFC 8410 §4).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

impl PublicKey {
    /// Reads PEM: a SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// [`SigningKeyError`] when the file cannot be read, or holds another kind of key.
    pub fn read(file: &Path) -> Result<Self, SigningKeyError> {
        let spki = SubjectPublicKeyInfoDer::from_pem_file(file)
            .map_err(|cause| SigningKeyError::Unreadable { file: file.to_owned(), cause })?;
        let key = spki.as_ref().strip_prefix(&SPKI_PREFIX).and_then(|key| key.try_into().ok());
        key.map(Self).ok_or_else(|| SigningKeyError::NotEd25519 { file: file.to_owned() })
    }

    /// PEM: a SubjectPublicKeyInfo.
    pub fn to_pem(self) -> String {
        pem("PUBLIC KEY", &[&SPKI_PREFIX[..], &self.0].concat())
    }

    /// Whether `signature`, in hexadecimal digits, is this key's over `statement`.
    pub fn verifies(&self, statement: &Statement<'_>, signature: &str) -> bool {
        let mut bytes = [0; 64];
        let key = UnparsedPublicKey::new(&ED25519, self.0);
        hex_into(signature.as_bytes(), &mut bytes) && key.verify(statement.text().as_bytes(), &bytes).is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

#[expect(clippy::expect_used, reason = "some tens of bytes are no more than PEM can hold")]
fn pem(label: &str, der: &[u8]) -> String {
    encode_string(label, LineEnding::LF, der).expect("PEM")
}

/// Why a key for checkpoints cannot be had.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum SigningKeyError {
    #[error("{}: there is such a file, and no key is ever overwritten", file.display())]
    Exists { file: PathBuf },
    #[error("{}: {cause}", file.display())]
    Unwritable { file: PathBuf, cause: io::Error },
    #[error("{}: {cause}; `keystead-keyserver audit init --signing-key FILE` makes a key", file.display())]
    Unreadable { file: PathBuf, cause: rustls_pki_types::pem::Error },
    #[error("{}: no Ed25519 key; `keystead-keyserver audit init --signing-key FILE` makes one", file.display())]
    NotEd25519 { file: PathBuf },
    #[error("the system gives no randomness for a key")]
    NoRandomness,
}
