//! What an operator's tools ask a running program over HTTP: `GET /metrics` for Prometheus, `/livez` and `/readyz` for
//! an orchestrator.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::registry::Registry;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The `[metrics]` table of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricsConfig {
    /// Where `/metrics`, `/livez` and `/readyz` are served, in the clear: an address that only operators reach.
    pub listen: SocketAddr,
}

/// The HTTP endpoint, bound and not yet served.
#[derive(Debug)]
pub struct Endpoint {
    listener: TcpListener,
    address: SocketAddr,
}

impl Endpoint {
    /// Takes the address of `config`, so that a taken port is an error at start.
    ///
    /// # Errors
    /// The system's, when the address cannot be taken.
    pub async fn bind(config: &MetricsConfig) -> std::io::Result<Self> {
        let listener = TcpListener::bind(config.listen).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// The address taken, with the port that the system chose where the configuration says 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers requests until `stop`. It goes on while the program drains: `/readyz` tells so.
    ///
    /// # Errors
    /// The system's, when connections can be accepted no longer.
    pub async fn serve(self, registry: Registry, readiness: Readiness, stop: CancellationToken) -> std::io::Result<()> {
        axum::serve(self.listener, router(registry, readiness)).with_graceful_shutdown(stop.cancelled_owned()).await
    }
}

fn router(registry: Registry, readiness: Readiness) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .with_state(Arc::new(registry))
        .route("/livez", get(async || "live\n"))
        .merge(Router::new().route("/readyz", get(readyz)).with_state(readiness))
}

async fn metrics(State(registry): State<Arc<Registry>>) -> impl IntoResponse {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
            .into_response(),
        Err(cause) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{cause}\n")).into_response(),
    }
}

async fn readyz(State(readiness): State<Readiness>) -> (StatusCode, String) {
    let reasons = readiness.reasons();
    if reasons.is_empty() {
        return (StatusCode::OK, "ready\n".to_owned());
    }
    (StatusCode::SERVICE_UNAVAILABLE, reasons.into_iter().map(|reason| reason + "\n").collect())
}

/// Whether the program should be sent work, as the sum of conditions that its parts report. Clones share one state.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    state: Arc<Mutex<Conditions>>,
}

#[derive(Debug, Default)]
struct Conditions {
    draining: bool,
    /// Why the condition of this name is not met; `None` when it is.
    unmet: BTreeMap<Cow<'static, str>, Option<Cow<'static, str>>>,
}

impl Readiness {
    /// A program without conditions, which is ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition, not met until its owner says so.
    pub fn condition(&self, name: impl Into<Cow<'static, str>>) -> Condition {
        let condition = Condition { readiness: self.clone(), name: name.into() };
        condition.unmet("starting");
        condition
    }

    /// The program is about to stop: it is not ready, whatever its conditions.
    pub fn drain(&self) {
        self.lock().draining = true;
    }

    /// Whether every condition is met and the program is not about to stop.
    pub fn is_ready(&self) -> bool {
        self.reasons().is_empty()
    }

    /// Why the program is not ready, as `condition: reason`; empty when it is.
    pub fn reasons(&self) -> Vec<String> {
        let state = self.lock();
        let draining = state.draining.then(|| "draining".to_owned());
        let unmet = state.unmet.iter().filter_map(|(name, why)| why.as_ref().map(|why| format!("{name}: {why}")));
        draining.into_iter().chain(unmet).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Conditions> {
        // Every change is one assignment, so a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One condition of a [`Readiness`].
#[derive(Clone, Debug)]
pub struct Condition {
    readiness: Readiness,
    name: Cow<'static, str>,
}

impl Condition {
    /// The condition holds.
    pub fn met(&self) {
        self.set(None);
    }

    /// The condition does not hold, for the reason `why`.
    pub fn unmet(&self, why: impl Into<Cow<'static, str>>) {
        self.set(Some(why.into()));
    }

    /// Whether the program would be ready if this condition held.
    pub fn is_all_that_is_unmet(&self) -> bool {
        let state = self.readiness.lock();
        !state.draining && state.unmet.iter().all(|(name, why)| *name == self.name || why.is_none())
    }

    fn set(&self, why: Option<Cow<'static, str>>) {
        self.readiness.lock().unmet.insert(self.name.clone(), why);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn a_program_is_ready_when_every_condition_is_met() {
        let readiness = Readiness::new();
        assert!(readiness.is_ready());
        let (key_server, listener) = (readiness.condition("key_server"), readiness.condition("listener"));
        assert_eq!(readiness.reasons(), ["key_server: starting", "listener: starting"]);
        key_server.unmet("no connection");
        assert!(!listener.is_all_that_is_unmet());
        listener.met();
        assert_eq!(readiness.reasons(), ["key_server: no connection"]);
        assert!(key_server.is_all_that_is_unmet());
        key_server.met();
        assert!(readiness.is_ready());
        readiness.drain();
        assert_eq!(readiness.reasons(), ["draining"]);
    }

    async fn request(address: SocketAddr, path: &str) -> String {
        let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        socket.read_to_string(&mut response).await.unwrap();
        response
    }

    #[tokio::test]
    async fn the_endpoint_answers_what_tools_ask() {
        let endpoint = Endpoint::bind(&MetricsConfig { listen: "127.0.0.1:0".parse().unwrap() }).await.unwrap();
        let address = endpoint.address();
        let taken = Endpoint::bind(&MetricsConfig { listen: address }).await.unwrap_err();
        assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);

        let mut registry = Registry::default();
        let counter = prometheus_client::metrics::counter::Counter::<u64>::default();
        registry.register("handshakes", "Handshakes", counter.clone());
        counter.inc();
        let (readiness, stop) = (Readiness::new(), CancellationToken::new());
        let condition = readiness.condition("key_server");
        let serving = tokio::spawn(endpoint.serve(registry, readiness.clone(), stop.clone()));

        assert!(request(address, "/livez").await.starts_with("HTTP/1.1 200"));
        let unready = request(address, "/readyz").await;
        assert!(
            unready.starts_with("HTTP/1.1 503") && unready.ends_with("\r\n\r\nkey_server: starting\n"),
            "{unready}"
        );
        condition.met();
        assert!(request(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(request(address, "/metrics").await.contains("handshakes_total 1\n"));
        assert!(request(address, "/nothing").await.starts_with("HTTP/1.1 404"));
        stop.cancel();
        serving.await.unwrap().unwrap();
    }
}
