//! A load generator: TLS clients that come as a plan says, and a tally of what became of them.
//!
//! ```text
//!  Plan ──► worker threads ──► Pace: when the next unit of work is due
//!                    │
//!                    └─ clients ──► Client: connect, handshake, requests ──► Tally
//! ```
//!
//! A unit of work is one connection, or one request on a connection that is kept. Without a rate (closed loop) every
//! client begins its next unit when the last has ended. With a rate (open loop) units are due at fixed times, whatever
//! became of those before, and latency counts from when a unit was due: a server that stalls is charged for everyone
//! who had to wait, not for the few that were under way.

pub mod client;
mod http;
mod pace;
pub mod plan;
pub mod tally;
mod worker;

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use client::Client;
use plan::Plan;
use tally::Tally;
use worker::Window;

/// Does what `plan` says.
///
/// # Errors
/// A plan that cannot be carried out; clients that fail are in the tally.
pub fn run(plan: &Plan) -> Result<Tally> {
    let client = Client::new(plan)?;
    allow_descriptors();
    let (cpu_before, start) = (cpu_seconds(), Instant::now());
    let counted_from = start + plan.warm_up;
    let window = Window { start, counted_from, end: counted_from + plan.duration };
    let threads: Vec<_> = (0..plan.threads.get())
        .map(|index| {
            let (client, plan) = (client.clone(), plan.clone());
            thread::Builder::new().spawn(move || worker::run(&client, &plan, index, window))
        })
        .collect::<Result<_, _>>()
        .context("a thread")?;
    let mut tally = Tally::default();
    for thread in threads {
        tally.add(&thread.join().map_err(|_| anyhow!("a worker panicked"))??);
    }
    tally.seconds = plan.duration.as_secs_f64();
    tally.client_cpu_seconds = cpu_seconds() - cpu_before;
    Ok(tally)
}

/// As many descriptors as this process, and those that it starts, may have; root may raise what anybody may.
pub fn allow_descriptors() {
    const MANY: u64 = 1 << 18;
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // With fewer, connections fail with a reason of their own.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(MANY), maximum: Some(MANY) })
        .or_else(|_| setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }));
}

/// CPU time of this process.
pub(crate) fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default().as_secs_f64()
}
