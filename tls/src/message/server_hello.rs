//! ServerHello (RFC 5246 §7.4.1.3).

use super::write_message;
use crate::code_point::{CipherSuite, ExtensionType, HandshakeType, ProtocolVersion};
use crate::codec::{Reader, read_all, write_u16, write_vector};
use crate::error::InvalidMessage;

/// What the server chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerHello {
    /// 32 bytes of the key server's choosing.
    pub random: [u8; 32],
    /// The session's name: 0 to 32 bytes.
    pub session_id: Vec<u8>,
    /// The suite.
    pub cipher_suite: CipherSuite,
    /// The extensions.
    pub extensions: ServerExtensions,
}

/// The extensions of a ServerHello. Each answers one that the client sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerExtensions {
    /// An empty renegotiation_info (RFC 5746 §3.6).
    pub renegotiation_info: bool,
    /// The server name was used (RFC 6066 §3).
    pub server_name: bool,
    /// Uncompressed points (RFC 8422 §5.2).
    pub ec_point_formats: bool,
    /// A CertificateStatus follows (RFC 6066 §8).
    pub status_request: bool,
    /// The application protocol (RFC 7301 §3.1).
    pub alpn: Option<Vec<u8>>,
    /// RFC 7627.
    pub extended_master_secret: bool,
    /// Most bytes of a record's plaintext that this side takes (RFC 8449 §4).
    pub record_size_limit: Option<u16>,
    /// A NewSessionTicket follows (RFC 5077 §3.2).
    pub session_ticket: bool,
}

impl ServerHello {
    /// Reads the body.
    ///
    /// # Errors
    /// [`InvalidMessage`] for wrong lengths and another version than TLS 1.2. Extensions this engine never sends are
    /// passed over.
    pub fn read(body: &[u8]) -> Result<Self, InvalidMessage> {
        let mut reader = Reader::new(body);
        if ProtocolVersion(reader.u16()?) != ProtocolVersion::TLS_1_2 {
            return Err(InvalidMessage::WrongRecordVersion);
        }
        let random = reader.array()?;
        let session_id = reader.vector8()?.to_vec();
        let cipher_suite = CipherSuite(reader.u16()?);
        if session_id.len() > 32 || reader.u8()? != 0 {
            return Err(InvalidMessage::WrongLength);
        }
        let block = if reader.is_empty() { &[] } else { reader.vector16()? };
        reader.finish()?;
        Ok(Self { random, session_id, cipher_suite, extensions: ServerExtensions::read(block)? })
    }

    /// Appends the message.
    pub fn write(&self, out: &mut Vec<u8>) {
        write_message(out, HandshakeType::SERVER_HELLO, |out| {
            write_u16(out, ProtocolVersion::TLS_1_2.0);
            out.extend_from_slice(&self.random);
            write_vector::<1>(out, |out| out.extend_from_slice(&self.session_id));
            write_u16(out, self.cipher_suite.0);
            out.push(0);
            // An empty block is left out: clients without extensions must not be sent one (RFC 5246 §7.4.1.3).
            if self.extensions != ServerExtensions::default() {
                write_vector::<2>(out, |out| self.extensions.write(out));
            }
        });
    }
}

impl ServerExtensions {
    fn read(block: &[u8]) -> Result<Self, InvalidMessage> {
        let mut extensions = Self::default();
        let mut reader = Reader::new(block);
        while !reader.is_empty() {
            let kind = ExtensionType(reader.u16()?);
            let data = reader.vector16()?;
            match kind {
                ExtensionType::RENEGOTIATION_INFO => extensions.renegotiation_info = data == [0],
                ExtensionType::SERVER_NAME => extensions.server_name = data.is_empty(),
                ExtensionType::EC_POINT_FORMATS => extensions.ec_point_formats = data == [1, 0],
                ExtensionType::STATUS_REQUEST => extensions.status_request = data.is_empty(),
                ExtensionType::APPLICATION_LAYER_PROTOCOL_NEGOTIATION => {
                    extensions.alpn = Some(read_all(read_all(data, Reader::vector16)?, Reader::vector8)?.to_vec());
                }
                ExtensionType::EXTENDED_MASTER_SECRET => extensions.extended_master_secret = data.is_empty(),
                ExtensionType::RECORD_SIZE_LIMIT => extensions.record_size_limit = Some(read_all(data, Reader::u16)?),
                ExtensionType::SESSION_TICKET => extensions.session_ticket = data.is_empty(),
                _ => {}
            }
        }
        Ok(extensions)
    }

    fn write(&self, out: &mut Vec<u8>) {
        let mut extension = |kind: ExtensionType, data: &[u8]| {
            write_u16(out, kind.0);
            write_vector::<2>(out, |out| out.extend_from_slice(data));
        };
        if self.renegotiation_info {
            extension(ExtensionType::RENEGOTIATION_INFO, &[0]);
        }
        if self.server_name {
            extension(ExtensionType::SERVER_NAME, &[]);
        }
        if self.ec_point_formats {
            extension(ExtensionType::EC_POINT_FORMATS, &[1, 0]);
        }
        if self.status_request {
            extension(ExtensionType::STATUS_REQUEST, &[]);
        }
        if let Some(protocol) = &self.alpn {
            let mut list = Vec::with_capacity(protocol.len() + 3);
            write_vector::<2>(&mut list, |out| write_vector::<1>(out, |out| out.extend_from_slice(protocol)));
            extension(ExtensionType::APPLICATION_LAYER_PROTOCOL_NEGOTIATION, &list);
        }
        if self.extended_master_secret {
            extension(ExtensionType::EXTENDED_MASTER_SECRET, &[]);
        }
        if let Some(limit) = self.record_size_limit {
            extension(ExtensionType::RECORD_SIZE_LIMIT, &limit.to_be_bytes());
        }
        if self.session_ticket {
            extension(ExtensionType::SESSION_TICKET, &[]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::body_of;

    #[test]
    fn reads_what_it_writes() {
        let full = ServerExtensions {
            renegotiation_info: true,
            server_name: true,
            ec_point_formats: true,
            status_request: true,
            alpn: Some(b"http/1.1".to_vec()),
            extended_master_secret: true,
            record_size_limit: Some(16384),
            session_ticket: true,
        };
        for extensions in [full, ServerExtensions::default()] {
            let hello = ServerHello {
                random: [9; 32],
                session_id: vec![3; 32],
                cipher_suite: CipherSuite::ECDHE_RSA_WITH_AES_128_GCM_SHA256,
                extensions,
            };
            let mut message = Vec::new();
            hello.write(&mut message);
            assert_eq!(ServerHello::read(body_of(&message, HandshakeType::SERVER_HELLO)), Ok(hello));
        }
    }
}
