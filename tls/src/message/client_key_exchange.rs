//! ClientKeyExchange for ECDHE (RFC 8422 §5.7).

use super::write_message;
use crate::code_point::HandshakeType;
use crate::codec::{Reader, read_all, write_vector};
use crate::error::InvalidMessage;

/// Appends the message for the client's ephemeral public value, of at most 255 bytes.
pub fn write_ecdh(public: &[u8], out: &mut Vec<u8>) {
    write_message(out, HandshakeType::CLIENT_KEY_EXCHANGE, |out| {
        write_vector::<1>(out, |out| out.extend_from_slice(public));
    });
}

/// Reads the body: the client's ephemeral public value, whose form its group decides.
///
/// # Errors
/// [`InvalidMessage`] for wrong lengths; an empty value is an implicit one (RFC 8422 §5.7), which no key exchange here
/// has.
pub fn read_ecdh(body: &[u8]) -> Result<&[u8], InvalidMessage> {
    let public = read_all(body, Reader::vector8)?;
    if public.is_empty() { Err(InvalidMessage::WrongLength) } else { Ok(public) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::body_of;

    #[test]
    fn reads_what_it_writes() {
        let mut message = Vec::new();
        write_ecdh(&[8; 65], &mut message);
        assert_eq!(read_ecdh(body_of(&message, HandshakeType::CLIENT_KEY_EXCHANGE)), Ok(&[8; 65][..]));
    }

    #[test]
    fn wrong_lengths_are_refused() {
        assert_eq!(read_ecdh(&[]), Err(InvalidMessage::Truncated));
        assert_eq!(read_ecdh(&[0]), Err(InvalidMessage::WrongLength));
        assert_eq!(read_ecdh(&[2, 1]), Err(InvalidMessage::Truncated));
        assert_eq!(read_ecdh(&[1, 1, 1]), Err(InvalidMessage::TrailingBytes));
    }
}
