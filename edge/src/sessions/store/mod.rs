//! Where sealed sessions lie, by their session id: on this machine ([`LocalStore`]), and in a database that the edges of
//! a fleet share ([`SharedStore`]).
//!
//! A store is a cache. It is asked with a bound in time, is never waited for when it is written to, and losing it costs
//! full handshakes and nothing else. It holds sealed bytes under digests of session ids: whoever gets hold of it has
//! neither an id nor a session.

mod config;
mod local;
mod miss;
mod shared;
mod telemetry;

use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use super::record::unix_seconds;

pub use config::LocalConfig;
pub use local::LocalStore;
pub use miss::Miss;
pub use shared::{
    InvalidServers, OwnCertificate, Secret, SharedConfig, SharedFile, SharedKind, SharedStore, SharedTls,
};
pub use telemetry::StoreTelemetry;

/// A session id (RFC 5246 §7.4.1.3) of the length that this edge gives its own.
pub type SessionId = [u8; 32];

/// Most bytes of a sealed session.
pub const LONGEST_VALUE: usize = 16 << 10;

/// What a store has in place of the id.
fn digest(id: &SessionId) -> [u8; 32] {
    Sha256::digest(id).into()
}

/// Seconds since 1970. What is on disk outlives every other clock.
fn unix_now() -> u64 {
    unix_seconds(SystemTime::now())
}

/// When something that begins now and lives that long has ended, in seconds since 1970.
fn expiry(lives: Duration) -> u64 {
    unix_now().saturating_add(lives.as_secs())
}
