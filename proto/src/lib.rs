//! The generated types of `keystead/v1/key_server.proto`.
//!
//! They go no further than the crate that receives them: each side turns them into its own domain types at the door.

pub mod pad;

/// Most bytes of a request. A longer one ends the stream it comes on, so an edge refuses a handshake whose messages do not
/// fit: by RSA key transport, with the longest chain that a client may send, they do.
pub const MAX_REQUEST: usize = 192 * 1024;

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
