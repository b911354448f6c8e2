//! Files that appear whole, with their final mode and owner, or not at all.
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, chown};
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Result};

/// The user and group a program will run as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    user: u32,
    group: u32,
}

impl FromStr for Owner {
    type Err = anyhow::Error;

    /// Reads `UID:GID`, both numbers: the names of a container's users mean nothing outside it.
    fn from_str(text: &str) -> Result<Self> {
        let (user, group) = text.split_once(':').context("expected UID:GID")?;
        let number = |part: &str| part.parse::<u32>().with_context(|| format!("{part:?} is not a number"));
        Ok(Self { user: number(user)?, group: number(group)? })
    }
}

/// Makes a directory that others may enter.
pub(super) fn directory(path: &Path, owner: Option<Owner>) -> Result<()> {
    make(path, 0o755)?;
    hand_over(path, owner)
}

/// Makes a directory that nobody else may enter.
pub(super) fn private_directory(path: &Path) -> Result<()> {
    make(path, 0o700)
}

/// Writes what everybody may read, unless it is there already.
pub(super) fn write_if_changed(path: &Path, content: &str, owner: Option<Owner>) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|present| present == content) {
        return hand_over(path, owner);
    }
    write(path, content, 0o644, owner)
}

/// Writes what only the owner may read.
pub(super) fn write_private(path: &Path, content: &str, owner: Option<Owner>) -> Result<()> {
    write(path, content, 0o600, owner)
}

/// Gives an existing file to the owner, if one is set.
pub(super) fn hand_over(path: &Path, owner: Option<Owner>) -> Result<()> {
    let Some(owner) = owner else { return Ok(()) };
    chown(path, Some(owner.user), Some(owner.group))
        .with_context(|| format!("cannot give {} to {}:{}", path.display(), owner.user, owner.group))
}

fn make(path: &Path, mode: u32) -> Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(mode).create(path).with_context(|| format!("cannot make {}", path.display()))
}

fn write(path: &Path, content: &str, mode: u32, owner: Option<Owner>) -> Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".tmp");
    let beside = Path::new(&beside);
    let written = write_beside(beside, content, mode)
        .and_then(|()| hand_over(beside, owner))
        .and_then(|()| Ok(fs::rename(beside, path)?));
    written.with_context(|| format!("cannot write {}", path.display()))
}

fn write_beside(path: &Path, content: &str, mode: u32) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    // The mode holds from the first byte on: a key is never readable by others, not even for a moment.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    Ok(())
}
