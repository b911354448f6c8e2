//! Where a backend listens, as the configuration writes it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use keystead_program::channel::HostPort;
use serde::Deserialize;

use super::target::Target;

/// What stands before the path of a unix socket.
const UNIX: &str = "unix:";
/// The bytes that the kernel takes for the path of a socket, less the one at its end (unix(7)).
const LONGEST_PATH: usize = 107;

/// `host:port`, with a DNS name or an address as the host, or `unix:` and a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub enum BackendAddress {
    /// TCP. A name stands for all addresses it has.
    Server(HostPort),
    /// A unix socket.
    Unix(PathBuf),
}

impl BackendAddress {
    /// This address, with the path of a unix socket starting at `directory`.
    ///
    /// # Errors
    /// That no socket can be at such a path.
    pub fn under(self, directory: &Path) -> Result<Self, String> {
        let Self::Unix(path) = self else { return Ok(self) };
        let path = directory.join(path);
        let length = path.as_os_str().len();
        if length > LONGEST_PATH {
            let path = path.display();
            return Err(format!("{UNIX}{path} has {length} bytes, and a socket's path at most {LONGEST_PATH}"));
        }
        Ok(Self::Unix(path))
    }

    /// What connections go to.
    ///
    /// # Errors
    /// The name that has to be looked up for it.
    pub fn target(&self) -> Result<Target, &HostPort> {
        match self {
            Self::Server(server) => match server.host().parse::<IpAddr>() {
                Ok(address) => Ok(Target::Tcp(SocketAddr::new(address, server.port()))),
                Err(_) => Err(server),
            },
            Self::Unix(path) => Ok(Target::Unix(path.as_path().into())),
        }
    }
}

impl FromStr for BackendAddress {
    type Err = InvalidBackend;

    fn from_str(text: &str) -> Result<Self, InvalidBackend> {
        match text.strip_prefix(UNIX) {
            Some(path) if path.starts_with('@') => Err(InvalidBackend::Abstract),
            Some(path) if path.is_empty() || path.contains('\0') => Err(InvalidBackend::Path),
            Some(path) => Ok(Self::Unix(path.into())),
            None => text.parse().map(Self::Server).map_err(|_| InvalidBackend::Address),
        }
    }
}

impl TryFrom<String> for BackendAddress {
    type Error = InvalidBackend;

    fn try_from(text: String) -> Result<Self, InvalidBackend> {
        text.parse()
    }
}

impl fmt::Display for BackendAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(server) => server.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

/// The text is no backend's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBackend {
    /// No `host:port`.
    #[error("expected host:port, with a DNS name or an address as the host, or unix:/path")]
    Address,
    /// No path.
    #[error("expected the path of a socket behind unix:")]
    Path,
    /// A socket without a path.
    #[error("abstract unix sockets are not supported: write the path of one in a directory")]
    Abstract,
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn addresses_are_read_and_written_alike() {
        for text in ["10.0.0.1:8080", "[2001:db8::1]:80", "app.internal:8080", "unix:/run/app.sock", "unix:app.sock"] {
            assert_eq!(text.parse::<BackendAddress>().unwrap().to_string(), text);
        }
        for (text, problem) in [
            ("8080", InvalidBackend::Address),
            ("/run/app.sock", InvalidBackend::Address),
            ("unix:", InvalidBackend::Path),
            ("unix:@app", InvalidBackend::Abstract),
        ] {
            assert_eq!(text.parse::<BackendAddress>(), Err(problem), "{text}");
        }
    }

    #[test]
    fn paths_start_at_the_configuration_and_have_a_bound() {
        let address = |text: &str| text.parse::<BackendAddress>().unwrap().under(Path::new("/etc"));
        assert_eq!(address("unix:app.sock").unwrap().to_string(), "unix:/etc/app.sock");
        assert_eq!(address("unix:/run/app.sock").unwrap().to_string(), "unix:/run/app.sock");
        assert!(address(&format!("unix:/{}", "a".repeat(LONGEST_PATH - 1))).is_ok());
        let error = address(&format!("unix:/{}", "a".repeat(LONGEST_PATH))).unwrap_err();
        assert!(error.contains("has 108 bytes"), "{error}");
    }

    #[test]
    fn names_alone_need_a_lookup() {
        let target = |text: &str| text.parse::<BackendAddress>().unwrap().target().ok();
        assert_eq!(target("10.0.0.1:80"), Some(Target::Tcp("10.0.0.1:80".parse().unwrap())));
        assert_eq!(target("unix:/a"), Some(Target::Unix(Path::new("/a").into())));
        assert_eq!(target("app.internal:80"), None);
    }
}
