//! What is counted of tokens.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::fault::TokenFault;

/// Of all tokens. Clones count together.
#[derive(Clone, Debug)]
pub struct TokenMetrics {
    up: Family<Label, Gauge>,
    in_use: Family<Label, Gauge>,
    waited: Family<Label, Histogram>,
    opened: Family<Label, Counter>,
    faults: Family<Fault, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Label {
    token: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Fault {
    token: Arc<str>,
    reason: &'static str,
}

impl Default for TokenMetrics {
    fn default() -> Self {
        // From 100 µs, in steps of two, to 1.6 s.
        let waits = || Histogram::new(exponential_buckets(1e-4, 2.0, 15));
        Self {
            up: Family::default(),
            in_use: Family::default(),
            waited: Family::new_with_constructor(waits),
            opened: Family::default(),
            faults: Family::default(),
        }
    }
}

impl TokenMetrics {
    /// Adds these metrics to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("token_up", "1 where the last try to reach a token succeeded", self.up.clone());
        registry.register("token_sessions_in_use", "Sessions with operations in them", self.in_use.clone());
        let waits = "Time that operations waited for a session, of those that had to";
        registry.register_with_unit("token_session_wait", waits, Unit::Seconds, self.waited.clone());
        registry.register("token_sessions_opened", "Sessions opened, at first and anew", self.opened.clone());
        registry.register("token_faults", "What went wrong with tokens, by reason", self.faults.clone());
    }

    pub(super) fn of(&self, token: &Arc<str>) -> MetricsOfToken {
        let label = Label { token: token.clone() };
        MetricsOfToken {
            up: self.up.get_or_create_owned(&label),
            in_use: self.in_use.get_or_create_owned(&label),
            waited: self.waited.get_or_create_owned(&label),
            opened: self.opened.get_or_create_owned(&label),
            faults: self.faults.clone(),
            token: token.clone(),
        }
    }
}

/// Of one token.
#[derive(Clone, Debug)]
pub(super) struct MetricsOfToken {
    pub(super) up: Gauge,
    pub(super) in_use: Gauge,
    waited: Histogram,
    pub(super) opened: Counter,
    faults: Family<Fault, Counter>,
    token: Arc<str>,
}

impl MetricsOfToken {
    pub(super) fn waited(&self, time: Duration) {
        self.waited.observe(time.as_secs_f64());
    }

    pub(super) fn fault(&self, fault: &TokenFault) {
        self.faults.get_or_create(&Fault { token: self.token.clone(), reason: fault.reason() }).inc();
    }

    #[cfg(test)]
    pub(super) fn faults(&self, reason: &'static str) -> u64 {
        self.faults.get_or_create(&Fault { token: self.token.clone(), reason }).get()
    }
}
