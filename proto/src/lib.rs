//! The generated types of `keystead/v1/key_server.proto`.
//!
//! They go no further than the crate that receives them: each side turns them into its own domain types at the door.

pub mod pad;

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
