//! The secret that the key servers of a deployment make ticket keys from.
use std::path::Path;

use anyhow::Result;
use keystead_keyserver::ticket_keys::ratchet::{RotationPeriod, UnixTime};
use keystead_keyserver::ticket_keys::state::{self, StateError};

use super::files::{self, Owner};

/// Makes `file` unless it is there, in a directory where its owner can replace it; returns whether it had to be made.
///
/// # Errors
/// Whatever the file system refuses.
pub fn provide(file: &Path, owner: Option<Owner>) -> Result<bool> {
    if let Some(directory) = file.parent() {
        files::directory(directory, owner)?;
    }
    let made = match state::create(file, RotationPeriod::HOUR, UnixTime::now(), &mut rand::rng()) {
        Ok(()) => true,
        Err(StateError::Exists { .. }) => false,
        Err(error) => return Err(error.into()),
    };
    files::hand_over(file, owner)?;
    Ok(made)
}
