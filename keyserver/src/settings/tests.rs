#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use keystead_program::run::Failure;

use super::*;
use crate::fixture::{EDGE_ONE, Files, Kind};
use crate::refusal::Refusal;
use crate::ticket_keys::ratchet::{ClockFault, RotationPeriod};

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
    let now = UnixTime::now();
    let rights = settings.authorizations.of(&EDGE_ONE.parse().unwrap(), now).unwrap();
    assert_eq!(
        rights.grants(now).map(|grant| grant.key().key_id()).collect::<Vec<_>>(),
        [rsa.key_id(), settings.keys[1].key_id()]
    );
    assert!(settings.report().to_string().contains("key ec: EcdsaP256, ecdsa_secp256r1_sha256, id "));
}

#[test]
fn a_key_signs_with_all_that_fits_it_best_first_unless_told_otherwise() {
    let settings = files().settings(&TWO_KEYS.replace("schemes = [\"rsa_pss_rsae_sha256\"]", "")).unwrap();
    let key = &settings.keys[0];
    assert_eq!(key.identity().schemes(), key.identity().public_key().kind().schemes());
}

const KEYS: &str = "keys = [\"rsa\", \"ec\"]";

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
        (KEYS, "keys = [{ name = \"ce\" }, \"ec\"]", "there is no [[key]] of the name ce"),
        (KEYS, "keys = [\"ec\", { name = \"ec\" }]", "the key ec stands twice in `keys`"),
        (KEYS, "keys = [7]", ":15:9: invalid type: integer `7`, expected the name of a key, or a table"),
        (KEYS, "keys = [{ name = \"ec\", bust = 3 }]", ":15:24: unknown field `bust`"),
        (KEYS, "keys = [{ name = \"ec\", bust = 3 }]", "did you mean `burst`?"),
        (KEYS, "keys = [{ rate = 3 }]", "missing field `name`"),
        (
            KEYS,
            "keys = [{ name = \"ec\", operations = [\"sign_key_exchange\"] }]",
            "unknown variant `sign_key_exchange`",
        ),
        (
            KEYS,
            "keys = [{ name = \"ec\", operations = [\"sign_server_key_exchang\"] }]",
            "did you mean `sign_server_key_exchange`?",
        ),
        (KEYS, "keys = [{ name = \"ec\", operations = [] }]", "operations = [] allows nothing; take the key off"),
        (
            KEYS,
            "keys = [{ name = \"rsa\", operations = [\"recover_master_secret\"] }]",
            "danger_rsa_key_transport = true",
        ),
        (
            KEYS,
            "keys = [{ name = \"rsa\", schemes = [\"rsa_pkcs1_sha256\"] }]",
            "does not sign with rsa_pkcs1_sha256; take",
        ),
        (KEYS, "keys = [{ name = \"ec\", schemes = [] }]", "schemes = [] allows no signature"),
        (KEYS, "keys = [{ name = \"ec\", server_names = [] }]", "server_names = [] serves nobody"),
        (KEYS, "keys = [{ name = \"ec\", server_names = [\"a.*\"] }]", "`a.*` is neither a DNS name nor `*.`"),
        (KEYS, "keys = [{ name = \"ec\", server_names = [\"10.0.0.1\"] }]", "`10.0.0.1` is an address"),
        (KEYS, "keys = [{ name = \"ec\", rate = 0 }]", "rate = 0 lets nothing through; leave it out"),
        (KEYS, "keys = [{ name = \"ec\", rate = -1 }]", "invalid value: integer `-1`"),
        (KEYS, "keys = [{ name = \"ec\", burst = 3 }]", "burst takes a `rate`"),
        (
            KEYS,
            "keys = [{ name = \"rsa\", rate = 10, burst = 29 }]",
            "the key rsa: burst = 29 is less than one operation costs; make it 30",
        ),
        (
            KEYS,
            "keys = [\"rsa\", \"ec\"]\nrate = 10\nburst = 29",
            "edge/one: burst = 29 is less than one operation costs",
        ),
        (KEYS, "keys = [{ name = \"ec\", not_after = \"tomorrow\" }]", ":15:"),
        (KEYS, "keys = [\"ec\"]\nnot_aftre = \"2027-01-01T00:00:00Z\"", "did you mean `not_after`?"),
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

#[test]
fn each_cause_is_told_once() {
    let files = files();
    let without_secret = format!("[tickets]\nstate = \"none.toml\"\n{TWO_KEYS}");
    let told = |text: &str| Failure::configuration(files.settings(text).unwrap_err()).to_string();
    assert_eq!(told(&without_secret).matches("none.toml").count(), 1, "{}", told(&without_secret));
    std::fs::remove_file(files.path().join("channel.key")).unwrap();
    assert_eq!(told(TWO_KEYS).matches("channel.key").count(), 1, "{}", told(TWO_KEYS));
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
    let generation = || UnixTime::now().0.as_secs() / 3600;
    let before = generation();
    let on = files.settings(&with_tickets(&files, Duration::ZERO)).unwrap().report().to_string();
    let says = |generation: u64| on.contains(&format!("generation {generation}, a rotation each 1h"));
    assert!(says(before) || says(generation()), "{on}");
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
    assert_eq!(
        settings.authorizations.of(&EDGE_ONE.parse().unwrap(), UnixTime::now()).err(),
        Some(Refusal::UnknownPeer)
    );
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
    let expected = [
        Warning::WorldReadable(files.path().join("ec.key")),
        Warning::PlainPrivateKeys("rsa, ec".to_owned()),
        Warning::UnusedKey("ec".into()),
        Warning::NoAudit,
    ];
    assert_eq!(settings.warnings, expected);
}

#[test]
fn what_an_edge_may_do_with_a_key_is_read_and_reported() {
    let keys = r#"keys = [
    { name = "rsa", operations = ["sign_server_key_exchange"], server_names = ["Example.org", "*.example.org", ""] },
    { name = "ec", schemes = ["ecdsa_secp256r1_sha256"], rate = 300, burst = 600, not_after = "2099-01-01T00:00:00Z" },
]
rate = 1000
not_after = "2099-06-01T00:00:00Z""#;
    let settings = files().settings(&TWO_KEYS.replace(KEYS, keys)).unwrap();
    assert!(!settings.warnings.iter().any(|warning| matches!(warning, Warning::RightsOver { .. })));
    let report = settings.report().to_string();
    let line = format!(
        "edge {EDGE_ONE}: rate 1000; until 2099-06-01T00:00:00Z; rsa (sign_server_key_exchange; for example.org \
         *.example.org no name), ec (ecdsa_secp256r1_sha256; rate 300; burst 600; until 2099-01-01T00:00:00Z)\n"
    );
    assert!(report.contains(&line), "{report}");
}

#[test]
fn rights_that_are_over_are_warned_of_and_give_nothing() {
    let keys = "keys = [\"rsa\", { name = \"ec\", not_after = \"2020-01-01T00:00:00Z\" }]";
    let settings = files().settings(&TWO_KEYS.replace(KEYS, keys)).unwrap();
    let (edge, now) = (EDGE_ONE.parse().unwrap(), UnixTime::now());
    let over = Warning::RightsOver { edge, key: Some("ec".to_owned()) };
    assert!(settings.warnings.contains(&over), "{:?}", settings.warnings);
    let rights = settings.authorizations.of(&EDGE_ONE.parse().unwrap(), now).unwrap();
    assert_eq!(rights.grants(now).map(|grant| grant.key().name().as_ref()).collect::<Vec<_>>(), ["rsa"]);

    let all = format!("{KEYS}\nnot_after = \"2020-01-01T00:00:00Z\"");
    let settings = files().settings(&TWO_KEYS.replace(KEYS, &all)).unwrap();
    let over = Warning::RightsOver { edge: EDGE_ONE.parse().unwrap(), key: None };
    assert!(settings.warnings.contains(&over), "{:?}", settings.warnings);
    let rights = settings.authorizations.of(&EDGE_ONE.parse().unwrap(), now);
    assert_eq!(rights.err(), Some(Refusal::RightsExpired));
}

#[test]
fn a_loaded_configuration_goes_on_from_what_was_left_of_a_rate_that_stays() {
    let files = files();
    let rate = |rate| TWO_KEYS.replace(KEYS, &format!("keys = [{{ name = \"ec\", rate = {rate}, burst = 2 }}]"));
    let before = files.settings(&rate(1)).unwrap().authorizations;
    let (edge, now, at) = (EDGE_ONE.parse().unwrap(), UnixTime::now(), std::time::Instant::now());
    let pays = |table: &Authorizations| {
        let rights = table.of(&edge, now).unwrap();
        rights.pay(rights.grants(now).next(), Cost(2), at)
    };
    assert_eq!(pays(&before), Ok(()));
    let same = files.settings(&rate(1)).unwrap().authorizations.continuing(&before);
    assert_eq!(pays(&same), Err(Refusal::RateLimited));
    let other = files.settings(&rate(2)).unwrap().authorizations.continuing(&before);
    assert_eq!(pays(&other), Ok(()));
}

#[test]
fn what_no_file_has_changed_of_is_not_loaded_again() {
    let files = files();
    let Settings { files: read, config, channel, keys, tokens, .. } = files.settings(TWO_KEYS).unwrap();
    let path = read.configuration().to_owned();
    let running = Running { files: read, config, channel, keys, tokens };
    let reload = || Settings::reload(&mut Snapshot::of(&path), &running);

    let same = reload().unwrap();
    assert!(running.keys.iter().zip(&same.keys).all(|(before, now)| Arc::ptr_eq(before, now)));
    assert!(same.superseded.is_empty());

    files.add_key("ec", Kind::P256);
    let other = reload().unwrap();
    let shared = |name: &str| {
        let find = |keys: &[Arc<Key>]| keys.iter().find(|key| key.name().as_ref() == name).unwrap().clone();
        Arc::ptr_eq(&find(&running.keys), &find(&other.keys))
    };
    assert!(shared("rsa") && !shared("ec"));
    assert_eq!(other.superseded.iter().map(|key| key.name().as_ref()).collect::<Vec<_>>(), ["ec"]);

    files.write("ec.pem", "half a certif");
    let mut looked_at = Snapshot::of(&path);
    let error = Settings::reload(&mut looked_at, &running).unwrap_err().to_string();
    assert!(error.contains("ec.pem"), "{error}");
    assert!(looked_at.fingerprint(&files.path().join("ec.pem")).is_some(), "it is followed though it was refused");
}
