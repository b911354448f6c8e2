//! The programs under test, built before they are run.

use std::env;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio, id};
use std::sync::LazyLock;

/// Where the programs lie: what cargo builds this test for, or `KEYSTEAD_PROGRAMS` if that is set, in which case nothing
/// is built.
static DIRECTORY: LazyLock<PathBuf> = LazyLock::new(|| {
    if let Some(directory) = env::var_os("KEYSTEAD_PROGRAMS") {
        return directory.into();
    }
    let directory = target_directory();
    // Without cargo around this test, what lies there is what is tested.
    if let Some(cargo) = env::var_os("CARGO") {
        let _lock = lock("programs");
        build(Path::new(&cargo), &directory);
    }
    directory
});

/// A command for the program `name`, which ends when the thread that starts it does.
pub fn command(name: &str) -> Command {
    of_this_thread(&path(name))
}

/// As [`command`], for the program that cargo built beside this test, whatever `KEYSTEAD_PROGRAMS` says: a static one loads no
/// PKCS#11 module.
///
/// # Panics
/// When it is missing.
pub fn dynamic_command(name: &str) -> Command {
    let path = target_directory().join(name);
    assert!(path.is_file(), "{} is missing: build it with `cargo build --workspace --bins`", path.display());
    of_this_thread(&path)
}

/// As [`command`], for a program that is not of this project.
pub fn of_this_thread(program: &Path) -> Command {
    let mut command = Command::new(path("keystead-local"));
    command.args(["exec-with-parent", &id().to_string()]).arg(program);
    command
}

/// The program `name`.
///
/// # Panics
/// When it is missing.
pub fn path(name: &str) -> PathBuf {
    let path = DIRECTORY.join(name);
    assert!(path.is_file(), "{} is missing: build it with `cargo build --workspace --bins`", path.display());
    path
}

/// Waits until no other process of these tests holds the lock `name`, which is then held until the file is dropped.
pub fn lock(name: &str) -> File {
    let file = target_directory().join(format!("keystead-tests-{name}.lock"));
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(file).expect("a lock file");
    file.lock().expect("the lock");
    file
}

/// `target/PROFILE`, in whose `deps` this test lies, or in which this program does.
pub fn target_directory() -> PathBuf {
    let this = env::current_exe().expect("the path of this test");
    let directory = this.parent().expect("a program lies in a directory");
    if directory.ends_with("deps") {
        directory.parent().expect("target/PROFILE/deps").to_owned()
    } else {
        directory.to_owned()
    }
}

fn build(cargo: &Path, directory: &Path) {
    let profile = match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let mut command = Command::new(cargo);
    command.arg("build");
    // With this package, dependencies get the features that they have in the build of the tests and are not built twice.
    for package in ["keystead-tests", "keystead-local", "keystead-keyserver", "keystead-edge"] {
        command.args(["-p", package]);
    }
    let command = command.arg("--bins").args(["--profile", profile, "--manifest-path"]);
    let command = command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
    // Build scripts watch what cargo tells a package about itself; seen from here it would be this one's, and all would
    // run again.
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
            command.env_remove(name);
        }
    }
    let output = command.env_remove("LD_LIBRARY_PATH").stdin(Stdio::null()).output().expect("cargo runs");
    assert!(output.status.success(), "the programs do not build:\n{}", String::from_utf8_lossy(&output.stderr));
}
