//! Processes of their own for what would take a test's process with it: this very executable, told to run one of the
//! ignored tests.

use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Tells a child where to work.
const DIRECTORY: &str = "KEYSTEAD_TEST_DIRECTORY";

/// The directory that a child is to work in; `None` in a process that is no child.
pub(super) fn directory() -> Option<std::path::PathBuf> {
    std::env::var_os(DIRECTORY).map(Into::into)
}

/// A command that runs the ignored test `role` in `directory`.
pub(super) fn command(role: &str, directory: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    complete(&mut command, role, directory);
    command
}

/// The same, begun by a shell after `script`, which sees the directory as `$1`. Where the shell may not mount, as root
/// of its own name space or of the machine's, `None`.
pub(super) fn mounting(script: &str, role: &str, directory: &Path) -> Option<Command> {
    let spaces: &[&str] =
        if rustix::process::geteuid().is_root() { &["--mount"] } else { &["--user", "--map-root-user", "--mount"] };
    let may = Command::new("unshare").args(spaces).arg("true").status().is_ok_and(|status| status.success());
    if !may {
        return None;
    }
    let mut command = Command::new("unshare");
    command.args(spaces);
    shell(&mut command, script, role, directory);
    Some(command)
}

/// The same in the machine's own name spaces.
pub(super) fn limited(script: &str, role: &str, directory: &Path) -> Command {
    let mut command = Command::new("env");
    shell(&mut command, script, role, directory);
    command
}

fn shell(command: &mut Command, script: &str, role: &str, directory: &Path) {
    let script = format!("set -e; {script}; shift; exec \"$@\"");
    command.args(["sh", "-c", &script, "sh"]).arg(directory).arg(std::env::current_exe().unwrap());
    complete(command, role, directory);
}

fn complete(command: &mut Command, role: &str, directory: &Path) {
    let role = format!("sessions::store::local::tests::{role}");
    command.args(["--exact", &role, "--ignored", "--nocapture"]).env(DIRECTORY, directory);
    command.stdin(Stdio::null());
}

/// A child that is killed with its test.
pub(super) struct Running(Child);

impl Running {
    pub(super) fn start(mut command: Command) -> Self {
        Self(command.stdout(Stdio::null()).spawn().unwrap())
    }

    pub(super) fn runs(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    pub(super) fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a child to its end, which must be a good one.
pub(super) fn succeed(mut command: Command) {
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
}
