//! CertificateRequest (RFC 5246 §7.4.4).

use super::write_message;
use crate::code_point::{HandshakeType, SignatureScheme};
use crate::codec::{Reader, read_all, u16_list, write_u16, write_vector};
use crate::error::InvalidMessage;

/// ClientCertificateType rsa_sign (RFC 5246 §7.4.4).
const RSA_SIGN: u8 = 1;

/// ClientCertificateType ecdsa_sign, which stands for EdDSA too (RFC 8422 §5.5).
const ECDSA_SIGN: u8 = 64;

/// Appends the message. `authorities` are DER distinguished names; an empty list leaves the choice to the client.
pub fn write(schemes: &[SignatureScheme], authorities: &[Vec<u8>], out: &mut Vec<u8>) {
    write_message(out, HandshakeType::CERTIFICATE_REQUEST, |out| {
        write_vector::<1>(out, |out| out.extend_from_slice(&[RSA_SIGN, ECDSA_SIGN]));
        write_vector::<2>(out, |out| schemes.iter().for_each(|scheme| write_u16(out, scheme.0)));
        write_vector::<2>(out, |out| {
            for authority in authorities {
                write_vector::<2>(out, |out| out.extend_from_slice(authority));
            }
        });
    });
}

/// Reads the body: the schemes, and the DER distinguished names.
///
/// # Errors
/// [`InvalidMessage`] for wrong lengths and empty lists.
pub fn read(body: &[u8]) -> Result<(Vec<SignatureScheme>, Vec<&[u8]>), InvalidMessage> {
    read_all(body, |reader| {
        if reader.vector8()?.is_empty() {
            return Err(InvalidMessage::EmptyList);
        }
        let schemes = u16_list(reader.vector16()?, SignatureScheme)?;
        let mut list = Reader::new(reader.vector16()?);
        let mut authorities = Vec::new();
        while !list.is_empty() {
            authorities.push(list.vector16()?);
        }
        Ok((schemes, authorities))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::body_of;

    #[test]
    fn reads_what_it_writes() {
        let schemes = vec![SignatureScheme::ED25519, SignatureScheme::RSA_PKCS1_SHA256];
        for authorities in [vec![], vec![vec![0x30, 0], vec![1; 300]]] {
            let mut message = Vec::new();
            write(&schemes, &authorities, &mut message);
            let expected = authorities.iter().map(Vec::as_slice).collect();
            let body = body_of(&message, HandshakeType::CERTIFICATE_REQUEST);
            assert_eq!(read(body), Ok((schemes.clone(), expected)));
        }
    }
}
