//! Private keys in PKCS#11 tokens: hardware security modules, and what looks like them.
//!
//! `module` is the shared library that speaks with tokens, `pool` the sessions with one of them, [`key`] a private key
//! in it, `object` what is done with keys beside using them. A token may go away and come back at any time: sessions are
//! opened again, logged in again and keys found again, in the operation that needs it and, while nobody asks, by
//! [`Tokens::follow`].

mod config;
mod fault;
pub mod key;
mod metrics;
mod module;
mod object;
mod pool;

pub use config::{TokenConfig, TokenConfigError};
pub use fault::TokenFault;
pub use metrics::TokenMetrics;
pub use module::ModuleError;
pub use object::{ObjectName, ObjectNameError};

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keystead_tls::PublicKey;
use rand_core::Rng as _;

use super::material::{KeyMaterial, KeyType};
use super::secret::SecretError;
use crate::schedule::Lane;
use pool::Pool;

/// How often a token that is away is looked for.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// The tokens of a key server, by their names.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    by_name: BTreeMap<String, Arc<Token>>,
    metrics: TokenMetrics,
}

/// A token.
#[derive(Debug)]
pub struct Token {
    name: Arc<str>,
    lane: Lane,
    pool: Pool,
}

impl Tokens {
    /// Reads the PINs and loads the modules. Whether the tokens are there is found out when they are used.
    ///
    /// # Errors
    /// [`TokenError`] for what cannot get better by waiting.
    pub fn load(configs: &[TokenConfig], directory: &Path) -> Result<Self, TokenError> {
        let mut tokens = Self::default();
        for (place, config) in configs.iter().enumerate() {
            let failed = |cause| TokenError { token: config.name.clone(), cause };
            let token = Token::load(config, Lane::of_token(place), directory, &tokens.metrics).map_err(failed)?;
            if tokens.by_name.insert(config.name.clone(), Arc::new(token)).is_some() {
                return Err(failed(TokenErrorCause::Twice));
            }
        }
        Ok(tokens)
    }

    /// The token of this name.
    pub fn find(&self, name: &str) -> Option<&Arc<Token>> {
        self.by_name.get(name)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Token>> {
        self.by_name.values()
    }

    /// What is counted of them.
    pub fn metrics(&self) -> &TokenMetrics {
        &self.metrics
    }

    /// Looks for tokens that are away, for as long as the process runs. A module may take its time: each token has a
    /// thread of its own.
    pub async fn follow(self) -> Infallible {
        for token in self.by_name.into_values() {
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(PROBE_INTERVAL).await;
                    let probed = token.clone();
                    // A panic is the module's, and the next second is another try.
                    let _ = tokio::task::spawn_blocking(move || probed.probe()).await;
                }
            });
        }
        std::future::pending().await
    }
}

impl Token {
    fn load(
        config: &TokenConfig,
        lane: Lane,
        directory: &Path,
        metrics: &TokenMetrics,
    ) -> Result<Self, TokenErrorCause> {
        config.check()?;
        let pin = config.pin.read(directory)?;
        let name: Arc<str> = config.name.as_str().into();
        let pool = Pool::new(config, pin, directory, metrics.of(&name))?;
        Ok(Self { name, lane, pool })
    }

    /// The name by which keys ask for it and logs tell of it.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Where what it does waits: a lane of its own, so that a slow token keeps no other key waiting.
    pub fn lane(&self) -> Lane {
        self.lane
    }

    /// Opens a session if none was before, or none could be.
    fn probe(&self) {
        if self.pool.wants_probe() {
            // Told by the pool.
            let _ = self.pool.with_session(|_, _| Ok(()));
        }
    }

    /// Reads the public part of the key that `object` names.
    ///
    /// # Errors
    /// [`TokenFault`] when it is not there, and when the token does not tell.
    pub fn public_key(&self, object: &ObjectName) -> Result<(PublicKey, Vec<u8>), TokenFault> {
        self.pool.with_session(|session, _| object::public_key(session, object))
    }

    /// Makes a key pair in the token, which never gives the private part out. Gives what it is called there: `object`, with
    /// an id drawn where that has none.
    ///
    /// # Errors
    /// [`TokenFault`] when there is such an object already, and when the token does not do it.
    pub fn generate(&self, key_type: KeyType, object: &ObjectName, decrypts: bool) -> Result<ObjectName, TokenFault> {
        let mut id = vec![0; 16];
        rand::rng().fill_bytes(&mut id);
        let name = object.clone().or_id(id);
        self.pool.with_writing_session(|session| {
            object::check_free(session, object)?;
            object::generate(session, key_type, &name, decrypts)
        })?;
        Ok(name)
    }

    /// Puts a key into the token, from where it cannot be read back. Gives what it is called there: `object`, with the
    /// key's id where that has none.
    ///
    /// # Errors
    /// [`TokenFault`] when there is such an object already, and when the token does not do it.
    pub fn import(&self, key: &KeyMaterial, object: &ObjectName, decrypts: bool) -> Result<ObjectName, TokenFault> {
        let name = object.clone().or_id(key.key_id().0.to_vec());
        self.pool.with_writing_session(|session| {
            object::check_free(session, object)?;
            object::import(session, key, &name, decrypts)
        })?;
        Ok(name)
    }
}

/// A `[[token]]` that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("[[token]] {token}: {cause}")]
pub struct TokenError {
    /// Its name.
    pub token: String,
    /// What is wrong.
    pub cause: TokenErrorCause,
}

/// Why a `[[token]]` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenErrorCause {
    /// Two of one name.
    #[error("there are two of this name; names must differ")]
    Twice,
    /// The table.
    #[error(transparent)]
    Config(#[from] TokenConfigError),
    /// The PIN cannot be read.
    #[error("pin: {0}")]
    Pin(#[from] SecretError),
    /// The module cannot be used.
    #[error(transparent)]
    Module(#[from] ModuleError),
}

#[cfg(test)]
mod tests;
