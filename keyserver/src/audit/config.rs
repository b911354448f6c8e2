//! What the configuration says of the audit log.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use keystead_program::config::RelativePath;
use serde::Deserialize;

use super::signing_key::{SigningKey, SigningKeyError};

/// The `[audit]` table.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditConfig {
    /// Where the log's files are. One key server alone writes there.
    pub directory: RelativePath,
    /// PEM file with the Ed25519 key that checkpoints are signed with, which `audit init` makes.
    pub signing_key: RelativePath,
    /// From which length on a file is followed by another.
    #[serde(default = "default_rotate_bytes")]
    pub rotate_bytes: u64,
    /// How long records may go unsigned, and not forced to the disk.
    #[serde(default = "default_checkpoint_interval", with = "humantime_serde")]
    pub checkpoint_interval: Duration,
    /// Records that may wait to be written, those of operations under way among them.
    #[serde(default = "default_queue")]
    pub queue: usize,
    /// What becomes of operations when their records cannot be written.
    #[serde(default)]
    pub when_unwritable: WhenUnwritable,
}

/// What becomes of operations when their records cannot be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenUnwritable {
    /// They are refused as soon as the queue is full.
    #[default]
    Refuse,
    /// They are done, and their records summed up until the log can be written again.
    DangerGoOn,
}

const LEAST_ROTATE_BYTES: u64 = 64 << 10;
const LEAST_QUEUE: usize = 64;

fn default_rotate_bytes() -> u64 {
    64 << 20
}

fn default_checkpoint_interval() -> Duration {
    Duration::from_secs(10)
}

fn default_queue() -> usize {
    65_536
}

/// An [`AuditConfig`] with what it names.
#[derive(Clone, Debug)]
pub struct AuditSettings {
    /// See [`AuditConfig::directory`].
    pub directory: PathBuf,
    /// Signs checkpoints.
    pub signing_key: Arc<SigningKey>,
    /// See [`AuditConfig::rotate_bytes`].
    pub rotate_bytes: u64,
    /// See [`AuditConfig::checkpoint_interval`].
    pub checkpoint_interval: Duration,
    /// See [`AuditConfig::queue`].
    pub queue: usize,
    /// See [`AuditConfig::when_unwritable`].
    pub when_unwritable: WhenUnwritable,
}

impl AuditSettings {
    /// Reads what `config` names; relative paths start at `directory`.
    ///
    /// # Errors
    /// [`AuditSettingsError`] for numbers out of bounds, and for a signing key that cannot be read.
    pub fn load(config: &AuditConfig, directory: &Path) -> Result<Self, AuditSettingsError> {
        if config.rotate_bytes < LEAST_ROTATE_BYTES {
            return Err(AuditSettingsError::RotateBytes);
        }
        if config.queue < LEAST_QUEUE {
            return Err(AuditSettingsError::Queue);
        }
        if config.checkpoint_interval.is_zero() {
            return Err(AuditSettingsError::CheckpointInterval);
        }
        Ok(Self {
            directory: config.directory.under(directory),
            signing_key: Arc::new(SigningKey::read(&config.signing_key.under(directory))?),
            rotate_bytes: config.rotate_bytes,
            checkpoint_interval: config.checkpoint_interval,
            queue: config.queue,
            when_unwritable: config.when_unwritable,
        })
    }
}

/// What is wrong with an `[audit]` table.
#[derive(Debug, thiserror::Error)]
pub enum AuditSettingsError {
    /// Files of a few records each.
    #[error("rotate_bytes must be at least 65536")]
    RotateBytes,
    /// Operations would refuse each other.
    #[error("queue must be at least 64")]
    Queue,
    /// Nothing but checkpoints.
    #[error("checkpoint_interval must not be 0")]
    CheckpointInterval,
    /// The signing key.
    #[error(transparent)]
    SigningKey(#[from] SigningKeyError),
}
