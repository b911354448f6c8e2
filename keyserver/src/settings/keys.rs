//! The keys of a configuration: read on all processors, and only those that are not what they were.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use keystead_program::config;
use keystead_program::watched::Snapshot;
use keystead_tls::KeyId;

use super::{Running, SettingsError, Warning};
use crate::config::KeyConfig;
use crate::custody::custodian::Custodian;
use crate::custody::token::TokenFault;
use crate::key::Key;

/// The keys, and a warning for each whose token is away.
type Loaded = (Vec<Arc<Key>>, Vec<Warning>);

/// Loads each key, in the order of `configs`. One that `running` has, and whose entry and files are the same in `files`, is
/// the one of `running`.
pub(super) fn load(
    configs: &[KeyConfig],
    custodian: &Custodian<'_>,
    files: &Snapshot,
    running: Option<&Running>,
) -> Result<Loaded, SettingsError> {
    if configs.is_empty() {
        return Err(SettingsError::NoKeys);
    }
    check_names(configs)?;
    let directory = config::directory(files.configuration());
    let unchanged = running.map(|running| Unchanged::of(running, files, directory)).unwrap_or_default();
    let loaded = in_parallel(configs, |entry| match unchanged.find(entry) {
        Some(key) => Ok((key, None)),
        None => Key::load(entry, custodian, &mut rand::rng())
            .map(|(key, away)| (Arc::new(key), away))
            .map_err(|cause| SettingsError::Key { name: entry.name.clone(), cause }),
    });
    let loaded = loaded.into_iter().collect::<Result<Vec<_>, _>>()?;
    let away = |(key, fault): &(Arc<Key>, Option<TokenFault>)| {
        fault.clone().map(|fault| Warning::TokenAway { key: key.name().clone(), fault })
    };
    let warnings = loaded.iter().filter_map(away).collect();
    let keys: Vec<_> = loaded.into_iter().map(|(key, _)| key).collect();
    check_ids(&keys)?;
    Ok((keys, warnings))
}

/// Those of `running` whose names other keys have in `keys`.
pub(super) fn superseded(running: &[Arc<Key>], keys: &[Arc<Key>]) -> Vec<Arc<Key>> {
    let ids: HashMap<&str, KeyId> = keys.iter().map(|key| (key.name().as_ref(), key.key_id())).collect();
    let is_other = |key: &&Arc<Key>| ids.get(key.name().as_ref()).is_some_and(|now| *now != key.key_id());
    running.iter().filter(is_other).cloned().collect()
}

fn check_names(configs: &[KeyConfig]) -> Result<(), SettingsError> {
    let mut names = HashSet::with_capacity(configs.len());
    match configs.iter().find(|entry| !names.insert(&entry.name)) {
        Some(twice) => Err(SettingsError::DuplicateKeyName(twice.name.clone())),
        None => Ok(()),
    }
}

fn check_ids(keys: &[Arc<Key>]) -> Result<(), SettingsError> {
    let mut ids = HashMap::with_capacity(keys.len());
    for key in keys {
        if let Some(first) = ids.insert(key.key_id(), key.name()) {
            return Err(SettingsError::DuplicateKey { first: first.clone(), second: key.name().clone() });
        }
    }
    Ok(())
}

/// The keys that run, by their names, of those whose files are what they were.
#[derive(Default)]
struct Unchanged<'r>(HashMap<&'r str, (&'r KeyConfig, &'r Arc<Key>)>);

impl<'r> Unchanged<'r> {
    fn of(running: &'r Running, files: &Snapshot, directory: &Path) -> Self {
        let keys = running.config.key.iter().zip(&running.keys);
        let same = keys.filter(|(entry, _)| files.agrees_on(&running.files, entry.files(directory)));
        Self(same.map(|(entry, key)| (entry.name.as_str(), (entry, key))).collect())
    }

    fn find(&self, entry: &KeyConfig) -> Option<Arc<Key>> {
        let (_, key) = self.0.get(entry.name.as_str()).filter(|(before, _)| *before == entry)?;
        Some(Arc::clone(key))
    }
}

/// What `work` makes of each item, in their order, done on as many threads as there are processors.
fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(items.len());
    let next = AtomicUsize::new(0);
    let take = || {
        let mut done = Vec::new();
        while let Some((place, item)) = {
            let place = next.fetch_add(1, Ordering::Relaxed);
            items.get(place).map(|item| (place, item))
        } {
            done.push((place, work(item)));
        }
        done
    };
    let mut done = thread::scope(|scope| {
        // A thread that cannot be started leaves its share to the others.
        let others: Vec<_> =
            (1..threads).filter_map(|_| thread::Builder::new().spawn_scoped(scope, take).ok()).collect();
        let mut done = take();
        for other in others {
            done.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        done
    });
    done.sort_unstable_by_key(|(place, _)| *place);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_in_parallel_stands_in_order() {
        let items: Vec<usize> = (0..1000).collect();
        assert_eq!(in_parallel(&items, |item| item * 2), items.iter().map(|item| item * 2).collect::<Vec<_>>());
        assert!(in_parallel(&[0; 0], |item| *item).is_empty());
    }
}
