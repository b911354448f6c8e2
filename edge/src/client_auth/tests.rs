#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::PathBuf;

use keystead_tls::{AlertDescription, ClientCertificateRefusal as Refusal, Fault};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, NameConstraints,
    RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls_pki_types::pem::PemObject;

use super::*;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn authority(name: &str) -> Authority {
    CertifiedIssuer::self_signed(ca_params(name), KeyPair::generate().unwrap()).unwrap()
}

fn intermediate(name: &str, root: &Authority, change: impl FnOnce(&mut CertificateParams)) -> Authority {
    let mut params = ca_params(name);
    params.serial_number = Some(SerialNumber::from(7));
    change(&mut params);
    CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), root).unwrap()
}

/// A client's certificate; `change` makes it a bad one.
fn client(issuer: &Authority, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "client");
    params.subject_alt_names = vec![SanType::DnsName("client.example.org".try_into().unwrap())];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.serial_number = Some(SerialNumber::from(42));
    change(&mut params);
    params.signed_by(&KeyPair::generate().unwrap(), issuer).unwrap().der().to_vec()
}

fn good(issuer: &Authority) -> Vec<u8> {
    client(issuer, |_| {})
}

fn verifier_with(root: &Authority, lists: Vec<PathBuf>, rules: Vec<Rule>) -> ClientVerifier {
    let anchor = webpki::anchor_from_trusted_cert(root.der()).unwrap().to_owned();
    ClientVerifier::new(vec![anchor], RevocationLists::load(lists).unwrap(), rules)
}

fn verify(root: &Authority, chain: &[Vec<u8>]) -> Result<(), Error> {
    verdict(&verifier_with(root, Vec::new(), Vec::new()), chain)
}

fn verdict(verifier: &ClientVerifier, chain: &[Vec<u8>]) -> Result<(), Error> {
    verifier.verify(chain, UnixTime::now()).map_err(|objection| objection.cause())
}

/// A refusal that is the client's to answer for.
fn because(cause: Refusal) -> Result<(), Error> {
    Err(cause.into())
}

/// A refusal for want of a list.
const UNKNOWN: Result<(), Error> = Err(Error::Local(LocalFailure::RevocationUnknown));

#[test]
fn a_sound_certificate_is_let_in() {
    let root = authority("root");
    assert_eq!(verify(&root, &[good(&root)]), Ok(()));
    let bare = client(&root, |params| {
        params.key_usages.clear();
        params.extended_key_usages.clear();
    });
    assert_eq!(verify(&root, &[bare]), Ok(()));
    let intermediate = intermediate("intermediate", &root, |_| {});
    assert_eq!(verify(&root, &[good(&intermediate), intermediate.der().to_vec()]), Ok(()));
}

#[test]
fn each_bad_certificate_has_its_cause() {
    let root = authority("root");
    for (what, expected, change) in [
        (
            "expired",
            Refusal::Expired,
            (|params| params.not_after = date_time_ymd(2020, 1, 1)) as fn(&mut CertificateParams),
        ),
        ("not yet valid", Refusal::Expired, |params| params.not_before = date_time_ymd(2100, 1, 1)),
        ("for servers", Refusal::Unsupported, |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        }),
        ("for encryption", Refusal::Unsupported, |params| {
            params.key_usages = vec![KeyUsagePurpose::KeyEncipherment];
        }),
        ("an authority's", Refusal::Unsupported, |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
    ] {
        assert_eq!(verify(&root, &[client(&root, change)]), because(expected), "{what}");
    }
    let mut damaged = good(&root);
    *damaged.last_mut().unwrap() ^= 1;
    assert_eq!(verify(&root, &[damaged]), because(Refusal::Bad));
    assert_eq!(verify(&root, &[b"no certificate".to_vec()]), because(Refusal::Bad));
    assert_eq!(verify(&root, &[]), because(Refusal::Bad));
}

#[test]
fn issuers_must_be_known_and_may_only_issue_what_they_are_allowed_to() {
    let root = authority("root");
    assert_eq!(verify(&root, &[good(&authority("other"))]), because(Refusal::UnknownCa));
    let middle = intermediate("intermediate", &root, |_| {});
    assert_eq!(verify(&root, &[good(&middle)]), because(Refusal::UnknownCa), "the intermediate is missing");

    let through = |change: fn(&mut CertificateParams)| {
        let middle = intermediate("intermediate", &root, change);
        verify(&root, &[good(&middle), middle.der().to_vec()])
    };
    assert_eq!(through(|params| params.is_ca = IsCa::ExplicitNoCa), because(Refusal::UnknownCa));
    assert_eq!(through(|params| params.not_after = date_time_ymd(2020, 1, 1)), because(Refusal::Expired));
    assert_eq!(through(|params| params.key_usages = vec![KeyUsagePurpose::CrlSign]), because(Refusal::Bad));
    let subtree = |name: &str| GeneralSubtree::DnsName(name.to_owned());
    let constraints = |permitted: &str| NameConstraints {
        permitted_subtrees: vec![subtree(permitted)],
        excluded_subtrees: vec![subtree("secret.example.org")],
    };
    let constrained =
        intermediate("constrained", &root, |params| params.name_constraints = Some(constraints("example.org")));
    assert_eq!(verify(&root, &[good(&constrained), constrained.der().to_vec()]), Ok(()));
    let constrained =
        intermediate("constrained", &root, |params| params.name_constraints = Some(constraints("other.org")));
    assert_eq!(verify(&root, &[good(&constrained), constrained.der().to_vec()]), because(Refusal::Bad));
}

#[test]
fn one_rule_that_is_met_lets_in() {
    let root = authority("root");
    let middle = intermediate("intermediate", &root, |_| {});
    let chain = [good(&middle), middle.der().to_vec()];
    let spki = |der: &[u8]| {
        let (_, certificate) = X509Certificate::from_der(der).unwrap();
        fingerprint(certificate.public_key().raw)
    };
    let other = Rule::Dns("other.example.org".to_owned());
    for (rule, expected) in [
        (Rule::Dns("client.example.org".to_owned()), Ok(())),
        (Rule::Subject("CN=clien".to_owned()), because(Refusal::AccessDenied)),
        (Rule::Subject("CN=client".to_owned()), Ok(())),
        (Rule::Uri("client.example.org".to_owned()), because(Refusal::AccessDenied)),
        (Rule::SpkiSha256(spki(&chain[0])), Ok(())),
        (Rule::SpkiSha256(spki(root.der())), because(Refusal::AccessDenied)),
        (Rule::CaSpkiSha256(spki(root.der())), Ok(())),
        (Rule::CaSpkiSha256(spki(&chain[1])), Ok(())),
        (Rule::CaSpkiSha256(spki(&chain[0])), because(Refusal::AccessDenied)),
    ] {
        let verifier = verifier_with(&root, Vec::new(), vec![other.clone(), rule.clone()]);
        assert_eq!(verdict(&verifier, &chain), expected, "{rule:?}");
        // A rule opens no way around the chain.
        let stranger = good(&authority("stranger"));
        assert_eq!(verdict(&verifier, &[stranger]), because(Refusal::UnknownCa));
    }
}

/// A revocation list by `issuer` of certificates with these serial numbers.
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

#[test]
fn each_certificate_of_the_path_is_looked_up_in_its_issuers_list() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("lists.pem");
    let root = authority("root");
    let middle = intermediate("intermediate", &root, |_| {});
    let chain = [good(&middle), middle.der().to_vec()];
    for (what, lists, expected) in [
        ("none revoked", vec![list(&root, &[8], 2100), list(&middle, &[41, 43], 2100)], Ok(())),
        ("the client", vec![list(&root, &[], 2100), list(&middle, &[42], 2100)], because(Refusal::Revoked)),
        ("the issuer", vec![list(&root, &[7], 2100), list(&middle, &[], 2100)], because(Refusal::Revoked)),
        ("the number in another's list", vec![list(&root, &[42], 2100), list(&middle, &[7], 2100)], Ok(())),
        ("no list of the client's issuer", vec![list(&root, &[], 2100)], UNKNOWN),
        ("no list of the root", vec![list(&middle, &[], 2100)], UNKNOWN),
        ("a list past its time", vec![list(&root, &[], 2100), list(&middle, &[], 2025)], UNKNOWN),
        (
            "a list by somebody else of the same name",
            vec![list(&root, &[], 2100), list(&authority("intermediate"), &[], 2100)],
            UNKNOWN,
        ),
    ] {
        fs::write(&file, lists.concat()).unwrap();
        let verifier = verifier_with(&root, vec![file.clone()], Vec::new());
        assert_eq!(verdict(&verifier, &chain), expected, "{what}");
    }
}

#[test]
fn a_list_that_fails_is_no_fault_of_the_clients() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("list");
    let root = authority("root");
    fs::write(&file, list(&root, &[], 2025)).unwrap();
    let verifier = verifier_with(&root, vec![file.clone()], Vec::new());
    let error = verdict(&verifier, &[good(&root)]).unwrap_err();
    assert_eq!((error.fault(), error.reason()), (Fault::Own, "revocation_unknown"));
    assert_eq!(error.alert(), Some(AlertDescription::INTERNAL_ERROR));
    // What is wrong with the certificate itself still counts as that.
    for (expected, change) in [
        (Refusal::Expired, (|params| params.not_after = date_time_ymd(2020, 1, 1)) as fn(&mut CertificateParams)),
        (Refusal::Unsupported, |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
    ] {
        assert_eq!(verdict(&verifier, &[client(&root, change)]), because(expected));
    }
    assert_eq!(verdict(&verifier, &[good(&authority("other"))]), because(Refusal::UnknownCa));
    let mut forged = good(&root);
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(verdict(&verifier, &[forged]), because(Refusal::Bad));
    // Who is on a list past its time is revoked all the same, and not let in.
    fs::write(&file, list(&root, &[42], 2025)).unwrap();
    assert_eq!(verdict(&verifier_with(&root, vec![file], Vec::new()), &[good(&root)]), UNKNOWN);
}

#[test]
fn an_issuer_without_the_right_to_sign_lists_leaves_revocation_unknown() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("list");
    let root = authority("root");
    let middle = intermediate("intermediate", &root, |params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign]);
    // As one with that right signs it, for rcgen minds it too.
    let mut able = ca_params("intermediate");
    able.key_usages.push(KeyUsagePurpose::DigitalSignature);
    let able = CertifiedIssuer::self_signed(able, KeyPair::from_pem(&middle.key().serialize_pem()).unwrap()).unwrap();
    fs::write(&file, [list(&root, &[], 2100), list(&able, &[], 2100)].concat()).unwrap();
    let verifier = verifier_with(&root, vec![file], Vec::new());
    assert_eq!(verdict(&verifier, &[good(&middle), middle.der().to_vec()]), UNKNOWN);
}

#[test]
fn lists_are_read_again_when_they_change_and_the_last_good_one_counts() {
    let directory = tempfile::tempdir().unwrap();
    let (file, beside) = (directory.path().join("list"), directory.path().join("beside"));
    let root = authority("root");
    let chain = [good(&root)];
    fs::write(&file, list(&root, &[], 2100)).unwrap();
    let verifier = verifier_with(&root, vec![file.clone()], Vec::new());
    let reload = || verifier.revocation_lists.reload(UnixTime::now());
    let replace = |content: &[u8]| {
        fs::write(&beside, content).unwrap();
        fs::rename(&beside, &file).unwrap();
    };
    assert_eq!((reload(), verdict(&verifier, &chain)), (0, Ok(())));

    let pem = list(&root, &[42], 2100);
    replace(rustls_pki_types::CertificateRevocationListDer::from_pem_slice(pem.as_bytes()).unwrap().as_ref());
    assert_eq!(verdict(&verifier, &chain), Ok(()), "not read yet");
    assert_eq!((reload(), verdict(&verifier, &chain)), (0, because(Refusal::Revoked)));

    for bad in [&b""[..], b"no list", b"\x30\x03\x02\x01\x00"] {
        replace(bad);
        assert_eq!((reload(), verdict(&verifier, &chain)), (1, because(Refusal::Revoked)));
        assert_eq!(reload(), 1, "tried again");
    }
    fs::remove_file(&file).unwrap();
    assert_eq!((reload(), verdict(&verifier, &chain)), (1, because(Refusal::Revoked)));

    replace(list(&root, &[1], 2100).as_bytes());
    assert_eq!((reload(), verdict(&verifier, &chain)), (0, Ok(())));
    replace(list(&root, &[1], 2025).as_bytes());
    assert_eq!((reload(), verdict(&verifier, &chain)), (0, UNKNOWN), "past its time");
}

#[test]
fn a_file_without_lists_is_refused_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("list");
    for content in ["", "no list"] {
        fs::write(&file, content).unwrap();
        assert!(RevocationLists::load(vec![file.clone()]).unwrap_err().contains("X509 CRL"));
    }
    assert!(RevocationLists::load(vec![directory.path().join("lost")]).is_err());
}
