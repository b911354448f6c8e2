//! ServerKeyExchange for ECDHE (RFC 8422 §5.4), and the bytes its signature covers.

use super::write_message;
use crate::code_point::{HandshakeType, NamedGroup, SignatureScheme};
use crate::codec::{Reader, read_all, write_u16, write_vector};
use crate::error::InvalidMessage;

/// ECCurveType named_curve: the only one in use.
const NAMED_CURVE: u8 = 3;

/// ServerECDHParams: the server's ephemeral public value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerEcdhParams<'a> {
    /// The group.
    pub group: NamedGroup,
    /// An uncompressed point, or 32 bytes for x25519. At most 255 bytes.
    pub public: &'a [u8],
}

impl<'a> ServerEcdhParams<'a> {
    /// Appends the structure.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(NAMED_CURVE);
        write_u16(out, self.group.0);
        write_vector::<1>(out, |out| out.extend_from_slice(self.public));
    }

    fn decode(reader: &mut Reader<'a>) -> Result<Self, InvalidMessage> {
        if reader.u8()? != NAMED_CURVE {
            return Err(InvalidMessage::WrongLength);
        }
        Ok(Self { group: NamedGroup(reader.u16()?), public: reader.vector8()? })
    }
}

/// What the signature covers: `client_random ‖ server_random ‖ ServerECDHParams`.
pub fn signed_content(client_random: &[u8; 32], server_random: &[u8; 32], params: &ServerEcdhParams<'_>) -> Vec<u8> {
    let mut content = Vec::with_capacity(64 + 4 + params.public.len());
    content.extend_from_slice(client_random);
    content.extend_from_slice(server_random);
    params.encode(&mut content);
    content
}

/// Appends the message.
pub fn write(params: &ServerEcdhParams<'_>, scheme: SignatureScheme, signature: &[u8], out: &mut Vec<u8>) {
    write_message(out, HandshakeType::SERVER_KEY_EXCHANGE, |out| {
        params.encode(out);
        write_u16(out, scheme.0);
        write_vector::<2>(out, |out| out.extend_from_slice(signature));
    });
}

/// Reads the body: the parameters, the scheme and the signature.
///
/// # Errors
/// [`InvalidMessage`] for wrong lengths and other kinds of curve.
pub fn read(body: &[u8]) -> Result<(ServerEcdhParams<'_>, SignatureScheme, &[u8]), InvalidMessage> {
    read_all(body, |reader| Ok((ServerEcdhParams::decode(reader)?, SignatureScheme(reader.u16()?), reader.vector16()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::body_of;

    #[test]
    fn reads_what_it_writes() {
        let params = ServerEcdhParams { group: NamedGroup::X25519, public: &[4; 32] };
        let mut message = Vec::new();
        write(&params, SignatureScheme::ED25519, &[6; 64], &mut message);
        let body = body_of(&message, HandshakeType::SERVER_KEY_EXCHANGE);
        assert_eq!(read(body), Ok((params, SignatureScheme::ED25519, &[6; 64][..])));
    }

    #[test]
    fn the_signature_covers_both_randoms_and_the_parameters() {
        let content =
            signed_content(&[1; 32], &[2; 32], &ServerEcdhParams { group: NamedGroup::X25519, public: &[3; 32] });
        assert_eq!(content, [&[1; 32][..], &[2; 32], &[3, 0, 29, 32], &[3; 32]].concat());
    }
}
