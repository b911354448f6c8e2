//! ClientHello (RFC 5246 §7.4.1.2) with the extensions this engine knows.

use std::net::IpAddr;

use super::write_message;
use crate::code_point::{CipherSuite, ExtensionType, HandshakeType, NamedGroup, ProtocolVersion, SignatureScheme};
use crate::codec::{Reader, read_all, u16_list, write_u16, write_vector};
use crate::error::{Error, InvalidMessage, PeerMisbehaved};

/// Bytes that a body may have: the longest legal one (RFC 5246 §7.4.1.2) is 2 + 32 + 33 + 65,536 + 256 + 65,537.
pub const MAX_LENGTH: usize = 2 + 32 + 33 + 65_536 + 256 + 65_537;

/// What a client offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// The newest version the client speaks, as far as TLS 1.2 knows.
    pub version: ProtocolVersion,
    /// 32 bytes of the client's choosing.
    pub random: [u8; 32],
    /// The session to resume: 0 to 32 bytes.
    pub session_id: Vec<u8>,
    /// The suites, in the client's order.
    pub cipher_suites: Vec<CipherSuite>,
    /// The extensions.
    pub extensions: ClientExtensions,
}

/// The extensions of a ClientHello that this engine knows; others are passed over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientExtensions {
    /// The DNS name in lower case without a trailing dot (RFC 6066 §3). IP addresses, which may not stand there, count
    /// as absent.
    pub server_name: Option<String>,
    /// The client would take an OCSP response (RFC 6066 §8).
    pub status_request: bool,
    /// Groups, in the client's order (RFC 8422 §5.1.1).
    pub supported_groups: Option<Vec<NamedGroup>>,
    /// The client listed point formats, uncompressed among them (RFC 8422 §5.1.2).
    pub ec_point_formats: bool,
    /// Signature schemes, in the client's order (RFC 5246 §7.4.1.4.1).
    pub signature_algorithms: Option<Vec<SignatureScheme>>,
    /// Application protocols, in the client's order (RFC 7301 §3.1).
    pub alpn: Option<ProtocolNames>,
    /// RFC 7627.
    pub extended_master_secret: bool,
    /// Most bytes of a record's plaintext that the client takes (RFC 8449 §4).
    pub record_size_limit: Option<u16>,
    /// Versions, in the client's order (RFC 8446 §4.2.1).
    pub supported_versions: Option<Vec<ProtocolVersion>>,
    /// A ticket; an empty one where the client has none and takes one (RFC 5077 §3.2).
    pub session_ticket: Option<Vec<u8>>,
    /// An empty renegotiation_info (RFC 5746 §3.2).
    pub renegotiation_info: bool,
}

/// Names of application protocols, of 1 to 255 bytes each (RFC 7301 §3.1). Kept as they stood on the wire, since a client
/// may send tens of thousands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProtocolNames(Vec<u8>);

impl ProtocolNames {
    /// The names, in the client's order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut list = Reader::new(&self.0);
        // The list was checked, or written here.
        std::iter::from_fn(move || list.vector8().ok())
    }

    fn read(data: &[u8]) -> Result<Self, InvalidMessage> {
        let names = read_all(data, Reader::vector16)?;
        if names.is_empty() {
            return Err(InvalidMessage::EmptyList);
        }
        let mut list = Reader::new(names);
        while !list.is_empty() {
            if list.vector8()?.is_empty() {
                return Err(InvalidMessage::WrongLength);
            }
        }
        Ok(Self(names.to_vec()))
    }
}

impl<N: AsRef<[u8]>> FromIterator<N> for ProtocolNames {
    fn from_iter<I: IntoIterator<Item = N>>(names: I) -> Self {
        let mut list = Vec::new();
        for name in names {
            write_vector::<1>(&mut list, |out| out.extend_from_slice(name.as_ref()));
        }
        Self(list)
    }
}

impl ClientHello {
    /// Reads the body.
    ///
    /// # Errors
    /// [`Error::InvalidMessage`] for what RFC 5246 and the extensions' RFCs do not allow to look so,
    /// [`Error::PeerMisbehaved`] for values that parse and may not stand.
    pub fn read(body: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(body);
        let version = ProtocolVersion(reader.u16()?);
        let random = reader.array()?;
        let session_id = reader.vector8()?;
        if session_id.len() > 32 {
            return Err(InvalidMessage::WrongLength.into());
        }
        let cipher_suites = u16_list(reader.vector16()?, CipherSuite)?;
        let compression_methods = reader.vector8()?;
        if compression_methods.is_empty() {
            return Err(InvalidMessage::EmptyList.into());
        }
        // The extensions block may be absent altogether (RFC 5246 §7.4.1.2).
        let extensions = if reader.is_empty() { &[] } else { reader.vector16()? };
        reader.finish()?;
        if !compression_methods.contains(&0) {
            return Err(PeerMisbehaved::NoNullCompression.into());
        }
        Ok(Self {
            version,
            random,
            session_id: session_id.to_vec(),
            cipher_suites,
            extensions: ClientExtensions::read(extensions)?,
        })
    }

    /// Appends the message.
    pub fn write(&self, out: &mut Vec<u8>) {
        write_message(out, HandshakeType::CLIENT_HELLO, |out| {
            write_u16(out, self.version.0);
            out.extend_from_slice(&self.random);
            write_vector::<1>(out, |out| out.extend_from_slice(&self.session_id));
            write_vector::<2>(out, |out| self.cipher_suites.iter().for_each(|suite| write_u16(out, suite.0)));
            out.extend_from_slice(&[1, 0]);
            write_vector::<2>(out, |out| self.extensions.write(out));
        });
    }

    /// Whether the client offers this suite or signalling value.
    pub fn offers(&self, suite: CipherSuite) -> bool {
        self.cipher_suites.contains(&suite)
    }
}

impl ClientExtensions {
    fn read(block: &[u8]) -> Result<Self, Error> {
        let mut extensions = Self::default();
        let mut seen = Vec::new();
        let mut reader = Reader::new(block);
        while !reader.is_empty() {
            let kind = ExtensionType(reader.u16()?);
            let data = reader.vector16()?;
            seen.push(kind);
            extensions.read_one(kind, data)?;
        }
        seen.sort_unstable();
        if seen.windows(2).any(|pair| matches!(pair, [a, b] if a == b)) {
            return Err(InvalidMessage::DuplicateExtension.into());
        }
        Ok(extensions)
    }

    fn read_one(&mut self, kind: ExtensionType, data: &[u8]) -> Result<(), Error> {
        match kind {
            ExtensionType::SERVER_NAME => self.server_name = read_server_name(data)?,
            ExtensionType::STATUS_REQUEST => self.status_request = read_status_request(data)?,
            ExtensionType::SUPPORTED_GROUPS => {
                self.supported_groups = Some(u16_list(read_all(data, Reader::vector16)?, NamedGroup)?);
            }
            ExtensionType::EC_POINT_FORMATS => self.ec_point_formats = read_point_formats(data)?,
            ExtensionType::SIGNATURE_ALGORITHMS => {
                self.signature_algorithms = Some(u16_list(read_all(data, Reader::vector16)?, SignatureScheme)?);
            }
            ExtensionType::APPLICATION_LAYER_PROTOCOL_NEGOTIATION => self.alpn = Some(ProtocolNames::read(data)?),
            ExtensionType::EXTENDED_MASTER_SECRET => {
                Reader::new(data).finish()?;
                self.extended_master_secret = true;
            }
            ExtensionType::RECORD_SIZE_LIMIT => self.record_size_limit = Some(read_record_size_limit(data)?),
            ExtensionType::SUPPORTED_VERSIONS => {
                self.supported_versions = Some(u16_list(read_all(data, Reader::vector8)?, ProtocolVersion)?);
            }
            ExtensionType::SESSION_TICKET => self.session_ticket = Some(data.to_vec()),
            ExtensionType::RENEGOTIATION_INFO => {
                if !read_all(data, Reader::vector8)?.is_empty() {
                    return Err(PeerMisbehaved::NonEmptyRenegotiationInfo.into());
                }
                self.renegotiation_info = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn write(&self, out: &mut Vec<u8>) {
        let mut extension = |kind: ExtensionType, data: &dyn Fn(&mut Vec<u8>)| {
            write_u16(out, kind.0);
            write_vector::<2>(out, data);
        };
        if let Some(name) = &self.server_name {
            extension(ExtensionType::SERVER_NAME, &|out| {
                write_vector::<2>(out, |out| {
                    out.push(0);
                    write_vector::<2>(out, |out| out.extend_from_slice(name.as_bytes()));
                });
            });
        }
        if self.status_request {
            extension(ExtensionType::STATUS_REQUEST, &|out| out.extend_from_slice(&[1, 0, 0, 0, 0]));
        }
        if let Some(groups) = &self.supported_groups {
            extension(ExtensionType::SUPPORTED_GROUPS, &|out| {
                write_vector::<2>(out, |out| groups.iter().for_each(|group| write_u16(out, group.0)));
            });
        }
        if self.ec_point_formats {
            extension(ExtensionType::EC_POINT_FORMATS, &|out| out.extend_from_slice(&[1, 0]));
        }
        if let Some(schemes) = &self.signature_algorithms {
            extension(ExtensionType::SIGNATURE_ALGORITHMS, &|out| {
                write_vector::<2>(out, |out| schemes.iter().for_each(|scheme| write_u16(out, scheme.0)));
            });
        }
        if let Some(protocols) = &self.alpn {
            extension(ExtensionType::APPLICATION_LAYER_PROTOCOL_NEGOTIATION, &|out| {
                write_vector::<2>(out, |out| out.extend_from_slice(&protocols.0));
            });
        }
        if self.extended_master_secret {
            extension(ExtensionType::EXTENDED_MASTER_SECRET, &|_| {});
        }
        if let Some(limit) = self.record_size_limit {
            extension(ExtensionType::RECORD_SIZE_LIMIT, &|out| write_u16(out, limit));
        }
        if let Some(versions) = &self.supported_versions {
            extension(ExtensionType::SUPPORTED_VERSIONS, &|out| {
                write_vector::<1>(out, |out| versions.iter().for_each(|version| write_u16(out, version.0)));
            });
        }
        if let Some(ticket) = &self.session_ticket {
            extension(ExtensionType::SESSION_TICKET, &|out| out.extend_from_slice(ticket));
        }
        if self.renegotiation_info {
            extension(ExtensionType::RENEGOTIATION_INFO, &|out| out.push(0));
        }
    }
}

/// RFC 6066 §3: a list of names of which at most one is a host_name.
fn read_server_name(data: &[u8]) -> Result<Option<String>, Error> {
    let mut names = Reader::new(read_all(data, Reader::vector16)?);
    if names.is_empty() {
        return Err(InvalidMessage::EmptyList.into());
    }
    let mut host_name = None;
    while !names.is_empty() {
        let kind = names.u8()?;
        let name = names.vector16()?;
        if kind == 0 && host_name.replace(name).is_some() {
            return Err(PeerMisbehaved::DuplicateServerName.into());
        }
    }
    let Some(name) = host_name else { return Ok(None) };
    let name = std::str::from_utf8(name).map_err(|_| InvalidMessage::InvalidServerName)?;
    if name.parse::<IpAddr>().is_ok() {
        return Ok(None);
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    if !is_dns_name(name) {
        return Err(InvalidMessage::InvalidServerName.into());
    }
    Ok(Some(name.to_ascii_lowercase()))
}

/// Whether `name` is letters, digits, hyphens and underscores in labels of 1 to 63 bytes, 253 in all (RFC 1035 §2.3.4).
pub fn is_dns_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

/// RFC 6066 §8. A status_type other than ocsp is passed over, as its content is not known.
fn read_status_request(data: &[u8]) -> Result<bool, InvalidMessage> {
    const OCSP: u8 = 1;
    let mut reader = Reader::new(data);
    if reader.u8()? != OCSP {
        return Ok(false);
    }
    let mut responders = Reader::new(reader.vector16()?);
    while !responders.is_empty() {
        if responders.vector16()?.is_empty() {
            return Err(InvalidMessage::WrongLength);
        }
    }
    reader.vector16()?;
    reader.finish()?;
    Ok(true)
}

/// RFC 8422 §5.1.2.
fn read_point_formats(data: &[u8]) -> Result<bool, Error> {
    const UNCOMPRESSED: u8 = 0;
    let formats = read_all(data, Reader::vector8)?;
    if formats.is_empty() {
        return Err(InvalidMessage::EmptyList.into());
    }
    if !formats.contains(&UNCOMPRESSED) {
        return Err(PeerMisbehaved::NoUncompressedPoints.into());
    }
    Ok(true)
}

/// RFC 8449 §4.
fn read_record_size_limit(data: &[u8]) -> Result<u16, Error> {
    let limit = read_all(data, Reader::u16)?;
    if limit < 64 {
        return Err(PeerMisbehaved::RecordSizeLimitTooSmall.into());
    }
    Ok(limit)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::message::body_of;

    fn full() -> ClientHello {
        ClientHello {
            version: ProtocolVersion::TLS_1_2,
            random: [7; 32],
            session_id: vec![1; 32],
            cipher_suites: vec![CipherSuite::ECDHE_RSA_WITH_AES_128_GCM_SHA256, CipherSuite(0x0a0a)],
            extensions: ClientExtensions {
                server_name: Some("www.example.com".into()),
                status_request: true,
                supported_groups: Some(vec![NamedGroup::X25519, NamedGroup(0x2a2a)]),
                ec_point_formats: true,
                signature_algorithms: Some(vec![SignatureScheme::ED25519]),
                alpn: Some(["h2", "http/1.1"].into_iter().collect()),
                extended_master_secret: true,
                record_size_limit: Some(64),
                supported_versions: Some(vec![ProtocolVersion::TLS_1_3, ProtocolVersion::TLS_1_2]),
                session_ticket: Some(vec![5; 200]),
                renegotiation_info: true,
            },
        }
    }

    /// A body with exactly this extensions block.
    fn body_with(block: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        ClientHello { extensions: ClientExtensions::default(), ..full() }.write(&mut message);
        let mut body = body_of(&message, HandshakeType::CLIENT_HELLO).to_vec();
        body.truncate(body.len() - 2);
        write_vector::<2>(&mut body, |out| out.extend_from_slice(block));
        body
    }

    fn extension(kind: ExtensionType, data: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        write_u16(&mut out, kind.0);
        write_vector::<2>(&mut out, |out| out.extend_from_slice(data));
        out
    }

    fn error_of(kind: ExtensionType, data: &[u8]) -> Error {
        ClientHello::read(&body_with(&extension(kind, data))).unwrap_err()
    }

    #[test]
    fn reads_what_it_writes() {
        for hello in [full(), ClientHello { extensions: ClientExtensions::default(), ..full() }] {
            let mut message = Vec::new();
            hello.write(&mut message);
            assert_eq!(ClientHello::read(body_of(&message, HandshakeType::CLIENT_HELLO)), Ok(hello));
        }
    }

    #[test]
    fn every_truncation_but_the_one_before_the_extensions_is_refused() {
        let mut message = Vec::new();
        full().write(&mut message);
        let body = body_of(&message, HandshakeType::CLIENT_HELLO);
        let without_extensions = 2 + 32 + 1 + 32 + 2 + 4 + 2;
        for length in (0..body.len()).filter(|length| *length != without_extensions) {
            let error = ClientHello::read(&body[..length]).unwrap_err();
            assert_eq!(error, InvalidMessage::Truncated.into(), "{length} bytes");
        }
        assert!(ClientHello::read(&body[..without_extensions]).is_ok());
    }

    #[test]
    fn trailing_bytes_are_refused() {
        let mut message = Vec::new();
        full().write(&mut message);
        message.push(0);
        assert_eq!(ClientHello::read(&message[4..]), Err(InvalidMessage::TrailingBytes.into()));
    }

    #[test]
    fn lists_of_odd_or_no_length_are_refused() {
        use ExtensionType as Type;
        for (kind, data, cause) in [
            (Type::SUPPORTED_GROUPS, &[0, 3, 0, 29, 0][..], InvalidMessage::OddListLength),
            (Type::SUPPORTED_GROUPS, &[0, 0], InvalidMessage::EmptyList),
            (Type::SUPPORTED_GROUPS, &[0, 2, 0, 29, 0], InvalidMessage::TrailingBytes),
            (Type::SUPPORTED_GROUPS, &[], InvalidMessage::Truncated),
            (Type::SIGNATURE_ALGORITHMS, &[0, 1, 4], InvalidMessage::OddListLength),
            (Type::SIGNATURE_ALGORITHMS, &[0, 0], InvalidMessage::EmptyList),
            (Type::SUPPORTED_VERSIONS, &[1, 3], InvalidMessage::OddListLength),
            (Type::SUPPORTED_VERSIONS, &[0], InvalidMessage::EmptyList),
            (Type::EC_POINT_FORMATS, &[0], InvalidMessage::EmptyList),
            (Type::SERVER_NAME, &[0, 0], InvalidMessage::EmptyList),
            (Type::SERVER_NAME, &[], InvalidMessage::Truncated),
            (Type::APPLICATION_LAYER_PROTOCOL_NEGOTIATION, &[0, 0], InvalidMessage::EmptyList),
            (Type::APPLICATION_LAYER_PROTOCOL_NEGOTIATION, &[0, 1, 0], InvalidMessage::WrongLength),
            (Type::APPLICATION_LAYER_PROTOCOL_NEGOTIATION, &[0, 2, 2, b'h'], InvalidMessage::Truncated),
            (Type::EXTENDED_MASTER_SECRET, &[0], InvalidMessage::TrailingBytes),
            (Type::RENEGOTIATION_INFO, &[], InvalidMessage::Truncated),
            (Type::RECORD_SIZE_LIMIT, &[0, 64, 0], InvalidMessage::TrailingBytes),
            (Type::STATUS_REQUEST, &[1, 0, 0, 0], InvalidMessage::Truncated),
        ] {
            assert_eq!(error_of(kind, data), cause.into(), "{kind} {data:?}");
        }
    }

    #[test]
    fn values_that_may_not_stand_are_refused() {
        use ExtensionType as Type;
        for (kind, data, cause) in [
            (Type::EC_POINT_FORMATS, &[1, 1][..], PeerMisbehaved::NoUncompressedPoints),
            (Type::RECORD_SIZE_LIMIT, &[0, 63], PeerMisbehaved::RecordSizeLimitTooSmall),
            (Type::RENEGOTIATION_INFO, &[1, 0], PeerMisbehaved::NonEmptyRenegotiationInfo),
            (Type::SERVER_NAME, &[0, 8, 0, 0, 1, b'a', 0, 0, 1, b'b'], PeerMisbehaved::DuplicateServerName),
        ] {
            assert_eq!(error_of(kind, data), cause.into(), "{kind} {data:?}");
        }
    }

    #[test]
    fn an_extension_twice_is_refused_also_among_thousands_of_unknown_ones() {
        let mut block: Vec<u8> = (0x4000..0x7f00).flat_map(|kind| extension(ExtensionType(kind), &[])).collect();
        assert!(ClientHello::read(&body_with(&block)).is_ok());
        block.extend(extension(ExtensionType(0x5000), &[]));
        assert_eq!(ClientHello::read(&body_with(&block)), Err(InvalidMessage::DuplicateExtension.into()));
    }

    #[test]
    fn server_names_are_dns_names() {
        let read = |name: &[u8]| {
            let mut data = Vec::new();
            write_vector::<2>(&mut data, |out| {
                out.push(0);
                write_vector::<2>(out, |out| out.extend_from_slice(name));
            });
            read_server_name(&data)
        };
        assert_eq!(read(b"WWW.Example.com."), Ok(Some("www.example.com".into())));
        assert_eq!(read(b"192.0.2.1"), Ok(None));
        assert_eq!(read(b"2001:db8::1"), Ok(None));
        for name in [&b""[..], b".", b"a..b", b"a b", b"caf\xc3\xa9.example", b"\xff", b"a\0b", &[b'a'; 64], b"*.a"] {
            assert_eq!(read(name), Err(InvalidMessage::InvalidServerName.into()), "{name:?}");
        }
    }
}
