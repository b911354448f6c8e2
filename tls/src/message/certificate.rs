//! Certificate (RFC 5246 §7.4.2).

use super::write_message;
use crate::code_point::HandshakeType;
use crate::codec::{Reader, read_all, write_vector};
use crate::error::InvalidMessage;

/// Most bytes of a body that a client's chain may have.
pub const MAX_LENGTH: usize = (1 << 16) - 1;

/// Appends the message for a chain of DER certificates, the sender's own first.
pub fn write(chain: &[Vec<u8>], out: &mut Vec<u8>) {
    write_message(out, HandshakeType::CERTIFICATE, |out| {
        write_vector::<3>(out, |out| {
            for certificate in chain {
                write_vector::<3>(out, |out| out.extend_from_slice(certificate));
            }
        });
    });
}

/// Reads the body: the DER certificates, the sender's own first; none when it has none to send.
///
/// # Errors
/// [`InvalidMessage`] for wrong lengths and empty certificates.
pub fn read(body: &[u8]) -> Result<Vec<&[u8]>, InvalidMessage> {
    let mut list = Reader::new(read_all(body, Reader::vector24)?);
    let mut chain = Vec::new();
    while !list.is_empty() {
        let certificate = list.vector24()?;
        if certificate.is_empty() {
            return Err(InvalidMessage::WrongLength);
        }
        chain.push(certificate);
    }
    Ok(chain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::body_of;

    #[test]
    fn reads_what_it_writes() {
        let mut message = Vec::new();
        write(&[vec![1; 300], vec![2; 70_000]], &mut message);
        let body = body_of(&message, HandshakeType::CERTIFICATE);
        assert_eq!(read(body), Ok(vec![&[1; 300][..], &[2; 70_000]]));
    }

    #[test]
    fn wrong_lengths_are_refused() {
        assert_eq!(read(&[0, 0]), Err(InvalidMessage::Truncated));
        assert_eq!(read(&[0, 0, 3, 0, 0, 0]), Err(InvalidMessage::WrongLength));
        assert_eq!(read(&[0, 0, 0, 1]), Err(InvalidMessage::TrailingBytes));
    }
}
