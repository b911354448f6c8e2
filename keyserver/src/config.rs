//! What the configuration file of a key server says. What it means, [`crate::settings`] finds out.

use std::net::SocketAddr;
use std::time::Duration;

use keystead_program::channel::{ChannelConfig, PeerIdentity};
use keystead_program::config::RelativePath;
use keystead_program::crypto::Crypto;
use keystead_program::logging::LogConfig;
use keystead_program::observe::MetricsConfig;
use keystead_tls::SignatureScheme;
use serde::de::Error;
use serde::{Deserialize, Deserializer};

use crate::audit::AuditConfig;
use crate::ticket_keys::group::GroupName;

/// A configuration file. Paths in it are relative to its directory.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where edges connect.
    pub listen: SocketAddr,
    /// Which cryptography signs and verifies.
    #[serde(default)]
    pub crypto: Crypto,
    /// Logs.
    #[serde(default)]
    pub log: LogConfig,
    /// Metrics and health over HTTP; none where the table is missing.
    pub metrics: Option<MetricsConfig>,
    /// The channel to the edges.
    pub channel: ChannelConfig,
    /// Bounds.
    #[serde(default)]
    pub limits: Limits,
    /// Session tickets; none are offered where the table is missing.
    pub tickets: Option<TicketsConfig>,
    /// The audit log; none is kept where the table is missing.
    pub audit: Option<AuditConfig>,
    /// The keys.
    #[serde(default)]
    pub key: Vec<KeyConfig>,
    /// The edges and what each may use.
    #[serde(default)]
    pub edge: Vec<EdgeConfig>,
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
    /// Handshakes at one time.
    pub handshakes: usize,
    /// How long a handshake may take.
    #[serde(with = "humantime_serde")]
    pub handshake_timeout: Duration,
    /// How long a request may wait for its answer, where the edge does not ask for less.
    #[serde(with = "humantime_serde")]
    pub operation_timeout: Duration,
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
            handshakes: 64,
            handshake_timeout: Duration::from_secs(5),
            operation_timeout: Duration::from_secs(2),
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
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyConfig {
    /// The name by which edges ask for it and logs tell of it.
    pub name: String,
    /// PEM file: PKCS#8, PKCS#1 or SEC1.
    pub private_key: RelativePath,
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

/// An `[[edge]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EdgeConfig {
    /// The URI subject alternative name of its certificate.
    pub id: PeerIdentity,
    /// Names of the keys it may use.
    pub keys: Vec<String>,
    /// The edges that open its tickets, and whose tickets it opens: those of the same group.
    #[serde(default)]
    pub ticket_group: GroupName,
    /// Whether it is to be known no longer. Unlike the removal of the entry, this changes the ticket keys of its group.
    #[serde(default)]
    pub revoked: bool,
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
