//! The key server as a whole: bound, served, drained.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use keystead_program::channel::{AcceptLimits, Acceptor, ChannelMetrics, Expiry as CertificateExpiry, ServerChannel};
use keystead_program::inherited::{self, Inherited, InheritedError};
use keystead_program::observe::{Endpoint, Readiness};
use keystead_proto::MAX_REQUEST;
use keystead_proto::v1::key_server_server::KeyServerServer;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::audit::Audit;
use crate::audit::record::Event;
use crate::audit::recorder::AuditError;
use crate::authorize::Authorizations;
use crate::config::{Config, Limits};
use crate::custody::token::Tokens;
use crate::expiry::Expiry;
use crate::lease::LeaseLimits;
use crate::metrics::Metrics;
use crate::reload::{Destinations, Reload};
use crate::schedule::Scheduler;
use crate::service::{Recording, Service, ServiceLimits, Stopping};
use crate::settings::{Running, Settings, Tickets};
use crate::ticket_keys::keeper::Keeper;

/// A key server that has its addresses and serves nobody yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    endpoint: Option<Endpoint>,
    acceptor: Acceptor,
    service: Service,
    /// Who may use which key; kept so that [`Service`] sees it as something that may still change.
    authorizations: watch::Sender<Arc<Authorizations>>,
    background: Background,
    registry: Registry,
    metrics: Arc<Metrics>,
    limits: Limits,
}

/// Why a key server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be taken.
    #[error("listen on {address}: {cause}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        cause: io::Error,
    },
    /// The sockets that were handed over are not that of the configuration.
    #[error(transparent)]
    Inherited(#[from] InheritedError),
    /// A thread cannot be started.
    #[error("start a thread: {0}")]
    Thread(io::Error),
    /// A signal cannot be listened for.
    #[error("listen for SIGHUP: {0}")]
    Signal(io::Error),
    /// The audit log cannot be gone on with.
    #[error("[audit] {0}")]
    Audit(AuditError),
}

/// Bytes of unread requests that one stream and one connection may have under way.
const STREAM_WINDOW: u32 = 512 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Bytes of headers of one call.
const MAX_HEADERS: u32 = 8 * 1024;
/// How often a silent connection is asked whether it lives, and how long it has to say so.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long streams that were ended have to reach their edges.
const LAST_WORDS: Duration = Duration::from_secs(1);

impl Server {
    /// Takes the addresses and starts the threads.
    ///
    /// # Errors
    /// [`StartError`] when an address cannot be taken or a thread cannot be started.
    pub async fn bind(settings: Settings) -> Result<Self, StartError> {
        let listener = listen(&settings.config, Inherited::default())?;
        Self::on(listener, settings).await
    }

    /// Takes the other addresses and starts the threads; edges connect to `listener`.
    ///
    /// # Errors
    /// [`StartError`] when an address cannot be taken or a thread cannot be started.
    pub async fn on(listener: std::net::TcpListener, settings: Settings) -> Result<Self, StartError> {
        let lanes = settings.lanes();
        let audited = (settings.keys.len(), settings.authorizations.peers().count());
        let Settings { files, config, channel, keys, tokens, authorizations, tickets, audit, warnings, .. } = settings;
        let Addresses { listener, address, endpoint } = Addresses::take(listener, &config).await?;
        let (metrics, channel_metrics) = (Arc::new(Metrics::default()), ChannelMetrics::default());
        let mut registry = Registry::with_prefix("keystead_keyserver");
        metrics.register(&mut registry);
        channel_metrics.register(&mut registry);
        tokens.metrics().register(&mut registry);
        metrics.tickets.groups(&authorizations);
        let running = Running { files, config, channel, keys, tokens: tokens.clone() };
        let (config, channel) = (&running.config, ServerChannel::new(&running.channel));
        let limits = config.limits;
        let acceptor = Acceptor { channel: channel.clone(), limits: accept_limits(&limits), metrics: channel_metrics };
        channel.expiry().register(&mut registry);
        let audit = audit
            .map(|audit| Audit::start(&audit, metrics.audit.clone()))
            .transpose()
            .map_err(StartError::Audit)?
            .unwrap_or(Audit::off());
        let (keys, edges) = audited;
        audit.tell(Event::Started { version: env!("CARGO_PKG_VERSION"), keys, edges });
        let scheduler = Scheduler::start(&lanes, &metrics).map_err(StartError::Thread)?;
        let (authorizations, current) = watch::channel(Arc::new(authorizations));
        let provider = config.crypto.provider();
        let mut service = Service::new(scheduler, provider, metrics.clone(), current, service_limits(&limits))
            .with_audit(audit.clone());
        let tickets = tickets.map(|Tickets { state, ratchet }| Keeper::new(state, ratchet, metrics.tickets.clone()));
        if let Some(tickets) = &tickets {
            service = service.with_tickets(tickets.subscribe());
        }
        let certificate_expiry = channel.expiry().clone();
        let into = Destinations { authorizations: authorizations.clone(), channel, metrics: metrics.clone(), audit };
        let reload = Reload::new(running, warnings, into).map_err(StartError::Signal)?;
        let expiry = Expiry::new(authorizations.clone());
        let background = Background { tickets, tokens, reload, expiry, certificate_expiry };
        Ok(Self {
            listener,
            address,
            endpoint,
            acceptor,
            service,
            authorizations,
            background,
            registry,
            metrics,
            limits,
        })
    }

    /// Where edges connect, with the port that the system chose where the configuration says 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where metrics are served.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.endpoint.as_ref().map(Endpoint::address)
    }

    /// What this key server counts.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Who may use which key: what is sent here holds for the next request of every stream.
    pub fn authorizations(&self) -> &watch::Sender<Arc<Authorizations>> {
        &self.authorizations
    }

    /// Serves until `stop`, then drains: edges are told to leave, what they asked and ask is answered, and streams that
    /// are still open after the drain timeout are ended.
    ///
    /// # Errors
    /// The transport's, when connections can be served no longer.
    pub async fn serve(self, stop: CancellationToken) -> Result<(), tonic::transport::Error> {
        let (readiness, health) = (Readiness::new(), Health::new().await);
        let observed = self
            .endpoint
            .map(|endpoint| tokio::spawn(endpoint.serve(self.registry, readiness.clone(), CancellationToken::new())));
        let (stopping, audit) = (self.service.stopping().clone(), self.service.audit().clone());
        audit.report_to(readiness.condition("audit"));
        let background = self.background.run(self.service.clone());
        let calls = KeyServerServer::new(self.service.clone()).max_decoding_message_size(MAX_REQUEST);
        let calls = Recording::new(calls, self.service);
        let serving =
            server(&self.limits).add_service(health.service()).add_service(calls).serve_with_incoming_shutdown(
                self.acceptor.accept(self.listener),
                stopping.drain.clone().cancelled_owned(),
            );
        tracing::info!(address = %self.address, "serving");
        let served = tokio::select! {
            served = serving => served,
            never = background => match never {},
            () = drain(stop, &stopping, &readiness, &health, &self.limits) => Ok(()),
        };
        // It waits for the disk. A panic of its own is told by the thread.
        let _ = tokio::task::spawn_blocking(move || audit.close()).await;
        if let Some(observed) = observed {
            observed.abort();
        }
        tracing::info!("stopped");
        served
    }
}

/// The socket that edges connect to: of those that were handed over, or on the address that `config` says.
///
/// # Errors
/// [`StartError`] when the address cannot be taken, or another socket was handed over.
pub fn listen(config: &Config, mut inherited: Inherited) -> Result<std::net::TcpListener, StartError> {
    let failed = |cause| StartError::Listen { address: config.listen, cause };
    let listener = match inherited.take(config.listen, config.listen_socket.as_deref())? {
        Some(listener) => listener,
        None => inherited::listen(config.listen).map_err(failed)?,
    };
    listener.set_nonblocking(true).map_err(failed)?;
    inherited.finish()?;
    Ok(listener)
}

/// What was bound.
struct Addresses {
    listener: TcpListener,
    address: SocketAddr,
    endpoint: Option<Endpoint>,
}

impl Addresses {
    async fn take(listener: std::net::TcpListener, config: &Config) -> Result<Self, StartError> {
        let listen = |address| move |cause| StartError::Listen { address, cause };
        let listener = TcpListener::from_std(listener).map_err(listen(config.listen))?;
        let address = listener.local_addr().map_err(listen(config.listen))?;
        let endpoint = match &config.metrics {
            Some(metrics) => Some(Endpoint::bind(metrics).await.map_err(listen(metrics.listen))?),
            None => None,
        };
        Ok(Self { listener, address, endpoint })
    }
}

/// What goes on beside serving.
#[derive(Debug)]
struct Background {
    tickets: Option<Keeper>,
    tokens: Tokens,
    reload: Reload,
    expiry: Expiry,
    certificate_expiry: CertificateExpiry,
}

impl Background {
    async fn run(self, service: Service) -> Infallible {
        let rotations = async {
            match self.tickets {
                Some(keeper) => keeper.keep().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            never = service.follow_removals() => never,
            never = rotations => never,
            never = self.tokens.follow() => never,
            never = self.reload.follow() => never,
            never = self.expiry.follow() => never,
            never = self.certificate_expiry.follow() => never,
        }
    }
}

fn accept_limits(limits: &Limits) -> AcceptLimits {
    AcceptLimits {
        handshake_timeout: limits.handshake_timeout,
        handshakes: limits.handshakes,
        handshakes_per_address: limits.handshakes_per_address,
        connections: limits.connections,
        connections_per_peer: limits.connections_per_edge,
    }
}

fn service_limits(limits: &Limits) -> ServiceLimits {
    ServiceLimits {
        in_flight_per_stream: limits.in_flight_per_stream,
        // An edge has one of each on each of its connections.
        streams_per_edge: limits.connections_per_edge,
        operation_timeout: limits.operation_timeout,
        leases: LeaseLimits { per_call: limits.leases_per_call, outstanding: limits.leases_per_edge },
    }
}

fn server(limits: &Limits) -> tonic::transport::Server {
    tonic::transport::Server::builder()
        .max_concurrent_streams(limits.streams_per_connection)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_header_list_size(MAX_HEADERS)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
}

/// Waits for `stop`, then tells everybody, then ends what is still open. Serving ends by itself as soon as the last
/// connection has gone, which is before this returns unless an edge does not read.
async fn drain(stop: CancellationToken, stopping: &Stopping, readiness: &Readiness, health: &Health, limits: &Limits) {
    stop.cancelled().await;
    readiness.drain();
    health.not_serving().await;
    tokio::time::sleep(limits.drain_delay).await;
    stopping.drain.cancel();
    tokio::time::sleep(limits.drain_timeout).await;
    tracing::warn!("edges still connected at the end of the drain");
    stopping.end.cancel();
    health.end().await;
    tokio::time::sleep(LAST_WORDS).await;
}

/// `grpc.health.v1`, for the server as a whole and for the one service.
struct Health(HealthReporter);

impl Health {
    const NAMES: [&'static str; 2] = ["", <KeyServerServer<Service> as NamedService>::NAME];

    async fn new() -> Self {
        let health = Self(HealthReporter::new());
        health.set(ServingStatus::Serving).await;
        health
    }

    fn service(&self) -> tonic_health::pb::health_server::HealthServer<tonic_health::server::HealthService> {
        let service = tonic_health::server::HealthService::from_health_reporter(self.0.clone());
        tonic_health::pb::health_server::HealthServer::new(service)
    }

    async fn not_serving(&self) {
        self.set(ServingStatus::NotServing).await;
    }

    async fn set(&self, status: ServingStatus) {
        for name in Self::NAMES {
            self.0.set_service_status(name, status).await;
        }
    }

    /// Ends the streams of those who watch.
    async fn end(&self) {
        for name in Self::NAMES {
            self.0.clone().clear_service_status(name).await;
        }
    }
}
