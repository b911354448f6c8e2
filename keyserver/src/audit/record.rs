//! What the log tells of.

use std::sync::Arc;

use keystead_program::channel::PeerIdentity;
use keystead_tls::KeyId;
use serde::{Serialize, Serializer};

use super::chain::hex;

/// One record, without number, time and hash.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The first record of each file.
    File(FileHeader),
    /// What stands before it is signed.
    Checkpoint {
        /// Ed25519 over the statement of `docs/AUDIT.md`.
        signature: String,
    },
    /// The key server has started.
    Started {
        /// Its version.
        version: &'static str,
        /// Keys it holds.
        keys: usize,
        /// Edges it knows.
        edges: usize,
    },
    /// The log was not closed, and what stood behind its last whole record was removed.
    Torn {
        /// How much that was.
        bytes: u64,
    },
    /// The key server stops: nothing is done any more. The writer puts it at the end.
    Stopped {},
    /// A configuration came into force while it ran.
    ConfigurationLoaded(Box<Changes>),
    /// A configuration was wrong, and the one before stays in force.
    ConfigurationRefused {
        /// What made it be loaded.
        cause: String,
    },
    /// A request, and what became of it.
    Request(Request),
    /// Requests of one peer that came to the same end, in place of a record of each.
    Requests {
        /// Who asked; absent where there were too many peers to tell apart.
        #[serde(serialize_with = "perhaps_peer", skip_serializing_if = "Option::is_none")]
        peer: Option<PeerIdentity>,
        /// What for.
        operation: &'static str,
        /// How they ended.
        outcome: &'static str,
        /// How many.
        count: u64,
        /// When the first ended.
        first: String,
        /// When the last ended.
        last: String,
    },
}

/// What a file begins with.
#[derive(Clone, Debug, Serialize)]
pub struct FileHeader {
    /// The version of the format.
    pub format: u32,
    /// Which log this is: 16 bytes drawn when it was begun.
    pub log: String,
    /// The hash of the last record of the file before; zeroes in the first.
    pub previous: String,
    /// The public key that verifies checkpoints: 32 bytes.
    pub public_key: String,
}

/// How a configuration differs from the one before, by identities and names.
#[derive(Clone, Debug, Default, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Changes {
    pub cause: String,
    pub edges_added: Vec<String>,
    pub edges_removed: Vec<String>,
    pub edges_changed: Vec<String>,
    pub keys_added: Vec<String>,
    pub keys_removed: Vec<String>,
    pub keys_changed: Vec<String>,
}

/// A request, and what became of it.
#[derive(Clone, Debug, Serialize)]
pub struct Request {
    /// Who asked.
    #[serde(serialize_with = "known_peer")]
    pub peer: PeerIdentity,
    /// What for.
    pub operation: &'static str,
    /// The key's name, where it names one that the peer may use.
    #[serde(serialize_with = "name", skip_serializing_if = "Option::is_none")]
    pub key: Option<Arc<str>>,
    /// The key's id.
    #[serde(serialize_with = "key_id", skip_serializing_if = "Option::is_none")]
    pub key_id: Option<KeyId>,
    /// The name that the edge's client asked for, as the edge tells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<ServerName>,
    /// The ServerHello.random that was signed, or whose master secret was told.
    #[serde(serialize_with = "random", skip_serializing_if = "Option::is_none")]
    pub server_random: Option<[u8; 32]>,
    /// How many randoms were leased.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leased: Option<usize>,
    /// `done`, or why it was refused.
    pub outcome: &'static str,
}

/// A name of any bytes that an edge chose, cut to what a DNS name may have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct ServerName(Box<str>);

impl ServerName {
    const MOST: usize = 255;

    /// The name; `None` where it is empty.
    pub fn of(name: &str) -> Option<Self> {
        let end = (0..=name.len().min(Self::MOST)).rev().find(|end| name.is_char_boundary(*end))?;
        name.get(..end).filter(|name| !name.is_empty()).map(|name| Self(name.into()))
    }
}

/// Identities are the authority's to give; one that is longer than any in use is cut.
const LONGEST_PEER: usize = 1024;

fn known_peer<S: Serializer>(peer: &PeerIdentity, serializer: S) -> Result<S::Ok, S::Error> {
    // Visible ASCII throughout.
    serializer.serialize_str(peer.as_str().get(..LONGEST_PEER).unwrap_or(peer.as_str()))
}

fn perhaps_peer<S: Serializer>(peer: &Option<PeerIdentity>, serializer: S) -> Result<S::Ok, S::Error> {
    match peer {
        Some(peer) => known_peer(peer, serializer),
        None => serializer.serialize_none(),
    }
}

fn name<S: Serializer>(name: &Option<Arc<str>>, serializer: S) -> Result<S::Ok, S::Error> {
    name.as_deref().serialize(serializer)
}

fn key_id<S: Serializer>(id: &Option<KeyId>, serializer: S) -> Result<S::Ok, S::Error> {
    id.map(|id| hex(&id.0)).serialize(serializer)
}

fn random<S: Serializer>(random: &Option<[u8; 32]>, serializer: S) -> Result<S::Ok, S::Error> {
    random.map(|random| hex(&random)).serialize(serializer)
}
