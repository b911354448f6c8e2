//! The library that gives a program a clock of its own.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::stack::programs;

/// libfaketime, which the programs under test can be run with.
///
/// # Errors
/// Why they cannot.
pub(super) fn library() -> Result<PathBuf> {
    for program in ["keystead-keyserver", "keystead-edge"] {
        let listed = Command::new("ldd").arg(programs::path(program)).output().context("ldd")?;
        let is_dynamic = String::from_utf8_lossy(&listed.stdout).contains("libc.so");
        ensure!(is_dynamic, "{program} is linked statically, so that libfaketime cannot be loaded into it");
    }
    let architectures = fs::read_dir("/usr/lib").context("/usr/lib")?;
    let candidates = architectures.flatten().map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"));
    let found = candidates.into_iter().find(|candidate| candidate.is_file());
    found.context("libfaketime is not installed (package faketime)")
}
