//! A key that the key server signs with, and what its holder shows.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keystead_program::crypto::Crypto;
use keystead_tls::{Identity, IdentityError, KeyId, KeyKind, SignatureScheme};
use rand_core::CryptoRng;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use zeroize::Zeroizing;

use crate::config::KeyConfig;
use crate::custody::pem::{PemError, PrivateKeyPem};
use crate::custody::{self, Custody, InvalidPrivateKey, SigningFailed, Uses};
use crate::rate::Cost;
use crate::schedule::{CostClass, Lane};

/// A private key with its certificate chain. That the two belong together was checked when it was loaded.
pub struct Key {
    name: Arc<str>,
    identity: Identity,
    custody: Box<dyn Custody>,
}

impl Key {
    /// Reads the files that `config` names, relative to `directory`, and makes a signature to see that private key and
    /// certificate are a pair.
    ///
    /// # Errors
    /// [`KeyError`] when a file cannot be read or parsed, or they do not belong together.
    pub fn load(
        config: &KeyConfig,
        directory: &Path,
        crypto: Crypto,
        rng: &mut dyn CryptoRng,
    ) -> Result<Self, KeyError> {
        let identity = load_identity(config, directory)?;
        let file = config.private_key.under(directory);
        let uses = if config.danger_rsa_key_transport { Uses::KeyTransport } else { Uses::Signing };
        let custody = load_private_key(&file, crypto, identity.public_key().kind(), uses)?;
        let key = Self { name: config.name.as_str().into(), identity, custody };
        if !key.is_pair(crypto, rng) {
            let certificate_chain = config.certificate_chain.under(directory);
            return Err(KeyError::Mismatch { private_key: file, certificate_chain });
        }
        Ok(key)
    }

    /// The name by which configurations and logs tell of it.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// SHA-256 of its SubjectPublicKeyInfo.
    pub fn key_id(&self) -> KeyId {
        self.identity.public_key().key_id()
    }

    /// Its certificates and the schemes it signs with.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What an operation with it costs.
    pub fn cost(&self) -> CostClass {
        CostClass::of(self.identity.public_key().kind())
    }

    /// What an operation with it takes off a rate.
    pub fn unit_cost(&self) -> Cost {
        Cost::of(self.identity.public_key().kind())
    }

    /// Where operations with it wait.
    pub fn lane(&self) -> Lane {
        Lane::of(self.cost())
    }

    /// Signs `message`.
    ///
    /// # Errors
    /// [`SigningFailed`] when the private key cannot be used, or not with `scheme`.
    pub fn sign(
        &self,
        scheme: SignatureScheme,
        message: &[u8],
        rng: &mut dyn CryptoRng,
    ) -> Result<Vec<u8>, SigningFailed> {
        self.custody.sign(scheme, message, rng)
    }

    /// Raises `ciphertext` to the private exponent; see [`Custody::raw_rsa`].
    ///
    /// # Errors
    /// [`SigningFailed`] when the key is not for key transport, and when it cannot be used.
    pub(crate) fn raw_rsa(&self, ciphertext: &[u8]) -> Result<Zeroizing<Vec<u8>>, SigningFailed> {
        self.custody.raw_rsa(ciphertext)
    }

    /// The same key with its private part elsewhere.
    #[cfg(test)]
    pub(crate) fn kept_by(self, custody: impl FnOnce(Box<dyn Custody>) -> Box<dyn Custody>) -> Self {
        Self { custody: custody(self.custody), ..self }
    }

    fn is_pair(&self, crypto: Crypto, rng: &mut dyn CryptoRng) -> bool {
        const PROBE: &[u8] = b"keystead: private key and certificate are a pair";
        self.identity.schemes().iter().all(|scheme| {
            let verifies = |signature: Vec<u8>| {
                crypto.provider().verify(*scheme, self.identity.public_key(), PROBE, &signature).is_ok()
            };
            self.sign(*scheme, PROBE, rng).is_ok_and(verifies)
        })
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("name", &self.name).field("key_id", &self.key_id()).finish_non_exhaustive()
    }
}

fn load_identity(config: &KeyConfig, directory: &Path) -> Result<Identity, KeyError> {
    let file = config.certificate_chain.under(directory);
    let chain = certificates(&file)?;
    let ocsp_response = match &config.ocsp_response {
        Some(path) => Some(read(&path.under(directory))?),
        None => None,
    };
    let listed: Option<Vec<_>> = config.schemes.as_ref().map(|names| names.iter().map(|name| name.0).collect());
    let identity = Identity::new(chain, &listed.clone().unwrap_or_else(every_scheme), ocsp_response)
        .map_err(|cause| KeyError::Certificate { file: file.clone(), cause })?
        .with_key_transport(config.danger_rsa_key_transport);
    match listed.into_iter().flatten().find(|scheme| !identity.schemes().contains(scheme)) {
        Some(scheme) => Err(KeyError::UnfitScheme { file, scheme }),
        None => Ok(identity),
    }
}

/// The schemes of every kind of key, the best of each kind first.
fn every_scheme() -> Vec<SignatureScheme> {
    let kinds = [KeyKind::Rsa { bits: 2048 }, KeyKind::EcdsaP256, KeyKind::EcdsaP384, KeyKind::Ed25519];
    kinds.iter().flat_map(|kind| kind.schemes()).copied().collect()
}

fn certificates(file: &Path) -> Result<Vec<Vec<u8>>, KeyError> {
    let pem = read(file)?;
    let certificates = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|cause| KeyError::CertificatePem { file: file.to_owned(), cause })?;
    Ok(certificates.into_iter().map(|certificate| certificate.to_vec()).collect())
}

fn load_private_key(file: &Path, crypto: Crypto, kind: KeyKind, uses: Uses) -> Result<Box<dyn Custody>, KeyError> {
    let text = std::fs::read_to_string(file).map(Zeroizing::new);
    let text = text.map_err(|cause| KeyError::Unreadable { file: file.to_owned(), cause })?;
    let key = PrivateKeyPem::read(&text).map_err(|cause| KeyError::PrivateKeyPem { file: file.to_owned(), cause })?;
    custody::in_memory(crypto, kind, &key, uses).map_err(|cause| KeyError::PrivateKey { file: file.to_owned(), cause })
}

fn read(file: &Path) -> Result<Vec<u8>, KeyError> {
    std::fs::read(file).map_err(|cause| KeyError::Unreadable { file: file.to_owned(), cause })
}

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("{}: {cause}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        cause: std::io::Error,
    },
    /// The file holds no certificates in PEM.
    #[error("{}: {cause}", file.display())]
    CertificatePem {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        cause: rustls_pki_types::pem::Error,
    },
    /// The chain cannot serve.
    #[error("{}: {cause}", file.display())]
    Certificate {
        /// The chain's file.
        file: PathBuf,
        /// What is wrong with it.
        cause: IdentityError,
    },
    /// A scheme is listed that no such key can sign with.
    #[error("{}: its key cannot sign with {scheme}; take it off the key's `schemes`", file.display())]
    UnfitScheme {
        /// The chain's file.
        file: PathBuf,
        /// The scheme.
        scheme: SignatureScheme,
    },
    /// The file does not hold one private key in PEM.
    #[error("{}: {cause}", file.display())]
    PrivateKeyPem {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        cause: PemError,
    },
    /// The private key cannot be used.
    #[error("{}: {cause}", file.display())]
    PrivateKey {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        cause: InvalidPrivateKey,
    },
    /// What the private key signs, the certificate's key does not verify.
    #[error("{} is not the private key of the first certificate in {}", private_key.display(), certificate_chain.display())]
    Mismatch {
        /// The private key's file.
        private_key: PathBuf,
        /// The chain's file.
        certificate_chain: PathBuf,
    },
}
