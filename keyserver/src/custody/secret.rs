//! Secrets that open private keys and tokens, and where each comes from.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use keystead_program::config::RelativePath;
use serde::Deserialize;
use zeroize::Zeroizing;

/// Where a secret is to be read: exactly one place, in a configuration `{ file = "…" }`, `{ environment = "…" }` or
/// `{ credential = "…" }`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretSource {
    /// A file.
    File(RelativePath),
    /// A variable of the process's environment.
    Environment(String),
    /// A credential that systemd hands over, by its name below `$CREDENTIALS_DIRECTORY`.
    Credential(String),
}

/// A secret as it was read, without the line end behind it. Wiped when dropped, never printed.
pub struct Secret(Zeroizing<Vec<u8>>);

/// More than any passphrase, PIN or key has.
const LONGEST: usize = 4096;

impl SecretSource {
    /// Reads the secret. A file's path is relative to `directory`.
    ///
    /// # Errors
    /// [`SecretError`] when it is not there, is empty or too long.
    pub fn read(&self, directory: &Path) -> Result<Secret, SecretError> {
        let bytes = match self {
            Self::Environment(name) => std::env::var_os(name)
                .map(|value| Zeroizing::new(value.into_encoded_bytes()))
                .ok_or_else(|| SecretError::NoVariable(name.clone()))?,
            Self::File(_) | Self::Credential(_) => {
                let file = self.path(directory)?;
                read_file(&file).map_err(|cause| SecretError::Unreadable { file, cause })?
            }
        };
        let secret = Secret(bytes).without_line_end();
        match secret.expose().len() {
            0 => Err(SecretError::Empty(self.clone())),
            length if length > LONGEST => Err(SecretError::TooLong(self.clone())),
            _ => Ok(secret),
        }
    }

    /// The file that it is in, if it is in one of the administrator's.
    pub(crate) fn file(&self) -> Option<&RelativePath> {
        match self {
            Self::File(path) => Some(path),
            Self::Environment(_) | Self::Credential(_) => None,
        }
    }

    fn path(&self, directory: &Path) -> Result<PathBuf, SecretError> {
        match self {
            Self::File(path) => Ok(path.under(directory)),
            Self::Environment(name) | Self::Credential(name) => {
                if name.is_empty() || name.starts_with('.') || name.contains('/') {
                    return Err(SecretError::CredentialName(name.clone()));
                }
                let credentials = credentials_directory();
                credentials.map(|path| path.join(name)).ok_or_else(|| SecretError::NoCredentials(name.clone()))
            }
        }
    }
}

/// Where systemd puts the credentials that it hands over, if there are any.
pub(crate) fn credentials_directory() -> Option<PathBuf> {
    std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from)
}

/// One byte beyond what is taken, so that too much is told from just enough. The buffer never grows, which would leave a
/// copy behind.
fn read_file(file: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST + 64));
    File::open(file)?.take(LONGEST as u64 + 3).read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file {}", path.under(Path::new("")).display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Credential(name) => write!(f, "credential {name}"),
        }
    }
}

/// Reads `file:PATH`, `environment:NAME` or `credential:NAME`, as arguments have it. The secret itself is never one.
impl FromStr for SecretSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(("environment", name)) if !name.is_empty() => Ok(Self::Environment(name.to_owned())),
            Some(("credential", name)) if !name.is_empty() => Ok(Self::Credential(name.to_owned())),
            _ => Err("expected file:PATH, environment:NAME or credential:NAME; a secret is no argument, since every \
                      account of the machine sees those"
                .to_owned()),
        }
    }
}

impl Secret {
    /// Takes these bytes for a secret.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    fn without_line_end(mut self) -> Self {
        for end in [b'\n', b'\r'] {
            if self.0.last() == Some(&end) {
                self.0.pop();
            }
        }
        self
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret([redacted])")
    }
}

/// Why a secret was not read. Says where it was looked for, and nothing of what is there.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("{}: {cause}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        cause: io::Error,
    },
    /// The variable is not set.
    #[error("the environment variable {0} is not set")]
    NoVariable(String),
    /// The name is no file's in a directory.
    #[error("{0:?} is no name of a credential: those are file names without a directory")]
    CredentialName(String),
    /// Not started by systemd, or without credentials.
    #[error("no credentials here for {0}: they take LoadCredential= or LoadCredentialEncrypted= in the systemd unit")]
    NoCredentials(String),
    /// There is nothing in it.
    #[error("{0} is empty")]
    Empty(SecretSource),
    /// More than a secret has.
    #[error("{0} holds more than 4096 bytes")]
    TooLong(SecretSource),
}
