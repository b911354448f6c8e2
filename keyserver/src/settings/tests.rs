#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::time::Duration;

use super::*;
use crate::fixture::{EDGE_ONE, Files, Kind};
use crate::ticket_keys::ratchet::RotationPeriod;

const TWO_KEYS: &str = r#"
[[key]]
name = "rsa"
private_key = "rsa.key"
certificate_chain = "rsa.pem"
schemes = ["rsa_pss_rsae_sha256"]
ocsp_response = "rsa.ocsp"
[[key]]
name = "ec"
private_key = "ec.key"
certificate_chain = "ec.pem"
[[edge]]
id = "spiffe://keystead.test/edge/one"
keys = ["rsa", "ec"]
"#;

fn files() -> Files {
    let files = Files::new();
    files.add_key("rsa", Kind::Rsa2048);
    files.add_key("ec", Kind::P256);
    files.write("rsa.ocsp", [0x30, 0x03, 0x0a, 0x01, 0x00]);
    files
}

#[test]
fn a_good_configuration_is_read_with_everything_it_names() {
    let settings = files().settings(TWO_KEYS).unwrap();
    let names: Vec<_> = settings.keys.iter().map(|key| key.name().as_ref()).collect();
    assert_eq!(names, ["rsa", "ec"]);
    let rsa = &settings.keys[0];
    assert_eq!(rsa.identity().schemes(), [keystead_tls::SignatureScheme::RSA_PSS_RSAE_SHA256]);
    assert_eq!(rsa.identity().ocsp_response(), Some(&[0x30, 0x03, 0x0a, 0x01, 0x00][..]));
    let rights = settings.authorizations.of(&EDGE_ONE.parse().unwrap()).unwrap();
    assert_eq!(rights.keys.iter().map(Key::key_id).collect::<Vec<_>>(), [rsa.key_id(), settings.keys[1].key_id()]);
    assert!(settings.report().to_string().contains("key ec: EcdsaP256, ecdsa_secp256r1_sha256, id "));
}

#[test]
fn a_key_signs_with_all_that_fits_it_best_first_unless_told_otherwise() {
    let settings = files().settings(&TWO_KEYS.replace("schemes = [\"rsa_pss_rsae_sha256\"]", "")).unwrap();
    let key = &settings.keys[0];
    assert_eq!(key.identity().schemes(), key.identity().public_key().kind().schemes());
}

/// What is said about a configuration in which `from` stands as `to`.
fn error(from: &str, to: &str) -> String {
    assert!(TWO_KEYS.contains(from));
    files().settings(&TWO_KEYS.replace(from, to)).unwrap_err().to_string()
}

#[test]
fn what_is_wrong_is_said() {
    let cases = [
        ("name = \"ec\"", "name = \"rsa\"", "two [[key]] have the name rsa"),
        ("keys = [\"rsa\", \"ec\"]", "keys = [\"rsa\", \"ce\"]", "there is no [[key]] of the name ce"),
        ("private_key = \"ec.key\"", "private_key = \"rsa.key\"", "[[key]] ec: "),
        ("private_key = \"ec.key\"", "private_key = \"none.key\"", "none.key: No such file"),
        ("certificate_chain = \"ec.pem\"", "certificate_chain = \"ec.key\"", "the chain holds no certificate"),
        ("certificate_chain = \"ec.pem\"", "certificate_chain = \"channel.pem\"", "channel.pem"),
        ("rsa_pss_rsae_sha256", "rsa_pss_rsae_sha265", "did you mean `rsa_pss_rsae_sha256`?"),
        ("rsa_pss_rsae_sha256\"]", "rsa_pss_rsae_sha256\", \"ed25519\"]", "its key cannot sign with ed25519"),
        ("schemes = [\"rsa_pss_rsae_sha256\"]", "schemes = []", "none of the signature schemes"),
        ("spiffe://keystead.test/edge/one", "one", "not an absolute URI"),
        ("name = \"ec\"", "nmae = \"ec\"", "did you mean `name`?"),
        ("\n[[key]]\nname = \"rsa\"", "\ncrypto = \"fastt\"\n[[key]]\nname = \"rsa\"", "did you mean `fast`?"),
        ("name = \"ec\"", "name = \"ec\"\ndanger_rsa_key_transport = true", "is for RSA keys alone"),
        (
            "\n[[key]]\nname = \"rsa\"",
            "\ncrypto = \"portable\"\n[[key]]\ndanger_rsa_key_transport = true\nname = \"rsa\"",
            "needs crypto = \"fast\"",
        ),
        ("[[edge]]", "[limits]\nleases_per_edge = 0\n[[edge]]", "[limits] leases_per_edge must not be 0"),
        ("[[edge]]", "[limits]\nleases_per_edge = 8191\n[[edge]]", "leases_per_edge must be at least 8192"),
        ("[[edge]]", "[limits]\nqueue_light = 0\n[[edge]]", "[limits] queue_light must not be 0"),
        ("[[edge]]", "[tickets]\nfile = \"x\"\n[[edge]]", "unknown field `file`, expected `state`"),
        ("keys = [\"rsa\", \"ec\"]", "keys = []\nticket_group = \"\"", "1 to 64 printable ASCII characters"),
        ("[[edge]]", "[log]\nlevel = \"x=loud\"\n[[edge]]", "[log] level"),
    ];
    for (from, to, said) in cases {
        let error = error(from, to);
        assert!(error.contains(said), "{error:?} does not say {said:?}");
    }
}

#[test]
fn key_transport_is_off_until_it_is_asked_for_and_then_warned_of() {
    let files = files();
    let off = files.settings(TWO_KEYS).unwrap();
    assert!(off.keys.iter().all(|key| !key.identity().allows_key_transport()));
    let on = files.settings(&TWO_KEYS.replacen("[[key]]", "[[key]]\ndanger_rsa_key_transport = true", 1)).unwrap();
    assert_eq!(on.keys.iter().map(|key| key.identity().allows_key_transport()).collect::<Vec<_>>(), [true, false]);
    assert!(on.warnings.contains(&Warning::KeyTransport("rsa".into())));
    assert!(on.report().to_string().contains("have no forward secrecy"));
}

#[test]
fn a_key_of_the_same_kind_that_is_not_the_certificates_is_refused() {
    let files = files();
    files.add_key("other", Kind::P256);
    let text = TWO_KEYS.replace("private_key = \"ec.key\"", "private_key = \"other.key\"");
    let error = files.settings(&text).unwrap_err().to_string();
    assert!(error.contains("is not the private key of the first certificate in"), "{error}");
}

#[test]
fn one_key_under_two_names_and_an_edge_named_twice_are_refused() {
    let files = files();
    let twice = TWO_KEYS.replace("\"ec.key\"", "\"rsa.key\"").replace("\"ec.pem\"", "\"rsa.pem\"");
    assert!(matches!(files.settings(&twice), Err(SettingsError::DuplicateKey { .. })));
    let edge = format!("{TWO_KEYS}[[edge]]\nid = \"{EDGE_ONE}\"\nkeys = []\n");
    assert!(matches!(files.settings(&edge), Err(SettingsError::DuplicateEdge(_))));
    assert!(matches!(files.settings(""), Err(SettingsError::NoKeys)));
}

/// A configuration with tickets on, and their secret made so long ago.
fn with_tickets(files: &Files, age: Duration) -> String {
    let file = files.path().join("tickets.toml");
    state::create(&file, RotationPeriod::HOUR, UnixTime(UnixTime::now().0 - age), &mut rand::rng()).unwrap();
    format!("[tickets]\nstate = \"tickets.toml\"\n{TWO_KEYS}")
}

#[test]
fn tickets_are_off_until_they_are_asked_for_and_the_report_says_so() {
    let files = files();
    let off = files.settings(TWO_KEYS).unwrap();
    assert!(off.tickets.is_none() && off.report().to_string().contains("tickets: off"));
    let on = files.settings(&with_tickets(&files, Duration::ZERO)).unwrap().report().to_string();
    let generation = UnixTime::now().0.as_secs() / 3600;
    assert!(on.contains(&format!("generation {generation}, a rotation each 1h")), "{on}");
    assert!(on.contains("ticket group default: 1 edges, 0 revoked"), "{on}");
}

#[test]
fn a_ticket_secret_that_cannot_be_used_is_said() {
    let files = files();
    let text = with_tickets(&files, Duration::from_secs(370 * 86_400));
    let error = files.settings(&text).unwrap_err().to_string();
    assert!(error.contains("[tickets] the clock is 36") && error.contains("check the clock"), "{error}");
    std::fs::remove_file(files.path().join("tickets.toml")).unwrap();
    let error = files.settings(&text).unwrap_err().to_string();
    assert!(error.contains("there is no ticket secret; make it with `keystead-keyserver init"), "{error}");
}

#[test]
fn a_clock_behind_the_ticket_secret_and_a_secret_for_everybody_are_warnings() {
    let files = files();
    let file = files.path().join("tickets.toml");
    let later = UnixTime(UnixTime::now().0 + Duration::from_secs(86_400));
    state::create(&file, RotationPeriod::HOUR, later, &mut rand::rng()).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o604)).unwrap();
    let settings = files.settings(&format!("[tickets]\nstate = \"tickets.toml\"\n{TWO_KEYS}")).unwrap();
    assert!(settings.warnings.contains(&Warning::WorldReadable(file)), "{:?}", settings.warnings);
    let behind = |warning: &Warning| matches!(warning, Warning::Clock(ClockFault::ClockBehind { .. }));
    assert!(settings.warnings.iter().any(behind), "{:?}", settings.warnings);
    assert_eq!(settings.tickets.unwrap().ratchet.generation(), later.0.as_secs() / 3600);
}

#[test]
fn a_revoked_edge_has_no_rights_and_no_use_for_a_key() {
    let files = files();
    let text = with_tickets(&files, Duration::ZERO);
    let settings = files.settings(&format!("{text}revoked = true\nticket_group = \"paris\"\n")).unwrap();
    assert!(settings.authorizations.of(&EDGE_ONE.parse().unwrap()).is_none());
    assert!(settings.warnings.contains(&Warning::UnusedKey("ec".into())));
    let report = settings.report().to_string();
    assert!(report.contains(&format!("edge {EDGE_ONE}: revoked")), "{report}");
    assert!(report.contains("ticket group paris: 0 edges, 1 revoked"), "{report}");
}

#[test]
fn what_a_person_should_look_at_is_a_warning() {
    let files = files();
    for file in ["rsa.key", "ec.key", "channel.key"] {
        let mode = if file == "ec.key" { 0o644 } else { 0o600 };
        std::fs::set_permissions(files.path().join(file), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let settings = files.settings(&TWO_KEYS.replace("[\"rsa\", \"ec\"]", "[\"rsa\"]")).unwrap();
    let expected =
        [Warning::WorldReadable(files.path().join("ec.key")), Warning::UnusedKey("ec".into()), Warning::NoAudit];
    assert_eq!(settings.warnings, expected);
}
