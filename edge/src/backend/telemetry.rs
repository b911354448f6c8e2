//! Metrics of backends: told from what is in force at the moment somebody asks.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;

use super::member::Member;
use super::pool::Pool;

impl Pool {
    /// An empty pool whose metrics are in `registry`, under `keystead_edge_`.
    pub fn register(registry: &mut Registry) -> Arc<Self> {
        let pool = Arc::new(Self::default());
        let collector = Box::new(PoolCollector(pool.clone()));
        registry.sub_registry_with_prefix("keystead_edge").register_collector(collector);
        pool
    }
}

#[derive(Debug)]
struct PoolCollector(Arc<Pool>);

/// A backend of a host, under the words it goes by.
struct Row {
    host: String,
    backend: String,
    member: Arc<Member>,
}

impl Collector for PoolCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let in_force = self.0.in_force();
        let mut rows = Vec::new();
        let mut lookups = BTreeMap::new();
        for (host, backends) in &in_force {
            rows.extend(backends.members().iter().map(|member| Row {
                host: host.clone(),
                backend: member.endpoint().target().to_string(),
                member: member.clone(),
            }));
            lookups.extend(backends.names().map(|name| (name.server().to_string(), name.failures())));
        }
        let mut table = Table { encoder: &mut encoder, rows: &rows };
        table.gauges("backend_up", "Whether the last that is known of a backend is good.", |member| {
            i64::from(member.is_well())
        })?;
        table.gauges(
            "backend_connections",
            "Connections to a backend that stand, of all hosts that have it.",
            |member| member.endpoint().live().try_into().unwrap_or(i64::MAX),
        )?;
        table.counters("backend_connects", "Connections made to a backend.", |member| member.tally().connections())?;
        table.reasons("backend_connect_failures", "Connections to a backend that failed.", |member| {
            member.tally().failures().map(|(failure, count)| (failure.into(), count)).collect()
        })?;
        table.reasons("backend_check_failures", "Checks of a backend that failed.", |member| {
            let checks = member.check().into_iter().flat_map(|check| check.failures());
            checks.map(|(failure, count)| (failure.into(), count)).collect()
        })?;
        let help = "Lookups of a backend's name that failed.";
        let mut family = encoder.encode_descriptor("backend_lookup_failures", help, None, MetricType::Counter)?;
        lookups.iter().try_for_each(|(name, count)| {
            ConstCounter::new(*count).encode(family.encode_family(&[("backend", name.as_str())])?)
        })
    }
}

/// Writes one metric after the other, each for all rows.
struct Table<'t, 'e> {
    encoder: &'t mut DescriptorEncoder<'e>,
    rows: &'t [Row],
}

impl Table<'_, '_> {
    fn gauges(&mut self, name: &str, help: &str, value: impl Fn(&Member) -> i64) -> fmt::Result {
        self.write(name, help, |member| ConstGauge::new(value(member)))
    }

    fn counters(&mut self, name: &str, help: &str, value: impl Fn(&Member) -> u64) -> fmt::Result {
        self.write(name, help, |member| ConstCounter::new(value(member)))
    }

    fn write<M: EncodeMetric + TypedMetric>(
        &mut self,
        name: &str,
        help: &str,
        metric: impl Fn(&Member) -> M,
    ) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(name, help, None, M::TYPE)?;
        self.rows.iter().try_for_each(|Row { host, backend, member }| {
            let labels = [("host", host.as_str()), ("backend", backend.as_str())];
            metric(member).encode(family.encode_family(&labels)?)
        })
    }

    /// Of reasons that never were, nothing is said.
    fn reasons(&mut self, name: &str, help: &str, counts: impl Fn(&Member) -> Vec<(&'static str, u64)>) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for Row { host, backend, member } in self.rows {
            for (reason, count) in counts(member).into_iter().filter(|(_, count)| *count > 0) {
                let labels = [("host", host.as_str()), ("backend", backend.as_str()), ("reason", reason)];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
