//! CertificateVerify (RFC 5246 §7.4.8).

use super::write_message;
use crate::code_point::{HandshakeType, SignatureScheme};
use crate::codec::{Reader, read_all, write_u16, write_vector};
use crate::error::InvalidMessage;

/// Most bytes of a body: a signature by RSA of 8192 bits.
pub const MAX_LENGTH: usize = 2 + 2 + 1024;

/// Appends the message.
pub fn write(scheme: SignatureScheme, signature: &[u8], out: &mut Vec<u8>) {
    write_message(out, HandshakeType::CERTIFICATE_VERIFY, |out| {
        write_u16(out, scheme.0);
        write_vector::<2>(out, |out| out.extend_from_slice(signature));
    });
}

/// Reads the body: the scheme and the signature.
///
/// # Errors
/// [`InvalidMessage`] for wrong lengths.
pub fn read(body: &[u8]) -> Result<(SignatureScheme, &[u8]), InvalidMessage> {
    read_all(body, |reader| Ok((SignatureScheme(reader.u16()?), Reader::vector16(reader)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::body_of;

    #[test]
    fn reads_what_it_writes() {
        let mut message = Vec::new();
        write(SignatureScheme::ED25519, &[3; 64], &mut message);
        let body = body_of(&message, HandshakeType::CERTIFICATE_VERIFY);
        assert_eq!(read(body), Ok((SignatureScheme::ED25519, &[3; 64][..])));
    }
}
