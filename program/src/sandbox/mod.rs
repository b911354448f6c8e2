//! Privileges given up at start: the user, files outside of what the configuration names (Landlock), and system calls that
//! the programs never make (seccomp).
//!
//! All of it holds for the calling thread and those it starts, so [`enter`] comes before the runtime.

mod files;
mod syscalls;
mod user;

use std::fmt;
use std::path::{Path, PathBuf};

use nix::unistd::Uid;
use serde::Deserialize;

use crate::config::RelativePath;

pub use files::Paths;
pub use user::{UserError, become_user};

/// The `[process]` table of a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProcessConfig {
    /// The user to become once the addresses are taken, for a program that is started as root.
    pub user: Option<String>,
    /// Whether files and system calls are bounded.
    pub sandbox: SandboxMode,
    /// Files and directories to read beside those that the configuration names.
    pub read_paths: Vec<RelativePath>,
    /// Directories to write beside those that the configuration names.
    pub write_paths: Vec<RelativePath>,
}

/// Whether the kernel is asked to bound what the program may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SandboxMode {
    /// As far as it can.
    #[default]
    Try,
    /// It must, or the program does not start.
    Require,
    /// It is not asked.
    Off,
}

/// Why the sandbox was not entered.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A path that the configuration names is not there.
    #[error("[process] {}: {cause}; make it, or take it out of the configuration", path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// The system's reason.
        cause: std::io::Error,
    },
    /// Landlock did not come into force.
    #[error("[process] sandbox = \"require\": Landlock: {0}")]
    Landlock(String),
    /// seccomp did not come into force.
    #[error("[process] sandbox = \"require\": seccomp: {0}")]
    Seccomp(String),
}

impl ProcessConfig {
    /// Everything that the program may open: what it needs by itself, what this table names, relative to `directory`, and
    /// `named` by the rest of the configuration.
    pub fn paths(&self, directory: &Path, named: Paths) -> Paths {
        let of = |paths: &[RelativePath]| paths.iter().map(|path| path.under(directory)).collect::<Vec<_>>();
        let Paths { mut read, mut write } = named;
        read.extend(of(&self.read_paths));
        write.extend(of(&self.write_paths));
        Paths { read, write }
    }
}

/// What is in force of one part of the sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
enum InForce {
    All,
    /// What this kernel knows.
    Part,
    None(String),
}

impl fmt::Display for InForce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Part => f.write_str("what this kernel knows"),
            Self::None(why) => write!(f, "none: {why}"),
        }
    }
}

/// Bounds the calling thread, and those that it starts, for good: to the files of `paths`, without leave to execute any, and
/// to harmless system calls. One line of the log says what is in force.
///
/// # Errors
/// [`SandboxError`].
pub fn enter(config: &ProcessConfig, paths: &Paths) -> Result<(), SandboxError> {
    let uid = Uid::effective();
    if uid.is_root() {
        tracing::warn!("running as root: set [process] user, or start the program as a user of its own");
    }
    if config.sandbox == SandboxMode::Off {
        tracing::warn!("[process] sandbox is off");
        return Ok(());
    }
    let landlock = files::restrict(paths, uid)?;
    let seccomp = syscalls::restrict();
    if config.sandbox == SandboxMode::Require {
        if let InForce::None(why) = landlock {
            return Err(SandboxError::Landlock(why));
        }
        if let InForce::None(why) = seccomp {
            return Err(SandboxError::Seccomp(why));
        }
    }
    tracing::info!(%uid, files = %landlock, system_calls = %seccomp, "sandbox in force");
    Ok(())
}

#[cfg(test)]
mod tests;
