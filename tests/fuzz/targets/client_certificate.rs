//! A client's certificate, altered as the fuzzer says, or any bytes: no panic, nothing that was altered is let in, each
//! refusal has an alert, no name in log or PROXY header is more than it seems.

#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use keystead_edge::client_auth::{ClientIdentity, ClientVerifier, CommonName, RevocationLists, Rule};
use keystead_edge::proxy_protocol::{CertificateWords, Ends, Header, Omission, ProxyProtocol};
use keystead_tls::{CipherSuite, KeyId, ProtocolVersion, Summary};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls_pki_types::UnixTime;

#[derive(Arbitrary, Debug)]
struct Shown {
    leaf: Leaf,
    intermediates: Vec<Vec<u8>>,
    /// Whether the certificate of an intermediate authority, which the leaf needs, is shown too.
    complete: bool,
}

#[derive(Arbitrary, Debug)]
enum Leaf {
    /// A good one with other bytes at some places.
    Altered(Vec<(u16, Vec<u8>)>),
    /// Any bytes.
    Raw(Vec<u8>),
}

/// Whom a certificate comes from.
struct Certified {
    leaf: Vec<u8>,
    intermediate: Vec<u8>,
    verifier: ClientVerifier,
}

/// Ed25519, for which nobody makes a second signature out of one.
static CERTIFIED: LazyLock<Certified> = LazyLock::new(|| {
    let key = || KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let root = CertifiedIssuer::self_signed(authority("root"), key()).unwrap();
    let middle = CertifiedIssuer::signed_by(authority("middle"), key(), &root).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("lists");
    std::fs::write(&file, [list(&root), list(&middle)].concat()).unwrap();
    let anchors = vec![webpki::anchor_from_trusted_cert(root.der()).unwrap().to_owned()];
    let rules = vec![
        Rule::Subject("CN=another".to_owned()),
        Rule::Email("another@example.org".to_owned()),
        Rule::Uri("spiffe://example.org/client".to_owned()),
    ];
    Certified {
        leaf: leaf().signed_by(&key(), &middle).unwrap().der().to_vec(),
        intermediate: middle.der().to_vec(),
        verifier: ClientVerifier::new(anchors, RevocationLists::load(vec![file]).unwrap(), rules),
    }
});

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn leaf() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CountryName, "DE");
    params.distinguished_name.push(DnType::OrganizationName, "Bank, \"A+B\" #1");
    params.distinguished_name.push(DnType::CommonName, " teller ä");
    params.subject_alt_names = vec![
        SanType::DnsName("client.example.org".try_into().unwrap()),
        SanType::URI("spiffe://example.org/client".try_into().unwrap()),
        SanType::Rfc822Name("teller@example.org".try_into().unwrap()),
        SanType::IpAddress([192, 0, 2, 1].into()),
    ];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn list(issuer: &CertifiedIssuer<'static, KeyPair>) -> String {
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(2024, 1, 1),
        next_update: date_time_ymd(2100, 1, 1),
        crl_number: 1.into(),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(issuer).unwrap().pem().unwrap()
}

fuzz_target!(|shown: Shown| {
    let Certified { leaf: good, intermediate, verifier } = &*CERTIFIED;
    let leaf = match &shown.leaf {
        Leaf::Altered(places) => altered(good, places),
        Leaf::Raw(bytes) => bytes.clone(),
    };
    if let Some(identity) = ClientIdentity::of(&leaf) {
        is_what_it_seems(&identity);
    }
    is_told_in_bounds(&leaf);

    let mut chain = vec![leaf];
    if shown.complete {
        chain.push(intermediate.clone());
    }
    chain.extend(shown.intermediates.iter().take(100).cloned());
    let now = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
    match verifier.verify(&chain, now) {
        Ok(()) => assert_eq!(chain.first(), Some(good)),
        Err(objection) => {
            assert!(objection.cause().alert().is_some());
            assert!(!shown.complete || !shown.intermediates.is_empty() || chain.first() != Some(good), "{objection}");
        }
    }
});

fn altered(good: &[u8], places: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for (at, with) in places {
        let at = usize::from(*at) % good.len();
        bytes.iter_mut().skip(at).zip(with).for_each(|(byte, with)| *byte = *with);
    }
    bytes
}

fn is_what_it_seems(identity: &ClientIdentity) {
    assert!(identity.subject.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{}", identity.subject);
    assert!(!identity.excerpt().chars().any(char::is_control), "{}", identity.excerpt());
    match &identity.common_name {
        CommonName::One(name) => assert!(!name.is_empty() && !name.chars().any(char::is_control), "{name:?}"),
        CommonName::None | CommonName::Ambiguous => {}
    }
}

fn is_told_in_bounds(leaf: &[u8]) {
    let summary = Summary {
        server_name: Some("www.example.org".to_owned()),
        version: ProtocolVersion::TLS_1_2,
        suite: CipherSuite::ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        group: None,
        scheme: None,
        alpn: None,
        extended_master_secret: true,
        key_id: KeyId([0; 32]),
        client_chain: vec![leaf.to_vec()],
        resumed: false,
    };
    let ends = Ends { source: "192.0.2.1:1".parse().unwrap(), destination: "192.0.2.2:2".parse().unwrap() };
    let Header { bytes, omitted } = ProxyProtocol::V2.header(ends, &summary, &CertificateWords::default());
    assert_eq!(usize::from(u16::from_be_bytes([bytes[14], bytes[15]])), bytes.len() - 16);
    assert!(bytes.len() <= 16 << 10, "longer than readers take");
    assert!(bytes.ends_with(leaf) || omitted.contains(&Omission::Certificate));
}
