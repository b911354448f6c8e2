//! Finished (RFC 5246 §7.4.9).

use super::write_message;
use crate::code_point::HandshakeType;
use crate::error::InvalidMessage;

/// Bytes of verify_data in every suite here.
pub const VERIFY_DATA_LENGTH: usize = 12;

/// Appends the message.
pub fn write(verify_data: &[u8; VERIFY_DATA_LENGTH], out: &mut Vec<u8>) {
    write_message(out, HandshakeType::FINISHED, |out| out.extend_from_slice(verify_data));
}

/// Reads the body: verify_data.
///
/// # Errors
/// [`InvalidMessage`] for another length than 12 bytes.
pub fn read(body: &[u8]) -> Result<&[u8; VERIFY_DATA_LENGTH], InvalidMessage> {
    body.try_into().map_err(|_| InvalidMessage::WrongLength)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::body_of;

    #[test]
    fn reads_what_it_writes() {
        let mut message = Vec::new();
        write(&[5; 12], &mut message);
        assert_eq!(read(body_of(&message, HandshakeType::FINISHED)), Ok(&[5; 12]));
    }

    #[test]
    fn other_lengths_are_refused() {
        assert_eq!(read(&[0; 11]), Err(InvalidMessage::WrongLength));
        assert_eq!(read(&[0; 13]), Err(InvalidMessage::WrongLength));
    }
}
