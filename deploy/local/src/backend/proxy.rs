//! What stands before the first byte of the application: the PROXY protocol's header, version 1 or 2.
use std::fmt;
use std::io::{self, Cursor};
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use proxy_header::{ParseConfig, ProxyHeader, SslInfo, Tlv};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, Chain, Join};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use x509_parser::prelude::{FromDer, X509Certificate};

const V1_BEGIN: &[u8] = b"PROXY ";
const V2_BEGIN: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// More than a header with a client's certificate fields has.
const MAX_HEADER: usize = 16 * 1024;

/// Whether a connection begins with a PROXY header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Expect {
    /// Never: the first byte is the client's.
    Never,
    /// Always: a connection without one is closed.
    Always,
    /// Where it is there. Only for demonstrations: anybody who can connect may claim any address.
    Perhaps,
}

/// A connection whose header has been read.
pub(super) type Stream = Join<Chain<Cursor<Bytes>, OwnedReadHalf>, OwnedWriteHalf>;

/// What a PROXY header says about the client's connection, and how it came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Arrival {
    /// The header's version, 1 or 2; `None` where there was no header.
    pub version: Option<u8>,
    /// The client's address and the address it connected to; `None` where the header does not say.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// The other facts in the header's order, each with its name.
    pub facts: Vec<(&'static str, String)>,
}

/// Reads the header as `expect` says. What follows it stays in the stream.
///
/// # Errors
/// The connection's own, or `InvalidData` for a header that is malformed, too long or missing.
pub(super) async fn accept(stream: TcpStream, expect: Expect) -> io::Result<(Stream, Arrival)> {
    let (mut reader, writer) = stream.into_split();
    let mut buffer = BytesMut::new();
    let mut arrival = Arrival::default();
    if expect != Expect::Never {
        let mut found = find(&buffer);
        while found == Found::Unknown && buffer.len() < MAX_HEADER && reader.read_buf(&mut buffer).await? > 0 {
            found = find(&buffer);
        }
        match found {
            Found::Header(read, length) => {
                arrival = read;
                let _ = buffer.split_to(length);
            }
            Found::Absent if expect == Expect::Perhaps => {}
            Found::Absent | Found::Unknown => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
    let stream = tokio::io::join(Cursor::new(buffer.freeze()).chain(reader), writer);
    Ok((stream, arrival))
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// A whole header and its length.
    Header(Arrival, usize),
    /// The bytes begin otherwise than a header does, or break its rules.
    Absent,
    /// More bytes are needed.
    Unknown,
}

fn find(buffer: &[u8]) -> Found {
    let Some(version) = [(1, V1_BEGIN), (2, V2_BEGIN)].iter().find(|(_, begin)| is_prefix(buffer, begin)) else {
        return Found::Absent;
    };
    match ProxyHeader::parse(buffer, ParseConfig::default()) {
        Ok((header, length)) => Arrival::of(version.0, &header).map_or(Found::Absent, |it| Found::Header(it, length)),
        Err(proxy_header::Error::BufferTooShort) => Found::Unknown,
        Err(_) => Found::Absent,
    }
}

/// Whether the two agree as far as both go.
fn is_prefix(buffer: &[u8], begin: &[u8]) -> bool {
    buffer.iter().zip(begin).all(|(left, right)| left == right)
}

impl Arrival {
    fn of(version: u8, header: &ProxyHeader<'_>) -> Option<Self> {
        let mut facts = Vec::new();
        for tlv in header.tlvs() {
            describe(&tlv.ok()?, &mut facts)?;
        }
        let addresses = header.proxied_address().map(|address| (address.source, address.destination));
        Some(Self { version: Some(version), addresses, facts })
    }
}

impl fmt::Display for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(version) = self.version else { return writeln!(f, "proxy: none, the connection came directly") };
        writeln!(f, "proxy: version {version}")?;
        match self.addresses {
            Some((source, destination)) => writeln!(f, "source: {source}\ndestination: {destination}")?,
            None => writeln!(f, "source: the proxy itself")?,
        }
        self.facts.iter().try_for_each(|(name, value)| writeln!(f, "{name}: {value}"))
    }
}

/// Adds what one field says; nothing where a field inside it is malformed.
fn describe(tlv: &Tlv<'_>, facts: &mut Vec<(&'static str, String)>) -> Option<()> {
    let fact = match tlv {
        Tlv::Alpn(protocol) => ("alpn", String::from_utf8_lossy(protocol).into_owned()),
        Tlv::Authority(name) => ("authority", name.to_string()),
        Tlv::UniqueId(id) => ("unique-id", hexadecimal(id)),
        Tlv::Netns(name) => ("network-namespace", name.to_string()),
        Tlv::SslVersion(version) => ("tls-version", version.to_string()),
        Tlv::SslCipher(cipher) => ("tls-cipher", cipher.to_string()),
        Tlv::SslCn(name) => ("client-common-name", name.to_string()),
        Tlv::SslSigAlg(algorithm) => ("signature-algorithm", algorithm.to_string()),
        Tlv::SslKeyAlg(algorithm) => ("key-algorithm", algorithm.to_string()),
        Tlv::Custom(CLIENT_CERTIFICATE, der) => {
            describe_client(der, facts);
            return Some(());
        }
        Tlv::Custom(kind, value) => ("field", format!("{kind:#04x} {}", hexadecimal(value))),
        Tlv::Ssl(ssl) => {
            facts.push(("tls", tls_summary(ssl)));
            return ssl.tlvs().try_for_each(|inner| describe(&inner.ok()?, facts));
        }
        // The parser has checked the checksum, and padding says nothing.
        Tlv::Crc32c(_) | Tlv::Noop(_) | _ => return Some(()),
    };
    facts.push(fact);
    Some(())
}

/// PP2_SUBTYPE_SSL_CLIENT_CERT.
const CLIENT_CERTIFICATE: u8 = 0x28;

/// What the proxy has verified is worth showing; a certificate that does not parse is not.
fn describe_client(der: &[u8], facts: &mut Vec<(&'static str, String)>) {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return };
    facts.push(("client-subject", certificate.subject().to_string()));
    let names = certificate.subject_alternative_name().ok().flatten();
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        facts.push(("client-name", name.to_string()));
    }
    facts.push(("client-certificate-sha256", hexadecimal(&Sha256::digest(der))));
}

fn tls_summary(ssl: &SslInfo<'_>) -> String {
    let certificate = match (ssl.client_cert_conn(), ssl.client_cert_sess(), ssl.verify()) {
        (_, true, 0) => "verified client certificate",
        (true, _, _) | (_, true, _) => "unverified client certificate",
        (false, false, _) => "no client certificate",
    };
    format!("{}, {certificate}", if ssl.client_ssl() { "yes" } else { "no" })
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]
    use super::*;
    use proxy_header::ProxiedAddress;

    fn version_2() -> Vec<u8> {
        let source = "192.0.2.7:50000".parse().unwrap();
        let destination = "198.51.100.1:8443".parse().unwrap();
        let mut ssl = SslInfo::new(true, false, false, 1);
        ssl.append_tlv(Tlv::SslVersion("TLSv1.2".into()));
        ssl.append_tlv(Tlv::SslCipher("ECDHE-RSA-AES128-GCM-SHA256".into()));
        let mut header = ProxyHeader::with_address(ProxiedAddress::stream(source, destination));
        header.append_tlv(Tlv::Alpn(b"http/1.1".as_slice().into()));
        header.append_tlv(Tlv::Authority("localhost".into()));
        header.append_tlv(Tlv::Ssl(ssl));
        let mut bytes = Vec::new();
        header.encode_v2(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_version_1_header_gives_the_addresses() {
        let Found::Header(arrival, length) = find(b"PROXY TCP6 2001:db8::1 2001:db8::2 50000 8443\r\nGET /") else {
            panic!("no header");
        };
        assert_eq!((arrival.version, length), (Some(1), 47));
        let expected = ("[2001:db8::1]:50000".parse().unwrap(), "[2001:db8::2]:8443".parse().unwrap());
        assert_eq!(arrival.addresses, Some(expected));
    }

    #[test]
    fn a_version_2_header_gives_addresses_and_facts() {
        let Found::Header(arrival, _) = find(&version_2()) else { panic!("no header") };
        let expected = "proxy: version 2\nsource: 192.0.2.7:50000\ndestination: 198.51.100.1:8443\nalpn: http/1.1\n\
            authority: localhost\ntls: yes, no client certificate\ntls-version: TLSv1.2\n\
            tls-cipher: ECDHE-RSA-AES128-GCM-SHA256\n";
        assert_eq!(arrival.to_string(), expected);
    }

    #[test]
    fn a_clients_certificate_is_told_by_its_names() {
        let mut params = rcgen::CertificateParams::new(["client.test".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "client");
        let der = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().to_vec();
        let mut facts = Vec::new();
        describe(&Tlv::Custom(CLIENT_CERTIFICATE, der.as_slice().into()), &mut facts).unwrap();
        assert_eq!(facts[0], ("client-subject", "CN=client".to_owned()));
        assert_eq!(facts[1], ("client-name", "DNSName(client.test)".to_owned()));
        assert_eq!(facts[2], ("client-certificate-sha256", hexadecimal(&Sha256::digest(&der))));
        describe(&Tlv::Custom(CLIENT_CERTIFICATE, b"none".as_slice().into()), &mut facts).unwrap();
        assert_eq!(facts.len(), 3);
    }

    #[test]
    fn an_incomplete_header_waits_for_more() {
        let header = version_2();
        for length in 0..header.len() {
            assert_eq!(find(&header[..length]), Found::Unknown, "{length} bytes");
        }
    }

    #[test]
    fn requests_and_malformed_headers_are_no_header() {
        for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"POST", b"PROXY TCP4 300.0.0.1 10.0.0.2 1 2\r\n"] {
            assert_eq!(find(bytes), Found::Absent, "{}", String::from_utf8_lossy(bytes));
        }
        let mut version_3 = version_2();
        version_3[12] = 0x31;
        assert_eq!(find(&version_3), Found::Absent);
    }
}
