//! What is counted of key servers. Every label has a closed set of values.

use std::sync::Arc;
use std::time::Duration;

use keystead_program::channel::HostPort;
use keystead_tls::KeyServerFailure;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use strum::IntoStaticStr;

/// What becomes of tries, and of the key servers that are asked.
#[derive(Debug)]
pub struct TryTelemetry {
    hedges: Family<OutcomeLabels, Counter>,
    /// Further tries that were not made, for too many were made already.
    pub retries_denied: Counter,
    /// Times that a key server was left alone for its failures.
    pub ejections: Counter,
    /// Key servers that are left alone at the moment.
    pub ejected: Gauge,
    /// Times that one key was not asked for at one key server any longer, for its failures there.
    pub breaker_trips: Counter,
    /// Keys that are not asked for at some key server at the moment, each counted once for each key server.
    pub breakers_open: Gauge,
    /// Times that the name of a key server did not resolve.
    pub resolve_failures: Counter,
    seconds: Family<ServerLabels, Histogram>,
    failures: Family<ServerFailureLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServerLabels {
    server: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServerFailureLabels {
    server: Arc<str>,
    reason: &'static str,
}

/// How a hedge went: a request that went to a second key server because the first was late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Hedge {
    /// Its answer was there first.
    Won,
    /// The other answer was there first.
    Lost,
    /// It failed.
    Failed,
}

impl TryTelemetry {
    /// Metrics at nothing, in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let new = Self {
            hedges: Family::default(),
            retries_denied: Counter::default(),
            ejections: Counter::default(),
            ejected: Gauge::default(),
            breaker_trips: Counter::default(),
            breakers_open: Gauge::default(),
            resolve_failures: Counter::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.000_25, 2.0, 18))),
            failures: Family::default(),
        };
        let counters = [
            ("key_server_retries_denied", "Further tries not made, for too many were already", &new.retries_denied),
            ("key_server_ejections", "Times that a key server was left alone for its failures", &new.ejections),
            ("key_server_breaker_trips", "Times that a key was left alone at a key server", &new.breaker_trips),
            ("key_server_resolve_failures", "Times that a key server's name did not resolve", &new.resolve_failures),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        registry.register("key_server_hedges", "Requests asked of a second key server meanwhile", new.hedges.clone());
        registry.register("key_server_ejected", "Key servers left alone at the moment", new.ejected.clone());
        registry.register("key_server_breakers_open", "Keys left alone at a key server", new.breakers_open.clone());
        registry.register("key_server_try_seconds", "Of each try that succeeded, by key server", new.seconds.clone());
        registry.register("key_server_try_failures", "Tries failed, by key server", new.failures.clone());
        new
    }

    /// A hedge has come to its end.
    pub(super) fn hedged(&self, outcome: Hedge) {
        self.hedges.get_or_create(&OutcomeLabels { outcome: outcome.into() }).inc();
    }

    /// What is counted of the tries at this key server.
    pub(super) fn of_server(&self, address: &HostPort) -> ServerTelemetry {
        let server: Arc<str> = address.to_string().into();
        let seconds = self.seconds.get_or_create(&ServerLabels { server: server.clone() }).clone();
        ServerTelemetry { server, seconds, failures: self.failures.clone() }
    }
}

/// Tries at one key server.
#[derive(Debug)]
pub(super) struct ServerTelemetry {
    server: Arc<str>,
    seconds: Histogram,
    failures: Family<ServerFailureLabels, Counter>,
}

impl ServerTelemetry {
    /// A try succeeded.
    pub(super) fn answered(&self, elapsed: Duration) {
        self.seconds.observe(elapsed.as_secs_f64());
    }

    /// A try failed.
    pub(super) fn failed(&self, failure: KeyServerFailure) {
        let labels = ServerFailureLabels { server: self.server.clone(), reason: failure.reason() };
        self.failures.get_or_create(&labels).inc();
    }
}
