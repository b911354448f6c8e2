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
use keystead_program::reload::Occasions;
use tokio::task::spawn_blocking;

use crate::config::Config;
use crate::directory::Directory;
use crate::serve::channel_material;
use crate::telemetry::{ReloadOutcome, Telemetry};
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

/// A configuration without what can change.
#[derive(Debug)]
pub struct Fixed(Config);

impl Fixed {
    /// Of the configuration that the edge starts with.
    pub fn of(config: &Config) -> Self {
        Self(Config { hosts: Vec::new(), ..config.clone() })
    }

    /// The parts that `loaded` has otherwise.
    fn differing(&self, loaded: &Config) -> Vec<&'static str> {
        let Self(fixed) = self;
        let parts = [
            ("crypto", fixed.crypto == loaded.crypto),
            ("state_directory", fixed.state_directory == loaded.state_directory),
            ("log", fixed.log == loaded.log),
            ("metrics", fixed.metrics == loaded.metrics),
            ("listener", fixed.listeners == loaded.listeners),
            ("limits", fixed.limits == loaded.limits),
            ("sessions", fixed.sessions.table == loaded.sessions.table),
            ("key_server", fixed.key_server == loaded.key_server),
        ];
        parts.into_iter().filter(|(_, is_same)| !is_same).map(|(name, _)| name).collect()
    }
}

impl Reload {
    /// Begins with `fixed`, which was read from `file`.
    ///
    /// # Errors
    /// The system's, when SIGHUP cannot be listened for.
    pub fn new(
        file: PathBuf,
        fixed: Fixed,
        directory: Arc<Directory>,
        channel: ClientChannel,
        telemetry: Arc<Telemetry>,
    ) -> io::Result<Self> {
        Ok(Self { occasions: Occasions::new(file)?, fixed, directory, channel, telemetry })
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
        let fixed = self.fixed.differing(&config);
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
