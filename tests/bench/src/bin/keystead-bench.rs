//! `keystead-bench`: measures, and prints a table. `tests/bench/run` builds what it needs and runs it.
#![forbid(unsafe_code)]

use std::fs;
use std::io::{Write, stdout};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};
use keystead_bench::effort::Effort;
use keystead_bench::machine::Machine;
use keystead_bench::process::{OTHER, stay_on};
use keystead_bench::table::Table;
use keystead_bench::targets::{self, Verdict};
use keystead_bench::{criterion, distance, edge, keyserver, load, plot};
use keystead_tests::faults::delay::HoldBack;
use serde::Serialize;
use tempfile::TempDir;

/// Measures Keystead beside what would be used in its place
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(flatten)]
    wanted: Wanted,
    #[command(subcommand)]
    step: Option<Step>,
}

#[derive(Args)]
struct Wanted {
    /// Each reading once and for a short time: enough to see that all of it works
    #[arg(long)]
    quick: bool,
    /// How often each reading is taken
    #[arg(long, value_name = "N")]
    rounds: Option<NonZeroU32>,
    /// One part alone
    #[arg(long, value_enum, value_name = "PART")]
    only: Option<Part>,
    /// A file for all readings, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// A file for the table as docs/PERFORMANCE.md has it
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// A file for a drawing of how each subject stands to Keystead, as SVG
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The engine in memory, beside rustls and OpenSSL's libssl
    Engine,
    /// The edge as a process, beside nginx, HAProxy and hitch
    Edge,
    /// The key server over gRPC, beside the raw primitive and gokeyless
    Keyserver,
    /// The edge while its key server is far away
    Distance,
}

/// What this program is started for by itself.
#[derive(Subcommand)]
enum Step {
    /// The part of that name, in namespaces that the caller has made
    #[command(hide = true)]
    Distance {
        #[arg(long)]
        quick: bool,
        #[arg(long)]
        rounds: Option<NonZeroU32>,
        #[arg(long)]
        json: PathBuf,
    },
    /// Tells how long it takes to connect, in microseconds
    #[command(hide = true)]
    Connect { address: SocketAddr },
    /// Holds the packets of a netfilter queue back
    #[command(hide = true)]
    HoldBack(HoldBack),
}

fn main() -> Result<()> {
    let Arguments { wanted, step } = Arguments::parse();
    stay_on(OTHER)?;
    load::allow_descriptors();
    match step {
        None => measure(&wanted),
        Some(Step::Distance { quick, rounds, json }) => {
            let directory = directory()?;
            write_to(&json, &json_of(&distance::inside(&Effort::new(quick, rounds), directory.path())?)?)
        }
        Some(Step::Connect { address }) => Ok(writeln!(stdout(), "{}", distance::connecting(address).as_micros())?),
        Some(Step::HoldBack(hold_back)) => hold_back.run(),
    }
}

fn measure(wanted: &Wanted) -> Result<()> {
    let effort = Effort::new(wanted.quick, wanted.rounds);
    let (mut parts, mut failed) = (Vec::new(), Vec::new());
    for part in Part::value_variants().iter().filter(|part| wanted.only.is_none_or(|only| only == **part)) {
        let directory = directory()?;
        let table = part.measure(&effort, directory.path()).unwrap_or_else(|cause| {
            effort.say(&format!("failed: {cause:#}"));
            // What the others have read is not lost with it.
            failed.push(part.title());
            Table { skipped: vec![format!("it failed: {cause:#}")], ..Table::default() }
        });
        parts.push((part.title(), table));
    }
    let targets = targets::verdicts(parts.iter().map(|(_, table)| table));
    let mut text = format!("### What was wanted, and what was read\n\n{}\n", targets::markdown(&targets));
    text.extend(parts.iter().map(|(title, table)| format!("### {title}\n\n{}\n", table.markdown())));
    write!(stdout(), "{text}")?;
    let readings = Readings { machine: Machine::here(), targets, parts: &parts };
    wanted.json.iter().try_for_each(|file| write_to(file, &json_of(&readings)?))?;
    wanted.markdown.iter().try_for_each(|file| write_to(file, &text))?;
    wanted.svg.iter().try_for_each(|file| write_to(file, &plot::svg(&parts)?))?;
    ensure!(failed.is_empty(), "not measured: {}", failed.join("; "));
    Ok(())
}

/// What `--json` writes.
#[derive(Serialize)]
struct Readings<'r> {
    machine: Machine,
    targets: Vec<Verdict>,
    /// By their titles.
    parts: &'r [(String, Table)],
}

impl Part {
    fn measure(self, effort: &Effort, directory: &Path) -> Result<Table> {
        match self {
            Self::Engine => criterion::part(effort, directory),
            Self::Edge => edge::part(effort, directory),
            Self::Keyserver => keyserver::part(effort, directory),
            Self::Distance => distance::part(effort, directory),
        }
    }

    /// What is said of it among the arguments.
    fn title(self) -> String {
        self.to_possible_value().and_then(|value| Some(value.get_help()?.to_string())).unwrap_or_default()
    }
}

/// Where a part has its files, until it ends.
fn directory() -> Result<TempDir> {
    Ok(tempfile::Builder::new().prefix("keystead-bench-").tempdir()?)
}

fn json_of(value: &impl Serialize) -> Result<String> {
    Ok(serde_json::to_string_pretty(value)?)
}

fn write_to(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| file.display().to_string())
}
