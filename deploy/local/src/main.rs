//! `keystead-local`: the stack on loopback, and the tools of the sample deployment.
use std::ffi::OsString;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use keystead_local::backend::{self, Expect};
use keystead_local::pki::{self, Deployment, KEY_SERVER_NAME, Owner};
use keystead_local::stack;
use keystead_program::run::{Failure, arguments, report, run};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Runs the whole of Keystead on this machine: a key server, an edge, a backend, and certificates for them.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(flatten)]
    stack: stack::Options,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Makes the certificates of a deployment, or renews those that need it, and its ticket secret
    Pki(PkiArguments),
    /// Serves a page that tells what arrived: the demonstration backend
    Backend {
        /// Where to listen
        #[arg(long, default_value = "127.0.0.1:8080")]
        listen: SocketAddr,
        /// Whether connections begin with a PROXY header
        #[arg(long, value_enum, default_value_t = Expect::Never)]
        proxy_protocol: Expect,
    },
    /// Runs a program that ends when this process's parent does
    #[command(hide = true)]
    ExecWithParent {
        parent: u32,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
}

#[derive(clap::Args)]
struct PkiArguments {
    /// Directory to fill: ca.pem for clients, authority/, keyserver/, and edge-NAME/ for each edge
    #[arg(long)]
    out: PathBuf,
    /// An edge to certify; may be repeated
    #[arg(long = "edge", value_name = "NAME", default_values_t = ["one".to_owned()])]
    edges: Vec<String>,
    /// A DNS name or IP address to serve; may be repeated, and the first names the files
    #[arg(long = "serve", value_name = "NAME", default_values_t = Deployment::localhost([""; 0]).served)]
    served: Vec<String>,
    /// A DNS name of the key server on the channel; may be repeated
    #[arg(long, value_name = "NAME", default_values_t = [KEY_SERVER_NAME.to_owned()])]
    key_server: Vec<String>,
    /// A file for the key servers' ticket secret, made unless it is there
    #[arg(long, value_name = "FILE")]
    ticket_secret: Option<PathBuf>,
    /// Who shall own the programs' files
    #[arg(long, value_name = "UID:GID")]
    owner: Option<Owner>,
}

fn main() -> ExitCode {
    let arguments: Arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    if let Some(Command::ExecWithParent { parent, command }) = &arguments.command {
        return report(&Failure::start(stack::exec_with_parent(*parent, command)));
    }
    run(async |stop| execute(arguments, stop).await.map_err(Failure::start))
}

async fn execute(arguments: Arguments, stop: CancellationToken) -> Result<()> {
    match arguments.command {
        None | Some(Command::ExecWithParent { .. }) => stack::run(&arguments.stack, stop).await,
        Some(Command::Pki(arguments)) => provide(arguments),
        Some(Command::Backend { listen, proxy_protocol }) => {
            let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
            Ok(backend::serve(listener, proxy_protocol, stop.cancelled_owned()).await?)
        }
    }
}

fn provide(arguments: PkiArguments) -> Result<()> {
    let PkiArguments { out, edges, served, key_server, ticket_secret, owner } = arguments;
    let made = Deployment { served, legacy: Vec::new(), client: None, key_server, edges, owner }.provide(&out)?;
    let mut stdout = std::io::stdout();
    for certificate in &made {
        writeln!(stdout, "made {}", certificate.display())?;
    }
    if let Some(file) = ticket_secret {
        let made = if pki::provide_ticket_secret(&file, owner)? { "made" } else { "found" };
        writeln!(stdout, "{made} {}", file.display())?;
    }
    if made.is_empty() {
        writeln!(stdout, "every certificate in {} remains valid", out.display())?;
    }
    Ok(())
}
