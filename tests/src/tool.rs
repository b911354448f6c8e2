//! Clients that are programs of their own.

#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::env;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long a program may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a program left behind.
#[derive(Debug)]
pub struct Output {
    /// Its exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to standard output, and behind it what it wrote to standard error.
    pub text: String,
}

impl Output {
    /// Asserts that every one of `expected` stands in the output.
    ///
    /// # Panics
    /// When one does not.
    #[track_caller]
    pub fn assert_contains(&self, expected: &[&str]) -> &Self {
        for expected in expected {
            assert!(self.text.contains(expected), "no {expected:?} in {self}");
        }
        self
    }

    /// Asserts that it exited with 0.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn assert_success(&self) -> &Self {
        assert_eq!(self.code, Some(0), "{self}");
        self
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the output (exit code {:?}):\n{}", self.code, self.text)
    }
}

/// Runs `command` with `input`. Its input stays open, since several clients leave when it ends.
///
/// # Panics
/// When it does not start, and when it does not end in half a minute.
#[track_caller]
pub fn run(command: &mut Command, input: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdin = child.stdin.take().expect("a pipe");
    let stdout = read(child.stdout.take().expect("a pipe"));
    let stderr = read(child.stderr.take().expect("a pipe"));
    // Fails where the program has ended already, which its output tells more about.
    let _ = stdin.write_all(input).and_then(|()| stdin.flush());
    let deadline = Instant::now() + PATIENCE;
    let mut late = false;
    let status = loop {
        if let Some(status) = child.try_wait().expect("its status") {
            break status;
        }
        if Instant::now() > deadline && !late {
            late = true;
            child.kill().expect("it can be killed");
        }
        thread::sleep(Duration::from_millis(5));
    };
    drop(stdin);
    let mut text = stdout.join().expect("its output");
    text.extend(stderr.join().expect("its output"));
    let output = Output { code: status.code(), text: String::from_utf8_lossy(&text).into_owned() };
    assert!(!late, "{command:?} did not end: {output}");
    output
}

fn read(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before a failure is the output.
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

/// Whether `program` is there. Where it is not, the test is skipped if `KEYSTEAD_SKIP_MISSING_CLIENTS` is set to 1.
///
/// # Panics
/// When it is not there and the variable is not set.
#[track_caller]
pub fn is_installed(program: &str, package: &str) -> bool {
    if find(program) {
        return true;
    }
    let may_skip = env::var_os("KEYSTEAD_SKIP_MISSING_CLIENTS").is_some_and(|value| value == "1");
    assert!(may_skip, "{program} is missing: install {package}, or set KEYSTEAD_SKIP_MISSING_CLIENTS=1");
    skipped(&format!("{program} is not installed ({package})"));
    false
}

/// Whether there is a program of this name.
pub fn find(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// Says that a test was skipped, past the harness that hides what passing tests print.
pub fn skipped(why: &str) {
    // With standard error closed there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}
