//! `keystead-keyserver`: holds private keys and signs for edges.
#![forbid(unsafe_code)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use keystead_keyserver::server::Server;
use keystead_keyserver::settings::Settings;
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
    match arguments.command {
        Command::Serve { config } => run::run(async |stop| serve(&config, stop).await),
        Command::Check { config } => match check(&config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => run::report(&failure),
        },
    }
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

fn check(config: &Path) -> Result<(), Failure> {
    let settings = Settings::load(config).map_err(Failure::configuration)?;
    let mut out = std::io::stdout().lock();
    write!(out, "{}", settings.report()).map_err(Failure::start)
}
