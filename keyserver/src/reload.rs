//! Changed configuration, applied while the key server runs.
//!
//! Edges, keys, ticket groups and the channel's certificates change at once. What was bound or started stays as it is,
//! with a warning; a file that is wrong changes nothing. What no file has changed of is not loaded again.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use keystead_program::channel::ServerChannel;
use keystead_program::reload::{Occasion, Occasions, ReloadOutcome};
use keystead_program::watched::Snapshot;
use tokio::sync::watch;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::sleep;

use crate::audit::Audit;
use crate::audit::record::{Changes, Event};
use crate::authorize::{Authorizations, SUPERSEDED_FOR};
use crate::config::{Config, EdgeConfig};
use crate::key::Key;
use crate::metrics::Metrics;
use crate::settings::{Running, Settings, SettingsError, Warning};

/// Applies what changes.
#[derive(Debug)]
pub(crate) struct Reload {
    occasions: Occasions,
    /// What is in force, with the parts that were fixed at start.
    running: Arc<Running>,
    /// Those that were told.
    warnings: Vec<Warning>,
    into: Destinations,
}

/// Where changes take effect.
#[derive(Debug)]
pub(crate) struct Destinations {
    pub(crate) authorizations: watch::Sender<Arc<Authorizations>>,
    pub(crate) channel: ServerChannel,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) audit: Audit,
}

impl Reload {
    /// Begins with what runs.
    ///
    /// # Errors
    /// The system's, when SIGHUP cannot be listened for.
    pub(crate) fn new(running: Running, warnings: Vec<Warning>, into: Destinations) -> io::Result<Self> {
        let occasions = Occasions::since(running.files.clone())?;
        Ok(Self { occasions, running: Arc::new(running), warnings, into })
    }

    /// Goes on for as long as the process.
    pub(crate) async fn follow(mut self) -> Infallible {
        loop {
            let cause = self.occasions.next().await;
            let (path, running) = (self.occasions.path().to_owned(), self.running.clone());
            // Keys that are not what they were make signatures to show that each is one with its certificate.
            let loaded = spawn_blocking(move || {
                let mut files = Snapshot::of(&path);
                let settings = Settings::reload(&mut files, &running);
                (files, settings)
            });
            let (files, settings) = match loaded.await {
                Ok((files, settings)) => (Some(files), settings.map_err(ReloadError::from)),
                Err(panic) => (None, Err(panic.into())),
            };
            match settings {
                Ok(settings) => self.apply(settings, &cause),
                Err(error) => self.refuse(&error, files, &cause),
            }
        }
    }

    /// What another try came to as well is not told again.
    fn refuse(&mut self, error: &ReloadError, files: Option<Snapshot>, cause: &Occasion) {
        if !self.occasions.refused(files, &error.to_string()) {
            return;
        }
        self.into.audit.tell(Event::ConfigurationRefused { cause: cause.to_string() });
        tracing::error!(%cause, %error, "configuration not loaded; the last good one stays in force");
        self.into.metrics.reloaded(ReloadOutcome::Refused);
    }

    fn apply(&mut self, settings: Settings, cause: &Occasion) {
        let Settings {
            files,
            config,
            channel,
            keys,
            tokens,
            authorizations,
            superseded,
            warnings,
            tickets: _,
            audit: _,
        } = settings;
        self.occasions.applied(files.clone());
        for warning in warnings.iter().filter(|warning| !self.warnings.contains(warning)) {
            tracing::warn!("{warning}");
        }
        let fixed = differing(&self.running.config, &config);
        if !fixed.is_empty() {
            tracing::warn!(?fixed, "changed in the configuration and takes a restart");
        }
        self.into.channel.replace(&channel);
        self.into.metrics.tickets.groups(&authorizations);
        let authorizations = authorizations.continuing(&self.into.authorizations.borrow());
        self.into.authorizations.send_replace(Arc::new(authorizations));
        self.into.metrics.reloaded(ReloadOutcome::Applied);
        keep_for_a_while(superseded);
        let edges = EdgeChanges::between(&self.running.config.edge, &config.edge);
        let changed_keys = KeyChanges::between(&self.running.keys, &keys);
        self.into.audit.tell(Event::ConfigurationLoaded(Box::new(Changes {
            cause: cause.to_string(),
            edges_added: owned(&edges.added),
            edges_removed: owned(&edges.removed),
            edges_changed: owned(&edges.changed),
            keys_added: owned(&changed_keys.added),
            keys_removed: owned(&changed_keys.removed),
            keys_changed: owned(&changed_keys.changed),
        })));
        tracing::info!(
            %cause,
            edges_added = ?edges.added,
            edges_removed = ?edges.removed,
            edges_changed = ?edges.changed,
            keys_added = ?changed_keys.added,
            keys_removed = ?changed_keys.removed,
            keys_changed = ?changed_keys.changed,
            "configuration loaded"
        );
        for edge in config.edge.iter().filter(|edge| edges.changed.contains(&edge.id.as_str())) {
            tracing::info!(edge = %edge.id, rights = edge.rights(), "rights changed");
        }
        let Config { edge, key, channel: channel_files, .. } = config;
        let config = Config { edge, key, channel: channel_files, ..self.running.config.clone() };
        self.running = Arc::new(Running { files, config, channel, keys, tokens });
        self.warnings = warnings;
    }
}

fn keep_for_a_while(superseded: Vec<Arc<Key>>) {
    if !superseded.is_empty() {
        tokio::spawn(async move {
            sleep(SUPERSEDED_FOR).await;
            drop(superseded);
        });
    }
}

/// The parts that were fixed at start and that `loaded` has otherwise.
fn differing(running: &Config, loaded: &Config) -> Vec<&'static str> {
    let parts = [
        ("listen", running.listen == loaded.listen),
        ("listen_socket", running.listen_socket == loaded.listen_socket),
        ("crypto", running.crypto == loaded.crypto),
        ("log", running.log == loaded.log),
        ("process", running.process == loaded.process),
        ("metrics", running.metrics == loaded.metrics),
        ("limits", running.limits == loaded.limits),
        ("tickets", running.tickets == loaded.tickets),
        ("memory", running.memory == loaded.memory),
        ("token", running.token == loaded.token),
        ("audit", running.audit == loaded.audit),
    ];
    parts.into_iter().filter(|(_, is_same)| !is_same).map(|(name, _)| name).collect()
}

/// By their identities.
struct EdgeChanges<'c> {
    added: Vec<&'c str>,
    /// Also by being revoked.
    removed: Vec<&'c str>,
    changed: Vec<&'c str>,
}

impl<'c> EdgeChanges<'c> {
    fn between(before: &'c [EdgeConfig], after: &'c [EdgeConfig]) -> Self {
        let (before, after) = (known(before), known(after));
        let is_changed = |id: &&str, edge: &&EdgeConfig| before.get(id).is_some_and(|before| before != edge);
        Self {
            added: after.keys().copied().filter(|id| !before.contains_key(id)).collect(),
            removed: before.keys().copied().filter(|id| !after.contains_key(id)).collect(),
            changed: after.iter().filter(|(id, edge)| is_changed(id, edge)).map(|(id, _)| *id).collect(),
        }
    }
}

fn owned<'s>(names: impl IntoIterator<Item = &'s &'s str>) -> Vec<String> {
    names.into_iter().map(|name| (*name).to_owned()).collect()
}

fn known(edges: &[EdgeConfig]) -> BTreeMap<&str, &EdgeConfig> {
    edges.iter().filter(|edge| !edge.revoked).map(|edge| (edge.id.as_str(), edge)).collect()
}

/// By their names.
struct KeyChanges<'k> {
    added: Vec<&'k str>,
    removed: Vec<&'k str>,
    /// Those with another entry or other files.
    changed: Vec<&'k str>,
}

impl<'k> KeyChanges<'k> {
    fn between(before: &'k [Arc<Key>], after: &'k [Arc<Key>]) -> Self {
        let (before, after) = (by_name(before), by_name(after));
        let is_changed = |name: &str, key: &Arc<Key>| before.get(name).is_some_and(|before| !Arc::ptr_eq(before, key));
        Self {
            added: after.keys().copied().filter(|name| !before.contains_key(name)).collect(),
            removed: before.keys().copied().filter(|name| !after.contains_key(name)).collect(),
            changed: after.iter().filter(|(name, key)| is_changed(name, key)).map(|(name, _)| *name).collect(),
        }
    }
}

fn by_name(keys: &[Arc<Key>]) -> BTreeMap<&str, &Arc<Key>> {
    keys.iter().map(|key| (key.name().as_ref(), key)).collect()
}

/// Why a configuration was not loaded.
#[derive(Debug, thiserror::Error)]
enum ReloadError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("loading it failed: {0}")]
    Loading(#[from] JoinError),
}
