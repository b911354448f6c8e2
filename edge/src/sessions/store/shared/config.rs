//! The `[sessions.shared]` table.

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::Duration;

use keystead_program::channel::HostPort;
use keystead_program::config::RelativePath;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::super::config::check_between;

/// The `[sessions.shared]` table, as TOML has it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SharedFile {
    kind: Kind,
    addresses: Vec<HostPort>,
    master_name: Option<String>,
    #[serde(default)]
    database: u32,
    username: Option<String>,
    password_file: Option<RelativePath>,
    sentinel_password_file: Option<RelativePath>,
    tls: Option<TlsFile>,
    #[serde(default = "default_prefix")]
    prefix: String,
    #[serde(with = "humantime_serde", default = "default_timeout")]
    timeout: Duration,
    #[serde(default = "default_breaker_failures")]
    breaker_failures: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Single,
    Sentinel,
    Cluster,
}

/// The `[sessions.shared.tls]` table: PEM files.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct TlsFile {
    trust_roots: RelativePath,
    certificate: Option<RelativePath>,
    private_key: Option<RelativePath>,
}

fn default_prefix() -> String {
    "keystead:session:".to_owned()
}

fn default_timeout() -> Duration {
    Duration::from_millis(20)
}

fn default_breaker_failures() -> u32 {
    5
}

/// A checked `[sessions.shared]` table.
#[derive(Clone, Debug)]
pub struct SharedConfig {
    /// What the addresses are of.
    pub kind: SharedKind,
    /// At least one.
    pub addresses: Vec<HostPort>,
    /// The number of the database, 0 in a cluster.
    pub database: u32,
    /// As whom the edge logs in.
    pub username: Option<String>,
    /// With which password.
    pub password: Option<Secret>,
    /// The password that the sentinels themselves want.
    pub sentinel_password: Option<Secret>,
    /// `None` for connections in the clear.
    pub tls: Option<SharedTls>,
    /// What keys begin with.
    pub prefix: String,
    /// For one lookup; a handshake that waits for longer is a full one.
    pub timeout: Duration,
    /// Failures in a row after which the store is left alone for a while.
    pub breaker_failures: u32,
}

/// What the addresses of a shared store are of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SharedKind {
    /// One server.
    Single,
    /// Sentinels, which know the master by a name.
    Sentinel {
        /// That name.
        master_name: String,
    },
    /// Some of a cluster's servers.
    Cluster,
}

/// TLS to a shared store.
#[derive(Clone, Debug)]
pub struct SharedTls {
    /// The authorities that the servers' certificates must come from, in PEM.
    pub trust_roots: Vec<u8>,
    /// This edge's own certificate.
    pub own: Option<OwnCertificate>,
}

/// A certificate with its key, in PEM.
#[derive(Clone, Debug)]
pub struct OwnCertificate {
    /// The certificate, and its intermediates.
    pub certificate: Vec<u8>,
    /// Its key.
    pub private_key: Secret<Vec<u8>>,
}

/// What must not be shown; wiped when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret<T: zeroize::Zeroize = String>(Zeroizing<T>);

impl<T: zeroize::Zeroize> Secret<T> {
    /// Takes it in.
    pub fn new(secret: T) -> Self {
        Self(Zeroizing::new(secret))
    }

    /// The secret itself.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T: zeroize::Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl SharedFile {
    /// Reads the files that the table names; relative paths start at `directory`.
    ///
    /// # Errors
    /// What is wrong, and what to do about it.
    pub fn check(self, directory: &Path) -> Result<SharedConfig, String> {
        let kind = self.checked_kind()?;
        if self.addresses.is_empty() {
            return Err("addresses is empty: name at least one server as host:port".to_owned());
        }
        if kind == SharedKind::Cluster && self.database != 0 {
            return Err("database must be 0: a cluster has no other".to_owned());
        }
        if self.username.is_some() && self.password_file.is_none() {
            return Err("username stands without password_file: name the file with its password".to_owned());
        }
        if self.prefix.len() > 128 {
            return Err("prefix must be at most 128 bytes".to_owned());
        }
        if self.breaker_failures == 0 {
            return Err("breaker_failures is 0: the store would never be asked".to_owned());
        }
        check_between("timeout", self.timeout, Duration::from_millis(1), Duration::from_secs(1))?;
        let password = |file: Option<RelativePath>| file.map(|file| read_password(&file.under(directory))).transpose();
        Ok(SharedConfig {
            kind,
            addresses: self.addresses,
            database: self.database,
            username: self.username,
            password: password(self.password_file)?,
            sentinel_password: password(self.sentinel_password_file)?,
            tls: self.tls.map(|tls| tls.check(directory)).transpose()?,
            prefix: self.prefix,
            timeout: self.timeout,
            breaker_failures: self.breaker_failures,
        })
    }

    fn checked_kind(&self) -> Result<SharedKind, String> {
        match (self.kind, self.master_name.clone()) {
            (Kind::Sentinel, Some(master_name)) => Ok(SharedKind::Sentinel { master_name }),
            (Kind::Sentinel, None) => {
                Err("master_name is missing: the name that sentinels have for the master".to_owned())
            }
            (Kind::Single | Kind::Cluster, Some(_)) => Err("master_name is for kind \"sentinel\" alone".to_owned()),
            (Kind::Single | Kind::Cluster, None) if self.sentinel_password_file.is_some() => {
                Err("sentinel_password_file is for kind \"sentinel\" alone".to_owned())
            }
            (Kind::Single, None) if self.addresses.len() > 1 => {
                Err("addresses has several for kind \"single\": leave one, or say \"sentinel\" or \"cluster\""
                    .to_owned())
            }
            (Kind::Single, None) => Ok(SharedKind::Single),
            (Kind::Cluster, None) => Ok(SharedKind::Cluster),
        }
    }
}

impl TlsFile {
    fn check(self, directory: &Path) -> Result<SharedTls, String> {
        let read_certificates = |file: &RelativePath| {
            let file = file.under(directory);
            let pem = read(&file)?;
            match CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>() {
                Ok(certificates) if certificates.is_empty() => Err(format!("{}: holds no certificate", file.display())),
                Ok(_) => Ok(pem),
                Err(cause) => Err(format!("{}: {cause}", file.display())),
            }
        };
        let own = match (self.certificate, self.private_key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => {
                let key = key.under(directory);
                let pem = Zeroizing::new(read(&key)?);
                PrivateKeyDer::from_pem_slice(&pem).map_err(|cause| format!("{}: {cause}", key.display()))?;
                Some(OwnCertificate { certificate: read_certificates(&certificate)?, private_key: Secret(pem) })
            }
            (Some(_), None) => return Err("tls has a certificate without its private_key".to_owned()),
            (None, Some(_)) => return Err("tls has a private_key without its certificate".to_owned()),
        };
        Ok(SharedTls { trust_roots: read_certificates(&self.trust_roots)?, own })
    }
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    fs::read(file).map_err(|cause| format!("{}: {cause}", file.display()))
}

/// The file's one line.
fn read_password(file: &Path) -> Result<Secret, String> {
    let text = Zeroizing::new(fs::read_to_string(file).map_err(|cause| format!("{}: {cause}", file.display()))?);
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() || password.contains(['\r', '\n']) {
        return Err(format!("{}: must hold the password on one line", file.display()));
    }
    Ok(Secret(Zeroizing::new(password.to_owned())))
}

#[cfg(test)]
mod tests;
