//! What the configuration file of a key server says. What it means, [`crate::settings`] finds out.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use keystead_program::channel::{ChannelConfig, PeerIdentity};
use keystead_program::config::RelativePath;
use keystead_program::crypto::Crypto;
use keystead_program::logging::LogConfig;
use keystead_program::observe::MetricsConfig;
use keystead_program::sandbox::ProcessConfig;
use keystead_tls::SignatureScheme;
use serde::de::Error;
use serde::{Deserialize, Deserializer};

use crate::audit::AuditConfig;
use crate::custody::protection::KeyProtectionConfig;
use crate::custody::secret::SecretSource;
use crate::custody::token::{ObjectName, ObjectNameError, TokenConfig};
use crate::memory::MemoryConfig;
use crate::ticket_keys::group::GroupName;

pub mod grant;

use grant::{Bounds, GrantConfig};

/// A configuration file. Paths in it are relative to its directory.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where edges connect.
    pub listen: SocketAddr,
    /// The name of the socket to take if sockets are handed over (`LISTEN_FDNAMES`); the one on `listen` where it is missing.
    pub listen_socket: Option<String>,
    /// Which cryptography signs and verifies.
    #[serde(default)]
    pub crypto: Crypto,
    /// Logs.
    #[serde(default)]
    pub log: LogConfig,
    /// Privileges to give up.
    #[serde(default)]
    pub process: ProcessConfig,
    /// Metrics and health over HTTP; none where the table is missing.
    pub metrics: Option<MetricsConfig>,
    /// The channel to the edges.
    pub channel: ChannelConfig,
    /// Bounds.
    #[serde(default)]
    pub limits: Limits,
    /// Session tickets; none are offered where the table is missing.
    pub tickets: Option<TicketsConfig>,
    /// The process's memory.
    #[serde(default)]
    pub memory: MemoryConfig,
    /// What opens private keys that are encrypted or sealed.
    #[serde(default)]
    pub key_protection: KeyProtectionConfig,
    /// The PKCS#11 tokens that keys are in.
    #[serde(default)]
    pub token: Vec<TokenConfig>,
    /// The audit log; none is kept where the table is missing.
    pub audit: Option<AuditConfig>,
    /// The keys.
    #[serde(default)]
    pub key: Vec<KeyConfig>,
    /// The edges and what each may use.
    #[serde(default)]
    pub edge: Vec<EdgeConfig>,
}

impl Config {
    /// The files that it names and that are read at start and at each reload; relative paths start at `directory`. The
    /// ticket secret's is none of them: the key server itself writes it.
    pub fn files(&self, directory: &Path) -> Vec<PathBuf> {
        let keys = self.key.iter().flat_map(|key| key.files(directory));
        let protection = [&self.key_protection.sealing_key, &self.key_protection.passphrase].into_iter().flatten();
        let pins = self.token.iter().map(|token| &token.pin);
        let secrets = protection.chain(pins).filter_map(SecretSource::file).map(|path| path.under(directory));
        self.channel.files(directory).into_iter().chain(keys).chain(secrets).collect()
    }
}

/// The `[limits]` table: bounds on what edges may take up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Threads for the operations of each cost class; 0 means one for each processor.
    pub signing_threads: usize,
    /// Operations on elliptic curves that may wait (about 20 µs each).
    pub queue_light: usize,
    /// Operations with RSA keys of up to 3072 bits that may wait (about 1 ms each).
    pub queue_medium: usize,
    /// Operations with longer RSA keys that may wait (about 5 ms each).
    pub queue_heavy: usize,
    /// Requests of one stream that are not yet answered; further ones stay unread.
    pub in_flight_per_stream: usize,
    /// Randoms for RSA key transport that one call gives at the most.
    pub leases_per_call: u32,
    /// Randoms of one edge that are good at one time; the oldest make way for more. It must cover what the edge keeps in
    /// stock and the handshakes it begins while the slowest of them runs. A bit of memory each.
    pub leases_per_edge: u32,
    /// Streams and unary calls at one time on one connection.
    pub streams_per_connection: u32,
    /// Connections at one time.
    pub connections: usize,
    /// Connections of one edge at one time, and streams of requests, and streams of news.
    pub connections_per_edge: usize,
    /// Handshakes at one time.
    pub handshakes: usize,
    /// Handshakes of one address at one time.
    pub handshakes_per_address: usize,
    /// How long a handshake may take.
    #[serde(with = "humantime_serde")]
    pub handshake_timeout: Duration,
    /// How long a request may wait for its answer, where the edge does not ask for less.
    #[serde(with = "humantime_serde")]
    pub operation_timeout: Duration,
    /// From SIGTERM, at which readiness ends, until edges are told to leave.
    #[serde(with = "humantime_serde")]
    pub drain_delay: Duration,
    /// How long edges have to leave when the key server stops.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
}

impl Default for Limits {
    /// Queues that a processor empties in a few hundred milliseconds.
    fn default() -> Self {
        Self {
            signing_threads: 0,
            queue_light: 8192,
            queue_medium: 512,
            queue_heavy: 64,
            in_flight_per_stream: 1024,
            leases_per_call: 512,
            leases_per_edge: 1 << 18,
            streams_per_connection: 128,
            connections: 1024,
            connections_per_edge: 128,
            handshakes: 64,
            handshakes_per_address: 32,
            handshake_timeout: Duration::from_secs(5),
            operation_timeout: Duration::from_secs(2),
            drain_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(10),
        }
    }
}

/// The `[tickets]` table.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TicketsConfig {
    /// The file with the cluster's ticket secret, which `init` makes and which is replaced at each rotation.
    pub state: RelativePath,
}

/// A `[[key]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyConfig {
    /// The name by which edges ask for it and logs tell of it.
    pub name: String,
    /// PEM file: PKCS#8, also encrypted, PKCS#1, SEC1, or sealed. It has this or `token`.
    pub private_key: Option<RelativePath>,
    /// What its file is encrypted with, if not with what `[key_protection]` says.
    pub passphrase: Option<SecretSource>,
    /// The name of the `[[token]]` that it is in.
    pub token: Option<String>,
    /// Its label (CKA_LABEL) in the token.
    pub object_label: Option<String>,
    /// Its id (CKA_ID) in the token, in hexadecimal digits.
    pub object_id: Option<String>,
    /// PEM file: the server's certificate first, then the intermediates.
    pub certificate_chain: RelativePath,
    /// Schemes to sign with, such as `rsa_pss_rsae_sha256`; all that fit the key where this is missing.
    pub schemes: Option<Vec<SchemeName>>,
    /// DER file: an OCSPResponse for edges to staple.
    pub ocsp_response: Option<RelativePath>,
    /// Whether master secrets are recovered with it, for RSA key transport (RFC 5246 §7.4.7.1). Dangerous: such handshakes
    /// have no forward secrecy, so whoever records them and one day has the key reads them.
    #[serde(default)]
    pub danger_rsa_key_transport: bool,
}

/// Where a private key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyPlace<'c> {
    /// In a file.
    File {
        /// The file.
        file: &'c RelativePath,
    },
    /// In a token.
    Token {
        /// The token's name.
        token: &'c str,
        /// What the key is called there.
        object: ObjectName,
    },
}

impl KeyConfig {
    /// The files it names; relative paths start at `directory`.
    pub fn files(&self, directory: &Path) -> impl Iterator<Item = PathBuf> {
        let passphrase = self.passphrase.as_ref().and_then(SecretSource::file);
        let named = [self.private_key.as_ref(), Some(&self.certificate_chain), self.ocsp_response.as_ref(), passphrase];
        named.into_iter().flatten().map(|path| path.under(directory))
    }

    /// A key in a file, with everything else as it is by default.
    pub fn in_file(name: &str, private_key: &str, certificate_chain: &str) -> Self {
        Self {
            name: name.to_owned(),
            private_key: Some(private_key.into()),
            passphrase: None,
            token: None,
            object_label: None,
            object_id: None,
            certificate_chain: certificate_chain.into(),
            schemes: None,
            ocsp_response: None,
            danger_rsa_key_transport: false,
        }
    }

    /// Where the private key is.
    ///
    /// # Errors
    /// [`KeyPlaceError`] when that is nowhere, or in two places.
    pub fn place(&self) -> Result<KeyPlace<'_>, KeyPlaceError> {
        match (&self.private_key, &self.token) {
            (None, None) => Err(KeyPlaceError::Nowhere),
            (Some(_), Some(_)) => Err(KeyPlaceError::Twice),
            (Some(_), None) if self.object_label.is_some() || self.object_id.is_some() => Err(KeyPlaceError::NoToken),
            (Some(file), None) => Ok(KeyPlace::File { file }),
            (None, Some(_)) if self.passphrase.is_some() => Err(KeyPlaceError::Passphrase),
            (None, Some(token)) => {
                let object = ObjectName::new(self.object_label.as_deref(), self.object_id.as_deref())?;
                Ok(KeyPlace::Token { token, object })
            }
        }
    }

    /// The private key's file under `directory`; the directory for a key that has none.
    pub(crate) fn file(&self, directory: &Path) -> PathBuf {
        self.private_key.as_ref().map_or_else(|| directory.to_owned(), |file| file.under(directory))
    }
}

/// What cannot be said of a private key's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyPlaceError {
    /// Neither file nor token.
    #[error("say where the private key is: `private_key` for a file, or `token` with `object_label` or `object_id`")]
    Nowhere,
    /// File and token.
    #[error("the private key is either in a file (`private_key`) or in a `token`")]
    Twice,
    /// An object without a token.
    #[error("`object_label` and `object_id` are for keys in a `token`")]
    NoToken,
    /// A passphrase for a token.
    #[error("`passphrase` is for keys in files; a token's secret is the `pin` in its [[token]]")]
    Passphrase,
    /// The object's name.
    #[error(transparent)]
    Object(#[from] ObjectNameError),
}

/// An `[[edge]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EdgeConfig {
    /// The URI subject alternative name of its certificate.
    pub id: PeerIdentity,
    /// The keys it may use, and what for.
    pub keys: Vec<GrantConfig>,
    /// The edges that open its tickets, and whose tickets it opens: those of the same group.
    #[serde(default)]
    pub ticket_group: GroupName,
    /// Whether it is to be known no longer. Unlike the removal of the entry, this changes the ticket keys of its group.
    #[serde(default)]
    pub revoked: bool,
    /// Units of cost each second, of all its keys together; without end where this is missing.
    pub rate: Option<u32>,
    /// Units of cost at once; where this is missing, those of a second, or of one operation where these are more.
    pub burst: Option<u32>,
    /// When it is to be known no longer.
    #[serde(default, with = "humantime_serde")]
    pub not_after: Option<SystemTime>,
}

impl EdgeConfig {
    /// What it may do, for a person.
    pub fn rights(&self) -> String {
        let bounds = Some(self.bounds().to_string()).filter(|bounds| !bounds.is_empty());
        let keys = self.keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        bounds.map_or(keys.clone(), |bounds| format!("{bounds}; {keys}"))
    }

    /// What bounds all its keys together.
    pub fn bounds(&self) -> Bounds {
        Bounds { rate: self.rate, burst: self.burst, not_after: self.not_after }
    }
}

/// A signature scheme, by the name of RFC 8446 §4.2.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchemeName(pub SignatureScheme);

impl<'de> Deserialize<'de> for SchemeName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        // The words of serde's own message, so that a misspelt name gets a suggestion.
        let unknown = || D::Error::custom(format!("unknown variant `{name}`, expected one of {}", known_schemes()));
        SignatureScheme::from_name(&name).map(Self).ok_or_else(unknown)
    }
}

fn known_schemes() -> String {
    let names = SignatureScheme::KNOWN.iter().filter_map(|scheme| scheme.name());
    names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
