//! `keystead-bench`: measures, and prints a table. `tests/bench/run` builds what it needs and runs it.
#![forbid(unsafe_code)]

use std::fs;
use std::io::{Write, stdout};
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use keystead_bench::effort::Effort;
use keystead_bench::process::{OTHER, stay_on};
use keystead_bench::table::Table;
use keystead_bench::{criterion, edge, keyserver, load};

/// Measures Keystead beside what would be used in its place
#[derive(Parser)]
struct Arguments {
    /// Each reading once and for a short time: enough to see that all of it works
    #[arg(long)]
    quick: bool,
    /// One part alone
    #[arg(long, value_enum, value_name = "PART")]
    only: Option<Part>,
    /// A file for all readings, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// A file for the table as docs/PERFORMANCE.md has it
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The engine in memory, beside rustls and OpenSSL's libssl
    Engine,
    /// The edge as a process, beside nginx, HAProxy and hitch
    Edge,
    /// The key server over gRPC, beside the raw primitive
    Keyserver,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let effort = Effort::new(arguments.quick);
    stay_on(OTHER)?;
    load::allow_descriptors();
    let mut table = Table::default();
    for part in Part::value_variants().iter().filter(|part| arguments.only.is_none_or(|only| only == **part)) {
        let directory = tempfile::Builder::new().prefix("keystead-bench-").tempdir()?;
        table.extend(match part {
            Part::Engine => criterion::part(&effort, directory.path())?,
            Part::Edge => edge::part(&effort, directory.path())?,
            Part::Keyserver => keyserver::part(&effort, directory.path())?,
        });
    }
    write!(stdout(), "{}", table.markdown())?;
    let write = |file: &PathBuf, text: String| fs::write(file, text).with_context(|| file.display().to_string());
    arguments.json.iter().try_for_each(|file| write(file, serde_json::to_string_pretty(&table)?))?;
    arguments.markdown.iter().try_for_each(|file| write(file, table.markdown()))
}
