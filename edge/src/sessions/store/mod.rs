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

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

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

/// Whether an edge may have given this id, to a session of which nothing is older than `lifetime`. Its bucket's number
/// is the time at which the bucket was begun.
pub fn is_of_an_edge(id: &SessionId, lifetime: Duration) -> bool {
    /// Other edges' clocks, and buckets that fill up faster than the clock goes.
    const AHEAD: u64 = 3600;
    /// The longest that a bucket is open.
    const BUCKET: u64 = 24 * 3600;
    let [a, b, c, d, ..] = *id;
    let (begun, now) = (u64::from(u32::from_be_bytes([a, b, c, d])), unix_now());
    begun <= now + AHEAD && begun.saturating_add(lifetime.as_secs()).saturating_add(BUCKET) >= now
}

/// What a store has in place of the id.
fn digest(id: &SessionId) -> [u8; 32] {
    Sha256::digest(id).into()
}

/// Seconds since 1970. What is on disk outlives every other clock.
fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// When something that begins now and lives that long has ended, in seconds since 1970.
fn expiry(lives: Duration) -> u64 {
    unix_now().saturating_add(lives.as_secs())
}
