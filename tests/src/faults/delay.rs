//! Holds packets back, where the kernel has no netem: each waits its time in the queue that a netfilter rule puts it in.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nfq::{Queue, Verdict};

/// Packets that may wait at one time.
const MOST: u32 = 8192;

/// Lets every packet of the queue `number` of this network namespace go on after `time`. Does not return.
///
/// # Errors
/// The system's.
pub fn hold_back(number: u16, time: Duration) -> Result<()> {
    let mut queue = Queue::open().context("netfilter queues")?;
    queue.bind(number).with_context(|| format!("the netfilter queue {number}"))?;
    queue.set_queue_max_len(number, MOST)?;
    queue.set_nonblocking(true);
    let mut waiting = VecDeque::new();
    loop {
        loop {
            match queue.recv() {
                Ok(packet) => waiting.push_back((Instant::now() + time, packet)),
                Err(cause) if cause.kind() == ErrorKind::WouldBlock => break,
                Err(cause) => return Err(cause).context("read from the netfilter queue"),
            }
        }
        while waiting.front().is_some_and(|(due, _)| *due <= Instant::now()) {
            if let Some((_, mut packet)) = waiting.pop_front() {
                packet.set_verdict(Verdict::Accept);
                queue.verdict(packet).context("let a packet go on")?;
            }
        }
        sleep(Duration::from_millis(1));
    }
}
