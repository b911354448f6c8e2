//! Terminates TLS without holding a private key.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use keystead_edge::check::check;
use keystead_edge::config::Config;
use keystead_edge::listener::{self, Listener};
use keystead_edge::serve::serve;
use keystead_program::inherited::Inherited;
use keystead_program::run::{self, Failure};
use keystead_program::sandbox;
use mimalloc::MiMalloc;

/// Handshakes allocate some hundred times, on whichever thread.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Terminates TLS without holding a private key: a key server signs in its stead.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve clients until SIGTERM.
    Serve {
        /// The configuration file.
        #[arg(long)]
        config: PathBuf,
    },
    /// Check a configuration and tell what it says. Exits with 64 when it is wrong.
    Check {
        /// The configuration file.
        #[arg(long)]
        config: PathBuf,
    },
}

fn main() -> ExitCode {
    let arguments: Arguments = match run::arguments() {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    let outcome = match arguments.command {
        Command::Serve { config } => {
            start(&config).map(|(config, listeners)| run::run(|stop| serve(config, listeners, stop)))
        }
        Command::Check { config } => tell(&config),
    };
    outcome.unwrap_or_else(|failure| run::report(&failure))
}

/// What comes before the first thread: addresses are taken with the privileges that the program was started with, all else
/// is done without them.
fn start(file: &Path) -> Result<(Config, Vec<Listener>), Failure> {
    let inherited = Inherited::from_environment().map_err(Failure::start)?;
    let mut config = Config::load(file).map_err(Failure::configuration)?;
    keystead_program::logging::start(&config.log).map_err(Failure::configuration)?;
    let listeners = listener::bind(&config.listeners, inherited).map_err(Failure::start)?;
    if let Some(user) = config.process.user.as_deref() {
        sandbox::become_user(user).map_err(Failure::configuration)?;
        // What that user cannot read would fail when it is loaded again.
        config = Config::load(file).map_err(Failure::configuration)?;
    }
    sandbox::enter(&config.process, &config.paths()).map_err(Failure::start)?;
    Ok((config, listeners))
}

fn tell(file: &Path) -> Result<ExitCode, Failure> {
    let config = Config::load(file).map_err(Failure::configuration)?;
    let found = check(&config).map_err(Failure::configuration)?;
    std::io::stdout().write_all(found.as_bytes()).map_err(Failure::start)?;
    Ok(ExitCode::SUCCESS)
}
