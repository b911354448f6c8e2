//! `keystead-faults`: injects faults into a fleet that serves real clients, and tells what became of them.
//!
//! `tests/faults/run` builds what it needs and runs it.
#![forbid(unsafe_code)]

use std::fs;
use std::io::{Write, stdout};
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use keystead_tests::faults::campaign::{Options, Part};
use keystead_tests::faults::compose;
use keystead_tests::faults::delay::HoldBack;
use keystead_tests::faults::network::{self, own_namespaces};
use keystead_tests::faults::report::Report;

/// Injects faults into a fleet under load: exit code 1 where something that must hold does not
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(flatten)]
    campaign: CampaignArguments,
    #[command(subcommand)]
    command: Option<Step>,
}

#[derive(clap::Args)]
struct CampaignArguments {
    /// The campaign of a few minutes: each kind of fault once
    #[arg(long)]
    quick: bool,
    /// A file for the table, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// A file for the table as docs/OPERATING.md has it
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Only the faults whose names contain this
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// How long the soak lasts; 2m by default with --quick, and otherwise none
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    soak: Option<Duration>,
    /// Tells of latency that does not come back to what it was, and does not fail for it: for machines that have other work
    #[arg(long)]
    tolerate_latency: bool,
    /// Handshakes in a second
    #[arg(long, default_value_t = 60)]
    rate: u32,
}

#[derive(Subcommand)]
enum Step {
    /// One part of the campaign, in namespaces that the caller has made
    #[command(hide = true)]
    Part {
        part: Part,
        #[command(flatten)]
        campaign: CampaignArguments,
    },
    /// Holds the packets of a netfilter queue back
    #[command(hide = true)]
    HoldBack(HoldBack),
}

impl CampaignArguments {
    fn options(&self) -> Options {
        let soak = self.soak.unwrap_or(if self.quick { Duration::from_secs(120) } else { Duration::ZERO });
        Options { quick: self.quick, only: self.only.clone(), rate: self.rate, soak }
    }
}

fn main() -> ExitCode {
    let Arguments { campaign, command } = Arguments::parse();
    let done = match command {
        None => run(&campaign),
        Some(Step::Part { part, campaign }) => {
            part.run(&campaign.options()).and_then(|report| write(&campaign, &report))
        }
        Some(Step::HoldBack(hold_back)) => hold_back.run().map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(cause) => {
            // With standard error closed there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "faults: {cause:#}");
            ExitCode::from(2)
        }
    }
}

/// The whole campaign. Whether everything held.
fn run(campaign: &CampaignArguments) -> Result<bool> {
    let options = campaign.options();
    let mut report = Report::default();
    let parts = Part::ALL.into_iter().filter(|part| part.is_wanted(&options));
    match network::no_namespaces() {
        None => {
            for part in parts {
                report.extend(run_part(part, campaign)?);
            }
        }
        Some(why) => report.skipped.push(format!("namespaces: {why}")),
    }
    report.extend(compose::part(&options)?);
    write!(stdout(), "{}", report.text())?;
    ensure!(!report.rows.is_empty() || !report.skipped.is_empty(), "no fault has such a name");
    write(campaign, &report)
}

/// Runs a part in namespaces that end with it, and with this process.
fn run_part(part: Part, campaign: &CampaignArguments) -> Result<Report> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("report.json");
    let mut command = own_namespaces(&std::env::current_exe()?)?;
    let options = campaign.options();
    command.args(["part", part.name(), "--rate", &options.rate.to_string(), "--json"]).arg(&file);
    command.args(["--soak", &humantime::format_duration(options.soak).to_string()]);
    command.args(options.quick.then_some("--quick"));
    command.args(options.only.iter().flat_map(|only| ["--only", only]));
    command.stdin(Stdio::null()).status().context("unshare")?;
    let table = fs::read(&file).with_context(|| format!("the part {} has no table", part.name()))?;
    Ok(serde_json::from_slice(&table)?)
}

fn write(campaign: &CampaignArguments, report: &Report) -> Result<bool> {
    if let Some(file) = &campaign.json {
        fs::write(file, serde_json::to_vec_pretty(report)?).with_context(|| file.display().to_string())?;
    }
    if let Some(file) = &campaign.markdown {
        fs::write(file, report.markdown()).with_context(|| file.display().to_string())?;
    }
    Ok(report.holds(campaign.tolerate_latency))
}
