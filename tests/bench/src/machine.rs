//! Where readings were taken.

use std::fs;
use std::process::Command;

use serde::Serialize;

/// What readings depend on, as the system tells it.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The model of the first processor.
    pub processor: Option<String>,
    /// How many there are.
    pub processors: usize,
    /// The kernel's release.
    pub kernel: String,
    /// The compiler that is installed; `None` where there is none any longer.
    pub rustc: Option<String>,
}

impl Machine {
    /// This one.
    pub fn here() -> Self {
        let told = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let is_one = |line: &&str| line.starts_with("processor");
        let model = told.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            processor: model.map(|(_, name)| name.to_owned()),
            processors: told.lines().filter(is_one).count(),
            kernel: kernel.trim().to_owned(),
            rustc: version("rustc"),
        }
    }
}

/// What a program says of its version.
pub fn version(program: &str) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
