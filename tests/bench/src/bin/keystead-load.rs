//! `keystead-load`: TLS clients that measure a server, whichever it is.
//!
//! ```text
//! keystead-load 127.0.0.1:8443 --ca ca.pem                             full handshakes, 64 clients, as fast as they go
//! keystead-load 127.0.0.1:8443 --resumption ticket --rate 500          resumed ones, one due every 2 ms
//! keystead-load 127.0.0.1:8443 --keep-alive --path /1400               requests on kept connections
//! ```
#![forbid(unsafe_code)]

use std::fs;
use std::io::{Write, stdout};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use keystead_bench::load::{self, plan::Plan};

/// Measures a TLS server with real clients: handshakes, requests, throughput, and latency from when each was due
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    plan: Plan,
    /// Handshakes and requests that may fail before the exit code is 1; without it, all but one may
    #[arg(long, value_name = "N")]
    max_failures: Option<u64>,
    /// A file for the result, as JSON; it is printed all the same
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> Result<()> {
    let Arguments { plan, max_failures, json } = Arguments::parse();
    let summary = load::run(&plan)?.summary();
    writeln!(stdout(), "{summary}")?;
    if let Some(file) = json {
        fs::write(&file, serde_json::to_vec_pretty(&summary)?).with_context(|| file.display().to_string())?;
    }
    let ended = summary.full_handshakes + summary.resumed_handshakes + summary.requests;
    ensure!(ended > 0, "nothing succeeded within the time that is counted");
    if let Some(allowed) = max_failures {
        let failed: u64 = summary.failures.values().sum();
        ensure!(failed <= allowed, "{failed} failed, and no more than {allowed} may");
    }
    Ok(())
}
