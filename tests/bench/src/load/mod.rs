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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
    use std::num::NonZeroU32;
    use std::path::PathBuf;
    use std::sync::Arc;

    use rustls::crypto::aws_lc_rs;
    use rustls::{ServerConfig, ServerConnection, StreamOwned};
    use tempfile::TempDir;

    use super::plan::Resuming;
    use super::*;

    /// A server of rustls that answers each request with 4 bytes, and the file with its certificate.
    fn server(directory: &TempDir) -> (SocketAddr, PathBuf) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let file = directory.path().join("ca.pem");
        fs::write(&file, made.cert.pem()).unwrap();
        let key = rustls_pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS12]).unwrap().with_no_client_auth();
        let mut config = builder.with_single_cert(vec![made.cert.der().clone()], key.into()).unwrap();
        config.ticketer = aws_lc_rs::Ticketer::new().unwrap();
        let (config, listener) = (Arc::new(config), TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for socket in listener.incoming() {
                let config = config.clone();
                thread::spawn(move || {
                    answer(StreamOwned::new(ServerConnection::new(config).unwrap(), socket.unwrap()))
                });
            }
        });
        (address, file)
    }

    /// Until the client leaves, in whatever way.
    fn answer(mut stream: StreamOwned<ServerConnection, TcpStream>) {
        let mut asked = Vec::new();
        let mut some = [0; 4096];
        while let Ok(length @ 1..) = stream.read(&mut some) {
            asked.extend_from_slice(&some[..length]);
            if asked.ends_with(b"\r\n\r\n") {
                asked.clear();
                if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody").is_err() {
                    return;
                }
            }
        }
    }

    #[test]
    fn what_the_plan_says_is_done_and_counted() {
        let directory = tempfile::tempdir().unwrap();
        let (address, ca) = server(&directory);
        let plan = Plan::full_handshakes(address, ca, Duration::from_secs(1));
        let run = |plan: Plan| {
            let tally = run(&plan).unwrap();
            assert!(tally.failures.is_empty(), "{:?}", tally.failures);
            tally
        };
        let full = run(plan.clone());
        assert!(full.full > 0 && full.resumed == 0 && full.requests == 0, "{full:?}");
        for resumption in [Resuming::Ticket, Resuming::Id] {
            let resumed = run(Plan { resumption, requests: 2, ..plan.clone() });
            assert!(resumed.resumed > resumed.full, "{resumed:?}");
            assert!(resumed.requests > resumed.resumed && resumed.bytes > 0, "{resumed:?}");
        }
        let kept = run(Plan { keep_alive: true, ..plan.clone() });
        assert!(kept.requests > kept.full, "{kept:?}");
        let held = run(Plan { hold: true, ..plan.clone() });
        assert_eq!((held.full, held.requests), (32, 32));
        let due = run(Plan { rate: NonZeroU32::new(50), ..plan });
        assert!((49..=51).contains(&(due.full + due.unfinished + due.not_begun)), "{due:?}");
    }
}
