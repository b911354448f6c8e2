//! The `[key_server]` table.

use std::time::Duration;

use keystead_program::channel::HostPort;
use rustls_pki_types::ServerName;
use serde::Deserialize;

use super::{check_duration, first_duplicate};

/// The `[key_server]` table.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyServerConfig {
    /// The key servers, at least one.
    pub addresses: Vec<HostPort>,
    /// The DNS name that the key servers' certificates carry.
    pub server_name: String,
    /// For one request, with its retries.
    #[serde(with = "humantime_serde", default = "default_timeout")]
    pub timeout: Duration,
    /// Connections to each key server, at least two: one may break, or belong to a process that is about to stop.
    #[serde(default = "default_connections")]
    pub connections: usize,
    /// Requests without an answer on one connection; at the limit a handshake fails as `overloaded`.
    #[serde(default = "default_max_in_flight")]
    pub max_in_flight: usize,
    /// Those of one key among them, so that a slow key leaves room for others: half where this is `None`.
    pub max_in_flight_per_key: Option<usize>,
    /// Between two lookups of the key servers' names.
    #[serde(with = "humantime_serde", default = "default_resolve_interval")]
    pub resolve_interval: Duration,
    /// Whether a second key server is asked while the first is late.
    #[serde(default = "default_hedge")]
    pub hedge: bool,
    /// Nobody is late before. From there on, whoever takes longer than 95 of 100 answers for the key do.
    #[serde(with = "humantime_serde", default = "default_hedge_after")]
    pub hedge_after: Duration,
    /// Further tries, as a share of the requests.
    #[serde(default = "default_retry_budget")]
    pub retry_budget: f64,
    /// Failures in a row after which a key server, or a key at a key server, is left alone for a while.
    #[serde(default = "default_ejection_failures")]
    pub ejection_failures: u32,
    /// For how long at first. It doubles each time.
    #[serde(with = "humantime_serde", default = "default_ejection_time")]
    pub ejection_time: Duration,
    /// For how long at the most.
    #[serde(with = "humantime_serde", default = "default_longest_ejection_time")]
    pub longest_ejection_time: Duration,
}

fn default_timeout() -> Duration {
    Duration::from_secs(5)
}

fn default_connections() -> usize {
    2
}

fn default_max_in_flight() -> usize {
    1024
}

fn default_resolve_interval() -> Duration {
    Duration::from_secs(30)
}

fn default_hedge() -> bool {
    true
}

fn default_hedge_after() -> Duration {
    Duration::from_millis(2)
}

fn default_retry_budget() -> f64 {
    0.2
}

fn default_ejection_failures() -> u32 {
    3
}

fn default_ejection_time() -> Duration {
    Duration::from_secs(1)
}

fn default_longest_ejection_time() -> Duration {
    Duration::from_secs(30)
}

impl KeyServerConfig {
    /// Requests of one key without an answer on one connection.
    pub fn max_in_flight_per_key(&self) -> usize {
        self.max_in_flight_per_key.unwrap_or_else(|| self.max_in_flight.div_ceil(2))
    }

    pub(super) fn check(&self) -> Result<(), String> {
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
        if !(2..=64).contains(&self.connections) {
            return Err("connections must be 2 to 64: with one, a connection that breaks fails handshakes".to_owned());
        }
        if self.max_in_flight == 0 || self.max_in_flight > 1 << 20 {
            return Err("max_in_flight must be 1 to 1048576".to_owned());
        }
        if !(1..=self.max_in_flight).contains(&self.max_in_flight_per_key()) {
            return Err("max_in_flight_per_key must be 1 to max_in_flight, and less for it to be of use".to_owned());
        }
        if !(0.0..=1.0).contains(&self.retry_budget) {
            return Err("retry_budget must be 0.0 (no further tries) to 1.0 (as many as there are requests)".to_owned());
        }
        if !(1..=1000).contains(&self.ejection_failures) {
            return Err("ejection_failures must be 1 to 1000".to_owned());
        }
        if self.longest_ejection_time < self.ejection_time {
            return Err("longest_ejection_time must be at least ejection_time".to_owned());
        }
        let durations = [
            ("timeout", self.timeout),
            ("resolve_interval", self.resolve_interval),
            ("hedge_after", self.hedge_after),
            ("ejection_time", self.ejection_time),
            ("longest_ejection_time", self.longest_ejection_time),
        ];
        durations.into_iter().try_for_each(|(name, duration)| check_duration(name, duration))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::config::tests::{GOOD, load};

    fn with(lines: &str) -> Result<KeyServerConfig, String> {
        let text = GOOD.replace("[key_server]", &format!("[key_server]\n{lines}"));
        load(&text).map(|config| config.key_server).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_not_written_has_defaults() {
        let config = with("").unwrap();
        assert_eq!((config.timeout, config.connections), (Duration::from_secs(5), 2));
        assert_eq!((config.max_in_flight, config.max_in_flight_per_key()), (1024, 512));
        assert!(config.hedge);
        assert_eq!(with("max_in_flight = 1").unwrap().max_in_flight_per_key(), 1);
    }

    #[test]
    fn values_that_cannot_stand_are_refused_with_advice() {
        for (lines, expected) in [
            ("connections = 1", "connections must be 2 to 64"),
            ("connections = 65", "connections must be 2 to 64"),
            ("timeout = \"0s\"", "timeout must be more than nothing"),
            ("max_in_flight = 0", "max_in_flight must be 1 to 1048576"),
            ("max_in_flight = 8\nmax_in_flight_per_key = 9", "max_in_flight_per_key must be 1 to max_in_flight"),
            ("max_in_flight_per_key = 0", "max_in_flight_per_key must be 1 to max_in_flight"),
            ("retry_budget = 1.5", "retry_budget must be 0.0"),
            ("retry_budget = nan", "retry_budget must be 0.0"),
            ("ejection_failures = 0", "ejection_failures must be 1 to 1000"),
            ("ejection_time = \"2m\"", "longest_ejection_time must be at least ejection_time"),
            ("resolve_interval = \"0s\"", "resolve_interval must be more than nothing"),
            ("hedge_after = \"0s\"", "hedge_after must be more than nothing"),
        ] {
            let refused = with(lines).unwrap_err();
            assert!(refused.contains("[key_server]") && refused.contains(expected), "{lines}: {refused}");
        }
        for (change, expected) in [
            (("addresses = [\"127", "addresses = [\"127.0.0.1:7443\", \"127"), "has 127.0.0.1:7443 twice"),
            (("server_name = \"", "server_name = \"no name "), "is no DNS name"),
        ] {
            let refused = load(&GOOD.replace(change.0, change.1)).unwrap_err().to_string();
            assert!(refused.contains(expected), "{refused}");
        }
    }
}
