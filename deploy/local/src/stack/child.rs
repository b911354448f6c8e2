//! The programs as child processes: started, supervised, drained, and never left behind.
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::future::pending;
use std::io::{self, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use futures_util::future::select_all;
use rustix::process::{Pid, Signal};
use tokio::process::Child;
use tokio::time::timeout;

use super::invocation::Invocation;

/// How long a program may drain before it is killed.
const DRAIN: Duration = Duration::from_secs(10);
/// Lines of a log that tell why its program ended.
const TAIL: usize = 15;
/// How often a program that is killed is started again within [`RESTART_PERIOD`].
const RESTARTS: usize = 5;
const RESTART_PERIOD: Duration = Duration::from_secs(10);

/// The programs, in the order of their start.
pub(super) struct Family {
    this: PathBuf,
    members: Vec<Member>,
}

struct Member {
    name: String,
    launch: Launch,
    /// `None` once somebody has stopped it.
    process: Option<Child>,
    restarts: Restarts,
}

/// How a program is started.
struct Launch {
    this: PathBuf,
    invocation: Invocation,
    log: PathBuf,
}

/// The starts of the last [`RESTART_PERIOD`] behind the first.
#[derive(Default)]
struct Restarts(VecDeque<Instant>);

/// What the end of a program means.
#[derive(Debug, PartialEq, Eq)]
enum Ending {
    /// Somebody asked it to: it drained, or SIGTERM came before it listened to signals.
    Stopped,
    /// A signal took it, as kill -9 does, or a crash.
    Killed,
    /// It gave up.
    Failed,
}

impl Family {
    /// A family without members, of the parent whose program lies at `this`.
    pub(super) fn new(this: PathBuf) -> Self {
        Self { this, members: Vec::new() }
    }

    /// Starts a program, with its output in a log that begins anew.
    ///
    /// To be called on the process's first thread, as is [`Family::supervise`]: a child ends with the thread that
    /// started it.
    pub(super) fn start(&mut self, name: &str, invocation: Invocation, log: PathBuf) -> Result<()> {
        create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let launch = Launch { this: self.this.clone(), invocation, log };
        let process = Some(launch.spawn()?);
        self.members.push(Member { name: name.to_owned(), launch, process, restarts: Restarts::default() });
        Ok(())
    }

    /// The programs that run, with the numbers of their processes.
    pub(super) fn processes(&self) -> Vec<(&str, u32)> {
        self.members.iter().filter_map(|member| Some((member.name.as_str(), member.process.as_ref()?.id()?))).collect()
    }

    /// Waits until a program ends, and tells which and why.
    pub(super) async fn first_end(&mut self) -> anyhow::Error {
        let (member, status) = self.next_end().await;
        member.obituary(status)
    }

    /// Starts again what is killed, as a service manager would, and leaves down what somebody stops. Returns when a
    /// program ends in any other way, or is killed again and again, and tells which and why.
    pub(super) async fn supervise(&mut self) -> anyhow::Error {
        loop {
            let (member, status) = self.next_end().await;
            match Ending::of(&status) {
                Ending::Stopped => member.rest(),
                Ending::Killed if member.restarts.allow(Instant::now()) => {
                    if let Err(error) = member.restart(status) {
                        return error;
                    }
                }
                Ending::Killed | Ending::Failed => return member.obituary(status),
            }
        }
    }

    async fn next_end(&mut self) -> (&mut Member, io::Result<ExitStatus>) {
        if self.members.is_empty() {
            return pending().await;
        }
        let (ended, _, others) = select_all(self.members.iter_mut().map(|member| Box::pin(member.end()))).await;
        drop(others);
        ended
    }

    /// Asks the programs to drain, the last started first, and waits for each.
    pub(super) async fn stop(mut self) -> Result<()> {
        let mut result = Ok(());
        while let Some(member) = self.members.pop() {
            result = result.and(member.stop().await);
        }
        result
    }
}

impl Member {
    /// Waits for its end, for which there is nothing to wait where somebody has stopped it.
    async fn end(&mut self) -> (&mut Self, io::Result<ExitStatus>) {
        let status = match &mut self.process {
            Some(process) => process.wait().await,
            None => pending().await,
        };
        (self, status)
    }

    fn rest(&mut self) {
        self.process = None;
        say(&format!("{} was stopped and stays down; to start it again:\n  {}", self.name, self.launch.invocation));
    }

    fn restart(&mut self, status: io::Result<ExitStatus>) -> Result<()> {
        let process = self.launch.spawn()?;
        let (name, id) = (&self.name, process.id().unwrap_or_default());
        say(&format!("{name} was killed ({}) and is started again as process {id}", told(status)));
        self.process = Some(process);
        Ok(())
    }

    async fn stop(mut self) -> Result<()> {
        let Some(process) = &mut self.process else { return Ok(()) };
        // `None` where the program ended before and its end was reported then.
        let Some(pid) = process.id() else { return Ok(()) };
        if let Some(pid) = pid.try_into().ok().and_then(Pid::from_raw) {
            rustix::process::kill_process(pid, Signal::TERM)?;
        }
        match timeout(DRAIN, process.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(status) => Err(self.obituary(status)),
            Err(_) => {
                process.kill().await?;
                Err(anyhow!("{} did not drain in {DRAIN:?} and was killed", self.name))
            }
        }
    }

    fn obituary(&self, status: io::Result<ExitStatus>) -> anyhow::Error {
        let log = &self.launch.log;
        let text = fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(TAIL)..).unwrap_or_default().join("\n  ");
        anyhow!("{} ended ({}); the end of {}:\n  {tail}", self.name, told(status), log.display())
    }
}

impl Launch {
    /// Starts the program, with its output behind what the log holds.
    fn spawn(&self) -> Result<Child> {
        let Self { this, invocation: Invocation { program, arguments }, log } = self;
        let output = OpenOptions::new().append(true).create(true).open(log);
        let output = output.with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new(this);
        command.arg("exec-with-parent").arg(std::process::id().to_string()).arg(program).args(arguments);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        // A terminal's Ctrl-C goes to a whole process group; the children shall hear of it from here, in order.
        command.process_group(0);
        let process = tokio::process::Command::from(command).kill_on_drop(true).spawn();
        process.with_context(|| format!("cannot start {}", program.display()))
    }
}

impl Restarts {
    /// Whether one more is allowed at this time; it is counted then.
    fn allow(&mut self, now: Instant) -> bool {
        self.0.retain(|before| now.duration_since(*before) < RESTART_PERIOD);
        let allowed = self.0.len() < RESTARTS;
        if allowed {
            self.0.push_back(now);
        }
        allowed
    }
}

impl Ending {
    fn of(status: &io::Result<ExitStatus>) -> Self {
        let Ok(status) = status else { return Self::Failed };
        match status.signal() {
            None if status.success() => Self::Stopped,
            None => Self::Failed,
            Some(signal) if signal == Signal::TERM.as_raw() => Self::Stopped,
            Some(_) => Self::Killed,
        }
    }
}

fn told(status: io::Result<ExitStatus>) -> String {
    status.map_or_else(|error| error.to_string(), |status| status.to_string())
}

fn say(line: &str) {
    // With standard error closed there is nobody to tell.
    let _ = writeln!(io::stderr(), "{line}");
}

/// Becomes `command`, which the kernel will send SIGTERM when `parent` dies, however it dies. Returns only on failure.
///
/// It is a program of its own that does this, since between fork and exec only unsafe code could. Elsewhere than on
/// Linux a child can outlive a parent that was killed.
pub fn exec_with_parent(parent: u32, command: &[std::ffi::OsString]) -> anyhow::Error {
    let Some((program, arguments)) = command.split_first() else { return anyhow!("no program to run") };
    #[cfg(target_os = "linux")]
    {
        if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::TERM)) {
            return error.into();
        }
        // It may have died before.
        let alive = rustix::process::getppid().is_some_and(|pid| pid.as_raw_nonzero().get().cast_unsigned() == parent);
        if !alive {
            return anyhow!("the parent is gone");
        }
    }
    let error = Command::new(program).args(arguments).exec();
    anyhow::Error::new(error).context(format!("cannot run {}", program.display()))
}

fn create(path: &Path) -> io::Result<File> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    File::create(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_restarts_in_ten_seconds_are_allowed_and_no_sixth() {
        let mut restarts = Restarts::default();
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert!((0..5).all(|second| restarts.allow(at(second))));
        assert!(!restarts.allow(at(9)));
        // The first of them is ten seconds ago.
        assert!(restarts.allow(at(10)));
        assert!(!restarts.allow(at(10)));
    }

    #[test]
    fn a_signal_kills_and_sigterm_stops() {
        // As wait(2) gives it: the signal, or the exit code above it.
        let of = |raw| Ending::of(&Ok(ExitStatus::from_raw(raw)));
        assert_eq!([of(0), of(15)], [Ending::Stopped, Ending::Stopped]);
        assert_eq!([of(9), of(11), of(6)], [Ending::Killed, Ending::Killed, Ending::Killed]);
        assert_eq!([of(1 << 8), of(64 << 8)], [Ending::Failed, Ending::Failed]);
        assert_eq!(Ending::of(&Err(io::Error::other("lost"))), Ending::Failed);
    }
}
