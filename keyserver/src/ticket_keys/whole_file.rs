//! Files that only their owner reads and that appear whole or not at all, also when the machine stops in between.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use keystead_program::config::directory;

/// Makes `file` with this content, unless there is one.
pub(crate) fn create(file: &Path, content: &[u8]) -> io::Result<()> {
    // A name of this process's own: a key server that replaces the file meanwhile must not come by what is in it.
    let beside = write_beside(file, &format!(".{}.new", std::process::id()), content)?;
    // A rename would take the place of what is there; a second name cannot.
    let linked = std::fs::hard_link(&beside, file);
    std::fs::remove_file(&beside)?;
    linked?;
    sync_directory(file)
}

/// Puts this content in the place of what `file` has.
pub(crate) fn replace(file: &Path, content: &[u8]) -> io::Result<()> {
    let beside = write_beside(file, ".tmp", content)?;
    std::fs::rename(&beside, file)?;
    sync_directory(file)
}

fn write_beside(file: &Path, suffix: &str, content: &[u8]) -> io::Result<PathBuf> {
    let mut beside = file.as_os_str().to_owned();
    beside.push(suffix);
    let beside = PathBuf::from(beside);
    // What a process that was killed has left.
    match std::fs::remove_file(&beside) {
        Err(cause) if cause.kind() != ErrorKind::NotFound => return Err(cause),
        Ok(()) | Err(_) => {}
    }
    // The mode holds from the first byte on.
    let mut written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    written.write_all(content)?;
    written.sync_all()?;
    Ok(beside)
}

fn sync_directory(file: &Path) -> io::Result<()> {
    File::open(directory(file))?.sync_all()
}
