//! The audit logs that a campaign leaves: verified as they are, and with one bit changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::stack::programs;

/// Where key servers keep their logs, below their directories.
pub(super) const LOG: &str = "state/audit";
/// What they sign checkpoints with.
pub(super) const SIGNING_KEY: &str = "pki/audit.key";
const PUBLIC_KEY: &str = "audit.pub";

/// What `audit verify` said of one key server's log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Audited {
    /// The part of the campaign, and the key server.
    pub log: String,
    /// What it said of the log as it is, where it found it unaltered.
    pub as_it_is: Result<String, String>,
    /// What it found wrong once a bit in the middle of the log was changed; that it found nothing is the error.
    pub altered: Result<String, String>,
}

impl Audited {
    /// Whether the log is whole, and would not be believed if it were not.
    pub fn holds(&self) -> bool {
        self.as_it_is.is_ok() && self.altered.is_ok()
    }

    /// Verifies the log of the key server in `home`, which must have ended. The log is altered.
    pub(super) fn of(log: String, home: &Path) -> Self {
        let as_it_is = verify(home).map_err(|cause| format!("{cause:#}"));
        let altered = change_one_bit(home).and_then(|()| match verify(home) {
            Ok(said) => anyhow::bail!("a changed bit went unseen: {said}"),
            Err(cause) => Ok(format!("{cause:#}")),
        });
        Self { log, as_it_is, altered: altered.map_err(|cause| format!("{cause:#}")) }
    }
}

/// Makes the key of the checkpoints.
pub(super) fn init(home: &Path) -> Result<()> {
    let made = audit(home, &["init", "--signing-key", SIGNING_KEY])?;
    fs::write(home.join(PUBLIC_KEY), accepted(made)?).context("the public key of the audit log")
}

fn verify(home: &Path) -> Result<String> {
    let said = accepted(audit(home, &["verify", "--directory", LOG, "--public-key", PUBLIC_KEY, "--from", "1"])?)?;
    Ok(said.lines().next().unwrap_or_default().to_owned())
}

fn audit(home: &Path, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(programs::path("keystead-keyserver"));
    command.arg("audit").args(arguments).current_dir(home).output().context("keystead-keyserver audit")
}

/// What a program said that ended well. What it complains of is the error.
fn accepted(output: Output) -> Result<String> {
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{}",
        complaint.lines().next_back().unwrap_or("no word").trim_start_matches("error: ")
    );
    Ok(String::from_utf8(output.stdout)?)
}

fn change_one_bit(home: &Path) -> Result<()> {
    let files = fs::read_dir(home.join(LOG))?.map(|file| Ok(file?.path()));
    let mut files: Vec<PathBuf> = files.collect::<Result<_>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "jsonl"));
    files.sort();
    let file = files.get(files.len() / 2).context("the audit log has no file")?;
    let mut content = fs::read(file)?;
    let middle = content.len() / 2;
    *content.get_mut(middle).context("the audit log is empty")? ^= 1;
    fs::write(file, content).context("change a bit of the audit log")
}
