//! What virtual hosts share of their backends: each endpoint, each check of it and each name stands once, for as long as
//! any host has it. So what is known of a backend outlives a configuration that keeps it.

use std::collections::{BTreeMap, HashMap};
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
    backends: BTreeMap<String, Weak<Backends>>,
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
        let mut shared = self.lock();
        shared.backends.retain(|_, backends| backends.strong_count() > 0);
        shared.backends.insert(host.to_owned(), Arc::downgrade(backends));
    }

    /// Those in force, by the names of their hosts.
    pub(super) fn in_force(&self) -> Vec<(String, Arc<Backends>)> {
        let shared = self.lock();
        let upgraded = |(host, backends): (&String, &Weak<Backends>)| Some((host.clone(), backends.upgrade()?));
        shared.backends.iter().filter_map(upgraded).collect()
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
        if self.values.len() >= self.next_sweep {
            self.values.retain(|_, value| value.strong_count() > 0);
            self.next_sweep = 2 * self.values.len() + 16;
        }
        let value = make();
        self.values.insert(key, Arc::downgrade(&value));
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
