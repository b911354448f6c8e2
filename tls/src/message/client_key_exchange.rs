//! ClientKeyExchange for ECDHE (RFC 8422 §5.7) and RSA key transport (RFC 5246 §7.4.7.1).

use super::write_message;
use crate::code_point::HandshakeType;
use crate::codec::{Reader, read_all, write_vector};
use crate::error::InvalidMessage;

/// Most bytes of a body: by RSA of 8192 bits.
pub const MAX_LENGTH: usize = 2 + 1024;

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

/// Appends the message for an encrypted pre-master secret.
pub fn write_rsa(encrypted_pre_master_secret: &[u8], out: &mut Vec<u8>) {
    write_message(out, HandshakeType::CLIENT_KEY_EXCHANGE, |out| {
        write_vector::<2>(out, |out| out.extend_from_slice(encrypted_pre_master_secret));
    });
}

/// Reads the body: the encrypted pre-master secret, of any length; whether it is the modulus's is not said here.
///
/// # Errors
/// [`InvalidMessage`] when the length in front of it is not the one of the rest.
pub fn read_rsa(body: &[u8]) -> Result<&[u8], InvalidMessage> {
    read_all(body, Reader::vector16)
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
        let mut message = Vec::new();
        write_rsa(&[8; 256], &mut message);
        assert_eq!(read_rsa(body_of(&message, HandshakeType::CLIENT_KEY_EXCHANGE)), Ok(&[8; 256][..]));
    }

    #[test]
    fn wrong_lengths_are_refused() {
        assert_eq!(read_ecdh(&[]), Err(InvalidMessage::Truncated));
        assert_eq!(read_ecdh(&[0]), Err(InvalidMessage::WrongLength));
        assert_eq!(read_ecdh(&[2, 1]), Err(InvalidMessage::Truncated));
        assert_eq!(read_ecdh(&[1, 1, 1]), Err(InvalidMessage::TrailingBytes));
    }
}
