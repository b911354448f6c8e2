#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use keystead_program::channel::PeerIdentity;
use rcgen::{CertificateParams, DnType, PKCS_ED25519};
use tempfile::TempDir;

use super::*;

const DAY: Duration = Duration::from_secs(86_400);

fn authority() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    create_authority(directory.path()).unwrap();
    directory
}

fn edge(name: &str) -> Holder {
    Holder::edge(&"example.org".parse().unwrap(), &name.parse().unwrap()).unwrap()
}

fn enrolment(name: &str) -> Enrolment {
    Enrolment { holder: edge(name), validity: 90 * DAY, renew: false }
}

fn openssl(arguments: &[&str], file: &Path) -> (bool, String) {
    let output = Command::new("openssl").args(arguments).arg(file).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

fn text(certificate: &Path) -> String {
    openssl(&["x509", "-noout", "-text", "-in"], certificate).1
}

fn verifies(directory: &Path, purpose: &[&str]) -> bool {
    let trusted = directory.join(AUTHORITY);
    let arguments = [&["verify", "-x509_strict", "-CAfile", trusted.to_str().unwrap()], purpose].concat();
    openssl(&arguments, &directory.join(CERTIFICATE)).0
}

#[test]
fn openssl_finds_an_edge_that_is_one_edge_and_no_server() {
    let (authority, out) = (authority(), tempfile::tempdir().unwrap());
    let certificate = enrolment("paris-1").issue(authority.path(), out.path(), None).unwrap();
    assert!(verifies(out.path(), &["-purpose", "sslclient"]));
    assert!(!verifies(out.path(), &["-purpose", "sslserver"]));
    let text = text(&certificate);
    for said in
        ["URI:spiffe://example.org/edge/paris-1", "CA:FALSE", "TLS Web Client Authentication", "Digital Signature"]
    {
        assert!(text.contains(said), "{said}: {text}");
    }
    let der = CertificateDer::from_pem_file(&certificate).unwrap();
    let identity: PeerIdentity = "spiffe://example.org/edge/paris-1".parse().unwrap();
    assert_eq!(PeerIdentity::of_certificate(&der), Ok(identity));
    for key in [out.path().join(KEY), authority.path().join(AUTHORITY_KEY)] {
        assert_eq!(fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn openssl_finds_a_key_server_of_its_names() {
    let (authority, out) = (authority(), tempfile::tempdir().unwrap());
    let holder = Holder::KeyServer(vec!["keys.example.org".to_owned(), "keys-2.example.org".to_owned()]);
    Enrolment { holder, ..enrolment("x") }.issue(authority.path(), out.path(), None).unwrap();
    for name in ["keys.example.org", "keys-2.example.org"] {
        assert!(verifies(out.path(), &["-purpose", "sslserver", "-verify_hostname", name]));
    }
    assert!(!verifies(out.path(), &["-verify_hostname", "example.org"]));
    assert!(!verifies(out.path(), &["-purpose", "sslclient"]));
}

#[test]
fn nothing_is_overwritten_and_a_renewal_keeps_the_key() {
    let (authority, out) = (authority(), tempfile::tempdir().unwrap());
    assert!(matches!(create_authority(authority.path()), Err(EnrolmentError::Exists { .. })));
    let certificate = enrolment("one").issue(authority.path(), out.path(), None).unwrap();
    let (before, key) = (fs::read(&certificate).unwrap(), fs::read(out.path().join(KEY)).unwrap());
    let again = enrolment("one").issue(authority.path(), out.path(), None);
    assert!(matches!(again, Err(EnrolmentError::Exists { .. })));
    let renewal = |name| Enrolment { renew: true, ..enrolment(name) };
    let other = renewal("two").issue(authority.path(), out.path(), None);
    assert!(matches!(other, Err(EnrolmentError::OtherHolder { .. })));
    assert_eq!(fs::read(&certificate).unwrap(), before);
    renewal("one").issue(authority.path(), out.path(), None).unwrap();
    assert_ne!(fs::read(&certificate).unwrap(), before);
    assert_eq!(fs::read(out.path().join(KEY)).unwrap(), key);
    assert!(verifies(out.path(), &["-purpose", "sslclient"]));
    let number = |pem: &[u8]| {
        let file = out.path().join("number.pem");
        fs::write(&file, pem).unwrap();
        openssl(&["x509", "-noout", "-serial", "-in"], &file).1
    };
    assert_ne!(number(&before), number(&fs::read(&certificate).unwrap()));
    fs::remove_file(&certificate).unwrap();
    assert!(matches!(enrolment("one").issue(authority.path(), out.path(), None), Err(EnrolmentError::Exists { .. })));
}

/// The request's own names are those of another edge and of a key server.
#[test]
fn of_a_request_the_key_alone_is_taken() {
    let (authority, out) = (authority(), tempfile::tempdir().unwrap());
    let csr = out.path().join("edge.csr");
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        let pair = KeyPair::generate_for(algorithm).unwrap();
        let mut params = CertificateParams::new(vec!["keys.example.org".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "mallory");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        fs::write(&csr, params.serialize_request(&pair).unwrap().pem().unwrap()).unwrap();
        let certificate = enrolment("one").issue(authority.path(), out.path(), Some(&csr)).unwrap();
        let text = text(&certificate);
        assert!(text.contains("URI:spiffe://example.org/edge/one") && text.contains("CA:FALSE"), "{text}");
        assert!(!text.contains("mallory") && !text.contains("keys.example.org"), "{text}");
        assert!(verifies(out.path(), &["-purpose", "sslclient"]));
        assert!(!out.path().join(KEY).exists());
        fs::remove_file(certificate).unwrap();
    }
}

#[test]
fn requests_with_weak_keys_wrong_signatures_and_no_sense_are_refused() {
    let (authority, out) = (authority(), tempfile::tempdir().unwrap());
    let csr = out.path().join("edge.csr");
    let issue = || enrolment("one").issue(authority.path(), out.path(), Some(&csr)).unwrap_err();
    let request = |key: &[&str]| {
        let arguments = ["req", "-new", "-nodes", "-subj", "/CN=x", "-keyout", "/dev/null", "-newkey"];
        assert!(openssl(&[&arguments, key, &["-out"]].concat(), &csr).0);
    };
    request(&["rsa:1024"]);
    assert!(matches!(issue(), EnrolmentError::WeakKey { .. }));
    request(&["ec", "-pkeyopt", "ec_paramgen_curve:secp256k1"]);
    assert!(matches!(issue(), EnrolmentError::WeakKey { .. }));
    request(&["rsa:2048"]);
    enrolment("one").issue(authority.path(), out.path(), Some(&csr)).unwrap();
    fs::remove_file(out.path().join(CERTIFICATE)).unwrap();

    let pair = KeyPair::generate().unwrap();
    let der = CertificateParams::default().serialize_request(&pair).unwrap().der().to_vec();
    let last = der.len() - 1;
    let altered = [&der[..last], &[der.last().unwrap() ^ 1]].concat();
    let pem = pkcs8::der::pem::encode_string("CERTIFICATE REQUEST", pkcs8::LineEnding::LF, &altered).unwrap();
    fs::write(&csr, pem).unwrap();
    assert!(matches!(issue(), EnrolmentError::WrongSignature { .. }));
    fs::write(&csr, "nothing").unwrap();
    assert!(matches!(issue(), EnrolmentError::MalformedRequest { .. }));
    assert!(!out.path().join(CERTIFICATE).exists());
}

#[test]
fn names_that_would_say_something_else_are_refused() {
    for name in ["", ".", "..", "a/b", "a b", "ä", "one?", "a%2fb", &"a".repeat(64)] {
        assert!(name.parse::<EdgeName>().is_err(), "{name:?}");
    }
    for domain in ["", "Example.org", "a/b", "example.org:1", "-a", ".a"] {
        assert!(domain.parse::<TrustDomain>().is_err(), "{domain:?}");
    }
    assert!("paris-1.a_b".parse::<EdgeName>().is_ok() && "example.org".parse::<TrustDomain>().is_ok());
}

#[test]
fn a_certificate_neither_outlives_its_authority_nor_is_born_dead() {
    let (authority, out) = (authority(), tempfile::tempdir().unwrap());
    let lasting = |validity| Enrolment { validity, ..enrolment("one") }.issue(authority.path(), out.path(), None);
    assert!(matches!(lasting(3650 * DAY), Err(EnrolmentError::OutlivesAuthority(_))));
    assert!(matches!(lasting(Duration::from_secs(1)), Err(EnrolmentError::Validity)));
    assert!(!out.path().join(KEY).exists(), "a key without a certificate would be in the way");
    lasting(3600 * DAY).unwrap();
    let foreign = tempfile::tempdir().unwrap();
    create_authority(foreign.path()).unwrap();
    fs::copy(foreign.path().join(AUTHORITY_KEY), authority.path().join(AUTHORITY_KEY)).unwrap();
    let mixed = enrolment("two").issue(authority.path(), tempfile::tempdir().unwrap().path(), None);
    assert!(matches!(mixed, Err(EnrolmentError::NoAuthority { .. })));
}
