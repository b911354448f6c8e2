//! What the configuration says an edge may do: an entry of its list of keys, and the bounds on it.

use std::fmt;
use std::time::SystemTime;

use keystead_program::server_name::{NameError, NamePattern};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::SchemeName;

/// An entry of `[[edge]] keys`: the name of a key, or a table with what the edge may do with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantConfig {
    /// The key.
    pub name: String,
    /// What may be asked for; everything the key is for where this is missing.
    pub operations: Option<Vec<OperationName>>,
    /// Schemes to sign with; all of the key's where this is missing.
    pub schemes: Option<Vec<SchemeName>>,
    /// Names that clients may ask for; any, and none, where this is missing.
    pub server_names: Option<Vec<ServerName>>,
    /// How much.
    pub bounds: Bounds,
}

/// How much, and how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Units of cost each second; without end where this is missing.
    pub rate: Option<u32>,
    /// Units of cost at once; where this is missing, those of a second, or of one operation where these are more.
    pub burst: Option<u32>,
    /// When it ends.
    pub not_after: Option<SystemTime>,
}

impl From<&str> for GrantConfig {
    fn from(name: &str) -> Self {
        Self { name: name.to_owned(), operations: None, schemes: None, server_names: None, bounds: Bounds::default() }
    }
}

impl<'de> Deserialize<'de> for GrantConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Untagged, serde would lose the line, and which key is unknown.
        deserializer.deserialize_any(NameOrTable)
    }
}

struct NameOrTable;

impl<'de> Visitor<'de> for NameOrTable {
    type Value = GrantConfig;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a key, or a table such as { name = \"…\", rate = 300 }")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<GrantConfig, E> {
        Ok(name.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<GrantConfig, A::Error> {
        let Table { name, operations, schemes, server_names, rate, burst, not_after } =
            Table::deserialize(MapAccessDeserializer::new(map))?;
        Ok(GrantConfig { name, operations, schemes, server_names, bounds: Bounds { rate, burst, not_after } })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    name: String,
    operations: Option<Vec<OperationName>>,
    schemes: Option<Vec<SchemeName>>,
    server_names: Option<Vec<ServerName>>,
    rate: Option<u32>,
    burst: Option<u32>,
    #[serde(default, with = "humantime_serde")]
    not_after: Option<SystemTime>,
}

/// What a private key is used for, by the names of the calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, strum::IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum OperationName {
    /// ECDHE.
    SignServerKeyExchange,
    /// RSA key transport, and the leases that it takes.
    RecoverMasterSecret,
}

/// A name that clients may ask for, or `""`: that they ask for none.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum ServerName {
    /// No name at all.
    None,
    /// A name.
    Pattern(NamePattern),
}

impl TryFrom<String> for ServerName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        match text.is_empty() {
            true => Ok(Self::None),
            false => text.parse().map(Self::Pattern),
        }
    }
}

impl fmt::Display for GrantConfig {
    /// `name`, or `name (what bounds it)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            self.operations.as_ref().map(|operations| words(operations.iter().map(<&str>::from))),
            self.schemes.as_ref().map(|schemes| words(schemes.iter().map(|scheme| scheme.0.name().unwrap_or("?")))),
            self.server_names.as_ref().map(|names| format!("for {}", words(names.iter().map(ToString::to_string)))),
            Some(self.bounds.to_string()).filter(|bounds| !bounds.is_empty()),
        ];
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        match parts.is_empty() {
            true => f.write_str(&self.name),
            false => write!(f, "{} ({})", self.name, parts.join("; ")),
        }
    }
}

fn words<W: AsRef<str>>(words: impl Iterator<Item = W>) -> String {
    words.map(|word| word.as_ref().to_owned()).collect::<Vec<_>>().join(" ")
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("no name"),
            Self::Pattern(pattern) => pattern.fmt(f),
        }
    }
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            self.rate.map(|rate| format!("rate {rate}")),
            self.burst.map(|burst| format!("burst {burst}")),
            self.not_after.map(|end| format!("until {}", humantime::format_rfc3339_seconds(end))),
        ];
        f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join("; "))
    }
}
