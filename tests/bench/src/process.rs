//! Programs under measurement: each on a processor of its own, with an account of what it took.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use keystead_tests::stack::programs;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use rustix::thread::{CpuSet, sched_setaffinity};

/// The processor of what is measured.
pub const MEASURED: usize = 0;
/// The processor of everything else: load, backend, and the key server where the edge is measured.
pub const OTHER: usize = 1;

/// How long a program may take to begin or to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// A program that runs until this ends, with all that it starts.
pub struct Program {
    name: String,
    child: Child,
    log: std::path::PathBuf,
}

/// What a program has taken since it began.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// CPU time, its own and the kernel's for it.
    pub cpu_seconds: f64,
    /// Memory, without what it shares with others.
    pub memory_bytes: f64,
}

impl Program {
    /// Starts `command` on one processor; its output goes to a file in `directory`.
    ///
    /// # Errors
    /// What the system says.
    pub fn start(name: &str, command: &Command, processor: usize, directory: &Path) -> Result<Self> {
        let log = directory.join(format!("{name}.log"));
        let output = File::create(&log).context("a log")?;
        let mut pinned = programs::of_this_thread(Path::new("/usr/bin/taskset"));
        pinned.args(["--cpu-list", &processor.to_string()]).arg(command.get_program()).args(command.get_args());
        pinned.process_group(0).current_dir(directory).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = pinned.spawn().with_context(|| format!("start {name}"))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Waits until somebody listens at `address`.
    ///
    /// # Errors
    /// What the program said, when it ended or nobody does in time.
    pub fn wait_listening(&mut self, address: SocketAddr) -> Result<()> {
        self.wait("does not listen", || TcpStream::connect(address).is_ok())
    }

    /// Waits until `condition` holds.
    ///
    /// # Errors
    /// What the program said, when it ended or the condition does not hold in time.
    pub fn wait(&mut self, problem: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !condition() {
            let ended = self.child.try_wait()?.is_some();
            let said = || fs::read_to_string(&self.log).unwrap_or_default();
            ensure!(!ended && Instant::now() < deadline, "{} {problem}: {}", self.name, said());
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// What it and its children have taken.
    ///
    /// # Errors
    /// When it has ended.
    pub fn taken(&self) -> Result<Taken> {
        let mut taken = Taken { cpu_seconds: 0.0, memory_bytes: 0.0 };
        for process in family(self.child.id())? {
            taken.cpu_seconds += cpu_seconds(process)?;
            taken.memory_bytes += memory(process)?;
        }
        Ok(taken)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let Some(process) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) else { return };
        // A master ends its workers when it ends in good order.
        let _ = kill_process(process, Signal::TERM);
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            sleep(Duration::from_millis(10));
        }
        // Whatever is left of its group would take from what is measured next.
        let _ = kill_process_group(process, Signal::KILL);
        let _ = self.child.wait();
    }
}

/// Does something on one processor, in a thread of its own.
///
/// # Errors
/// When there is no such processor.
pub fn on_processor<T: Send>(processor: usize, work: impl FnOnce() -> T + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let done = scope.spawn(|| stay_on(processor).map(|()| work())).join();
        done.map_err(|_| anyhow!("a measurement panicked"))?
    })
}

/// Keeps this thread, and those that it starts, on one processor.
///
/// # Errors
/// When there is no such processor.
pub fn stay_on(processor: usize) -> Result<()> {
    let mut processors = CpuSet::new();
    processors.set(processor);
    sched_setaffinity(None, &processors).with_context(|| format!("processor {processor}: measuring takes two"))
}

/// A process and all that descend from it.
fn family(root: u32) -> Result<BTreeSet<u32>> {
    let mut parents = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let Some(process) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // One that has just ended is nobody's.
        if let Some(parent) = stat(process).ok().and_then(|fields| fields.get(1)?.parse::<u32>().ok()) {
            parents.insert(process, parent);
        }
    }
    let mut family = BTreeSet::from([root]);
    loop {
        let children = parents.iter().filter(|(_, parent)| family.contains(parent)).map(|(child, _)| *child);
        let grown: BTreeSet<_> = family.iter().copied().chain(children).collect();
        if grown.len() == family.len() {
            return Ok(family);
        }
        family = grown;
    }
}

/// The fields of `/proc/PID/stat` behind the name: state, parent, and so on.
fn stat(process: u32) -> Result<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name may hold anything, a parenthesis too.
    let (_, fields) = text.rsplit_once(')').context("/proc/PID/stat")?;
    Ok(fields.split_whitespace().map(String::from).collect())
}

fn cpu_seconds(process: u32) -> Result<f64> {
    let fields = stat(process)?;
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    // utime and stime, in ticks of user space, which are a hundredth of a second (proc_pid_stat(5)).
    Ok((ticks(11) + ticks(12)) / 100.0)
}

/// Memory of a process, without what it shares with others, in bytes.
pub(crate) fn memory(process: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
    let kibibytes = |label: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(label));
        line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0)
    };
    Ok((kibibytes("Private_Clean:") + kibibytes("Private_Dirty:")) * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_charged_for_its_children() {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "(while :; do :; done) & wait"]);
        let program = Program::start("busy", &command, OTHER, directory.path()).unwrap();
        let deadline = Instant::now() + PATIENCE;
        let taken = loop {
            match program.taken() {
                Ok(taken) if taken.cpu_seconds > 0.1 => break taken,
                // What is being started may not be readable for a moment.
                taken => assert!(Instant::now() < deadline, "{taken:?}"),
            }
            sleep(Duration::from_millis(10));
        };
        assert!(taken.memory_bytes > 0.0, "{taken:?}");
        let family = family(program.child.id()).unwrap();
        assert_eq!(family.len(), 2);
        drop(program);
        // Who has no parent any longer is buried by another.
        let is_running = |process: &u32| stat(*process).is_ok_and(|fields| fields.first().is_some_and(|it| it != "Z"));
        let deadline = Instant::now() + PATIENCE;
        while family.iter().any(is_running) {
            assert!(Instant::now() < deadline, "children outlive their program");
            sleep(Duration::from_millis(10));
        }
    }
}
