//! Changed configuration, applied while the edge runs.
//!
//! Virtual hosts and the channel's certificate change at once: for every handshake that begins from there on. Connections
//! that stand are left alone. What was bound or started stays as it is, with a warning; a file that is wrong changes
//! nothing.

use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use keystead_program::channel::{ChannelConfig, ChannelMaterial, ClientChannel};
use keystead_program::crypto::Crypto;
use keystead_program::logging::LogConfig;
use keystead_program::observe::MetricsConfig;
use keystead_program::reload::{Occasion, Occasions, ReloadOutcome};
use keystead_program::sandbox::ProcessConfig;
use keystead_program::watched::Snapshot;
use tokio::task::spawn_blocking;

use crate::backend::Pool;
use crate::config::{Config, HostFiles, KeyServerConfig, Limits, ListenerConfig};
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
    running: Arc<Running>,
    into: Destinations,
}

/// What was loaded and is in force: what has not changed since is not loaded again.
#[derive(Debug)]
pub struct Running {
    /// Names of the channel's files.
    pub channel_files: ChannelConfig,
    /// What they hold.
    pub material: ChannelMaterial,
    /// What the files of virtual hosts hold.
    pub host_files: HostFiles,
}

impl Running {
    /// What the channel's files of `config` hold, if they are those that were read.
    fn material(&self, config: &Config) -> Option<ChannelMaterial> {
        let (before, now) = (self.host_files.snapshot(), config.host_files.snapshot());
        let is_same =
            config.channel == self.channel_files && now.agrees_on(before, config.channel.files(&config.directory));
        is_same.then(|| self.material.clone())
    }
}

/// Where changes take effect.
#[derive(Clone, Debug)]
pub struct Destinations {
    /// The virtual hosts.
    pub directory: Arc<Directory>,
    /// Their backends.
    pub pool: Arc<Pool>,
    /// The way to the key servers.
    pub channel: ClientChannel,
    /// What is counted.
    pub telemetry: Arc<Telemetry>,
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
            metrics,
            channel: _,
            directory: _,
            listeners,
            limits,
            sessions,
            key_server,
            hosts: _,
            host_files: _,
            revocation_lists: _,
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
    /// Begins with what runs.
    ///
    /// # Errors
    /// The system's, when SIGHUP cannot be listened for.
    pub fn new(running: Running, fixed: Fixed, into: Destinations) -> io::Result<Self> {
        let occasions = Occasions::since(running.host_files.snapshot().clone())?;
        Ok(Self { occasions, fixed, running: Arc::new(running), into })
    }

    /// Goes on for as long as the process.
    pub async fn follow(mut self) -> Infallible {
        loop {
            let cause = self.occasions.next().await;
            let (path, running) = (self.occasions.path().to_owned(), self.running.clone());
            // Chains and authorities are read, thousands of them perhaps.
            let loaded = spawn_blocking(move || {
                let mut files = Snapshot::of(&path);
                let loaded = load(&mut files, &running);
                (files, loaded)
            });
            let (files, loaded) = match loaded.await {
                Ok((files, loaded)) => (Some(files), loaded),
                Err(panic) => (None, Err(panic.into())),
            };
            let applied = match loaded {
                Ok((config, material)) => self.apply(config, material, &cause).await,
                Err(error) => Err(error),
            };
            if let Err(error) = applied {
                self.refuse(&error, files, &cause);
            }
        }
    }

    /// What another try came to as well is not told again.
    fn refuse(&mut self, error: &anyhow::Error, files: Option<Snapshot>, cause: &Occasion) {
        if !self.occasions.refused(files, &format!("{error:#}")) {
            return;
        }
        self.into.telemetry.reloaded(ReloadOutcome::Refused);
        tracing::error!(%cause, "configuration not loaded; the last good one stays in force: {error:#}");
    }

    async fn apply(&mut self, config: Config, material: ChannelMaterial, cause: &Occasion) -> anyhow::Result<()> {
        let fixed = self.fixed.differing(&Fixed::of(&config));
        if !fixed.is_empty() {
            tracing::warn!(?fixed, "changed in the configuration and takes a restart");
        }
        let Config { hosts, channel: channel_files, host_files, .. } = config;
        let count = hosts.len();
        let Destinations { directory, pool, channel, telemetry } = self.into.clone();
        // Certificates are read once more, for what clients would object to in them.
        let replaced = spawn_blocking(move || {
            directory.replace(hosts.into_iter().map(|host| HostTemplate::new(host, &pool)).collect());
        });
        replaced.await?;
        channel.replace(&material);
        self.occasions.applied(host_files.snapshot().clone());
        telemetry.reloaded(ReloadOutcome::Applied);
        self.running = Arc::new(Running { channel_files, material, host_files });
        tracing::info!(%cause, hosts = count, "configuration loaded");
        Ok(())
    }
}

fn load(files: &mut Snapshot, running: &Running) -> anyhow::Result<(Config, ChannelMaterial)> {
    let config = Config::load_anew(files, Some(&running.host_files))?;
    let material = match running.material(&config) {
        Some(unchanged) => unchanged,
        None => channel_material(&config)?,
    };
    Ok((config, material))
}
