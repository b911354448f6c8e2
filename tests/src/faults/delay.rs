//! Holds packets back, where the kernel has no netem: each waits its time in the queue that a netfilter rule puts it in.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use nfq::{Queue, Verdict};
use rustix::process::setpriority_process;

/// Packets that may wait at one time.
pub(super) const MOST: u32 = 8192;

/// How often is looked for packets while some wait.
const STEP: Duration = Duration::from_micros(200);

/// What a program that makes delays must be able to do as its subcommand `hold-back`.
#[derive(Args, Clone, Copy, Debug)]
pub struct HoldBack {
    /// The queue, of this network namespace
    #[arg(long)]
    pub queue: u16,
    /// How long each packet waits
    #[arg(long, value_parser = humantime::parse_duration)]
    pub time: Duration,
}

impl HoldBack {
    /// The arguments of a program that shall do this.
    pub(super) fn arguments(&self) -> [String; 5] {
        let Self { queue, time } = self;
        ["hold-back", "--queue", &queue.to_string(), "--time", &format!("{}us", time.as_micros())].map(str::to_owned)
    }

    /// Lets every packet of the queue go on after the time, in the order in which they came. Does not return.
    ///
    /// # Errors
    /// The system's.
    pub fn run(&self) -> Result<()> {
        let Self { queue: number, time } = *self;
        // Before all others, so that packets are not late; where that is forbidden, they are.
        let _ = setpriority_process(None, -20);
        let mut queue = Queue::open().context("netfilter queues")?;
        queue.bind(number).with_context(|| format!("the netfilter queue {number}"))?;
        queue.set_queue_max_len(number, MOST)?;
        let mut waiting = VecDeque::new();
        loop {
            loop {
                // Where none waits there is nothing to do before the next one comes.
                queue.set_nonblocking(!waiting.is_empty());
                match queue.recv() {
                    Ok(packet) => waiting.push_back((Instant::now() + time, packet)),
                    Err(cause) if [ErrorKind::WouldBlock, ErrorKind::Interrupted].contains(&cause.kind()) => break,
                    Err(cause) => return Err(cause).context("read from the netfilter queue"),
                }
            }
            while waiting.front().is_some_and(|(due, _)| *due <= Instant::now()) {
                if let Some((_, mut packet)) = waiting.pop_front() {
                    packet.set_verdict(Verdict::Accept);
                    queue.verdict(packet).context("let a packet go on")?;
                }
            }
            sleep(STEP);
        }
    }
}
