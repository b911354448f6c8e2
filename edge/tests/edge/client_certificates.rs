//! Clients with certificates: who comes in, what the backend is told, and what each of the others is told.

use std::fs;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, NameConstraints,
    RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::AlertDescription;
use tokio::io::AsyncReadExt;

use super::handshakes::alert;
use super::stack::{ClientCertificate, Options, SECOND_NAME, SERVER_NAME, Stack};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Authority {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    change(&mut params);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn certificate(issuer: &Authority, change: impl FnOnce(&mut CertificateParams)) -> ClientCertificate {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "teller 7");
    params.subject_alt_names = vec![SanType::DnsName("client.example.org".try_into().unwrap())];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.serial_number = Some(SerialNumber::from(42));
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    ClientCertificate { chain: vec![params.signed_by(&key, issuer).unwrap().der().clone()], key }
}

/// The lines of a host that asks for certificates.
fn asking(mode: &str) -> String {
    format!("proxy_protocol = \"v2\"\n[virtual_host.client_auth]\nmode = \"{mode}\"\nauthorities = \"ca.pem\"\n")
}

/// A stack whose host asks for certificates of `authority`.
async fn stack(authority: &Authority, mode: &str, lines: &str) -> Stack {
    let options = Options { host_lines: format!("{}{lines}\n", asking(mode)), ..Options::default() };
    fs::write(options.directory.path().join("ca.pem"), authority.pem()).unwrap();
    Stack::start(options).await
}

/// What the backend is told: the PROXY header's TLV about TLS.
async fn told(stack: &Stack, certificate: Option<&ClientCertificate>) -> Vec<u8> {
    let connecting = stack.try_connect_as(SERVER_NAME, certificate);
    let (_client, (mut backend, _)) = tokio::try_join!(connecting, stack.backend.accept()).unwrap();
    let mut front = [0; 16];
    backend.read_exact(&mut front).await.unwrap();
    let mut body = vec![0; u16::from_be_bytes([front[14], front[15]]).into()];
    backend.read_exact(&mut body).await.unwrap();
    // Two addresses and ports, then the authority, then TLS.
    let authority = 12 + 3 + SERVER_NAME.len();
    assert_eq!(body[authority], 0x20);
    body[authority + 3..].to_vec()
}

const NOBODY: [u8; 5] = [1, 0, 0, 0, 1];
const VERIFIED: [u8; 5] = [7, 0, 0, 0, 0];

async fn refused(stack: &Stack, certificate: Option<&ClientCertificate>) -> AlertDescription {
    alert(&stack.try_connect_as(SERVER_NAME, certificate).await.unwrap_err())
}

async fn until_counted(stack: &Stack, reason: &str, count: u64) {
    let metric = format!("handshake_failures_total{{fault=\"client\",reason=\"{reason}\"}}");
    stack.until_metric(&metric, count).await;
}

#[tokio::test]
async fn the_backend_is_told_who_came_in() {
    let authority = authority("clients", |_| {});
    let certificate = certificate(&authority, |_| {});
    let stack = stack(&authority, "required", "allow = [{ dns = \"client.example.org\" }]").await;
    let told = told(&stack, Some(&certificate)).await;
    assert_eq!(told[..5], VERIFIED);
    let leaf = certificate.chain[0].as_ref();
    let at_end = [&[0x28][..], &u16::try_from(leaf.len()).unwrap().to_be_bytes(), leaf].concat();
    assert!(told.ends_with(&at_end));
    let common_name = b"\x22\x00\x08teller 7";
    assert!(told.windows(common_name.len()).any(|bytes| bytes == common_name));
}

#[tokio::test]
async fn what_the_backend_cannot_be_told_is_counted() {
    let authority = authority("clients", |_| {});
    let long = certificate(&authority, |params| {
        params.distinguished_name.push(DnType::CommonName, "a\nb");
        params.custom_extensions = vec![rcgen::CustomExtension::from_oid_content(&[1, 3, 6], vec![0; 13_000])];
    });
    let stack = stack(&authority, "required", "").await;
    let told = told(&stack, Some(&long)).await;
    assert_eq!(told[..5], VERIFIED);
    assert!(told.len() < 200, "neither the certificate nor its common name");
    for part in ["certificate", "common_name"] {
        stack.until_metric(&format!("identity_omissions_total{{part=\"{part}\"}}"), 1).await;
    }
}

#[tokio::test]
async fn a_certificate_may_be_unwanted_optional_or_required() {
    let authority = authority("clients", |_| {});
    let good = certificate(&authority, |_| {});
    let stranger = certificate(&self::authority("strangers", |_| {}), |_| {});

    let plain = Stack::start(Options { host_lines: "proxy_protocol = \"v2\"".to_owned(), ..Options::default() }).await;
    assert_eq!(told(&plain, Some(&stranger)).await[..5], NOBODY);

    let optional = stack(&authority, "optional", "").await;
    assert_eq!(told(&optional, None).await[..5], NOBODY);
    assert_eq!(told(&optional, Some(&good)).await[..5], VERIFIED);
    assert_eq!(refused(&optional, Some(&stranger)).await, AlertDescription::UnknownCA);

    let required = stack(&authority, "required", "").await;
    assert_eq!(told(&required, Some(&good)).await[..5], VERIFIED);
    assert_eq!(refused(&required, None).await, AlertDescription::HandshakeFailure);
    until_counted(&required, "certificate_missing", 1).await;
}

#[tokio::test]
async fn each_bad_certificate_has_its_alert_and_reason() {
    let constraints = NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName("example.org".to_owned())],
        excluded_subtrees: Vec::new(),
    };
    let authority = authority("clients", |params| params.name_constraints = Some(constraints));
    let allow = "allow = [{ dns = \"client.example.org\" }]";
    let stack = stack(&authority, "required", allow).await;
    let dns = |name: &str| vec![SanType::DnsName(name.try_into().unwrap())];
    let certificate = |change: &dyn Fn(&mut CertificateParams)| certificate(&authority, change);
    for (certificate, expected, reason, count) in [
        (
            certificate(&|params| params.not_after = date_time_ymd(2020, 1, 1)),
            AlertDescription::CertificateExpired,
            "certificate_expired",
            1,
        ),
        (
            certificate(&|params| params.not_before = date_time_ymd(2100, 1, 1)),
            AlertDescription::CertificateExpired,
            "certificate_expired",
            2,
        ),
        (
            certificate(&|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
            AlertDescription::UnsupportedCertificate,
            "certificate_unsupported",
            1,
        ),
        (
            certificate(&|params| params.key_usages = vec![KeyUsagePurpose::KeyEncipherment]),
            AlertDescription::UnsupportedCertificate,
            "certificate_unsupported",
            2,
        ),
        (
            certificate(&|params| params.subject_alt_names = dns("client.other")),
            AlertDescription::BadCertificate,
            "certificate_bad",
            1,
        ),
        (
            certificate(&|params| params.subject_alt_names = dns("another.example.org")),
            AlertDescription::AccessDenied,
            "certificate_access_denied",
            1,
        ),
        (
            self::certificate(&self::authority("strangers", |_| {}), |_| {}),
            AlertDescription::UnknownCA,
            "certificate_unknown_ca",
            1,
        ),
    ] {
        assert_eq!(refused(&stack, Some(&certificate)).await, expected, "{reason}");
        until_counted(&stack, reason, count).await;
    }
    assert_eq!(told(&stack, Some(&certificate(&|_| {}))).await[..5], VERIFIED);
}

fn list(issuer: &Authority, serials: &[u64], next_update: i32) -> String {
    let revoked = |serial: &u64| RevokedCertParams {
        serial_number: SerialNumber::from(*serial),
        revocation_time: date_time_ymd(2024, 1, 1),
        reason_code: None,
        invalidity_date: None,
    };
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(2024, 1, 1),
        next_update: date_time_ymd(next_update, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: serials.iter().map(revoked).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(issuer).unwrap().pem().unwrap()
}

#[tokio::test]
async fn a_certificate_is_refused_once_a_list_revokes_it() {
    let authority = authority("clients", |params| {
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    });
    let good = certificate(&authority, |_| {});
    let options = Options {
        host_lines: format!("{}revocation_lists = [\"clients.crl\"]\n", asking("required")),
        ..Options::default()
    };
    fs::write(options.directory.path().join("ca.pem"), authority.pem()).unwrap();
    fs::write(options.directory.path().join("clients.crl"), list(&authority, &[41], 2100)).unwrap();
    let stack = Stack::start(options).await;
    let replace = |content: &str| {
        let (file, beside) = (stack.directory.path().join("clients.crl"), stack.directory.path().join("beside"));
        fs::write(&beside, content).unwrap();
        fs::rename(&beside, &file).unwrap();
    };
    assert_eq!(told(&stack, Some(&good)).await[..5], VERIFIED);
    replace("no list");
    stack.until("the list fails", || stack.telemetry.revocation_list_failures.get() >= 1).await;
    assert_eq!(told(&stack, Some(&good)).await[..5], VERIFIED);
    replace(&list(&authority, &[41, 42], 2100));
    for _ in 0..500 {
        if let Err(failure) = stack.try_connect_as(SERVER_NAME, Some(&good)).await {
            assert_eq!(alert(&failure), AlertDescription::CertificateRevoked);
            until_counted(&stack, "certificate_revoked", 1).await;
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the list was not read again");
}

#[tokio::test]
async fn a_list_past_its_time_keeps_clients_out_and_counts_as_the_edges_own_failure() {
    let authority = authority("clients", |params| {
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    });
    let options = Options {
        host_lines: format!("{}revocation_lists = [\"clients.crl\"]\n", asking("optional")),
        ..Options::default()
    };
    fs::write(options.directory.path().join("ca.pem"), authority.pem()).unwrap();
    fs::write(options.directory.path().join("clients.crl"), list(&authority, &[], 2025)).unwrap();
    let stack = Stack::start(options).await;
    let good = certificate(&authority, |_| {});
    assert_eq!(refused(&stack, Some(&good)).await, AlertDescription::InternalError);
    stack.until_metric("handshake_failures_total{fault=\"own\",reason=\"revocation_unknown\"}", 1).await;
    assert!(!stack.metrics().contains("certificate_bad"));
    assert_eq!(told(&stack, None).await[..5], NOBODY);
}

#[tokio::test]
async fn what_one_host_accepts_another_does_not() {
    let (first, second) = (authority("first", |_| {}), authority("second", |_| {}));
    let options = Options {
        host_lines: format!(
            "{}[[virtual_host]]\nnames = [\"{SECOND_NAME}\"]\nkeys = [\"key\"]\nbackends = [\"BACKEND\"]\n{}",
            asking("required"),
            asking("required").replace("ca.pem", "second.pem"),
        ),
        ..Options::default()
    };
    fs::write(options.directory.path().join("ca.pem"), first.pem()).unwrap();
    fs::write(options.directory.path().join("second.pem"), second.pem()).unwrap();
    let stack = Stack::start(options).await;
    let (of_first, of_second) = (certificate(&first, |_| {}), certificate(&second, |_| {}));
    for (name, certificate) in [(SERVER_NAME, &of_second), (SECOND_NAME, &of_first)] {
        let failure = stack.try_connect_as(name, Some(certificate)).await.unwrap_err();
        assert_eq!(alert(&failure), AlertDescription::UnknownCA);
    }
    for (name, certificate) in [(SERVER_NAME, &of_first), (SECOND_NAME, &of_second)] {
        assert!(stack.try_connect_as(name, Some(certificate)).await.is_ok());
    }
}

#[tokio::test]
async fn a_chain_of_64_kib_is_refused_cleanly() {
    let authority = authority("clients", |_| {});
    let mut certificate = certificate(&authority, |_| {});
    let stack = stack(&authority, "required", "").await;
    let filler = authority.der().clone();
    // The list's length and each certificate's take three bytes.
    let with_filler =
        |chain: &[_]| chain.iter().map(|der: &rustls::pki_types::CertificateDer<'_>| der.len() + 3).sum::<usize>() + 3;
    while with_filler(&certificate.chain) + filler.len() + 3 < 1 << 16 {
        certificate.chain.push(filler.clone());
    }
    assert_eq!(told(&stack, Some(&certificate)).await[..5], VERIFIED);
    certificate.chain.push(filler);
    assert_eq!(refused(&stack, Some(&certificate)).await, AlertDescription::DecodeError);
    until_counted(&stack, "message_too_large", 1).await;
}
