//! What is wrong with a configuration that is refused.

use std::sync::Arc;

use keystead_program::channel::{ChannelError, PeerIdentity};
use keystead_program::config::ConfigError;
use keystead_program::logging::LogError;

use crate::audit::config::AuditSettingsError;
use crate::custody::protection::ProtectionError;
use crate::custody::token::TokenError;
use crate::key::KeyError;
use crate::policy::PolicyError;
use crate::ticket_keys::ratchet::ClockFault;
use crate::ticket_keys::state::StateError;

/// Which part of a configuration is wrong.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file itself.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The `[log]` table.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The `[channel]` table.
    #[error("[channel] {0}")]
    Channel(ChannelError),
    /// A limit that would let nothing through.
    #[error("[limits] {0} must not be 0")]
    ZeroLimit(&'static str),
    /// Fewer leases than edges keep in reserve.
    #[error("[limits] leases_per_edge must be at least 8192: edges keep up to 2048 for each connection")]
    FewLeases,
    /// No `[[key]]`.
    #[error("no [[key]]: there is nothing to sign with")]
    NoKeys,
    /// Two `[[key]]` of one name.
    #[error("two [[key]] have the name {0}; names must differ")]
    DuplicateKeyName(String),
    /// One private key under two names.
    #[error("[[key]] {first} and {second} hold the same private key; an edge could not tell them apart")]
    DuplicateKey {
        /// The one named first.
        first: Arc<str>,
        /// The other.
        second: Arc<str>,
    },
    /// The ticket secret's file.
    #[error("[tickets] {0}")]
    TicketState(StateError),
    /// The clock is far ahead of the ticket secret.
    #[error("[tickets] {0}")]
    Clock(ClockFault),
    /// The `[key_protection]` table.
    #[error("[key_protection] {0}")]
    KeyProtection(ProtectionError),
    /// A `[[token]]` that cannot be used.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The `[audit]` table.
    #[error("[audit] {0}")]
    Audit(AuditSettingsError),
    /// A `[[key]]` that cannot be used.
    #[error("[[key]] {name}: {cause}")]
    Key {
        /// Its name.
        name: String,
        /// What is wrong.
        cause: KeyError,
    },
    /// Two `[[edge]]` of one identity.
    #[error("two [[edge]] have the id {0}; put their keys into one")]
    DuplicateEdge(PeerIdentity),
    /// An edge's list names a key twice.
    #[error("[[edge]] {edge}: the key {key} stands twice in `keys`; put both entries into one")]
    DuplicateGrant {
        /// Whose list.
        edge: PeerIdentity,
        /// The name on it.
        key: String,
    },
    /// What an edge may do with a key makes no sense.
    #[error("[[edge]] {edge}: the key {key}: {cause}")]
    Policy {
        /// Whose list.
        edge: PeerIdentity,
        /// The name on it.
        key: String,
        /// What is wrong.
        cause: PolicyError,
    },
    /// The bounds of an edge make no sense.
    #[error("[[edge]] {edge}: {cause}")]
    EdgePolicy {
        /// The edge.
        edge: PeerIdentity,
        /// What is wrong.
        cause: PolicyError,
    },
    /// An edge's list names a key that is not there.
    #[error("[[edge]] {edge}: there is no [[key]] of the name {key}")]
    UnknownKey {
        /// Whose list.
        edge: PeerIdentity,
        /// The name on it.
        key: String,
    },
}
