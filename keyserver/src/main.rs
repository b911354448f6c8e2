//! `keystead-keyserver`: holds private keys and signs for edges.
#![forbid(unsafe_code)]

mod command;

use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use command::key::KeyCommand;
use keystead_keyserver::config::Config;
use keystead_keyserver::memory::{self, MemoryError};
use keystead_keyserver::server::{self, Server};
use keystead_keyserver::settings::Settings;
use keystead_keyserver::ticket_keys::ratchet::{RotationPeriod, UnixTime};
use keystead_keyserver::ticket_keys::state;
use keystead_program::config;
use keystead_program::inherited::Inherited;
use keystead_program::logging;
use keystead_program::run::{self, Failure};
use keystead_program::sandbox;
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
    /// Makes, imports and lists private keys, and asks for certificates
    #[command(subcommand)]
    Key(KeyCommand),
}

fn main() -> ExitCode {
    let arguments: Arguments = match run::arguments() {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    let done = match arguments.command {
        Command::Serve { config } => match start(&config) {
            Ok((listener, settings)) => return run::run(async |stop| serve(listener, settings, stop).await),
            Err(failure) => Err(failure),
        },
        Command::Init { state, rotation_period } => init(&state, rotation_period),
        Command::Audit(audit) => command::audit::run(audit),
        Command::Edge(edge) => command::edge::run(edge),
        Command::Check { config } => check(&config),
        Command::Key(command) => command::key::run(command),
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

/// What comes before the first thread.
fn start(file: &Path) -> Result<(TcpListener, Settings), Failure> {
    let inherited = Inherited::from_environment().map_err(Failure::start)?;
    let config: Config = config::load(file).map_err(Failure::configuration)?;
    logging::start(&config.log).map_err(Failure::configuration)?;
    let Prepared { listener, settings, core_dumps } = match config.process.user.as_deref() {
        Some(user) => prepare_as(user, file, &config, inherited)?,
        None => prepare(file, inherited)?,
    };
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    let locked = memory::lock_as(settings.config.memory.lock).map_err(Failure::start)?;
    for warning in core_dumps.iter().chain(&locked) {
        tracing::warn!("{warning}");
    }
    sandbox::enter(&settings.config.process, &settings.paths()).map_err(Failure::start)?;
    Ok((listener, settings))
}

/// What a key server serves with.
struct Prepared {
    listener: TcpListener,
    settings: Settings,
    /// Why there may be core dumps.
    core_dumps: Option<MemoryError>,
}

/// Takes the address when all that it serves with is there: until then, edges ask others at once.
fn prepare(file: &Path, inherited: Inherited) -> Result<Prepared, Failure> {
    // Before there is anything to protect.
    let core_dumps = memory::forbid_core_dumps().err();
    let settings = Settings::load(file).map_err(Failure::configuration)?;
    let listener = server::listen(&settings.config, inherited).map_err(Failure::start)?;
    Ok(Prepared { listener, settings, core_dumps })
}

/// Takes the address with the privileges that the program was started with, and reads keys and opens tokens without them:
/// as it will when they change.
fn prepare_as(user: &str, file: &Path, config: &Config, inherited: Inherited) -> Result<Prepared, Failure> {
    let listener = server::listen(config, inherited).map_err(Failure::start)?;
    sandbox::become_user(user).map_err(Failure::configuration)?;
    // Behind the change of user, which undoes it, and before there is anything to protect.
    let core_dumps = memory::forbid_core_dumps().err();
    let settings = Settings::load(file).map_err(Failure::configuration)?;
    Ok(Prepared { listener, settings, core_dumps })
}

async fn serve(listener: TcpListener, settings: Settings, stop: CancellationToken) -> Result<(), Failure> {
    let server = Server::on(listener, settings).await.map_err(Failure::start)?;
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
