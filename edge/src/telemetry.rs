//! What the edge counts and measures. Every label has a closed set of values.

mod ended;

use std::cmp::Ordering;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use keystead_program::reload::{ConfigurationRefused, ReloadOutcome};
use keystead_tls::{Error, Fault, KeyServerFailure, Summary};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use strum::IntoStaticStr;

use crate::admission::Refused;
use crate::key_client::TryTelemetry;
use crate::proxy_protocol::{HeaderFailure, Omission};
use crate::sessions::record::unix_seconds;
use crate::sessions::store::StoreTelemetry;
use crate::sessions::ticket_keys::Generation;
use crate::sessions::{By, Miss};

pub use ended::{Ended, Lost};

/// All metrics of the edge.
#[derive(Debug)]
pub struct Telemetry {
    /// Connections of clients that stand.
    pub connections: Gauge,
    /// Connections accepted.
    pub accepted: Counter,
    /// `accept` calls that failed.
    pub accept_errors: Counter,
    /// Clients that connected and left without sending a byte.
    pub probes: Counter,
    connections_refused: Family<ReasonLabels, Counter>,
    handshakes: Family<HandshakeLabels, Counter>,
    handshake_failures: Family<FailureLabels, Counter>,
    handshake_seconds: Histogram,
    ended: Family<FailureLabels, Counter>,
    /// Plain bytes from clients to backends.
    pub bytes_to_backend: Counter,
    /// Plain bytes from backends to clients.
    pub bytes_to_client: Counter,
    key_server_seconds: Histogram,
    key_server_failures: Family<ReasonLabels, Counter>,
    /// Requests that were asked again of another connection.
    pub key_server_retries: Counter,
    /// Connections to key servers that stand.
    pub key_server_connections: Gauge,
    /// What becomes of tries, and of the key servers that are asked.
    pub tries: TryTelemetry,
    /// Keys and certificates that key servers let this edge use.
    pub identities: Gauge,
    /// Virtual hosts that have no certificate to show.
    pub hosts_without_identity: Gauge,
    /// Times the state on disk did not open and was set aside.
    pub state_rebuilt: Counter,
    /// Times a revocation list had changed and was not readable.
    pub revocation_list_failures: Counter,
    identity_omissions: Family<PartLabels, Counter>,
    /// Randoms leased beforehand, for RSA key transport.
    pub leases: LeaseTelemetry,
    recoveries: Family<OutcomeLabels, Counter>,
    /// Stores of sessions with ids.
    pub stores: StoreTelemetry,
    reloads: Family<OutcomeLabels, Counter>,
    refused: ConfigurationRefused,
    resumed: Family<ByLabels, Counter>,
    sessions_kept: Family<ByLabels, Counter>,
    session_misses: Family<ReasonLabels, Counter>,
    /// Sessions that were too large to be kept, for the client's certificates in them.
    pub sessions_too_large: Counter,
    ticket_generation: Family<RoleLabels, Gauge>,
    ticket_keys_told: Gauge<f64, AtomicU64>,
}

/// What became of leased randoms.
#[derive(Clone, Debug, Default)]
pub struct LeaseTelemetry {
    /// Leases at hand.
    pub ready: Gauge,
    /// Handshakes that took one.
    pub taken: Counter,
    /// Those that had to wait for it.
    pub waited: Counter,
    /// Leases that were lost with their connection to the key server.
    pub dropped: Counter,
    failures: Family<ReasonLabels, Counter>,
}

impl LeaseTelemetry {
    /// A batch was asked for and did not come.
    pub fn batch_failed(&self, failure: KeyServerFailure) {
        self.failures.get_or_create(&ReasonLabels { reason: failure.reason() }).inc();
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

/// How a request to recover a master secret went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Recovered {
    /// The key server gave the master secret.
    Recovered,
    /// It refused: for a client's bad message, or for any other cause, which it does not tell.
    Refused,
    /// There was no answer.
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandshakeLabels {
    version: &'static str,
    suite: &'static str,
    group: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    fault: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PartLabels {
    part: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByLabels {
    by: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RoleLabels {
    role: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

impl Telemetry {
    /// Metrics at nothing, registered under `keystead_edge_`.
    pub fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("keystead_edge");
        let telemetry = Self::new(registry);
        let Self {
            connections,
            accepted,
            accept_errors,
            probes,
            connections_refused,
            handshakes,
            handshake_failures,
            handshake_seconds,
            ended,
            bytes_to_backend,
            bytes_to_client,
            key_server_seconds,
            key_server_failures,
            key_server_retries,
            key_server_connections,
            tries: _,
            identities,
            hosts_without_identity,
            state_rebuilt,
            revocation_list_failures,
            identity_omissions,
            leases,
            recoveries,
            stores: _,
            reloads,
            refused,
            resumed,
            sessions_kept,
            session_misses,
            sessions_too_large,
            ticket_generation,
            ticket_keys_told,
        } = &telemetry;
        registry.register("connections", "Connections of clients that stand", connections.clone());
        registry.register("accepted", "Connections accepted", accepted.clone());
        registry.register("accept_errors", "Calls of accept that failed", accept_errors.clone());
        registry.register("probes", "Clients that left without sending a byte", probes.clone());
        registry.register("connections_refused", "Connections not let in, by limit", connections_refused.clone());
        registry.register("handshakes", "Handshakes completed", handshakes.clone());
        registry.register("handshake_failures", "Handshakes failed, by who is to blame", handshake_failures.clone());
        registry.register("handshake_seconds", "From accept to a complete handshake", handshake_seconds.clone());
        registry.register("connections_ended", "Connections ended after their handshake", ended.clone());
        registry.register("bytes_to_backend", "Plain bytes from clients to backends", bytes_to_backend.clone());
        registry.register("bytes_to_client", "Plain bytes from backends to clients", bytes_to_client.clone());
        registry.register("key_server_seconds", "From request to answer, with retry", key_server_seconds.clone());
        registry.register("key_server_failures", "Requests failed, each try counted", key_server_failures.clone());
        registry.register("key_server_retries", "Requests asked again elsewhere", key_server_retries.clone());
        registry.register(
            "key_server_connections",
            "Connections to key servers that stand",
            key_server_connections.clone(),
        );
        registry.register("identities", "Keys that key servers let this edge use", identities.clone());
        registry.register(
            "hosts_without_identity",
            "Virtual hosts without a certificate to show",
            hosts_without_identity.clone(),
        );
        registry.register("state_rebuilt", "Times the state on disk did not open", state_rebuilt.clone());
        registry.register(
            "revocation_list_failures",
            "Times a revocation list had changed and was not readable",
            revocation_list_failures.clone(),
        );
        registry.register(
            "identity_omissions",
            "Parts of clients' identities that a PROXY header could not tell",
            identity_omissions.clone(),
        );
        registry.register("leases_ready", "Leased randoms at hand", leases.ready.clone());
        registry.register("lease_failures", "Batches of randoms that did not come", leases.failures.clone());
        registry.register("leases_taken", "Leased randoms that handshakes took", leases.taken.clone());
        registry.register("leases_waited", "Handshakes that waited for a leased random", leases.waited.clone());
        registry.register("leases_dropped", "Leased randoms lost with their connection", leases.dropped.clone());
        registry.register("recoveries", "Master secrets asked for, by outcome", recoveries.clone());
        registry.register("reloads", "Times the configuration was loaded while running, by outcome", reloads.clone());
        let (name, help) = ConfigurationRefused::METRIC;
        registry.register(name, help, refused.gauge());
        registry.register("resumed", "Handshakes that went on from a session, by what it was found", resumed.clone());
        registry.register("sessions_kept", "Sessions kept for clients to come back to", sessions_kept.clone());
        registry.register(
            "session_misses",
            "Full handshakes of clients that offered a session, by reason",
            session_misses.clone(),
        );
        registry.register("sessions_too_large", "Sessions too large to be kept", sessions_too_large.clone());
        registry.register("ticket_generation", "Number of a generation of ticket keys", ticket_generation.clone());
        registry.register(
            "ticket_keys_told_timestamp_seconds",
            "When a key server told the ticket keys last, in Unix time; 0 without any",
            ticket_keys_told.clone(),
        );
        telemetry
    }

    fn new(registry: &mut Registry) -> Self {
        let state_rebuilt = Counter::default();
        Self {
            stores: StoreTelemetry::register(registry, state_rebuilt.clone()),
            connections: Gauge::default(),
            accepted: Counter::default(),
            accept_errors: Counter::default(),
            probes: Counter::default(),
            connections_refused: Family::default(),
            handshakes: Family::default(),
            handshake_failures: Family::default(),
            handshake_seconds: seconds(),
            ended: Family::default(),
            bytes_to_backend: Counter::default(),
            bytes_to_client: Counter::default(),
            key_server_seconds: seconds(),
            key_server_failures: Family::default(),
            key_server_retries: Counter::default(),
            key_server_connections: Gauge::default(),
            tries: TryTelemetry::register(registry),
            identities: Gauge::default(),
            hosts_without_identity: Gauge::default(),
            state_rebuilt,
            revocation_list_failures: Counter::default(),
            identity_omissions: Family::default(),
            leases: LeaseTelemetry::default(),
            recoveries: Family::default(),
            reloads: Family::default(),
            refused: ConfigurationRefused::default(),
            resumed: Family::default(),
            sessions_kept: Family::default(),
            session_misses: Family::default(),
            sessions_too_large: Counter::default(),
            ticket_generation: Family::default(),
            ticket_keys_told: Gauge::default(),
        }
    }

    /// A client was not let in.
    pub fn connection_refused(&self, refused: Refused) {
        self.connections_refused.get_or_create(&ReasonLabels { reason: refused.reason() }).inc();
    }

    /// A handshake is complete, `elapsed` after its connection was accepted.
    pub fn handshake_done(&self, summary: &Summary, elapsed: Duration) {
        let labels = HandshakeLabels {
            version: summary.version.name().unwrap_or(UNKNOWN),
            suite: summary.suite.name().unwrap_or(UNKNOWN),
            group: summary.group.map_or(NO_GROUP, |group| group.name().unwrap_or(UNKNOWN)),
        };
        self.handshakes.get_or_create(&labels).inc();
        self.handshake_seconds.observe(elapsed.as_secs_f64());
    }

    /// A handshake failed.
    pub fn handshake_failed(&self, error: Error) {
        let labels = FailureLabels { fault: error.fault().into(), reason: error.reason() };
        self.handshake_failures.get_or_create(&labels).inc();
    }

    /// A connection did not begin with the PROXY header that it must begin with.
    pub fn proxy_header_failed(&self, failure: HeaderFailure) {
        let labels = FailureLabels { fault: Fault::Own.into(), reason: failure.reason() };
        self.handshake_failures.get_or_create(&labels).inc();
    }

    /// A connection ended after its handshake.
    pub fn connection_ended(&self, ended: Ended) {
        self.ended.get_or_create(&FailureLabels { fault: ended.fault(), reason: ended.reason() }).inc();
    }

    /// A key server has signed or recovered, `elapsed` after it was first asked.
    pub fn key_server_answered(&self, elapsed: Duration) {
        self.key_server_seconds.observe(elapsed.as_secs_f64());
    }

    /// A key server was asked for a master secret.
    pub fn recovery(&self, outcome: Recovered) {
        self.recoveries.get_or_create(&OutcomeLabels { outcome: outcome.into() }).inc();
    }

    /// A backend was not told this part of a client's identity.
    pub fn identity_omitted(&self, part: Omission) {
        self.identity_omissions.get_or_create(&PartLabels { part: part.into() }).inc();
    }

    /// A configuration was loaded, or was not.
    pub fn reloaded(&self, outcome: ReloadOutcome) {
        self.refused.set(outcome);
        self.reloads.get_or_create(&OutcomeLabels { outcome: outcome.into() }).inc();
    }

    /// A client goes on from a session.
    pub fn resumed(&self, by: By) {
        self.resumed.get_or_create(&ByLabels { by: by.into() }).inc();
    }

    /// A client may come back to a session.
    pub fn session_kept(&self, by: By) {
        self.sessions_kept.get_or_create(&ByLabels { by: by.into() }).inc();
    }

    /// A client that offered a session has a full handshake.
    pub fn session_missed(&self, miss: Miss) {
        self.session_misses.get_or_create(&ReasonLabels { reason: miss.reason() }).inc();
    }

    /// These are the generations of ticket keys, oldest first.
    pub fn ticket_generations(&self, generations: &[Arc<Generation>]) {
        let current = generations.iter().find(|generation| generation.seals_until.is_some()).map(|it| it.number);
        let roles = [(Ordering::Less, "previous"), (Ordering::Equal, "current"), (Ordering::Greater, "next")];
        // Each by itself: whoever looks meanwhile must not find that there are none.
        for (order, role) in roles {
            let has_role = |generation: &&Arc<Generation>| Some(generation.number).cmp(&current) == order;
            match generations.iter().rev().find(has_role) {
                Some(generation) => {
                    let number = generation.number.try_into().unwrap_or(i64::MAX);
                    self.ticket_generation.get_or_create(&RoleLabels { role }).set(number);
                }
                None => drop(self.ticket_generation.remove(&RoleLabels { role })),
            }
        }
        let now = if generations.is_empty() { 0 } else { unix_seconds(SystemTime::now()) };
        self.ticket_keys_told.set(now as f64);
    }

    /// One try at a key server failed.
    pub fn key_server_failed(&self, failure: KeyServerFailure) {
        self.key_server_failures.get_or_create(&ReasonLabels { reason: failure.reason() }).inc();
    }
}

/// For a suite or group without a name. There is none: only named ones are configured.
const UNKNOWN: &str = "unknown";
/// For RSA key transport, which has no group.
const NO_GROUP: &str = "none";

/// From a quarter of a millisecond to half a minute.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.000_25, 2.0, 18))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use keystead_tls::{LocalFailure, PeerClosed};

    #[test]
    fn each_failure_is_counted_under_its_words() {
        let mut registry = Registry::default();
        let telemetry = Telemetry::register(&mut registry);
        telemetry.handshake_failed(KeyServerFailure::WrongSignature.into());
        telemetry.handshake_failed(KeyServerFailure::WrongSignature.into());
        telemetry.connection_ended(Ended::Orderly);
        telemetry.connection_ended(Ended::Error(PeerClosed::Truncated.into()));
        telemetry.connection_ended(Ended::Error(LocalFailure::BackendUnreachable.into()));
        telemetry.connection_ended(Ended::Lost(Lost::BackendReset));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "keystead_edge_handshake_failures_total{fault=\"key_server\",reason=\"wrong_signature\"} 2\n",
            "keystead_edge_connections_ended_total{fault=\"none\",reason=\"orderly\"} 1\n",
            "keystead_edge_connections_ended_total{fault=\"client\",reason=\"connection_truncated\"} 1\n",
            "keystead_edge_connections_ended_total{fault=\"own\",reason=\"backend_unreachable\"} 1\n",
            "keystead_edge_connections_ended_total{fault=\"backend\",reason=\"backend_reset\"} 1\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
    }
}
