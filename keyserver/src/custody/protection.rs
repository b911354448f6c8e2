//! How private keys lie in their files: in the clear, under a passphrase, or sealed.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use keystead_tls::KeyId;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::encrypted::{self, EncryptionError};
use super::pem::{PemError, PrivateKeyPem, Section};
use super::sealed::{SealError, SealingKey};
use super::secret::{Secret, SecretError, SecretSource};

/// The `[key_protection]` table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeyProtectionConfig {
    /// What sealed keys are sealed under: 64 hexadecimal digits.
    pub sealing_key: Option<SecretSource>,
    /// What encrypted keys are encrypted with, where a key has no passphrase of its own.
    pub passphrase: Option<SecretSource>,
}

/// The secrets that open files of private keys.
#[derive(Debug, Default)]
pub struct KeyProtection {
    /// For sealed keys.
    pub sealing_key: Option<SealingKey>,
    /// For encrypted keys.
    pub passphrase: Option<Secret>,
}

/// What a file of a private key is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Protected {
    /// In the clear.
    Plain,
    /// Under a passphrase.
    Encrypted,
    /// Under the key server's sealing key.
    Sealed,
}

impl KeyProtection {
    /// Reads the secrets that `config` names, relative to `directory`.
    ///
    /// # Errors
    /// [`SecretError`] when one cannot be read, [`SealError::SealingKey`] when the sealing key is none.
    pub fn load(config: &KeyProtectionConfig, directory: &Path) -> Result<Self, ProtectionError> {
        let read = |source: &Option<SecretSource>| source.as_ref().map(|source| source.read(directory)).transpose();
        let sealing_key = read(&config.sealing_key)?;
        let sealing_key = sealing_key.as_ref().map(SealingKey::read).transpose()?;
        Ok(Self { sealing_key, passphrase: read(&config.passphrase)? })
    }

    /// Opens the private key in `text`. `own` is the key's own passphrase. Where `key_id` says which key is expected, a
    /// sealed file of another is refused.
    ///
    /// # Errors
    /// [`ProtectionError`] when there is no one key in it, when its secret is not known, and when it does not open.
    pub fn open(
        &self,
        text: &str,
        own: Option<&Secret>,
        key_id: Option<KeyId>,
    ) -> Result<(PrivateKeyPem, Protected), ProtectionError> {
        match Section::read(text)? {
            Section::Plain(key) => Ok((key, Protected::Plain)),
            Section::Encrypted(document) => {
                let passphrase = own.or(self.passphrase.as_ref()).ok_or(ProtectionError::NoPassphrase)?;
                let document = encrypted::open(document.as_bytes(), passphrase)?;
                Ok((PrivateKeyPem::from_pkcs8(document), Protected::Encrypted))
            }
            Section::Sealed(sealed) => {
                let key = self.sealing_key.as_ref().ok_or(ProtectionError::NoSealingKey)?;
                if key_id.is_some_and(|expected| expected != sealed.key_id()) {
                    return Err(ProtectionError::OtherKey(sealed.key_id()));
                }
                Ok((PrivateKeyPem::from_pkcs8(sealed.open(key)?), Protected::Sealed))
            }
        }
    }
}

/// More than any key's file has.
const LONGEST_FILE: u64 = 256 << 10;

/// Reads a file with a private key into memory that is wiped. The buffer is never moved, which would leave a copy behind.
///
/// # Errors
/// The system's, and [`io::ErrorKind::InvalidData`] for what is no text or too long.
pub fn read_file(file: &Path) -> io::Result<Zeroizing<String>> {
    let opened = File::open(file)?;
    let length = opened.metadata()?.len().min(LONGEST_FILE);
    // One more than there is: a buffer that is full grows before it finds that nothing follows.
    let mut text = Zeroizing::new(String::with_capacity(usize::try_from(length).unwrap_or_default() + 64));
    let read = opened.take(LONGEST_FILE + 1).read_to_string(&mut text)?;
    if read as u64 > LONGEST_FILE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "more than a private key's file has"));
    }
    Ok(text)
}

/// Why a file of a private key does not open.
#[derive(Debug, thiserror::Error)]
pub enum ProtectionError {
    /// It has not one private key.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// A secret cannot be read.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// It is encrypted, and nobody said with what.
    #[error(
        "the private key is encrypted; say where its passphrase is: `passphrase` in its [[key]] or in [key_protection]"
    )]
    NoPassphrase,
    /// It is sealed, and nobody said with what.
    #[error("the private key is sealed; say where its sealing key is: `sealing_key` in [key_protection]")]
    NoSealingKey,
    /// It is another key.
    #[error("the sealed private key is the key {0}, not the certificate's")]
    OtherKey(KeyId),
    /// It is encrypted and does not open.
    #[error(transparent)]
    Encrypted(#[from] EncryptionError),
    /// It is sealed and does not open.
    #[error(transparent)]
    Sealed(#[from] SealError),
}

#[cfg(test)]
mod tests;
