//! One program as a child process: its log, its metrics, its end.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

use super::wait_until;

/// A program that runs, or has run.
pub struct Process {
    name: String,
    command: Command,
    child: Child,
    log: PathBuf,
    metrics: Option<SocketAddr>,
    listens: Option<SocketAddr>,
}

impl Process {
    /// Runs `command`, with its output in a file of `directory`.
    pub(crate) fn start(name: &str, mut command: Command, directory: &Path, metrics: Option<SocketAddr>) -> Self {
        let log = directory.join(format!("{name}.log"));
        let child = spawn(&mut command, &log);
        Self { name: name.to_owned(), command, child, log, metrics, listens: None }
    }

    /// A program without a `/readyz` is ready when it accepts connections.
    pub(super) fn listening_on(mut self, address: SocketAddr) -> Self {
        self.listens = Some(address);
        self
    }

    /// Where it listens, if that is how it shows that it is ready.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.listens
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything that it has written.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("the process exists");
    }

    /// Stops it with SIGSTOP, and waits until it stands still.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
        wait_until(&format!("{} stands still", self.name), || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("the process exists");
            stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T'))
        });
    }

    /// Kills it and waits until it is gone.
    pub fn kill(&mut self) {
        // Fails for a process that has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("its status").is_none()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        wait_until(&format!("{} ends", self.name), || !self.is_running());
        self.child.wait().expect("its status")
    }

    /// A variable of its environment from its next start on.
    pub fn set_environment(&mut self, name: &str, value: &Path) {
        self.command.env(name, value);
    }

    /// Starts it again, and waits until it is ready.
    pub fn restart(&mut self) {
        self.start_again();
        self.wait_ready();
    }

    /// Starts it again.
    pub fn start_again(&mut self) {
        self.kill();
        self.child = spawn(&mut self.command, &self.log);
    }

    /// Waits until it says that it is ready.
    pub fn wait_ready(&self) {
        wait_until(&format!("{} is ready; its log:\n{}", self.name, self.log()), || self.is_ready());
    }

    /// Whether it says that it is ready.
    pub fn is_ready(&self) -> bool {
        match (self.metrics, self.listens) {
            (Some(address), _) => get(address, "/readyz").is_ok_and(|(status, _)| status == 200),
            (None, Some(address)) => TcpStream::connect(address).is_ok(),
            (None, None) => true,
        }
    }

    /// The answer of its HTTP endpoint for `path`: status and body.
    ///
    /// # Panics
    /// When there is none.
    pub fn get(&self, path: &str) -> (u16, String) {
        get(self.metrics.expect("an endpoint"), path).expect("an answer of the endpoint")
    }

    /// The sum of the samples of the metric `name` that carry all of `labels`; 0 where there is none.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> i64 {
        let (_, text) = self.get("/metrics");
        let labels: Vec<String> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        let samples = text.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (metric, carried) = series.split_once('{').unwrap_or((series, ""));
            let wanted = metric == name && labels.iter().all(|label| carried.contains(label));
            wanted.then(|| value.parse::<i64>().expect("a whole number"))
        });
        samples.sum()
    }

    /// What the field `name` of its status says of its memory, such as `VmRSS`: KiB (proc_pid_status(5)).
    pub fn memory(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the process exists");
        let field = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let value = field.and_then(|field| field.split_whitespace().next()?.parse().ok());
        value.expect("a field in KiB")
    }

    /// Open file descriptors.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the process exists").count()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let (name, log) = (&self.name, self.log());
            let start = log.len().saturating_sub(MOST_LOG);
            let log = log.get(start..).unwrap_or(&log);
            // With standard error closed there is nobody to tell.
            let _ = writeln!(io::stderr(), "---- log of {name} ----\n{log}");
        }
    }
}

/// Bytes of a log that are shown.
const MOST_LOG: usize = 16 << 10;

fn spawn(command: &mut Command, log: &Path) -> Child {
    let log = OpenOptions::new().create(true).append(true).open(log).expect("a log");
    let errors = log.try_clone().expect("a second handle");
    command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn().expect("the program starts")
}

/// Status and body of an HTTP endpoint's answer.
///
/// # Errors
/// When there is none.
pub fn get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.ok_or(io::ErrorKind::InvalidData)?, body.to_owned()))
}
