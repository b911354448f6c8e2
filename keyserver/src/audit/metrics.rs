//! What is counted of the audit log.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// What is counted of the audit log. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct AuditMetrics {
    pub(super) records: Counter,
    pub(super) summed: Counter,
    pub(super) queued: Gauge,
    pub(super) refused: Counter,
    pub(super) write_failures: Counter,
    pub(super) last_sequence: Gauge,
    pub(super) rotations: Counter,
}

impl AuditMetrics {
    /// Adds these metrics to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("audit_records", "Records written to the audit log", self.records.clone());
        let summed = "Requests that are told of in a sum, for want of a record of their own";
        registry.register("audit_summed", summed, self.summed.clone());
        let queued = "Places in the queue to the audit log that are taken, by operations under way too";
        registry.register("audit_queued", queued, self.queued.clone());
        registry.register("audit_refused", "Operations refused for want of a place", self.refused.clone());
        let failures = "Times the audit log could not be written";
        registry.register("audit_write_failures", failures, self.write_failures.clone());
        let last = "The number of the last record that was written";
        registry.register("audit_last_sequence", last, self.last_sequence.clone());
        registry.register("audit_rotations", "Times the audit log went on in another file", self.rotations.clone());
    }

    /// Operations refused for want of a place.
    pub fn refused(&self) -> u64 {
        self.refused.get()
    }

    /// Times the log could not be written.
    pub fn write_failures(&self) -> u64 {
        self.write_failures.get()
    }

    /// The number of the last record that was written.
    pub fn last_sequence(&self) -> u64 {
        self.last_sequence.get().cast_unsigned()
    }
}
