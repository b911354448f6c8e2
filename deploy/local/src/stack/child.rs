//! The programs as child processes: started, watched, drained, and never left behind.
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use futures_util::future::select_all;
use rustix::process::{Pid, Signal};
use tokio::process::Child;
use tokio::time::timeout;

use super::layout::Layout;

/// How long a program may drain before it is killed.
const DRAIN: Duration = Duration::from_secs(10);
/// Lines of a log that tell why its program ended.
const TAIL: usize = 15;

/// The running programs, in the order of their start.
pub(super) struct Family {
    this: PathBuf,
    members: Vec<Member>,
}

struct Member {
    name: String,
    process: Child,
    log: PathBuf,
}

impl Family {
    /// A family without members, of the parent whose program lies at `this`.
    pub(super) fn new(this: PathBuf) -> Self {
        Self { this, members: Vec::new() }
    }

    /// Starts `program serve --config configuration`, with its output in a log that begins anew.
    ///
    /// To be called on the process's first thread: a child ends with the thread that started it.
    pub(super) fn start(&mut self, name: &str, program: &Path, configuration: &Path, layout: &Layout) -> Result<()> {
        let log = layout.log(name);
        let output = create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new(&self.this);
        command.arg("exec-with-parent").arg(std::process::id().to_string()).arg(program);
        command.args(["serve", "--config"]).arg(configuration);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        // A terminal's Ctrl-C goes to a whole process group; the children shall hear of it from here, in order.
        command.process_group(0);
        let process = tokio::process::Command::from(command).kill_on_drop(true).spawn();
        let process = process.with_context(|| format!("cannot start {}", program.display()))?;
        self.members.push(Member { name: name.to_owned(), process, log });
        Ok(())
    }

    /// Waits until a program ends, which none does by itself, and tells which and why.
    pub(super) async fn first_end(&mut self) -> anyhow::Error {
        if self.members.is_empty() {
            return anyhow!("no program was started");
        }
        let ends = self.members.iter_mut().map(|member| Box::pin(member.process.wait()));
        let (status, position, others) = select_all(ends).await;
        drop(others);
        match self.members.get(position) {
            Some(member) => member.obituary(status),
            None => anyhow!("a program ended"),
        }
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
    async fn stop(mut self) -> Result<()> {
        // `None` where the program ended before and its end was reported then.
        let Some(pid) = self.process.id() else { return Ok(()) };
        if let Some(pid) = pid.try_into().ok().and_then(Pid::from_raw) {
            rustix::process::kill_process(pid, Signal::TERM)?;
        }
        match timeout(DRAIN, self.process.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(status) => Err(self.obituary(status)),
            Err(_) => {
                self.process.kill().await?;
                Err(anyhow!("{} did not drain in {DRAIN:?} and was killed", self.name))
            }
        }
    }

    fn obituary(&self, status: io::Result<ExitStatus>) -> anyhow::Error {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(TAIL)..).unwrap_or_default().join("\n  ");
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        anyhow!("{} ended ({status}); the end of {}:\n  {tail}", self.name, self.log.display())
    }
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
