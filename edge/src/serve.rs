//! The edge from start to end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use keystead_program::channel::{ChannelMaterial, ClientChannel};
use keystead_program::observe::{Condition, Endpoint, Readiness};
use keystead_program::run::Failure;
use prometheus_client::registry::Registry;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::Admission;
use crate::backend::Pool;
use crate::client_auth::{self, ClientVerifier, Verifications};
use crate::config::Config;
use crate::connection::Connections;
use crate::directory::Directory;
use crate::handshake::Handshakes;
use crate::identity::IdentitySet;
use crate::key_client::KeyClient;
use crate::listener::Listener;
use crate::open_files;
use crate::reload::{Destinations, Fixed, Reload, Running};
use crate::sessions::Sessions;
use crate::state::State;
use crate::telemetry::{Ended, Lost, Telemetry};
use crate::virtual_host::HostTemplate;

/// Serves clients of `listeners` as `config` says until `stop`, and then those that are connected until they end or their
/// time is over.
///
/// # Errors
/// What keeps it from starting.
pub async fn serve(config: Config, listeners: Vec<Listener>, stop: CancellationToken) -> Result<(), Failure> {
    let material = channel_material(&config).map_err(Failure::configuration)?;
    open_files::allow(config.limits.max_connections);
    let mut registry = Registry::default();
    let telemetry = Arc::new(Telemetry::register(&mut registry));
    let pool = Pool::register(&mut registry);
    let readiness = Readiness::new();
    // Before anybody can ask: an endpoint without conditions is ready.
    let identities_ready = readiness.condition("identities");
    let key_server_ready = readiness.condition("key_server");
    let listening = readiness.condition("listeners");

    // What runs beside the connections, for as long as they do.
    let mut background = JoinSet::new();
    let channel = ClientChannel::new(&material);
    channel.expiry().register(registry.sub_registry_with_prefix("keystead_edge"));
    let expiry = channel.expiry().clone();
    background.spawn(async { match expiry.follow().await {} });
    observe(&config, registry, &readiness, &mut background).await.map_err(Failure::start)?;
    let (state, remembered) = open_state(&config, &telemetry).await.map_err(Failure::start)?;
    let fixed = Fixed::of(&config);
    let key_client = KeyClient::new(&config.key_server, &channel, key_server_ready, telemetry.clone())
        .map_err(|cause| Failure::configuration(anyhow::Error::from(cause).context("[key_server] server_name")))?;
    let templates = config.hosts.into_iter().map(|host| HostTemplate::new(host, &pool)).collect();
    let servers = config.key_server.addresses.len();
    let directory = Arc::new(Directory::new(templates, servers, remembered, identities_ready, telemetry.clone()));
    background.spawn(remember(state, directory.identities()));
    background.spawn(client_auth::keep_fresh(verifiers(directory.clone()), LISTS_PERIOD, telemetry.clone()));
    let running = Running { channel_files: config.channel, material, host_files: config.host_files };
    let into = Destinations { directory: directory.clone(), pool, channel, telemetry: telemetry.clone() };
    let reload = Reload::new(running, fixed, into);
    let reload = reload.context("listen for SIGHUP").map_err(Failure::start)?;
    background.spawn(async { match reload.follow().await {} });
    let _links = key_client.keep_up(&directory);
    background.spawn(limit_the_wait(directory.clone()));

    let (provider, verifications) = (config.crypto.provider(), Verifications::default());
    let ticket_keys = directory.ticket_keys().clone();
    let sessions = Sessions::start(config.sessions, &config.state_directory, ticket_keys, telemetry.clone());
    let sessions = sessions.map_err(Failure::start)?;
    let handshakes = Handshakes { provider, directory, key_client, sessions, verifications };
    let (drain_delay, drain_timeout) = (config.limits.drain_delay, config.limits.drain_timeout);
    let places = Arc::new(Semaphore::new(config.limits.max_connections.min(Semaphore::MAX_PERMITS)));
    let admission = Admission::new(&config.limits);
    let connections = Connections { handshakes, admission, limits: config.limits, telemetry: telemetry.clone() };
    let connections = Arc::new(connections);
    let tracker = TaskTracker::new();
    let (mut accepting, leave) = (JoinSet::new(), CancellationToken::new());
    let mut accept = |listener: Listener| {
        let address = listener.address();
        let clients = listener.accept(connections.clone(), places.clone(), tracker.clone(), leave.clone());
        accepting.spawn(clients.with_context(|| format!("listen on {address}")).map_err(Failure::start)?);
        tracing::info!(%address, "listening");
        Ok(())
    };
    let (patient, own): (Vec<_>, Vec<_>) = listeners.into_iter().partition(Listener::can_wait);
    own.into_iter().try_for_each(&mut accept)?;
    if !patient.is_empty() {
        tokio::select! {
            () = stop.cancelled() => {}
            () = until_ready_but_for(&listening) => patient.into_iter().try_for_each(accept)?,
        }
    }
    listening.met();
    tokio::select! {
        () = stop.cancelled() => {}
        failed = failure_among(&mut accepting) => return Err(Failure::start(failed)),
    }
    readiness.drain();
    sleep(drain_delay).await;
    leave.cancel();
    while let Some(left) = accepting.join_next().await {
        if let Err(cause) = left.context("stop accepting").and_then(|left| Ok(left?)) {
            tracing::warn!("clients that were connecting may be lost: {cause:#}");
        }
    }
    drain(&tracker, drain_timeout, &telemetry).await;
    // Connections that outstayed the drain still have it; what is not written yet is lost then.
    if let Some(connections) = Arc::into_inner(connections) {
        let closed = spawn_blocking(|| connections.handshakes.sessions.close(LAST_WRITES));
        closed.await.context("write sessions").map_err(Failure::start)?;
    }
    Ok(())
}

/// For sessions that wait to be written when the edge stops.
const LAST_WRITES: Duration = Duration::from_secs(2);

/// How long a revocation list that has changed may go unnoticed.
const LISTS_PERIOD: Duration = Duration::from_secs(5);

/// Those of the hosts there are at each moment.
fn verifiers(directory: Arc<Directory>) -> impl Fn() -> Vec<Arc<ClientVerifier>> {
    move || directory.table().hosts().iter().filter_map(|host| host.client_verifier.clone()).collect()
}

/// Reads the files of the channel to the key servers.
///
/// # Errors
/// Those of the files, and that the certificate names nobody.
pub fn channel_material(config: &Config) -> anyhow::Result<ChannelMaterial> {
    let material = ChannelMaterial::load(&config.channel, &config.directory).context("[channel]")?;
    material.identity().context("[channel] certificate: key servers would refuse it")?;
    Ok(material)
}

/// Waits until the program could serve clients if they came to it, or has waited for so long that they should rather be
/// refused than wait.
async fn until_ready_but_for(listening: &Condition) {
    let ready = async {
        while !listening.is_all_that_is_unmet() {
            sleep(READINESS_INTERVAL).await;
        }
    };
    if timeout(READINESS_TIMEOUT, ready).await.is_err() {
        tracing::warn!("accepting clients without being ready");
    }
}

const READINESS_INTERVAL: Duration = Duration::from_millis(20);
const READINESS_TIMEOUT: Duration = Duration::from_secs(10);

/// Waits until a listener fails. While they are to accept, none ends otherwise.
async fn failure_among(accepting: &mut JoinSet<io::Result<()>>) -> anyhow::Error {
    match accepting.join_next().await {
        Some(Ok(Ok(()))) | None => std::future::pending().await,
        Some(Ok(Err(cause))) => anyhow::Error::from(cause).context("listen"),
        Some(Err(cause)) => anyhow::Error::from(cause).context("listen"),
    }
}

/// Has an edge ready that cannot serve all of its hosts, though a key server is away that may have what they want for.
async fn limit_the_wait(directory: Arc<Directory>) {
    sleep(FIRST_WORD).await;
    // A panic there is told of by itself.
    let _ = spawn_blocking(move || directory.wait_no_more()).await;
}

/// For key servers to tell at first. A successor that is waited for is ready before its predecessor is stopped.
const FIRST_WORD: Duration = Duration::from_secs(5);

async fn observe(
    config: &Config,
    registry: Registry,
    readiness: &Readiness,
    background: &mut JoinSet<()>,
) -> anyhow::Result<()> {
    let Some(metrics) = &config.metrics else {
        return Ok(());
    };
    let endpoint = Endpoint::bind(metrics).await.with_context(|| format!("listen on {}", metrics.listen))?;
    tracing::info!(address = %endpoint.address(), "metrics");
    let serving = endpoint.serve(registry, readiness.clone(), CancellationToken::new());
    background.spawn(async {
        if let Err(cause) = serving.await {
            tracing::error!(%cause, "metrics ended");
        }
    });
    Ok(())
}

async fn open_state(config: &Config, telemetry: &Arc<Telemetry>) -> anyhow::Result<(Arc<State>, IdentitySet)> {
    let (directory, telemetry) = (config.state_directory.clone(), telemetry.clone());
    let opened = spawn_blocking(move || {
        let state = State::open(&directory, &telemetry);
        let identities = state.identities();
        (Arc::new(state), identities)
    });
    opened.await.context("open the state")
}

/// Writes each change of the identities to disk.
async fn remember(state: Arc<State>, mut identities: watch::Receiver<IdentitySet>) {
    while identities.changed().await.is_ok() {
        let (state, identities) = (state.clone(), identities.borrow_and_update().clone());
        if spawn_blocking(move || state.remember(&identities)).await.is_err() {
            return;
        }
    }
}

/// Waits for the connections that stand, and counts those that outstay the time.
async fn drain(tracker: &TaskTracker, limit: Duration, telemetry: &Telemetry) {
    tracker.close();
    tracing::info!(connections = tracker.len(), ?limit, "waiting for connections to end");
    if timeout(limit, tracker.wait()).await.is_ok() {
        return;
    }
    // Their sockets close without close_notify, so that clients know that something was cut off.
    tracing::warn!(connections = tracker.len(), "connections cut off");
    for _ in 0..tracker.len() {
        telemetry.connection_ended(Ended::Lost(Lost::DrainTimeout));
    }
}
