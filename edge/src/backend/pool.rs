//! What virtual hosts share of their backends: each endpoint, each check of it and each name stands once, for as long as
//! any host has it. So what is known of a backend outlives a configuration that keeps it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use keystead_program::channel::HostPort;

use super::Backends;
use super::check::{Check, CheckSettings};
use super::endpoint::Endpoint;
use super::member::{Member, Tally};
use super::name::{Name, Resolver};
use super::target::Target;

/// The backends of all hosts.
#[derive(Debug)]
pub struct Pool {
    resolver: Resolver,
    shared: Mutex<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    endpoints: Held<Target, Endpoint>,
    checks: Held<(Target, CheckSettings), Check>,
    names: Held<(HostPort, Duration), Name>,
    tallies: Held<(String, Target), Tally>,
    /// Those in force, by the names of their hosts.
    backends: Held<String, Backends>,
}

impl Default for Pool {
    /// A pool without anything in it, which asks the system for the addresses of names.
    fn default() -> Self {
        Self::with_resolver(Resolver::system())
    }
}

impl Pool {
    /// A pool that asks `resolver` for the addresses of names.
    pub(super) fn with_resolver(resolver: Resolver) -> Self {
        Self { resolver, shared: Mutex::default() }
    }

    /// What a host has of a target.
    pub(super) fn member(&self, host: &str, target: &Target, settings: Option<&CheckSettings>) -> Arc<Member> {
        let mut shared = self.lock();
        let endpoint = shared.endpoints.get(target.clone(), || Arc::new(Endpoint::new(target.clone())));
        let check = settings.map(|settings| {
            let start = || Check::start(endpoint.clone(), settings.clone());
            shared.checks.get((target.clone(), settings.clone()), start)
        });
        let tally = shared.tallies.get((host.to_owned(), target.clone()), Arc::default);
        Arc::new(Member::new(endpoint, check, tally))
    }

    /// A name that is looked up this often.
    pub(super) fn name(&self, server: &HostPort, interval: Duration) -> Arc<Name> {
        let make = || Arc::new(Name::new(server.clone(), interval, self.resolver.clone()));
        self.lock().names.get((server.clone(), interval), make)
    }

    /// These are the backends in force for `host`.
    pub(super) fn put_in_force(&self, host: &str, backends: &Arc<Backends>) {
        self.lock().backends.put(host.to_owned(), backends);
    }

    /// Those in force, by the names of their hosts, in this order.
    pub(super) fn in_force(&self) -> Vec<(String, Arc<Backends>)> {
        let upgraded = |(host, backends): (&String, &Weak<Backends>)| Some((host.clone(), backends.upgrade()?));
        let mut in_force: Vec<_> = self.lock().backends.values.iter().filter_map(upgraded).collect();
        in_force.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        in_force
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // Each change is one insertion or removal.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Values that live for as long as somebody else holds them.
#[derive(Debug)]
struct Held<K, V> {
    values: HashMap<K, Weak<V>>,
    /// With so many, those that nobody holds are looked for.
    next_sweep: usize,
}

impl<K, V> Default for Held<K, V> {
    fn default() -> Self {
        Self { values: HashMap::new(), next_sweep: 0 }
    }
}

impl<K: Eq + Hash, V> Held<K, V> {
    fn get(&mut self, key: K, make: impl FnOnce() -> Arc<V>) -> Arc<V> {
        if let Some(value) = self.values.get(&key).and_then(Weak::upgrade) {
            return value;
        }
        let value = make();
        self.put(key, &value);
        value
    }

    /// Has `value` in the place of what has this key.
    fn put(&mut self, key: K, value: &Arc<V>) {
        if self.values.len() >= self.next_sweep {
            self.values.retain(|_, value| value.strong_count() > 0);
            self.next_sweep = 2 * self.values.len() + 16;
        }
        self.values.insert(key, Arc::downgrade(value));
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::backend::config::BackendsConfig;

    #[test]
    fn thousands_of_hosts_are_put_in_force_without_a_look_at_all_others_for_each() {
        let pool = Arc::new(Pool::default());
        let make = |host: usize| {
            let config = BackendsConfig::new(vec!["127.0.0.1:1".parse().unwrap()]);
            Backends::new(host.to_string(), config, &pool)
        };
        let hosts: Vec<_> = (0..1000).map(make).collect();
        assert_eq!(pool.in_force().len(), 1000);
        assert!(pool.lock().backends.next_sweep > 1000, "the next look is when as many have come again");
        drop(hosts);
        let kept = make(0);
        assert_eq!(pool.in_force().len(), 1);
        drop(kept);
        (1..3000).for_each(|host| drop(make(host)));
        assert!(pool.lock().backends.values.len() < 100, "those that are gone are forgotten");
    }

    #[test]
    fn what_nobody_holds_is_forgotten() {
        let mut held = Held::default();
        let kept = held.get(0, || Arc::new(7));
        for key in 1..10_000 {
            drop(held.get(key, || Arc::new(key)));
        }
        assert!(held.values.len() < 50, "{}", held.values.len());
        assert!(Arc::ptr_eq(&kept, &held.get(0, || Arc::new(8))));
    }
}
