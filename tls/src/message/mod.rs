//! The handshake messages of TLS 1.2, one a file, read and written (RFC 5246 §7.4).
//!
//! `read` takes a message's body, without the four bytes of its header; `write` appends the whole message.

pub mod certificate;
pub mod certificate_request;
pub mod certificate_status;
pub mod certificate_verify;
pub mod client_hello;
pub mod client_key_exchange;
pub mod finished;
pub mod new_session_ticket;
pub mod server_hello;
pub mod server_hello_done;
pub mod server_key_exchange;

use crate::code_point::HandshakeType;
use crate::codec::write_vector;

/// Bytes of a handshake message's header: its type and the length of its body.
pub const HEADER_LENGTH: usize = 4;

/// Appends a handshake message whose body `body` writes.
pub(crate) fn write_message(out: &mut Vec<u8>, kind: HandshakeType, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(kind.0);
    write_vector::<3>(out, body);
}

/// The body of the one message that `message` is, for round-trip tests.
#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test fails by panicking")]
pub(crate) fn body_of(message: &[u8], kind: HandshakeType) -> &[u8] {
    let (header, body) = message.split_at(HEADER_LENGTH);
    assert_eq!(header[0], kind.0);
    assert_eq!(header[1..], (body.len() as u32).to_be_bytes()[1..]);
    body
}
