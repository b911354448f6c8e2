//! Groups of edges that open each other's tickets.

use std::fmt;
use std::sync::Arc;

use keystead_program::channel::PeerIdentity;
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// The name of a group of edges: 1 to 64 printable ASCII characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct GroupName(Arc<str>);

const LONGEST: usize = 64;

impl GroupName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for GroupName {
    /// `default`.
    fn default() -> Self {
        Self("default".into())
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text cannot name a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the name of a ticket group is 1 to 64 printable ASCII characters")]
pub struct InvalidGroupName;

impl TryFrom<String> for GroupName {
    type Error = InvalidGroupName;

    fn try_from(name: String) -> Result<Self, InvalidGroupName> {
        let is_printable = name.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
        if name.is_empty() || name.len() > LONGEST || !is_printable {
            return Err(InvalidGroupName);
        }
        Ok(Self(name.into()))
    }
}

/// A group as its keys see it: another name or another list of revoked edges makes every key another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TicketGroup {
    name: GroupName,
    revocations: [u8; 32],
}

impl TicketGroup {
    /// The group `name`, of which the edges `revoked` are members no longer. Their order does not matter.
    pub fn new<'i>(name: GroupName, revoked: impl IntoIterator<Item = &'i PeerIdentity>) -> Self {
        let mut revoked: Vec<_> = revoked.into_iter().map(PeerIdentity::as_str).collect();
        revoked.sort_unstable();
        let mut digest = Sha256::new();
        for identity in revoked {
            digest.update((identity.len() as u64).to_be_bytes());
            digest.update(identity);
        }
        Self { name, revocations: digest.finalize().into() }
    }

    /// Its name.
    pub fn name(&self) -> &GroupName {
        &self.name
    }

    /// A digest of the edges that were members.
    pub(super) fn revocations(&self) -> &[u8; 32] {
        &self.revocations
    }
}
