//! CertificateStatus: a stapled OCSP response (RFC 6066 §8).

use super::write_message;
use crate::code_point::HandshakeType;
use crate::codec::{Reader, read_all, write_vector};
use crate::error::InvalidMessage;

const OCSP: u8 = 1;

/// Appends the message for a DER OCSPResponse.
pub fn write(ocsp_response: &[u8], out: &mut Vec<u8>) {
    write_message(out, HandshakeType::CERTIFICATE_STATUS, |out| {
        out.push(OCSP);
        write_vector::<3>(out, |out| out.extend_from_slice(ocsp_response));
    });
}

/// Reads the body: the DER OCSPResponse.
///
/// # Errors
/// [`InvalidMessage`] for wrong lengths and other kinds of status.
pub fn read(body: &[u8]) -> Result<&[u8], InvalidMessage> {
    read_all(body, |reader| {
        if reader.u8()? != OCSP {
            return Err(InvalidMessage::WrongLength);
        }
        Reader::vector24(reader)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::body_of;

    #[test]
    fn reads_what_it_writes() {
        let mut message = Vec::new();
        write(&[5; 1000], &mut message);
        assert_eq!(read(body_of(&message, HandshakeType::CERTIFICATE_STATUS)), Ok(&[5; 1000][..]));
    }
}
