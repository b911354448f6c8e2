//! Finds the programs, which cargo builds first where it runs the stack.
use std::env;
use std::io::{IsTerminal, Write, stderr};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

/// The programs, beside the one that runs.
pub(super) struct Programs {
    /// The one that runs. A build may replace its file, after which the system can no longer tell the path.
    pub(super) this: PathBuf,
    pub(super) key_server: PathBuf,
    pub(super) edge: PathBuf,
}

impl Programs {
    /// Builds the programs if `cargo run` started this one, and finds them in its directory.
    pub(super) async fn find() -> Result<Self> {
        let this = env::current_exe().context("cannot tell where this program lies")?;
        let directory = this.parent().context("this program lies nowhere")?;
        if let (Some(cargo), Some(package)) = (env::var_os("CARGO"), env::var_os("CARGO_MANIFEST_DIR")) {
            build(Path::new(&cargo), Path::new(&package), directory).await?;
        }
        let find = |name: &str| {
            let path = directory.join(name);
            ensure!(path.is_file(), "{} is missing: build it with `cargo build -p {name}`", path.display());
            Ok(path)
        };
        Ok(Self { key_server: find("keystead-keyserver")?, edge: find("keystead-edge")?, this: this.clone() })
    }
}

/// Builds into `directory`, the one of the profile that this program was built with.
async fn build(cargo: &Path, package: &Path, directory: &Path) -> Result<()> {
    let profile = match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let mut command = Command::new(cargo);
    // All three together: features of dependencies are united as in the build of this program, which therefore
    // compiled most of what is needed.
    command.args(["build", "-p", "keystead-local", "-p", "keystead-keyserver", "-p", "keystead-edge"]);
    command.args(["--profile", profile, "--manifest-path"]).arg(package.join("Cargo.toml"));
    if stderr().is_terminal() {
        command.args(["--color", "always"]);
    }
    // Build scripts watch what cargo tells a package about itself; seen from here it would be this package, and they
    // would all run again.
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(describes_a_package) {
            command.env_remove(name);
        }
    }
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true).spawn()?;
    let mut lines = BufReader::new(child.stderr.take().context("no standard error")?).lines();
    let mut is_told = false;
    while let Some(line) = lines.next_line().await? {
        if line.contains("Compiling") && !std::mem::replace(&mut is_told, true) {
            writeln!(stderr(), "Building the key server and the edge; everything starts when they are there.")?;
        }
        // What is compiled is worth a line, that nothing was is not.
        if !line.contains("Finished") {
            writeln!(stderr(), "{line}")?;
        }
    }
    ensure!(child.wait().await?.success(), "cargo could not build the programs");
    Ok(())
}

fn describes_a_package(variable: &str) -> bool {
    let exact = ["CARGO", "CARGO_BIN_NAME", "CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE", "OUT_DIR", "LD_LIBRARY_PATH"];
    exact.contains(&variable) || variable.starts_with("CARGO_PKG_") || variable.starts_with("CARGO_MANIFEST_")
}
