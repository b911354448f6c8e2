//! A private key in a token.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsPssParams};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use keystead_tls::{KeyKind, SignatureScheme};
use rand_core::CryptoRng;
use sha2::{Digest, Sha256, Sha384};
use zeroize::Zeroizing;

use super::pool::Age;
use super::{ObjectName, Token, TokenFault, object};
use crate::custody::{Custody, KeyFault, Uses};

/// A private key in a token.
pub struct TokenKey {
    token: Arc<Token>,
    object: ObjectName,
    kind: KeyKind,
    uses: Uses,
    /// Where it was found.
    found: Mutex<Option<(Age, ObjectHandle)>>,
}

impl TokenKey {
    /// The key that `object` names. Whether it is there is found out by [`Self::locate`].
    pub fn new(token: Arc<Token>, object: ObjectName, kind: KeyKind, uses: Uses) -> Self {
        Self { token, object, kind, uses, found: Mutex::default() }
    }

    /// Looks for it.
    ///
    /// # Errors
    /// [`TokenFault`] when the token cannot be reached or has no such key, or several.
    pub fn locate(&self) -> Result<(), TokenFault> {
        self.token.pool.with_session(|session, age| self.handle(session, age).map(drop))
    }

    fn handle(&self, session: &Session, age: Age) -> Result<ObjectHandle, TokenFault> {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        match *found {
            Some((of, handle)) if of == age => Ok(handle),
            Some(_) | None => {
                let handle = object::find_private(session, &self.object)?;
                *found = Some((age, handle));
                Ok(handle)
            }
        }
    }

    fn with_key<T>(
        &self,
        work: impl Fn(&Session, ObjectHandle) -> Result<T, cryptoki::error::Error>,
    ) -> Result<T, KeyFault> {
        let done = self.token.pool.with_session(|session, age| Ok(work(session, self.handle(session, age)?)?));
        done.map_err(|fault| {
            match fault {
                TokenFault::OperationFailed(_)
                | TokenFault::KeyFails(_)
                | TokenFault::KeyMissing
                | TokenFault::KeyAmbiguous
                | TokenFault::SessionLost(_) => tracing::warn!(
                    token = %self.token.name, object = %self.object, reason = fault.reason(), cause = %fault,
                    "operation in the token failed"
                ),
                // Told when it happened to the token, or counted.
                TokenFault::SessionsBusy | TokenFault::TokenAway(_) | TokenFault::PinRefused(_) => {}
            }
            fault.key_fault()
        })
    }

    fn sign_with(&self, mechanism: &Mechanism<'_>, data: &[u8]) -> Result<Vec<u8>, KeyFault> {
        self.with_key(|session, key| session.sign(mechanism, key, data))
    }
}

impl Custody for TokenKey {
    /// The token draws nonces and salts.
    fn sign(&self, scheme: SignatureScheme, message: &[u8], _: &mut dyn CryptoRng) -> Result<Vec<u8>, KeyFault> {
        if !self.kind.schemes().contains(&scheme) {
            return Err(KeyFault::Failed);
        }
        match scheme {
            SignatureScheme::ECDSA_SECP256R1_SHA256 => {
                let pair = self.sign_with(&Mechanism::Ecdsa, &Sha256::digest(message))?;
                let signature = p256::ecdsa::Signature::from_slice(&pair).map_err(|_| KeyFault::Failed)?;
                Ok(signature.to_der().as_bytes().to_vec())
            }
            SignatureScheme::ECDSA_SECP384R1_SHA384 => {
                let pair = self.sign_with(&Mechanism::Ecdsa, &Sha384::digest(message))?;
                let signature = p384::ecdsa::Signature::from_slice(&pair).map_err(|_| KeyFault::Failed)?;
                Ok(signature.to_der().as_bytes().to_vec())
            }
            SignatureScheme::ED25519 => {
                self.sign_with(&Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Ed25519)), message)
            }
            _ => self.sign_with(&rsa_mechanism(scheme).ok_or(KeyFault::Failed)?, message),
        }
    }

    /// How long the token takes is the token's to keep from telling.
    fn raw_rsa(&self, ciphertext: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyFault> {
        if self.uses != Uses::KeyTransport {
            return Err(KeyFault::Failed);
        }
        let block =
            self.with_key(|session, key| session.decrypt(&Mechanism::RsaX509, key, ciphertext).map(Zeroizing::new))?;
        // Some tokens leave out leading zeros.
        let missing = ciphertext.len().checked_sub(block.len()).ok_or(KeyFault::Failed)?;
        let mut whole = Zeroizing::new(vec![0; ciphertext.len()]);
        whole.iter_mut().skip(missing).zip(block.iter()).for_each(|(place, byte)| *place = *byte);
        Ok(whole)
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenKey")
            .field("token", &self.token.name)
            .field("object", &self.object)
            .finish_non_exhaustive()
    }
}

/// Those that hash: tokens in FIPS mode do not sign a hash of somebody else's.
fn rsa_mechanism(scheme: SignatureScheme) -> Option<Mechanism<'static>> {
    let pss = |hash_alg, mgf, length: u64| PkcsPssParams { hash_alg, mgf, s_len: length.into() };
    Some(match scheme {
        SignatureScheme::RSA_PKCS1_SHA256 => Mechanism::Sha256RsaPkcs,
        SignatureScheme::RSA_PKCS1_SHA384 => Mechanism::Sha384RsaPkcs,
        SignatureScheme::RSA_PKCS1_SHA512 => Mechanism::Sha512RsaPkcs,
        SignatureScheme::RSA_PSS_RSAE_SHA256 => {
            Mechanism::Sha256RsaPkcsPss(pss(MechanismType::SHA256, PkcsMgfType::MGF1_SHA256, 32))
        }
        SignatureScheme::RSA_PSS_RSAE_SHA384 => {
            Mechanism::Sha384RsaPkcsPss(pss(MechanismType::SHA384, PkcsMgfType::MGF1_SHA384, 48))
        }
        SignatureScheme::RSA_PSS_RSAE_SHA512 => {
            Mechanism::Sha512RsaPkcsPss(pss(MechanismType::SHA512, PkcsMgfType::MGF1_SHA512, 64))
        }
        _ => return None,
    })
}
