//! The stack: a key server, edges and a backend on loopback, from the first start to an orderly end.
mod announcement;
mod child;
mod invocation;
mod layout;
mod probe;
mod programs;
mod store;

use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use keystead_program::channel::HostPort;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::backend::{self, Expect};
use crate::pki::{self, Deployment};
use announcement::Announcement;
use child::Family;
use invocation::Invocation;
use layout::Layout;
use programs::Programs;
use store::Store;

pub use child::exec_with_parent;

/// Where the stack lives and which ports it takes, all on 127.0.0.1.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Directory of certificates, configurations, state and logs
    #[arg(long, env = "KEYSTEAD_LOCAL_DIR", default_value = ".keystead")]
    pub dir: PathBuf,
    /// How many edges to start; each further edge takes the next TLS port
    #[arg(long, env = "KEYSTEAD_LOCAL_EDGES", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=8))]
    pub edges: u16,
    /// TLS port of the first edge
    #[arg(long, env = "KEYSTEAD_LOCAL_TLS_PORT", default_value_t = 8443)]
    pub tls_port: u16,
    /// Metrics port of the first edge; further edges take those from two above it on
    #[arg(long, env = "KEYSTEAD_LOCAL_EDGE_METRICS_PORT", default_value_t = 9443)]
    pub edge_metrics_port: u16,
    /// gRPC port of the key server
    #[arg(long, env = "KEYSTEAD_LOCAL_KEY_SERVER_PORT", default_value_t = 7443)]
    pub key_server_port: u16,
    /// Metrics port of the key server
    #[arg(long, env = "KEYSTEAD_LOCAL_KEY_SERVER_METRICS_PORT", default_value_t = 9444)]
    pub key_server_metrics_port: u16,
    /// Port of the backend
    #[arg(long, env = "KEYSTEAD_LOCAL_BACKEND_PORT", default_value_t = 8080)]
    pub backend_port: u16,
    /// host:port of a Redis or Valkey where edges share sessions with ids; with several edges the stack runs one itself
    #[arg(long, env = "KEYSTEAD_LOCAL_SHARED_STORE", value_name = "HOST:PORT")]
    pub shared_store: Option<HostPort>,
    /// Port of the Redis or Valkey that the stack runs itself
    #[arg(long, env = "KEYSTEAD_LOCAL_SHARED_STORE_PORT", default_value_t = 6380)]
    pub shared_store_port: u16,
}

/// Starts everything, says what runs where, and serves until `stop` is cancelled; then drains everything.
///
/// # Errors
/// A directory in use, a taken port, a program that cannot be built, started or made ready, that fails, or that is
/// killed again and again: then the end of its log is part of the error.
pub async fn run(options: &Options, stop: CancellationToken) -> Result<()> {
    let layout = Layout::new(options, store::find_server())?;
    let _lock = lock(&options.dir)?;
    probe::ports_are_free(&layout).await?;
    let programs = Programs::find().await?;
    Deployment::localhost(layout.edge_names()).provide(&layout.pki())?;
    layout.write_configurations()?;
    pki::provide_ticket_secret(&layout.ticket_secret(), None)?;

    let backend = TcpListener::bind(layout.backend).await.context("backend")?;
    let backend_stop = CancellationToken::new();
    // Not only PROXY: whoever asks the backend itself shall see the page too.
    let mut backend = tokio::spawn(backend::serve(backend, Expect::Perhaps, backend_stop.clone().cancelled_owned()));

    let mut family = Family::new(programs.this.clone());
    let result = tokio::select! {
        () = stop.cancelled() => Ok(()),
        error = serve(&layout, &programs, &mut family) => Err(error),
        ended = &mut backend => Err(anyhow!("the backend ended: {ended:?}")),
    };
    let stopped = family.stop().await;
    // Last, since an edge that drains may still bring it requests. Connections that stay open end with the process.
    backend_stop.cancel();
    result.and(stopped)
}

/// Starts the programs and tells so; returns only when it cannot go on.
async fn serve(layout: &Layout, programs: &Programs, family: &mut Family) -> anyhow::Error {
    match start(layout, programs, family).await {
        Ok(()) => family.supervise().await,
        Err(error) => error,
    }
}

async fn start(layout: &Layout, programs: &Programs, family: &mut Family) -> Result<()> {
    if let Store::Own(server) = &layout.store {
        family.start("store", server.prepare()?, layout.log("store"))?;
        ready(family, probe::store(server.address)).await?;
    }
    let key_server = &layout.key_server;
    let invocation = Invocation::serve(&programs.key_server, &key_server.configuration);
    family.start("keyserver", invocation, layout.log("keyserver"))?;
    ready(family, probe::ready(key_server.metrics)).await?;
    for edge in &layout.edges {
        let name = format!("edge-{}", edge.name);
        family.start(&name, Invocation::serve(&programs.edge, &edge.configuration), layout.log(&name))?;
    }
    for edge in &layout.edges {
        ready(family, probe::ready(edge.metrics)).await?;
    }
    let announcement = Announcement { layout, processes: family.processes() };
    std::io::stdout().write_all(announcement.to_string().as_bytes())?;
    Ok(())
}

/// Waits until `probe` finds a program ready, unless one ends before.
async fn ready(family: &mut Family, probe: impl Future<Output = ()>) -> Result<()> {
    tokio::select! {
        error = family.first_end() => Err(error),
        () = probe => Ok(()),
    }
}

/// Takes the directory for this process. The lock ends with the returned file.
fn lock(directory: &Path) -> Result<File> {
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let path = directory.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "another stack runs in {}: set KEYSTEAD_LOCAL_DIR and the ports to run a second one beside it",
            directory.display()
        ),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

#[cfg(test)]
mod tests;
