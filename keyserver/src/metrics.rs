//! What the key server counts.

use std::sync::Arc;
use std::time::Duration;

use keystead_program::reload::{ConfigurationRefused, ReloadOutcome};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::audit::metrics::AuditMetrics;
use crate::authorize::Authorizations;
use crate::key::Key;
use crate::operation::Call;
use crate::refusal::Refusal;

/// Every metric that is not the channel's. Clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    operations: Family<Operation, Counter>,
    refused_peers: Counter,
    streams: Gauge,
    queued: Family<Class, Gauge>,
    waited: Family<Class, Histogram>,
    worked: Family<Class, Histogram>,
    reloads: Family<Reload, Counter>,
    refused: ConfigurationRefused,
    /// Of ticket keys.
    pub tickets: TicketMetrics,
    /// Of the audit log.
    pub audit: AuditMetrics,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            operations: Family::default(),
            refused_peers: Counter::default(),
            streams: Gauge::default(),
            queued: Family::default(),
            waited: Family::new_with_constructor(durations),
            worked: Family::new_with_constructor(durations),
            reloads: Family::default(),
            refused: ConfigurationRefused::default(),
            tickets: TicketMetrics::default(),
            audit: AuditMetrics::default(),
        }
    }
}

/// From 5 µs, in steps of two, to 2.6 s.
fn durations() -> Histogram {
    Histogram::new(exponential_buckets(5e-6, 2.0, 20))
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    operation: &'static str,
    key: Arc<str>,
    class: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Class {
    class: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reload {
    outcome: &'static str,
}

impl From<ReloadOutcome> for Reload {
    fn from(outcome: ReloadOutcome) -> Self {
        Self { outcome: outcome.into() }
    }
}

impl Operation {
    fn of(call: Option<Call>, key: Option<&Key>, outcome: Result<(), Refusal>) -> Self {
        Self {
            operation: call.map_or("none", Call::into),
            key: key.map_or_else(|| "none".into(), |key| key.name().clone()),
            class: key.map_or("none", |key| key.cost().into()),
            outcome: outcome.map_or_else(Refusal::reason, |()| "done"),
        }
    }
}

impl Metrics {
    /// Adds these metrics to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "operations",
            "Requests answered, by operation, key, class and outcome",
            self.operations.clone(),
        );
        registry.register(
            "unknown_peers",
            "Calls of peers that no [[edge]] names, or whose time is over",
            self.refused_peers.clone(),
        );
        registry.register("exchange_streams", "Exchange streams that are open", self.streams.clone());
        registry.register("queue_length", "Operations that wait for a thread", self.queued.clone());
        let seconds = Unit::Seconds;
        registry.register_with_unit("queue_wait", "Time from request to thread", seconds.clone(), self.waited.clone());
        registry.register_with_unit("operation", "Time on the thread", seconds, self.worked.clone());
        let reloads = "Times the configuration was loaded while running, by outcome";
        registry.register("reloads", reloads, self.reloads.clone());
        let (refused, help) = ConfigurationRefused::METRIC;
        registry.register(refused, help, self.refused.gauge());
        self.tickets.register(registry);
        self.audit.register(registry);
    }

    /// Counts a request that was answered with `outcome`; `call` is `None` where it asks for nothing, `key` where it
    /// names no key its peer may use.
    pub(crate) fn answered(&self, call: Option<Call>, key: Option<&Key>, outcome: Result<(), Refusal>) {
        self.operations.get_or_create(&Operation::of(call, key, outcome)).inc();
    }

    /// Requests that were answered so.
    pub fn operations(&self, call: Option<Call>, key: Option<&Key>, outcome: Result<(), Refusal>) -> u64 {
        self.operations.get_or_create(&Operation::of(call, key, outcome)).get()
    }

    /// Counts a call of a peer that is not known.
    pub(crate) fn unknown_peer(&self) {
        self.refused_peers.inc();
    }

    /// Counts a configuration that was loaded, or was not.
    pub(crate) fn reloaded(&self, outcome: ReloadOutcome) {
        self.refused.set(outcome);
        self.reloads.get_or_create(&outcome.into()).inc();
    }

    /// Configurations that were loaded so.
    pub fn reloads(&self, outcome: ReloadOutcome) -> u64 {
        self.reloads.get_or_create(&outcome.into()).get()
    }

    /// Counts an Exchange stream for as long as what is returned lives.
    pub(crate) fn stream(&self) -> StreamGuard {
        self.streams.inc();
        StreamGuard(self.streams.clone())
    }

    /// The metrics of the lane of that name.
    pub(crate) fn lane(&self, name: &Arc<str>) -> LaneMetrics {
        let class = Class { class: name.clone() };
        LaneMetrics {
            queued: self.queued.get_or_create_owned(&class),
            waited: self.waited.get_or_create_owned(&class),
            worked: self.worked.get_or_create_owned(&class),
        }
    }
}

/// The metrics of one lane.
#[derive(Clone, Debug)]
pub(crate) struct LaneMetrics {
    pub(crate) queued: Gauge,
    pub(crate) waited: Histogram,
    pub(crate) worked: Histogram,
}

/// What is counted of ticket keys. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct TicketMetrics {
    generation: Gauge,
    age: Gauge,
    groups: Gauge,
    pub(crate) rotations: Counter,
    pub(crate) write_failures: Counter,
    clock_faults: Family<Reason, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

impl TicketMetrics {
    fn register(&self, registry: &mut Registry) {
        registry.register("ticket_generation", "The generation that seals; 0 without tickets", self.generation.clone());
        let age = "Time since the generation that seals began";
        registry.register_with_unit("ticket_generation_age", age, Unit::Seconds, self.age.clone());
        registry.register("ticket_groups", "Groups of edges that open each other's tickets", self.groups.clone());
        registry.register("ticket_rotations", "Times the ticket keys were turned forward", self.rotations.clone());
        let failures = "Times the ticket secret's file could not be written";
        registry.register("ticket_state_write_failures", failures, self.write_failures.clone());
        let faults = "Times the clock was found not to fit the ticket keys, by reason";
        registry.register("ticket_clock_faults", faults, self.clock_faults.clone());
    }

    /// Tells which generation is in use, and for how long it has been.
    pub(crate) fn generation(&self, generation: u64, age: Duration) {
        self.generation.set(generation.cast_signed());
        self.age.set(age.as_secs().cast_signed());
    }

    /// Tells of the groups that edges are in.
    pub(crate) fn groups(&self, authorizations: &Authorizations) {
        self.groups.set(authorizations.ticket_groups().try_into().unwrap_or(i64::MAX));
    }

    pub(crate) fn clock_fault(&self, reason: &'static str) {
        self.clock_faults.get_or_create(&Reason { reason }).inc();
    }
}

/// Counts a stream for as long as it lives.
#[derive(Debug)]
pub(crate) struct StreamGuard(Gauge);

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}
