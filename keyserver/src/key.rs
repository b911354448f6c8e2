//! A key that the key server signs with, and what its holder shows.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use keystead_program::crypto::Crypto;
use keystead_tls::{Identity, IdentityError, KeyId, KeyKind, SignatureScheme};
use rand_core::CryptoRng;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use zeroize::Zeroizing;

use crate::config::{KeyConfig, KeyPlaceError};
use crate::custody::custodian::{Custodian, Taken};
use crate::custody::protection::{Protected, ProtectionError};
use crate::custody::token::TokenFault;
use crate::custody::{Custody, InvalidPrivateKey, KeyFault};
use crate::rate::Cost;
use crate::schedule::{CostClass, Lane};

/// A private key with its certificate chain. That the two belong together was checked when it was loaded, or is when its
/// token is first there.
pub struct Key {
    name: Arc<str>,
    identity: Identity,
    custody: Box<dyn Custody>,
    crypto: Crypto,
    lane: Lane,
    /// Whether private key and certificate were seen to be a pair.
    is_proven: AtomicBool,
    protected: Option<Protected>,
}

impl Key {
    /// Reads the files that `config` names, gets the private key from `custodian`, and makes signatures to see that it and
    /// the certificate are a pair. Where the key's token is away, that is put off: the second of the pair says why.
    ///
    /// # Errors
    /// [`KeyError`] when a file cannot be read or parsed, the private key cannot be had, or they do not belong together.
    pub fn load(
        config: &KeyConfig,
        custodian: &Custodian<'_>,
        rng: &mut dyn CryptoRng,
    ) -> Result<(Self, Option<TokenFault>), KeyError> {
        let identity = load_identity(config, custodian.directory)?;
        let Taken { custody, protected, lane, away } = custodian.take(config, identity.public_key())?;
        let (name, crypto) = (config.name.as_str().into(), custodian.crypto);
        let key = Self { name, identity, custody, crypto, lane, is_proven: AtomicBool::new(false), protected };
        if away.is_some() {
            return Ok((key, away));
        }
        match key.prove(rng) {
            Ok(()) => Ok((key, None)),
            Err(NoPair::Mismatch) => Err(KeyError::Mismatch {
                private_key: place(config, custodian.directory),
                certificate_chain: config.certificate_chain.under(custodian.directory),
            }),
            Err(NoPair::Unusable { scheme, fault: KeyFault::Failed }) => {
                Err(KeyError::Unusable { private_key: place(config, custodian.directory), scheme })
            }
            Err(NoPair::Unusable { fault: fault @ (KeyFault::TokenUnavailable | KeyFault::TokenBusy), .. }) => {
                Ok((key, Some(TokenFault::TokenAway(fault.to_string()))))
            }
        }
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

    /// How the private key is protected in its file; `None` for one in a token.
    pub fn protected(&self) -> Option<Protected> {
        self.protected
    }

    /// Where operations with it wait.
    pub fn lane(&self) -> Lane {
        self.lane
    }

    /// Signs `message`.
    ///
    /// # Errors
    /// [`KeyFault`] when the private key cannot be used, or not with `scheme`.
    pub fn sign(&self, scheme: SignatureScheme, message: &[u8], rng: &mut dyn CryptoRng) -> Result<Vec<u8>, KeyFault> {
        self.check_proven(rng)?;
        self.custody.sign(scheme, message, rng)
    }

    /// Raises `ciphertext` to the private exponent; see [`Custody::raw_rsa`].
    ///
    /// # Errors
    /// [`KeyFault`] when the key is not for key transport, and when it cannot be used.
    pub(crate) fn raw_rsa(&self, ciphertext: &[u8], rng: &mut dyn CryptoRng) -> Result<Zeroizing<Vec<u8>>, KeyFault> {
        self.check_proven(rng)?;
        self.custody.raw_rsa(ciphertext)
    }

    /// The same key with its private part elsewhere.
    #[cfg(test)]
    pub(crate) fn kept_by(self, custody: impl FnOnce(Box<dyn Custody>) -> Box<dyn Custody>) -> Self {
        Self { custody: custody(self.custody), ..self }
    }

    /// A key whose token was away when it was loaded is a pair with its certificate before anything else is done with it.
    fn check_proven(&self, rng: &mut dyn CryptoRng) -> Result<(), KeyFault> {
        if self.is_proven.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.prove(rng).map_err(|cause| match cause {
            NoPair::Unusable { fault, .. } => fault,
            NoPair::Mismatch => {
                tracing::error!(key = %self.name, "the key in the token is not the certificate's");
                KeyFault::Failed
            }
        })
    }

    /// One signature tells of a key in memory, so that thousands of RSA keys load in little time. Of one in a token every
    /// scheme is tried, since tokens lack some.
    fn prove(&self, rng: &mut dyn CryptoRng) -> Result<(), NoPair> {
        const PROBE: &[u8] = b"keystead: private key and certificate are a pair";
        let is_in_token = self.protected.is_none();
        let first = self.identity.public_key().kind().schemes().get(..1).unwrap_or_default();
        let tried = if is_in_token { self.identity.schemes() } else { first };
        for scheme in tried.iter().copied() {
            let signature =
                self.custody.sign(scheme, PROBE, rng).map_err(|fault| NoPair::Unusable { scheme, fault })?;
            let public_key = self.identity.public_key();
            let verified = self.crypto.provider().verify(scheme, public_key, PROBE, &signature);
            verified.map_err(|_| NoPair::Mismatch)?;
        }
        self.is_proven.store(true, Ordering::Relaxed);
        Ok(())
    }
}

/// Why private key and certificate were not seen to be a pair.
enum NoPair {
    /// They are none.
    Mismatch,
    /// The private key does not sign.
    Unusable { scheme: SignatureScheme, fault: KeyFault },
}

/// Where the private key is, for a person.
fn place(config: &KeyConfig, directory: &Path) -> String {
    match (&config.private_key, &config.token) {
        (Some(file), _) => file.under(directory).display().to_string(),
        (None, Some(token)) => format!("the key in token {token}"),
        (None, None) => "nothing".to_owned(),
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
    /// Where the private key is, is not said well.
    #[error(transparent)]
    Place(#[from] KeyPlaceError),
    /// The file does not hold one private key in PEM, or it does not open.
    #[error("{}: {cause}", file.display())]
    Protected {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        cause: ProtectionError,
    },
    /// There is no such token.
    #[error("there is no [[token]] of the name {0}")]
    UnknownToken(String),
    /// The token does not give the key.
    #[error("token {token}, {object}: {cause}")]
    Token {
        /// The token.
        token: String,
        /// What the key is called there.
        object: String,
        /// What is wrong.
        cause: TokenFault,
    },
    /// The private key does not do what it is for.
    #[error("{private_key} does not sign with {scheme}; take it off the key's `schemes`, and see the log")]
    Unusable {
        /// Where the private key is.
        private_key: String,
        /// The scheme.
        scheme: SignatureScheme,
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
    #[error("{private_key} is not the private key of the first certificate in {}", certificate_chain.display())]
    Mismatch {
        /// Where the private key is.
        private_key: String,
        /// The chain's file.
        certificate_chain: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::fixture::{Files, Kind};

    /// Counts what it is asked for.
    struct Counting(Box<dyn Custody>, Arc<AtomicUsize>);

    impl Custody for Counting {
        fn sign(&self, scheme: SignatureScheme, message: &[u8], rng: &mut dyn CryptoRng) -> Result<Vec<u8>, KeyFault> {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.sign(scheme, message, rng)
        }
    }

    fn signatures_of_proof(change: impl FnOnce(Key) -> Key) -> usize {
        let (files, count) = (Files::new(), Arc::new(AtomicUsize::new(0)));
        files.add_key("rsa", Kind::Rsa2048);
        let key = files.load_key("rsa", Crypto::Fast, None).unwrap();
        let key = change(key.kept_by(|custody| Box::new(Counting(custody, count.clone()))));
        assert!(key.prove(&mut rand::rng()).is_ok());
        count.load(Ordering::Relaxed)
    }

    #[test]
    fn one_signature_proves_a_key_in_memory() {
        assert_eq!(signatures_of_proof(|key| key), 1);
    }

    #[test]
    fn a_key_in_a_token_signs_with_every_scheme_that_it_is_for() {
        let schemes = KeyKind::Rsa { bits: 2048 }.schemes().len();
        assert_eq!(signatures_of_proof(|key| Key { protected: None, ..key }), schemes);
    }
}
