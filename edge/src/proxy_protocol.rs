//! The PROXY protocol header that tells a backend whom it talks to, as HAProxy's
//! [specification](https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt) has it; and the one that the edge is told
//! by a load balancer in front of it (`received`).

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use keystead_tls::{CipherSuite, Summary};
use serde::Deserialize;
use strum::IntoStaticStr;

use crate::client_auth::{ClientIdentity, CommonName};

mod received;
mod trusted;

pub use received::{Arrival, HeaderFailure, NoArrival};
pub use trusted::{TRUSTS_EVERYBODY, TrustedProxies};

/// What precedes the client's bytes on the way to the backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    /// Nothing.
    #[default]
    None,
    /// One line of text with the addresses.
    V1,
    /// Addresses in binary, and what TLS agreed on as TLVs.
    V2,
}

/// The two ends of the client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The client's end.
    pub source: SocketAddr,
    /// The edge's end.
    pub destination: SocketAddr,
}

/// What the header of version 2 says about the certificate shown to the client, in OpenSSL's words, as HAProxy does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateWords {
    /// The algorithm the certificate is signed with, such as `RSA-SHA256`.
    pub signature_algorithm: String,
    /// The algorithm and size of its key, such as `RSA2048` or `EC256`.
    pub key_algorithm: String,
}

/// What a backend is told of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// What precedes the client's bytes.
    pub bytes: Vec<u8>,
    /// What version 2 would say and this header does not. Whoever came in is verified all the same.
    pub omitted: Vec<Omission>,
}

/// A part of a client's identity that no reader would take or should trust.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Omission {
    /// The certificate is over 12 KiB.
    Certificate,
    /// The common name is over 256 bytes, or is [ambiguous](CommonName::Ambiguous).
    CommonName,
}

impl ProxyProtocol {
    /// The header for this connection; empty for [`ProxyProtocol::None`].
    pub fn header(self, ends: Ends, summary: &Summary, certificate: &CertificateWords) -> Header {
        match self {
            Self::None => Header::default(),
            Self::V1 => Header { bytes: v1(ends), omitted: Vec::new() },
            Self::V2 => v2(ends, summary, certificate),
        }
    }

    /// The header of a connection that is the edge's own and no client's; empty for [`ProxyProtocol::None`].
    pub fn local_header(self) -> &'static [u8] {
        match self {
            Self::None => b"",
            Self::V1 => b"PROXY UNKNOWN\r\n",
            Self::V2 => b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
        }
    }
}

impl Ends {
    /// The addresses in one family: IPv4 if both are, also when written as IPv6 (RFC 4291 §2.5.5.2).
    fn family(self) -> Family {
        match (self.source.ip().to_canonical(), self.destination.ip().to_canonical()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => Family::V4(source.octets(), destination.octets()),
            (source, destination) => Family::V6(as_v6(source), as_v6(destination)),
        }
    }
}

enum Family {
    V4([u8; 4], [u8; 4]),
    V6(Ipv6Addr, Ipv6Addr),
}

fn as_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

fn v1(ends: Ends) -> Vec<u8> {
    let (source_port, destination_port) = (ends.source.port(), ends.destination.port());
    match ends.family() {
        Family::V4(source, destination) => {
            let (source, destination) = (IpAddr::from(source), IpAddr::from(destination));
            format!("PROXY TCP4 {source} {destination} {source_port} {destination_port}\r\n")
        }
        Family::V6(source, destination) => {
            format!("PROXY TCP6 {source} {destination} {source_port} {destination_port}\r\n")
        }
    }
    .into_bytes()
}

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command PROXY.
const VERSION_COMMAND: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

const PP2_TYPE_ALPN: u8 = 0x01;
const PP2_TYPE_AUTHORITY: u8 = 0x02;
const PP2_TYPE_SSL: u8 = 0x20;
const PP2_SUBTYPE_SSL_VERSION: u8 = 0x21;
const PP2_SUBTYPE_SSL_CN: u8 = 0x22;
const PP2_SUBTYPE_SSL_CIPHER: u8 = 0x23;
const PP2_SUBTYPE_SSL_SIG_ALG: u8 = 0x24;
const PP2_SUBTYPE_SSL_KEY_ALG: u8 = 0x25;
const PP2_SUBTYPE_SSL_CLIENT_CERT: u8 = 0x28;
/// In the client field: the client came over TLS.
const PP2_CLIENT_SSL: u8 = 0x01;
/// It sent a certificate on this connection,
const PP2_CLIENT_CERT_CONN: u8 = 0x02;
/// and in the session that this connection belongs to.
const PP2_CLIENT_CERT_SESS: u8 = 0x04;
/// In the verify field, where 0 says that a client certificate was verified.
const NOT_VERIFIED: u32 = 1;
const VERIFIED: u32 = 0;
/// Longer ones are not sent: 64 is the most that a common name may have (RFC 5280 appendix A.1),
const LONGEST_COMMON_NAME: usize = 256;
/// and HAProxy, for one, takes no longer header than 16 KiB.
const LONGEST_CERTIFICATE: usize = 12 * 1024;

fn v2(ends: Ends, summary: &Summary, certificate: &CertificateWords) -> Header {
    let mut body = Vec::with_capacity(160);
    let family = match ends.family() {
        Family::V4(source, destination) => {
            body.extend(source);
            body.extend(destination);
            TCP_OVER_IPV4
        }
        Family::V6(source, destination) => {
            body.extend(source.octets());
            body.extend(destination.octets());
            TCP_OVER_IPV6
        }
    };
    body.extend(ends.source.port().to_be_bytes());
    body.extend(ends.destination.port().to_be_bytes());
    if let Some(protocol) = &summary.alpn {
        tlv(&mut body, PP2_TYPE_ALPN, protocol);
    }
    if let Some(name) = &summary.server_name {
        tlv(&mut body, PP2_TYPE_AUTHORITY, name.as_bytes());
    }
    // The engine has seen the client prove that it has the key, after the chain was verified.
    let (client, omitted) = client_words(summary.client_chain.first().map(Vec::as_slice));
    tlv(&mut body, PP2_TYPE_SSL, &ssl(summary, certificate, client.as_ref()));

    let mut bytes = Vec::with_capacity(16 + body.len());
    bytes.extend(SIGNATURE);
    bytes.extend([VERSION_COMMAND, family]);
    bytes.extend(length(&body));
    bytes.extend(body);
    Header { bytes, omitted }
}

/// What is said of a client that sent a certificate.
#[derive(Default)]
struct ClientWords<'c> {
    common_name: Option<String>,
    certificate: Option<&'c [u8]>,
}

/// What can be said of the client with this certificate, and what cannot.
fn client_words(leaf: Option<&[u8]>) -> (Option<ClientWords<'_>>, Vec<Omission>) {
    let Some(leaf) = leaf else { return (None, Vec::new()) };
    let (mut words, mut omitted) = (ClientWords::default(), Vec::new());
    match ClientIdentity::of(leaf).map_or(CommonName::Ambiguous, |identity| identity.common_name) {
        CommonName::None => {}
        CommonName::One(name) if name.len() <= LONGEST_COMMON_NAME => words.common_name = Some(name),
        CommonName::One(_) | CommonName::Ambiguous => omitted.push(Omission::CommonName),
    }
    match leaf.len() <= LONGEST_CERTIFICATE {
        true => words.certificate = Some(leaf),
        false => omitted.push(Omission::Certificate),
    }
    (Some(words), omitted)
}

fn ssl(summary: &Summary, certificate: &CertificateWords, client: Option<&ClientWords<'_>>) -> Vec<u8> {
    let (flags, verify) = match client {
        Some(_) if summary.resumed => (PP2_CLIENT_SSL | PP2_CLIENT_CERT_SESS, VERIFIED),
        Some(_) => (PP2_CLIENT_SSL | PP2_CLIENT_CERT_CONN | PP2_CLIENT_CERT_SESS, VERIFIED),
        None => (PP2_CLIENT_SSL, NOT_VERIFIED),
    };
    let mut ssl = Vec::with_capacity(80);
    ssl.push(flags);
    ssl.extend(verify.to_be_bytes());
    tlv(&mut ssl, PP2_SUBTYPE_SSL_VERSION, summary.version.name().unwrap_or_default().as_bytes());
    if let Some(name) = client.and_then(|client| client.common_name.as_ref()) {
        tlv(&mut ssl, PP2_SUBTYPE_SSL_CN, name.as_bytes());
    }
    tlv(&mut ssl, PP2_SUBTYPE_SSL_CIPHER, openssl_name(summary.suite).as_bytes());
    tlv(&mut ssl, PP2_SUBTYPE_SSL_SIG_ALG, certificate.signature_algorithm.as_bytes());
    tlv(&mut ssl, PP2_SUBTYPE_SSL_KEY_ALG, certificate.key_algorithm.as_bytes());
    if let Some(leaf) = client.and_then(|client| client.certificate) {
        tlv(&mut ssl, PP2_SUBTYPE_SSL_CLIENT_CERT, leaf);
    }
    ssl
}

fn tlv(out: &mut Vec<u8>, kind: u8, value: &[u8]) {
    out.push(kind);
    out.extend(length(value));
    out.extend(value);
}

/// The length of what is at most a certificate of bounded length, some names and some words long.
fn length(value: &[u8]) -> [u8; 2] {
    u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes()
}

/// The name by which OpenSSL, and HAProxy with it, knows a suite.
fn openssl_name(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        CipherSuite::ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        CipherSuite::ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-ECDSA-CHACHA20-POLY1305",
        CipherSuite::ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
        CipherSuite::ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
        CipherSuite::ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-RSA-CHACHA20-POLY1305",
        CipherSuite::RSA_WITH_AES_128_GCM_SHA256 => "AES128-GCM-SHA256",
        CipherSuite::RSA_WITH_AES_256_GCM_SHA384 => "AES256-GCM-SHA384",
        other => other.name().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
    use super::*;
    use keystead_tls::{HostParameters, KeyId, NamedGroup, ProtocolVersion, SignatureScheme};

    fn summary(server_name: Option<&str>, alpn: Option<&[u8]>) -> Summary {
        Summary {
            server_name: server_name.map(str::to_owned),
            version: ProtocolVersion::TLS_1_2,
            suite: CipherSuite::ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            group: Some(NamedGroup::X25519),
            scheme: Some(SignatureScheme::RSA_PSS_RSAE_SHA256),
            alpn: alpn.map(<[u8]>::to_vec),
            extended_master_secret: true,
            key_id: KeyId([0; 32]),
            client_chain: Vec::new(),
            resumed: false,
        }
    }

    fn certificate() -> CertificateWords {
        CertificateWords { signature_algorithm: "RSA-SHA256".to_owned(), key_algorithm: "RSA2048".to_owned() }
    }

    fn header(version: ProxyProtocol, source: &str, destination: &str, summary: &Summary) -> Vec<u8> {
        let ends = Ends { source: source.parse().unwrap(), destination: destination.parse().unwrap() };
        let header = version.header(ends, summary, &certificate());
        assert_eq!(header.omitted, []);
        header.bytes
    }

    #[test]
    fn none_is_nothing() {
        assert!(header(ProxyProtocol::None, "192.0.2.1:1", "192.0.2.2:2", &summary(None, None)).is_empty());
    }

    #[test]
    fn v1_is_a_line_of_text() {
        let line = |source, destination| {
            String::from_utf8(header(ProxyProtocol::V1, source, destination, &summary(None, None))).unwrap()
        };
        assert_eq!(line("192.0.2.1:56324", "198.51.100.7:443"), "PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n");
        assert_eq!(
            line("[2001:db8::1]:56324", "[2001:db8::2]:443"),
            "PROXY TCP6 2001:db8::1 2001:db8::2 56324 443\r\n"
        );
        assert_eq!(
            line("[::ffff:192.0.2.1]:56324", "[::ffff:198.51.100.7]:443"),
            "PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n",
        );
    }

    #[test]
    fn v2_over_ipv4_carries_addresses_names_and_tls() {
        let expected: &[&[u8]] = &[
            b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a",
            b"\x21\x11\x00\x70",
            b"\xc0\x00\x02\x01\xc6\x33\x64\x07\xdc\x04\x01\xbb",
            b"\x01\x00\x08http/1.1",
            b"\x02\x00\x0fwww.example.org",
            b"\x20\x00\x44\x01\x00\x00\x00\x01",
            b"\x21\x00\x07TLSv1.2",
            b"\x23\x00\x1bECDHE-RSA-AES128-GCM-SHA256",
            b"\x24\x00\x0aRSA-SHA256",
            b"\x25\x00\x07RSA2048",
        ];
        let summary = summary(Some("www.example.org"), Some(b"http/1.1"));
        assert_eq!(header(ProxyProtocol::V2, "192.0.2.1:56324", "198.51.100.7:443", &summary), expected.concat());
    }

    #[test]
    fn v2_over_ipv6_without_name_and_protocol() {
        let header = header(ProxyProtocol::V2, "[2001:db8::1]:56324", "[2001:db8::2]:443", &summary(None, None));
        let expected: &[&[u8]] = &[
            b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a",
            b"\x21\x21\x00\x6b",
            b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01",
            b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x02",
            b"\xdc\x04\x01\xbb",
            b"\x20\x00\x44\x01\x00\x00\x00\x01",
            b"\x21\x00\x07TLSv1.2",
            b"\x23\x00\x1bECDHE-RSA-AES128-GCM-SHA256",
            b"\x24\x00\x0aRSA-SHA256",
            b"\x25\x00\x07RSA2048",
        ];
        assert_eq!(header, expected.concat());
    }

    /// A certificate, the TLVs about it, and what they leave out.
    fn client(common_name: &str, padding: usize) -> (Vec<u8>, Vec<u8>, Vec<Omission>) {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, common_name);
        params.custom_extensions = vec![rcgen::CustomExtension::from_oid_content(&[1, 3, 6], vec![0; padding])];
        let leaf = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().to_vec();
        let summary = Summary { client_chain: vec![leaf.clone(), vec![0; 60_000]], ..summary(None, None) };
        let ends = Ends { source: "192.0.2.1:1".parse().unwrap(), destination: "192.0.2.2:2".parse().unwrap() };
        let Header { bytes, omitted } = ProxyProtocol::V2.header(ends, &summary, &certificate());
        assert_eq!(usize::from(u16::from_be_bytes([bytes[14], bytes[15]])), bytes.len() - 16);
        (leaf, bytes[28..].to_vec(), omitted)
    }

    #[test]
    fn v2_carries_a_clients_certificate_and_common_name() {
        let (leaf, tlvs, omitted) = client("teller 7", 10);
        assert_eq!(omitted, []);
        let length = u16::try_from(leaf.len()).unwrap().to_be_bytes();
        let inner: &[&[u8]] = &[
            b"\x07\x00\x00\x00\x00",
            b"\x21\x00\x07TLSv1.2",
            b"\x22\x00\x08teller 7",
            b"\x23\x00\x1bECDHE-RSA-AES128-GCM-SHA256",
            b"\x24\x00\x0aRSA-SHA256",
            b"\x25\x00\x07RSA2048",
            b"\x28",
            &length,
            &leaf,
        ];
        let inner = inner.concat();
        let length = u16::try_from(inner.len()).unwrap().to_be_bytes();
        assert_eq!(tlvs, [b"\x20", &length[..], &inner].concat());
    }

    #[test]
    fn v2_leaves_out_what_no_reader_expects_and_says_so() {
        for (common_name, padding) in
            [("a".repeat(LONGEST_COMMON_NAME + 1), LONGEST_CERTIFICATE), ("a\nb".into(), 60_000)]
        {
            let (_, tlvs, omitted) = client(&common_name, padding);
            assert_eq!(omitted, [Omission::CommonName, Omission::Certificate]);
            let expected: &[&[u8]] = &[
                b"\x20\x00\x44\x07\x00\x00\x00\x00",
                b"\x21\x00\x07TLSv1.2",
                b"\x23\x00\x1bECDHE-RSA-AES128-GCM-SHA256",
                b"\x24\x00\x0aRSA-SHA256",
                b"\x25\x00\x07RSA2048",
            ];
            assert_eq!(tlvs, expected.concat());
        }
    }

    #[test]
    fn v2_of_two_families_is_ipv6() {
        let header = header(ProxyProtocol::V2, "192.0.2.1:1", "[2001:db8::2]:2", &summary(None, None));
        assert_eq!(header[13], TCP_OVER_IPV6);
        assert_eq!(&header[16..32], b"\0\0\0\0\0\0\0\0\0\0\xff\xff\xc0\x00\x02\x01");
    }

    #[test]
    fn every_suite_has_its_openssl_name() {
        for suite in HostParameters::default().suites {
            assert!(openssl_name(suite).starts_with("ECDHE-"), "{suite}");
        }
        for suite in HostParameters::KEY_TRANSPORT_SUITES {
            assert!(openssl_name(*suite).starts_with("AES"), "{suite}");
        }
    }
}
