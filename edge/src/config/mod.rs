//! The configuration: a file parsed and checked into a value before anything is bound.

mod client_auth;
mod files;
mod key_server;
mod virtual_host;

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keystead_program::channel::ChannelConfig;
use keystead_program::config::{self, RelativePath};
use keystead_program::crypto::Crypto;
use keystead_program::logging::LogConfig;
use keystead_program::observe::MetricsConfig;
use keystead_program::sandbox::{Paths, ProcessConfig};
use keystead_program::watched::Snapshot;
use serde::Deserialize;

use crate::proxy_protocol::TrustedProxies;
use crate::sessions::{SessionConfig, SessionTable};

use files::Reader;

pub use files::HostFiles;
pub use key_server::KeyServerConfig;
pub use virtual_host::{FileIdentity, HostConfig};

/// A checked configuration.
#[derive(Debug)]
pub struct Config {
    /// Which libraries do the cryptography.
    pub crypto: Crypto,
    /// Where the edge keeps what survives a restart.
    pub state_directory: PathBuf,
    /// Logs.
    pub log: LogConfig,
    /// Privileges to give up.
    pub process: ProcessConfig,
    /// Where metrics and health are served; `None` for nowhere.
    pub metrics: Option<MetricsConfig>,
    /// The edge's own certificate on the channel to the key servers.
    pub channel: ChannelConfig,
    /// The directory that the paths of `channel` are relative to.
    pub directory: PathBuf,
    /// Where clients connect, at least one.
    pub listeners: Vec<ListenerConfig>,
    /// Bounds in time and number.
    pub limits: Limits,
    /// Sessions that clients come back to.
    pub sessions: SessionConfig,
    /// Who holds the keys.
    pub key_server: KeyServerConfig,
    /// Whom clients may ask for, at least one.
    pub hosts: Vec<HostConfig>,
    /// What was read of the files that they name.
    pub host_files: HostFiles,
    /// The revocation lists that they name, which are followed on their own.
    pub revocation_lists: Vec<PathBuf>,
}

/// The file, as TOML has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    #[serde(default)]
    crypto: Crypto,
    state_directory: RelativePath,
    #[serde(default)]
    log: LogConfig,
    #[serde(default)]
    process: ProcessConfig,
    metrics: Option<MetricsConfig>,
    channel: ChannelConfig,
    #[serde(default)]
    listener: Vec<ListenerConfig>,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    sessions: SessionTable,
    key_server: KeyServerConfig,
    #[serde(default)]
    virtual_host: Vec<virtual_host::HostFile>,
}

/// A `[[listener]]` table.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenerConfig {
    /// Where clients connect.
    pub address: SocketAddr,
    /// The name of the socket to take if sockets are handed over (`LISTEN_FDNAMES`); the one on `address` where it is missing.
    pub socket: Option<String>,
    /// Whether other processes may listen on the same address (`SO_REUSEPORT`), such as a successor of this one.
    #[serde(default)]
    pub reuse_port: bool,
    /// Whose connections begin with a PROXY header; nobody else's do.
    #[serde(default)]
    pub proxy_protocol_from: TrustedProxies,
}

/// The `[limits]` table.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections of clients at one time; further ones wait in the kernel's queue. Each takes two file descriptors.
    pub max_connections: usize,
    /// Connections of one address, or one IPv6 /64, at one time; further ones are refused. 0 is without bound.
    pub max_connections_per_address: usize,
    /// Handshakes at one time; further connections are refused. 0 is without bound.
    pub max_handshakes: usize,
    /// Handshakes that begin in a second; connections beyond it are refused. 0 is without bound.
    pub handshakes_per_second: u32,
    /// Those that may begin at once after a quiet time; 0 is a second's worth.
    pub handshakes_burst: u32,
    /// Handshakes of one address, or one IPv6 /64, that begin in a second; connections beyond it are refused. 0 is without
    /// bound.
    pub handshakes_per_second_per_address: u32,
    /// Those of one address that may begin at once after a quiet time; 0 is a second's worth.
    pub handshakes_burst_per_address: u32,
    /// From accepting a connection to the end of its handshake.
    #[serde(with = "humantime_serde")]
    pub handshake_timeout: Duration,
    /// Without a byte in either direction.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// Without a byte, once one direction has ended.
    #[serde(with = "humantime_serde")]
    pub half_closed_timeout: Duration,
    /// For a connection to each address of a backend.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// For the connection to any of a host's backends, however many are tried.
    #[serde(with = "humantime_serde")]
    pub backend_timeout: Duration,
    /// From SIGTERM, at which readiness ends, until no more connections are accepted.
    #[serde(with = "humantime_serde")]
    pub drain_delay: Duration,
    /// From then on to the end of the last connection.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_connections_per_address: 1024,
            max_handshakes: 0,
            handshakes_per_second: 0,
            handshakes_burst: 0,
            handshakes_per_second_per_address: 0,
            handshakes_burst_per_address: 0,
            handshake_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(300),
            half_closed_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            backend_timeout: Duration::from_secs(15),
            drain_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(30),
        }
    }
}

impl Config {
    /// Reads the file at `path` and the certificate chains it names. Relative paths start at the file's directory.
    ///
    /// # Errors
    /// [`ConfigError`] for the first thing in it that cannot stand.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::load_anew(&mut Snapshot::of(path), None)
    }

    /// Reads the configuration file of `files`, and of what it names all that has changed since `before` was read. `files`
    /// then has everything that was looked at, whatever is found.
    ///
    /// # Errors
    /// [`ConfigError`] for the first thing that cannot stand.
    pub fn load_anew(files: &mut Snapshot, before: Option<&HostFiles>) -> Result<Self, ConfigError> {
        let path = files.configuration().to_owned();
        let file: ConfigFile = config::load(&path)?;
        files.look_at(file.files(config::directory(&path)));
        file.check(Reader::new(files.clone(), before))
    }

    /// The files that an edge with this configuration opens while it runs.
    pub fn paths(&self) -> Paths {
        let named = Paths::named_by(self.host_files.snapshot().configuration());
        self.process.paths(&self.directory, Paths { write: vec![self.state_directory.clone()], ..named })
    }

    /// The configuration file and every file that it names. Those of the state are none of them: the edge itself writes
    /// these.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.host_files.snapshot().paths().chain(self.revocation_lists.iter().map(PathBuf::as_path))
    }
}

impl ConfigFile {
    /// The files that it names and that are read when it is loaded.
    fn files(&self, directory: &Path) -> Vec<PathBuf> {
        let hosts = self.virtual_host.iter().flat_map(|host| host.files(directory));
        self.channel.files(directory).into_iter().chain(hosts).collect()
    }

    fn check(self, mut reader: Reader<'_>) -> Result<Config, ConfigError> {
        let directory = &reader.directory().to_owned();
        let lists = self.virtual_host.iter().flat_map(|host| host.revocation_lists(directory));
        let revocation_lists = lists.collect::<BTreeSet<_>>().into_iter().collect();
        self.log.check().map_err(|cause| ConfigError::at("[log]", cause))?;
        self.limits.check().map_err(|problem| ConfigError::at("[limits]", problem))?;
        let sessions = self.sessions.check(directory).map_err(|problem| ConfigError::at("[sessions]", problem))?;
        self.key_server.check().map_err(|problem| ConfigError::at("[key_server]", problem))?;
        check_listeners(&self.listener).map_err(|problem| ConfigError::at("[[listener]]", problem))?;
        let state_directory = self.state_directory.under(directory);
        Ok(Config {
            crypto: self.crypto,
            state_directory,
            log: self.log,
            process: self.process,
            metrics: self.metrics,
            channel: self.channel,
            directory: directory.to_owned(),
            listeners: self.listener,
            limits: self.limits,
            sessions,
            key_server: self.key_server,
            hosts: virtual_host::check(self.virtual_host, &mut reader)?,
            host_files: reader.read,
            revocation_lists,
        })
    }
}

impl Limits {
    fn check(&self) -> Result<(), String> {
        if self.max_connections == 0 {
            return Err("max_connections is 0: no client could connect".to_owned());
        }
        let durations = [
            ("handshake_timeout", self.handshake_timeout),
            ("idle_timeout", self.idle_timeout),
            ("half_closed_timeout", self.half_closed_timeout),
            ("connect_timeout", self.connect_timeout),
            ("backend_timeout", self.backend_timeout),
        ];
        durations.into_iter().try_for_each(|(name, duration)| check_duration(name, duration))?;
        self.check_rates()
    }

    fn check_rates(&self) -> Result<(), String> {
        let rates = [
            ("handshakes_burst", self.handshakes_burst, self.handshakes_per_second),
            ("handshakes_burst_per_address", self.handshakes_burst_per_address, self.handshakes_per_second_per_address),
        ];
        for (burst, value, rate) in rates {
            let name = burst.replace("burst", "per_second");
            // Beyond it a token would come more often than a microsecond passes.
            if rate > 1_000_000 {
                return Err(format!("{name} must be at most 1000000; 0 is without bound"));
            }
            if value != 0 && rate == 0 {
                return Err(format!("{burst} without {name} bounds nothing: set {name} too"));
            }
        }
        Ok(())
    }
}

pub(crate) fn check_duration(name: &str, duration: Duration) -> Result<(), String> {
    // A year is more than any of them can mean, and small enough for every clock.
    if duration.is_zero() || duration > Duration::from_secs(365 * 24 * 3600) {
        return Err(format!("{name} must be more than nothing and at most a year"));
    }
    Ok(())
}

fn check_listeners(listeners: &[ListenerConfig]) -> Result<(), String> {
    if listeners.is_empty() {
        return Err("missing: add one with the `address` that clients connect to".to_owned());
    }
    let addresses: Vec<_> = listeners.iter().map(|listener| listener.address).filter(|it| it.port() != 0).collect();
    match first_duplicate(&addresses) {
        Some(twice) => Err(format!("address {twice} stands in two of them")),
        None => Ok(()),
    }
}

pub(crate) fn first_duplicate<T: PartialEq>(items: &[T]) -> Option<&T> {
    items.iter().enumerate().find_map(|(index, item)| items.iter().take(index).find(|other| *other == item))
}

/// Why a configuration was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not readable, not TOML, or has unknown, missing or mistyped keys.
    #[error(transparent)]
    File(#[from] config::ConfigError),
    /// A value that cannot stand.
    #[error("{place}: {problem}")]
    Value {
        /// The table, as the file writes it, and which of several.
        place: String,
        /// What is wrong, and what to do about it.
        problem: String,
    },
}

impl ConfigError {
    fn at(place: impl Into<String>, problem: impl fmt::Display) -> Self {
        Self::Value { place: place.into(), problem: problem.to_string() }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    pub(crate) const GOOD: &str = r#"
state_directory = "state"
[channel]
certificate = "edge.pem"
private_key = "edge.key"
trust_roots = "ca.pem"
[[listener]]
address = "127.0.0.1:8443"
[key_server]
addresses = ["127.0.0.1:7443"]
server_name = "keyserver.keystead.local"
[[virtual_host]]
names = ["localhost", "*.localhost"]
default = true
keys = ["localhost-rsa"]
backends = ["127.0.0.1:8080"]
"#;

    pub(crate) fn load(text: &str) -> Result<Config, ConfigError> {
        load_in(tempfile::tempdir().unwrap().path(), text)
    }

    pub(super) fn load_in(directory: &Path, text: &str) -> Result<Config, ConfigError> {
        let file = directory.join("edge.toml");
        std::fs::write(&file, text).unwrap();
        Config::load(&file)
    }

    fn refusal(change: (&str, &str)) -> String {
        assert!(GOOD.contains(change.0), "{}", change.0);
        load(&GOOD.replace(change.0, change.1)).unwrap_err().to_string()
    }

    #[test]
    fn a_small_configuration_has_defaults() {
        let config = load(GOOD).unwrap();
        assert_eq!(config.crypto, Crypto::Fast);
        assert_eq!(config.limits, Limits::default());
        assert!(config.state_directory.ends_with("state") && config.state_directory.is_absolute());
        assert_eq!(config.hosts.len(), 1);
        assert!(config.metrics.is_none());
    }

    #[test]
    fn unknown_keys_are_named_with_the_nearest() {
        let error = refusal(("names =", "name ="));
        assert!(error.contains("unknown field `name`") && error.contains("did you mean `names`?"), "{error}");
    }

    #[test]
    fn values_that_cannot_stand_are_refused_with_advice() {
        for (change, expected) in [
            (("[[listener]]\naddress = \"127.0.0.1:8443\"", ""), "[[listener]]: missing"),
            (("addresses = [\"127.0.0.1:7443\"]", "addresses = []"), "[key_server]: addresses is empty"),
            (("[key_server]", "[limits]\nmax_connections = 0\n[key_server]"), "no client could connect"),
            (("[key_server]", "[limits]\nidle_timeout = \"0s\"\n[key_server]"), "idle_timeout must be"),
            (("[key_server]", "[limits]\nhandshakes_burst = 5\n[key_server]"), "set handshakes_per_second too"),
            (("[key_server]", "[limits]\nhandshakes_per_second = 2000000\n[key_server]"), "at most 1000000"),
            (("[channel]", "[log]\nlevel = \"keystead_edge=loud\"\n[channel]"), "[log]"),
            (("\"127.0.0.1:7443\"", "\"7443\""), "expected host:port"),
        ] {
            let error = refusal(change);
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }
}
