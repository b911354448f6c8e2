//! What the session stores count and measure.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use strum::IntoStaticStr;

/// The metrics of both stores. Clones count together.
#[derive(Clone, Debug)]
pub struct StoreTelemetry {
    /// Sessions in the local database.
    pub entries: Gauge,
    /// Their bytes, keys included.
    pub bytes: Gauge,
    /// Bytes of the local database's files, looked at now and then.
    pub disk_bytes: Gauge,
    /// Bytes of the sessions in memory.
    pub memory_bytes: Gauge,
    /// Sessions that went to make room for others.
    pub evicted: Counter,
    /// Sessions that were found in memory.
    pub memory_hits: Counter,
    /// Times the database was broken and begun anew.
    pub rebuilt: Counter,
    /// State of the shared store's breaker: 0 closed, 1 half open, 2 open.
    pub breaker: Gauge,
    /// Sessions that were ended and may still be in the shared store, because it was not told or did not answer. Other
    /// edges find them there until they expire.
    pub lost_forgets: Counter,
    dropped: Family<DropLabels, Counter>,
    write_failures: Family<StoreLabels, Counter>,
    lookups: Family<StoreLabels, Histogram, fn() -> Histogram>,
    writes: Family<StoreLabels, Histogram, fn() -> Histogram>,
}

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub(super) enum Store {
    Local,
    Shared,
}

/// Why a session did not get into a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub(super) enum Dropped {
    /// More was to be written than the store could.
    QueueFull,
    /// It is longer than [`LONGEST_VALUE`](super::LONGEST_VALUE).
    TooLarge,
    /// The part of the local database that its id names is gone: evicted, or another edge's.
    BucketGone,
    /// There is no database, or it is not reached.
    Unavailable,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StoreLabels {
    store: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DropLabels {
    store: &'static str,
    reason: &'static str,
}

impl StoreTelemetry {
    /// Metrics at nothing, registered as `session_store_…`. `rebuilt` is the edge's counter of databases begun anew.
    pub fn register(registry: &mut Registry, rebuilt: Counter) -> Self {
        let telemetry = Self::new(rebuilt);
        let registry = registry.sub_registry_with_prefix("session_store");
        let Self {
            entries,
            bytes,
            disk_bytes,
            memory_bytes,
            evicted,
            memory_hits,
            rebuilt: _,
            breaker,
            lost_forgets,
            dropped,
            write_failures,
            lookups,
            writes,
        } = &telemetry;
        registry.register("entries", "Sessions in the local database", entries.clone());
        registry.register("bytes", "Bytes of the sessions in the local database", bytes.clone());
        registry.register("disk_bytes", "Bytes of the local database's files", disk_bytes.clone());
        registry.register("memory_bytes", "Bytes of the sessions in memory", memory_bytes.clone());
        registry.register("evicted", "Sessions that went to make room", evicted.clone());
        registry.register("memory_hits", "Sessions found in memory", memory_hits.clone());
        registry.register("breaker", "The shared store's breaker: 0 closed, 1 half open, 2 open", breaker.clone());
        let help = "Ended sessions that may still be in the shared store, which was not told or did not answer";
        registry.register("lost_forgets", help, lost_forgets.clone());
        registry.register("dropped", "Sessions that did not get into a store", dropped.clone());
        registry.register("write_failures", "Writes that a store failed", write_failures.clone());
        registry.register("lookup_seconds", "From question to answer or time-out", lookups.clone());
        registry.register("write_seconds", "From the queue's end to the store's answer", writes.clone());
        telemetry
    }

    fn new(rebuilt: Counter) -> Self {
        Self {
            entries: Gauge::default(),
            bytes: Gauge::default(),
            disk_bytes: Gauge::default(),
            memory_bytes: Gauge::default(),
            evicted: Counter::default(),
            memory_hits: Counter::default(),
            rebuilt,
            breaker: Gauge::default(),
            lost_forgets: Counter::default(),
            dropped: Family::default(),
            write_failures: Family::default(),
            lookups: Family::new_with_constructor(seconds),
            writes: Family::new_with_constructor(seconds),
        }
    }

    pub(super) fn dropped(&self, store: Store, reason: Dropped) {
        self.dropped.get_or_create(&DropLabels { store: store.into(), reason: reason.into() }).inc();
    }

    pub(super) fn write_failed(&self, store: Store) {
        self.write_failures.get_or_create(&StoreLabels { store: store.into() }).inc();
    }

    pub(super) fn forget_lost(&self, reason: &str) {
        self.lost_forgets.inc();
        tracing::debug!(reason, "ended session not taken out of the shared store");
    }

    pub(super) fn looked_up(&self, store: Store, elapsed: Duration) {
        self.lookups.get_or_create(&StoreLabels { store: store.into() }).observe(elapsed.as_secs_f64());
    }

    pub(super) fn written(&self, store: Store, elapsed: Duration) {
        self.writes.get_or_create(&StoreLabels { store: store.into() }).observe(elapsed.as_secs_f64());
    }
}

/// From 16 µs to half a second.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.000_016, 2.0, 16))
}

#[cfg(test)]
impl StoreTelemetry {
    pub(super) fn unregistered() -> Self {
        Self::new(Counter::default())
    }

    pub(super) fn drops(&self, store: Store, reason: Dropped) -> u64 {
        self.dropped.get_or_create(&DropLabels { store: store.into(), reason: reason.into() }).get()
    }

    pub(super) fn failed_writes(&self, store: Store) -> u64 {
        self.write_failures.get_or_create(&StoreLabels { store: store.into() }).get()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn what_is_counted_is_shown_under_its_store() {
        let mut registry = Registry::default();
        let telemetry = StoreTelemetry::register(&mut registry, Counter::default());
        telemetry.dropped(Store::Local, Dropped::BucketGone);
        telemetry.write_failed(Store::Shared);
        telemetry.looked_up(Store::Local, Duration::from_millis(1));
        telemetry.written(Store::Shared, Duration::from_millis(1));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "session_store_dropped_total{store=\"local\",reason=\"bucket_gone\"} 1\n",
            "session_store_write_failures_total{store=\"shared\"} 1\n",
            "session_store_lookup_seconds_count{store=\"local\"} 1\n",
            "session_store_write_seconds_count{store=\"shared\"} 1\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
    }
}
