//! ServerHelloDone (RFC 5246 §7.4.5).

use super::write_message;
use crate::code_point::HandshakeType;

/// Appends the message, which has no body.
pub fn write(out: &mut Vec<u8>) {
    write_message(out, HandshakeType::SERVER_HELLO_DONE, |_| {});
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::body_of;

    #[test]
    fn has_no_body() {
        let mut message = Vec::new();
        write(&mut message);
        assert!(body_of(&message, HandshakeType::SERVER_HELLO_DONE).is_empty());
    }
}
