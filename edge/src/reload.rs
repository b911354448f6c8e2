//! Changed configuration, applied while the edge runs.
//!
//! Virtual hosts and the channel's certificate change at once: for every handshake that begins from there on. Connections
//! that stand are left alone. What was bound or started stays as it is, with a warning; a file that is wrong changes
//! nothing.

use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use keystead_program::channel::{ChannelMaterial, ClientChannel};
use keystead_program::crypto::Crypto;
use keystead_program::logging::LogConfig;
use keystead_program::observe::MetricsConfig;
use keystead_program::reload::{Baseline, Occasions, ReloadOutcome};
use keystead_program::sandbox::ProcessConfig;
use tokio::task::spawn_blocking;

use crate::config::{Config, KeyServerConfig, Limits, ListenerConfig};
use crate::directory::Directory;
use crate::serve::channel_material;
use crate::sessions::SessionTable;
use crate::telemetry::Telemetry;
use crate::virtual_host::HostTemplate;

/// Applies what changes.
#[derive(Debug)]
pub struct Reload {
    occasions: Occasions,
    /// What is fixed since the start.
    fixed: Fixed,
    /// Where changes take effect.
    directory: Arc<Directory>,
    channel: ClientChannel,
    telemetry: Arc<Telemetry>,
}

/// The parts of a configuration that cannot change.
#[derive(Debug)]
pub struct Fixed {
    crypto: Crypto,
    state_directory: PathBuf,
    log: LogConfig,
    process: ProcessConfig,
    metrics: Option<MetricsConfig>,
    listeners: Vec<ListenerConfig>,
    limits: Limits,
    sessions: SessionTable,
    key_server: KeyServerConfig,
}

impl Fixed {
    /// Those of `config`. Whatever a configuration comes to have is either fixed or applied.
    pub fn of(config: &Config) -> Self {
        let Config {
            crypto,
            state_directory,
            log,
            process,
            paths: _,
            metrics,
            channel: _,
            directory: _,
            listeners,
            limits,
            sessions,
            key_server,
            hosts: _,
        } = config;
        Self {
            crypto: *crypto,
            state_directory: state_directory.clone(),
            log: log.clone(),
            process: process.clone(),
            metrics: metrics.clone(),
            listeners: listeners.clone(),
            limits: limits.clone(),
            sessions: sessions.table.clone(),
            key_server: key_server.clone(),
        }
    }

    /// The parts that `loaded` has otherwise.
    fn differing(&self, loaded: &Self) -> Vec<&'static str> {
        let parts = [
            ("crypto", self.crypto == loaded.crypto),
            ("state_directory", self.state_directory == loaded.state_directory),
            ("log", self.log == loaded.log),
            ("process", self.process == loaded.process),
            ("metrics", self.metrics == loaded.metrics),
            ("listener", self.listeners == loaded.listeners),
            ("limits", self.limits == loaded.limits),
            ("sessions", self.sessions == loaded.sessions),
            ("key_server", self.key_server == loaded.key_server),
        ];
        parts.into_iter().filter(|(_, is_same)| !is_same).map(|(name, _)| name).collect()
    }
}

impl Reload {
    /// Begins with `fixed`, which was loaded after `file` was read.
    ///
    /// # Errors
    /// The system's, when SIGHUP cannot be listened for.
    pub fn new(
        file: Baseline,
        fixed: Fixed,
        directory: Arc<Directory>,
        channel: ClientChannel,
        telemetry: Arc<Telemetry>,
    ) -> io::Result<Self> {
        Ok(Self { occasions: Occasions::since(file)?, fixed, directory, channel, telemetry })
    }

    /// Goes on for as long as the process.
    pub async fn follow(mut self) -> Infallible {
        loop {
            let cause = self.occasions.next().await;
            let path = self.occasions.path().to_owned();
            // Chains, authorities and revocation lists are read, thousands of them perhaps.
            let loaded = spawn_blocking(move || {
                let config = Config::load(&path)?;
                let material = channel_material(&config)?;
                anyhow::Ok((config, material))
            });
            match loaded.await.unwrap_or_else(|cause| Err(cause.into())) {
                Ok((config, material)) => self.apply(config, &material, cause),
                Err(error) => {
                    self.telemetry.reloaded(ReloadOutcome::Refused);
                    tracing::error!(cause, "configuration not loaded; the last good one stays in force: {error:#}");
                }
            }
        }
    }

    fn apply(&self, config: Config, material: &ChannelMaterial, cause: &'static str) {
        let fixed = self.fixed.differing(&Fixed::of(&config));
        if !fixed.is_empty() {
            tracing::warn!(?fixed, "changed in the configuration and takes a restart");
        }
        self.channel.replace(material);
        let hosts = config.hosts.len();
        self.directory.replace(config.hosts.into_iter().map(HostTemplate::new).collect());
        self.telemetry.reloaded(ReloadOutcome::Applied);
        tracing::info!(cause, hosts, "configuration loaded");
    }
}
