//! The generated types of `keystead/v1/key_server.proto`.
//!
//! They go no further than the crate that receives them: each side turns them into its own domain types at the door.

pub mod pad;

use std::fmt;

/// Most bytes of a request. A longer one ends the stream it comes on. Every handshake that an edge lets come so far fits:
/// the longest are by RSA key transport, with a ClientHello, the edge's chain, names of authorities and the client's chain
/// all as long as the engine lets them be, 385 KiB together.
pub const MAX_REQUEST: usize = 512 * 1024;

/// Version 1 of the protocol.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("keystead.v1");
}

impl fmt::Debug for v1::TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKey").field("generation", &self.generation).finish_non_exhaustive()
    }
}

impl fmt::Debug for v1::RecoverMasterSecretReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecoverMasterSecretReply([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_printed() {
        let reply = v1::RecoverMasterSecretReply { master_secret: vec![77; 48] };
        let keys = v1::TicketKeys { keys: vec![v1::TicketKey { key: vec![77; 32], ..v1::TicketKey::default() }] };
        let text = format!("{reply:?} {keys:?}");
        assert!(!text.contains("77"), "{text}");
    }
}
