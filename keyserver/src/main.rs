//! `keystead-keyserver`: holds private keys and signs for edges.
#![forbid(unsafe_code)]

mod command;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use keystead_keyserver::server::Server;
use keystead_keyserver::settings::Settings;
use keystead_keyserver::ticket_keys::ratchet::{RotationPeriod, UnixTime};
use keystead_keyserver::ticket_keys::state;
use keystead_program::logging;
use keystead_program::run::{self, Failure};
use tokio_util::sync::CancellationToken;

/// Holds private keys and signs for Keystead edges
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves edges until SIGTERM or SIGINT
    Serve {
        /// The configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Makes the ticket secret of a cluster, once: every key server gets a copy of the file
    Init {
        /// The file to make
        #[arg(long, value_name = "FILE")]
        state: PathBuf,
        /// How long edges seal tickets under one key, such as 1h: whole seconds, up to 7days
        #[arg(long, value_name = "SPAN", default_value = "1h", value_parser = rotation_period)]
        rotation_period: RotationPeriod,
    },
    /// The audit log
    #[command(subcommand)]
    Audit(command::audit::Audit),
    /// Certificates of the channel between edges and key servers
    #[command(subcommand)]
    Edge(command::edge::Edge),
    /// Reads the configuration and everything it names, says what is there, and exits
    Check {
        /// The configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
}

fn main() -> ExitCode {
    let arguments: Arguments = match run::arguments() {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    let done = match arguments.command {
        Command::Serve { config } => return run::run(async |stop| serve(&config, stop).await),
        Command::Init { state, rotation_period } => init(&state, rotation_period),
        Command::Audit(audit) => command::audit::run(audit),
        Command::Edge(edge) => command::edge::run(edge),
        Command::Check { config } => check(&config),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => run::report(&failure),
    }
}

fn rotation_period(text: &str) -> Result<RotationPeriod, String> {
    let length = humantime::parse_duration(text).map_err(|cause| cause.to_string())?;
    let whole = Some(length.as_secs()).filter(|_| length.subsec_nanos() == 0);
    whole.and_then(RotationPeriod::of_seconds).ok_or_else(|| "whole seconds, from 1s to 7days".to_owned())
}

async fn serve(config: &Path, stop: CancellationToken) -> Result<(), Failure> {
    let settings = Settings::load(config).map_err(Failure::configuration)?;
    logging::start(&settings.config.log).map_err(Failure::configuration)?;
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    let server = Server::bind(settings).await.map_err(Failure::start)?;
    server.serve(stop).await.map_err(Failure::start)
}

fn init(file: &Path, rotation_period: RotationPeriod) -> Result<(), Failure> {
    state::create(file, rotation_period, UnixTime::now(), &mut rand::rng()).map_err(Failure::start)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "made {}: copy it to every key server of the cluster", file.display()).map_err(Failure::start)
}

fn check(config: &Path) -> Result<(), Failure> {
    let settings = Settings::load(config).map_err(Failure::configuration)?;
    let mut out = std::io::stdout().lock();
    write!(out, "{}", settings.report()).map_err(Failure::start)
}
