//! The `[sessions.local]` table.

use std::time::Duration;

use serde::Deserialize;

/// The `[sessions.local]` table.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LocalConfig {
    /// Most sessions in the database.
    pub max_entries: u64,
    /// Most bytes of sessions in the database. Its files take two to three times as much.
    pub max_bytes: u64,
    /// Bytes of sessions in memory.
    pub memory_bytes: u64,
    /// For how long sessions that begin go to one bucket; they are dropped together.
    #[serde(with = "humantime_serde")]
    pub bucket_period: Duration,
    /// For one lookup in the database; a handshake that waits for longer is a full one.
    #[serde(with = "humantime_serde")]
    pub lookup_timeout: Duration,
}

impl Default for LocalConfig {
    fn default() -> Self {
        Self {
            max_entries: 1_000_000,
            max_bytes: 512 << 20,
            memory_bytes: 64 << 20,
            bucket_period: Duration::from_secs(15 * 60),
            lookup_timeout: Duration::from_millis(50),
        }
    }
}

impl LocalConfig {
    /// Whether the values can stand.
    ///
    /// # Errors
    /// What is wrong, and what to do about it.
    pub fn check(&self) -> Result<(), String> {
        // All that may wait to be written must fit into one of the sixteen buckets.
        if self.max_entries < 1 << 16 {
            return Err("max_entries must be at least 65536".to_owned());
        }
        if self.max_bytes < 64 << 20 {
            return Err("max_bytes must be at least 67108864 (64 MiB)".to_owned());
        }
        if self.memory_bytes < 1 << 20 {
            return Err("memory_bytes must be at least 1048576 (1 MiB)".to_owned());
        }
        check_between("bucket_period", self.bucket_period, Duration::from_secs(60), Duration::from_secs(24 * 3600))?;
        check_between("lookup_timeout", self.lookup_timeout, Duration::from_millis(1), Duration::from_secs(5))
    }
}

/// That a duration of a configuration makes sense.
pub(super) fn check_between(name: &str, duration: Duration, least: Duration, most: Duration) -> Result<(), String> {
    if duration < least || duration > most {
        return Err(format!("{name} must be {least:?} to {most:?}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
