//! The configuration: a file parsed and checked into a value before anything is bound.

mod client_auth;
mod virtual_host;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keystead_program::channel::{ChannelConfig, HostPort};
use keystead_program::config::{self, RelativePath};
use keystead_program::crypto::Crypto;
use keystead_program::logging::LogConfig;
use keystead_program::observe::MetricsConfig;
use keystead_program::sandbox::{Paths, ProcessConfig};
use rustls_pki_types::ServerName;
use serde::Deserialize;

use crate::sessions::{SessionConfig, SessionTable};

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
    /// The files that may be opened.
    pub paths: Paths,
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
    /// For each address of a backend.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
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
            drain_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(30),
        }
    }
}

/// The `[key_server]` table.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyServerConfig {
    /// The key servers, at least one.
    pub addresses: Vec<HostPort>,
    /// The DNS name that the key servers' certificates carry.
    pub server_name: String,
    /// For one request, with its retry.
    #[serde(with = "humantime_serde", default = "default_key_server_timeout")]
    pub timeout: Duration,
    /// Connections to each key server.
    #[serde(default = "default_key_server_connections")]
    pub connections: usize,
    /// Requests without an answer on one connection; at the limit a handshake fails as `overloaded`.
    #[serde(default = "default_max_in_flight")]
    pub max_in_flight: usize,
}

fn default_key_server_timeout() -> Duration {
    Duration::from_secs(5)
}

fn default_key_server_connections() -> usize {
    2
}

fn default_max_in_flight() -> usize {
    1024
}

impl Config {
    /// Reads the file at `path` and the certificate chains it names. Relative paths start at the file's directory.
    ///
    /// # Errors
    /// [`ConfigError`] for the first thing in it that cannot stand.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let file: ConfigFile = config::load(path)?;
        file.check(path)
    }
}

impl ConfigFile {
    fn check(self, path: &Path) -> Result<Config, ConfigError> {
        let directory = config::directory(path);
        self.log.check().map_err(|cause| ConfigError::at("[log]", cause))?;
        self.limits.check().map_err(|problem| ConfigError::at("[limits]", problem))?;
        let sessions = self.sessions.check(directory).map_err(|problem| ConfigError::at("[sessions]", problem))?;
        self.key_server.check().map_err(|problem| ConfigError::at("[key_server]", problem))?;
        check_listeners(&self.listener).map_err(|problem| ConfigError::at("[[listener]]", problem))?;
        let state_directory = self.state_directory.under(directory);
        let named = Paths { write: vec![state_directory.clone()], ..Paths::named_by(path) };
        Ok(Config {
            crypto: self.crypto,
            state_directory,
            log: self.log,
            paths: self.process.paths(directory, named),
            process: self.process,
            metrics: self.metrics,
            channel: self.channel,
            directory: directory.to_owned(),
            listeners: self.listener,
            limits: self.limits,
            sessions,
            key_server: self.key_server,
            hosts: virtual_host::check(self.virtual_host, directory)?,
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

impl KeyServerConfig {
    fn check(&self) -> Result<(), String> {
        if self.addresses.is_empty() {
            return Err("addresses is empty: name at least one key server as host:port".to_owned());
        }
        if let Some(twice) = first_duplicate(&self.addresses) {
            return Err(format!("addresses has {twice} twice; `connections` says how many there are to each"));
        }
        if ServerName::try_from(self.server_name.as_str()).is_err() {
            let name = &self.server_name;
            return Err(format!("server_name {name:?} is no DNS name: write the one in the key servers' certificates"));
        }
        if self.connections == 0 || self.connections > 64 {
            return Err("connections must be 1 to 64".to_owned());
        }
        if self.max_in_flight == 0 || self.max_in_flight > 1 << 20 {
            return Err("max_in_flight must be 1 to 1048576".to_owned());
        }
        check_duration("timeout", self.timeout)
    }
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

fn first_duplicate<T: PartialEq>(items: &[T]) -> Option<&T> {
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

    pub(super) fn load(text: &str) -> Result<Config, ConfigError> {
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
        assert_eq!(config.key_server.timeout, Duration::from_secs(5));
        assert_eq!(config.key_server.connections, 2);
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
            (("addresses = [\"127", "addresses = [\"127.0.0.1:7443\", \"127"), "has 127.0.0.1:7443 twice"),
            (("server_name = \"", "server_name = \"no name "), "is no DNS name"),
            (("server_name", "connections = 0\nserver_name"), "connections must be 1 to 64"),
            (("server_name", "timeout = \"0s\"\nserver_name"), "timeout must be more than nothing"),
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
