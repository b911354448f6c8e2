//! Changed configuration, applied while the key server runs.
//!
//! Edges, keys, ticket groups and the channel's certificates change at once. What was bound or started stays as it is,
//! with a warning; a file that is wrong changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use keystead_program::channel::ServerChannel;
use keystead_program::reload::{Baseline, Occasions, ReloadOutcome};
use tokio::sync::watch;
use tokio::task::{JoinError, spawn_blocking};

use crate::audit::Audit;
use crate::audit::record::{Changes, Event};
use crate::authorize::Authorizations;
use crate::config::{Config, EdgeConfig};
use crate::metrics::Metrics;
use crate::settings::{Settings, SettingsError, Warning};

/// Applies what changes.
#[derive(Debug)]
pub(crate) struct Reload {
    occasions: Occasions,
    /// What is in force, with the parts that were fixed at start.
    running: Config,
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
    /// Begins with `running`, which was loaded after `file` was read.
    ///
    /// # Errors
    /// The system's, when SIGHUP cannot be listened for.
    pub(crate) fn new(file: Baseline, running: Config, warnings: Vec<Warning>, into: Destinations) -> io::Result<Self> {
        Ok(Self { occasions: Occasions::since(file)?, running, warnings, into })
    }

    /// Goes on for as long as the process.
    pub(crate) async fn follow(mut self) -> Infallible {
        loop {
            let cause = self.occasions.next().await;
            let (path, crypto) = (self.occasions.path().to_owned(), self.running.crypto);
            // Each key makes signatures to show that it is one with its certificate.
            let loaded = spawn_blocking(move || Settings::reload(&path, crypto)).await;
            match loaded.map_err(ReloadError::from).and_then(|loaded| Ok(loaded?)) {
                Ok(settings) => self.apply(settings, cause),
                Err(error) => {
                    self.into.metrics.reloaded(ReloadOutcome::Refused);
                    self.into.audit.tell(Event::ConfigurationRefused { cause });
                    tracing::error!(cause, %error, "configuration not loaded; the last good one stays in force");
                }
            }
        }
    }

    fn apply(&mut self, settings: Settings, cause: &'static str) {
        let Settings { config, channel, authorizations, warnings, .. } = settings;
        for warning in warnings.iter().filter(|warning| !self.warnings.contains(warning)) {
            tracing::warn!("{warning}");
        }
        let fixed = differing(&self.running, &config);
        if !fixed.is_empty() {
            tracing::warn!(?fixed, "changed in the configuration and takes a restart");
        }
        let edges = EdgeChanges::between(&self.running.edge, &config.edge);
        let (before, after) = (key_names(&self.running), key_names(&config));
        self.into.channel.replace(&channel);
        self.into.metrics.tickets.groups(&authorizations);
        self.into.authorizations.send_replace(Arc::new(authorizations));
        self.into.metrics.reloaded(ReloadOutcome::Applied);
        self.into.audit.tell(Event::ConfigurationLoaded(Box::new(Changes {
            cause,
            edges_added: owned(&edges.added),
            edges_removed: owned(&edges.removed),
            edges_changed: owned(&edges.changed),
            keys_added: owned(after.difference(&before)),
            keys_removed: owned(before.difference(&after)),
        })));
        tracing::info!(
            cause,
            edges_added = ?edges.added,
            edges_removed = ?edges.removed,
            edges_changed = ?edges.changed,
            keys_added = ?after.difference(&before).collect::<Vec<_>>(),
            keys_removed = ?before.difference(&after).collect::<Vec<_>>(),
            "configuration loaded"
        );
        self.running = Config { edge: config.edge, key: config.key, channel: config.channel, ..self.running.clone() };
        self.warnings = warnings;
    }
}

/// The parts that were fixed at start and that `loaded` has otherwise.
fn differing(running: &Config, loaded: &Config) -> Vec<&'static str> {
    let parts = [
        ("listen", running.listen == loaded.listen),
        ("crypto", running.crypto == loaded.crypto),
        ("log", running.log == loaded.log),
        ("metrics", running.metrics == loaded.metrics),
        ("limits", running.limits == loaded.limits),
        ("tickets", running.tickets == loaded.tickets),
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

fn key_names(config: &Config) -> BTreeSet<&str> {
    config.key.iter().map(|key| key.name.as_str()).collect()
}

/// Why a configuration was not loaded.
#[derive(Debug, thiserror::Error)]
enum ReloadError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("loading it failed: {0}")]
    Loading(#[from] JoinError),
}
