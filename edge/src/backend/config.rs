//! What a virtual host's table says of its backends.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use super::address::BackendAddress;
use super::balance::Balance;
use super::check::{Answer, CheckSettings};
use crate::config::{check_duration, first_duplicate};
use crate::proxy_protocol::ProxyProtocol;

/// The backends of a virtual host, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendsConfig {
    /// Where they are, at least one.
    pub addresses: Vec<BackendAddress>,
    /// How connections are spread over them.
    pub balance: Balance,
    /// How often names are looked up.
    pub resolve_interval: Duration,
    /// How they are checked; without it, only by what becomes of connections.
    pub health_check: Option<HealthCheck>,
    /// What precedes clients' bytes, and checks.
    pub proxy_protocol: ProxyProtocol,
}

/// How often names are looked up where the configuration does not say.
pub(crate) fn default_resolve_interval() -> Duration {
    Duration::from_secs(30)
}

/// A `[virtual_host.health_check]` table.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HealthCheck {
    kind: Kind,
    #[serde(with = "humantime_serde")]
    interval: Duration,
    #[serde(with = "humantime_serde")]
    timeout: Duration,
    rise: u32,
    fall: u32,
    path: Option<String>,
    host: Option<String>,
    status: Option<Vec<u16>>,
}

/// What a check asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// A connection.
    #[default]
    Tcp,
    /// A page, by a GET of HTTP/1.1 in the clear.
    Http,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            kind: Kind::Tcp,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            rise: 2,
            fall: 3,
            path: None,
            host: None,
            status: None,
        }
    }
}

impl BackendsConfig {
    /// These addresses, and defaults.
    pub fn new(addresses: Vec<BackendAddress>) -> Self {
        Self {
            addresses,
            balance: Balance::default(),
            resolve_interval: default_resolve_interval(),
            health_check: None,
            proxy_protocol: ProxyProtocol::None,
        }
    }

    /// This configuration, once it is known to stand. Paths start at `directory`.
    ///
    /// # Errors
    /// What cannot stand, and what to do about it.
    pub(crate) fn check(mut self, directory: &Path) -> Result<Self, String> {
        if self.addresses.is_empty() {
            return Err("backends is empty: name at least one as host:port or unix:/path".to_owned());
        }
        let addresses = self.addresses.into_iter().map(|address| address.under(directory)).collect::<Result<_, _>>();
        self.addresses = addresses.map_err(|problem| format!("backends: {problem}"))?;
        if let Some(twice) = first_duplicate(&self.addresses) {
            return Err(format!("backends has {twice} twice: each gets its share of connections once"));
        }
        check_duration("resolve_interval", self.resolve_interval)?;
        if let Some(check) = &self.health_check {
            check.check().map_err(|problem| format!("health_check: {problem}"))?;
        }
        Ok(self)
    }

    /// How the backend at `address`, or what its name stands for, is checked.
    pub fn check_of(&self, address: &BackendAddress) -> Option<CheckSettings> {
        let check = self.health_check.as_ref()?;
        let mut question = self.proxy_protocol.local_header().to_vec();
        let answer = match check.kind {
            Kind::Tcp => Answer::Connection,
            Kind::Http => {
                question.extend(check.request(address).into_bytes());
                Answer::Status(check.status.clone())
            }
        };
        let HealthCheck { interval, timeout, rise, fall, .. } = *check;
        Some(CheckSettings { interval, timeout, rise, fall, question, answer })
    }
}

impl HealthCheck {
    fn check(&self) -> Result<(), String> {
        check_duration("interval", self.interval)?;
        check_duration("timeout", self.timeout)?;
        if self.rise == 0 || self.fall == 0 {
            return Err("rise and fall are numbers of results in a row, at least 1".to_owned());
        }
        let of_http = [("path", self.path.is_some()), ("host", self.host.is_some()), ("status", self.status.is_some())];
        if let (Kind::Tcp, Some((key, _))) = (self.kind, of_http.iter().find(|(_, stands)| *stands)) {
            return Err(format!("{key} is for kind = \"http\" alone"));
        }
        if self.path.as_ref().is_some_and(|path| !path.starts_with('/') || !is_printable(path)) {
            return Err("path begins with / and has no spaces or control characters".to_owned());
        }
        if self.host.as_ref().is_some_and(|host| host.is_empty() || !is_printable(host)) {
            return Err("host is empty, or has spaces or control characters".to_owned());
        }
        match self.status.as_deref() {
            Some([]) => Err("status is empty: leave it out to accept 200 to 299".to_owned()),
            Some(statuses) if statuses.iter().any(|status| !(100..600).contains(status)) => {
                Err("status has numbers of HTTP, 100 to 599".to_owned())
            }
            Some(_) | None => Ok(()),
        }
    }

    fn request(&self, address: &BackendAddress) -> String {
        let path = self.path.as_deref().unwrap_or("/");
        let of_address = || match address {
            BackendAddress::Server(server) => server.to_string(),
            BackendAddress::Unix(_) => "localhost".to_owned(),
        };
        let host = self.host.clone().unwrap_or_else(of_address);
        format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: keystead-edge\r\nConnection: close\r\n\r\n")
    }
}

fn is_printable(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn config(addresses: &[&str], health_check: &str) -> Result<BackendsConfig, String> {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let health_check = Some(toml(health_check));
        BackendsConfig { health_check, ..BackendsConfig::new(addresses) }.check(Path::new("/etc"))
    }

    fn toml(text: &str) -> HealthCheck {
        #[derive(Deserialize)]
        struct File {
            health_check: HealthCheck,
        }
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file.toml");
        std::fs::write(&file, format!("[health_check]\n{text}")).unwrap();
        keystead_program::config::load::<File>(&file).unwrap().health_check
    }

    #[test]
    fn what_cannot_stand_is_refused_with_advice() {
        assert!(config(&["10.0.0.1:80", "app.internal:80", "unix:/a"], "").is_ok());
        for (addresses, health_check, expected) in [
            (&[][..], "", "backends is empty"),
            (&["a:1", "a:1"], "", "backends has a:1 twice"),
            (&["unix:/etc/a", "unix:a"], "", "backends has unix:/etc/a twice"),
            (&["a:1"], "interval = \"0s\"", "health_check: interval must be more than nothing"),
            (&["a:1"], "timeout = \"0s\"", "health_check: timeout must be more than nothing"),
            (&["a:1"], "rise = 0", "at least 1"),
            (&["a:1"], "fall = 0", "at least 1"),
            (&["a:1"], "path = \"/\"", "path is for kind = \"http\" alone"),
            (&["a:1"], "status = [200]", "status is for kind = \"http\" alone"),
            (&["a:1"], "kind = \"http\"\npath = \"health\"", "path begins with /"),
            (&["a:1"], "kind = \"http\"\npath = \"/ HTTP/1.1\\r\\nA: b\"", "path begins with /"),
            (&["a:1"], "kind = \"http\"\nhost = \"\"", "host is empty"),
            (&["a:1"], "kind = \"http\"\nstatus = []", "status is empty"),
            (&["a:1"], "kind = \"http\"\nstatus = [20]", "100 to 599"),
        ] {
            let error = config(addresses, health_check).unwrap_err();
            assert!(error.contains(expected), "{expected}: {error}");
        }
        let short = BackendsConfig { resolve_interval: Duration::ZERO, ..config(&["a:1"], "").unwrap() };
        assert!(short.check(Path::new("/")).unwrap_err().contains("resolve_interval must be"));
    }

    #[test]
    fn a_check_asks_as_the_table_says() {
        let question = |config: &BackendsConfig, address: &str| {
            let settings = config.check_of(&address.parse().unwrap()).unwrap();
            (String::from_utf8(settings.question).unwrap(), settings.answer)
        };
        let mut tcp = config(&["a:1"], "").unwrap();
        assert_eq!(question(&tcp, "a:1"), (String::new(), Answer::Connection));
        tcp.proxy_protocol = ProxyProtocol::V1;
        assert_eq!(question(&tcp, "a:1").0, "PROXY UNKNOWN\r\n");
        let http = config(&["a:1"], "kind = \"http\"\npath = \"/health\"\nstatus = [204]").unwrap();
        let (sent, answer) = question(&http, "a:1");
        assert!(sent.starts_with("GET /health HTTP/1.1\r\nHost: a:1\r\n") && sent.ends_with("\r\n\r\n"), "{sent}");
        assert_eq!(answer, Answer::Status(Some(vec![204])));
        assert!(question(&http, "unix:/a").0.contains("\r\nHost: localhost\r\n"));
        let named = config(&["a:1"], "kind = \"http\"\nhost = \"app.example\"").unwrap();
        assert!(question(&named, "a:1").0.starts_with("GET / HTTP/1.1\r\nHost: app.example\r\n"));
        assert!(BackendsConfig { health_check: None, ..named }.check_of(&"a:1".parse().unwrap()).is_none());
    }
}
