//! What it takes to get at private keys: the secrets that open files, and the tokens.

use std::path::Path;

use keystead_program::crypto::Crypto;
use keystead_tls::{KeyId, KeyKind, PublicKey};

use super::protection::{self, KeyProtection, Protected};
use super::token::key::TokenKey;
use super::token::{ObjectName, TokenFault, Tokens};
use super::{Custody, Uses, in_memory};
use crate::config::{KeyConfig, KeyPlace};
use crate::key::KeyError;
use crate::schedule::{CostClass, Lane};

/// Gets at the private keys that a configuration names.
#[derive(Debug)]
pub struct Custodian<'c> {
    /// Which cryptography keys in memory are used by.
    pub crypto: Crypto,
    /// What files are relative to.
    pub directory: &'c Path,
    /// What opens files.
    pub protection: KeyProtection,
    /// The tokens.
    pub tokens: Tokens,
}

/// A private key that was taken.
pub struct Taken {
    /// The key.
    pub custody: Box<dyn Custody>,
    /// How it is protected where it lies; `None` for one in a token.
    pub protected: Option<Protected>,
    /// Where operations with it wait.
    pub lane: Lane,
    /// Why its token cannot be reached at this moment.
    pub away: Option<TokenFault>,
}

impl<'c> Custodian<'c> {
    /// One who knows no secret and no token.
    pub fn of_files(crypto: Crypto, directory: &'c Path) -> Self {
        Self { crypto, directory, protection: KeyProtection::default(), tokens: Tokens::default() }
    }
}

impl Custodian<'_> {
    /// Takes the private key of `config`, whose certificate is for `public_key`.
    ///
    /// # Errors
    /// [`KeyError`] when it cannot be had, other than for a token that is away.
    pub fn take(&self, config: &KeyConfig, public_key: &PublicKey) -> Result<Taken, KeyError> {
        let uses = if config.danger_rsa_key_transport { Uses::KeyTransport } else { Uses::Signing };
        match config.place()? {
            KeyPlace::File { .. } => self.open(config, public_key, uses),
            KeyPlace::Token { token, object } => self.find(token, object, public_key.kind(), uses),
        }
    }

    fn open(&self, config: &KeyConfig, public_key: &PublicKey, uses: Uses) -> Result<Taken, KeyError> {
        let (key, protected) = self.read(config, Some(public_key.key_id()))?;
        let custody = in_memory(self.crypto, public_key.kind(), &key, uses);
        let custody = custody.map_err(|cause| KeyError::PrivateKey { file: config.file(self.directory), cause })?;
        let lane = Lane::of(CostClass::of(public_key.kind()));
        Ok(Taken { custody, protected: Some(protected), lane, away: None })
    }

    /// Opens the file of a private key that is not in a token.
    ///
    /// # Errors
    /// [`KeyError`] when it cannot be read or opened.
    pub fn read(
        &self,
        config: &KeyConfig,
        key_id: Option<KeyId>,
    ) -> Result<(super::pem::PrivateKeyPem, Protected), KeyError> {
        let file = config.file(self.directory);
        let own = config.passphrase.as_ref().map(|source| source.read(self.directory)).transpose();
        let own = own.map_err(|cause| KeyError::Protected { file: file.clone(), cause: cause.into() })?;
        let text = protection::read_file(&file);
        let text = text.map_err(|cause| KeyError::Unreadable { file: file.clone(), cause })?;
        self.protection.open(&text, own.as_ref(), key_id).map_err(|cause| KeyError::Protected { file, cause })
    }

    fn find(&self, token: &str, object: ObjectName, kind: KeyKind, uses: Uses) -> Result<Taken, KeyError> {
        let found = self.tokens.find(token).ok_or_else(|| KeyError::UnknownToken(token.to_owned()))?;
        if uses == Uses::KeyTransport && !matches!(kind, KeyKind::Rsa { .. }) {
            return Err(KeyError::Token {
                token: token.to_owned(),
                object: object.to_string(),
                cause: TokenFault::OperationFailed("danger_rsa_key_transport is for RSA keys alone".to_owned()),
            });
        }
        let key = TokenKey::new(found.clone(), object.clone(), kind, uses);
        let away = match key.locate() {
            Ok(()) => None,
            Err(fault) if fault.is_passing() => Some(fault),
            Err(cause) => {
                return Err(KeyError::Token { token: token.to_owned(), object: object.to_string(), cause });
            }
        };
        Ok(Taken { custody: Box::new(key), protected: None, lane: found.lane(), away })
    }
}
