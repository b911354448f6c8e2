//! The names that a virtual host answers to.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use keystead_tls::message::client_hello::is_dns_name;
use serde::Deserialize;

/// A DNS name, or `*.` and a DNS name: any one label in front of it (RFC 6125 §6.4.3). Lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub enum NamePattern {
    /// This name and no other.
    Exact(String),
    /// Every name that has one label in front of this.
    Wildcard(String),
}

impl NamePattern {
    /// A name that the pattern matches: its own, or one with the label `any`.
    pub fn example(&self) -> String {
        match self {
            Self::Exact(name) => name.clone(),
            Self::Wildcard(parent) => format!("any.{parent}"),
        }
    }
}

impl FromStr for NamePattern {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let name = text.to_ascii_lowercase();
        let name = name.strip_suffix('.').unwrap_or(&name);
        if name.parse::<IpAddr>().is_ok() {
            return Err(NameError::IpAddress(text.to_owned()));
        }
        let pattern = match name.strip_prefix("*.") {
            Some(parent) if is_dns_name(parent) => Self::Wildcard(parent.to_owned()),
            None if is_dns_name(name) => Self::Exact(name.to_owned()),
            Some(_) | None => return Err(NameError::NotDns(text.to_owned())),
        };
        Ok(pattern)
    }
}

impl TryFrom<String> for NamePattern {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(parent) => write!(f, "*.{parent}"),
        }
    }
}

/// A text that is no [`NamePattern`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// A client never sends an address as a server name (RFC 6066 §3).
    #[error(
        "`{0}` is an address, which no client asks for by name: whoever connects to one sends none (`default = true` in a `[[virtual_host]]` serves them)"
    )]
    IpAddress(String),
    /// Not a DNS name, nor one behind `*.`.
    #[error("`{0}` is neither a DNS name nor `*.` and a DNS name (write others in their ASCII form, `xn--…`)")]
    NotDns(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_exact_or_wildcards_in_lower_case() {
        assert_eq!("LocalHost.".parse(), Ok(NamePattern::Exact("localhost".to_owned())));
        assert_eq!("*.Example.org".parse(), Ok(NamePattern::Wildcard("example.org".to_owned())));
        assert_eq!(NamePattern::Wildcard("example.org".to_owned()).to_string(), "*.example.org");
    }

    #[test]
    fn what_no_client_can_ask_for_is_refused() {
        for text in ["", "*", "*.", "a..b", "*.*.example.org", "www.*.org", "w*.example.org", "ä.example", "a b"] {
            assert_eq!(text.parse::<NamePattern>(), Err(NameError::NotDns(text.to_owned())), "{text}");
        }
        assert_eq!("127.0.0.1".parse::<NamePattern>(), Err(NameError::IpAddress("127.0.0.1".to_owned())));
        assert_eq!("::1".parse::<NamePattern>(), Err(NameError::IpAddress("::1".to_owned())));
    }
}
