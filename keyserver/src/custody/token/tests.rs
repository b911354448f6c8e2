//! Against SoftHSM2: a real module with real tokens, of which each test has one of its own.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::Instant;

use cryptoki::mechanism::Mechanism;
use cryptoki::object::Attribute;
use cryptoki::session::Session;
use keystead_tls::crypto::FAST;
use keystead_tls::{KeyKind, SignatureScheme};

use super::key::TokenKey;
use super::module::Module;
use super::*;
use crate::custody::secret::SecretSource;
use crate::custody::{Custody, KeyFault, Uses};
use crate::fixture::{pem, rsa};

const PIN: &str = "135790";
const MESSAGE: &[u8] = b"what is to be signed";

/// Where Debian and others put it.
const MODULES: [&str; 3] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
];

/// The module; `None` where it is not installed and tests may be skipped.
fn module() -> Option<PathBuf> {
    let module = MODULES.iter().map(Path::new).find(|module| module.exists());
    let may_skip = std::env::var_os("KEYSTEAD_SKIP_MISSING_CLIENTS").is_some_and(|value| value == "1");
    assert!(module.is_some() || may_skip, "install softhsm2, or set KEYSTEAD_SKIP_MISSING_CLIENTS=1");
    if module.is_none() {
        // Past the harness, which hides what passing tests print.
        let _ = writeln!(std::io::stderr(), "SKIPPED: softhsm2 is not installed");
    }
    module.map(ToOwned::to_owned)
}

/// The directory that the tokens of this process are in. The module reads its configuration once, by a variable of the
/// environment: a test that finds it missing runs itself again in a process that has it.
fn tokens_directory() -> Option<&'static Path> {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    let configuration = std::env::var_os("SOFTHSM2_CONF").filter(|_| std::env::var_os("KEYSTEAD_SOFTHSM").is_some())?;
    Some(DIRECTORY.get_or_init(|| Path::new(&configuration).parent().unwrap().join("tokens")))
}

/// Runs `test` where SoftHSM has a directory of its own: in a child process, which is this test once more.
fn with_softhsm(name: &str, test: impl FnOnce(&Path)) {
    let Some(module) = module() else { return };
    if tokens_directory().is_some() {
        return test(&module);
    }
    let directory = tempfile::tempdir().unwrap();
    let tokens = directory.path().join("tokens");
    fs::create_dir(&tokens).unwrap();
    let configuration = directory.path().join("softhsm2.conf");
    let text = format!("directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n", tokens.display());
    fs::write(&configuration, text).unwrap();
    let test = format!("custody::token::tests::{name}");
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &test, "--nocapture"])
        .env("SOFTHSM2_CONF", &configuration)
        .env("KEYSTEAD_SOFTHSM", "1")
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// Makes a token, and gives the configuration of it.
fn make_token(module: &Path, label: &str) -> TokenConfig {
    let made = Command::new("softhsm2-util")
        .args(["--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", "24680"])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let pin = tokens_directory().unwrap().parent().unwrap().join("pin");
    fs::write(&pin, format!("{PIN}\n")).unwrap();
    TokenConfig {
        name: label.to_owned(),
        module: module.into(),
        label: Some(label.to_owned()),
        serial: None,
        slot: None,
        pin: SecretSource::File(pin.into()),
        sessions: 2,
        session_wait: Duration::from_millis(50),
        queue: 16,
    }
}

fn load(config: &TokenConfig) -> Arc<Token> {
    let tokens = Tokens::load(std::slice::from_ref(config), Path::new("/")).unwrap();
    tokens.find(&config.name).unwrap().clone()
}

fn object(label: &str) -> ObjectName {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    ObjectName::new(Some(label), Some(&format!("{id:08x}"))).unwrap()
}

fn key(token: &Arc<Token>, object: &ObjectName, uses: Uses) -> (TokenKey, PublicKey) {
    let (public_key, _) = token.public_key(object).unwrap();
    (TokenKey::new(token.clone(), object.clone(), public_key.kind(), uses), public_key)
}

fn assert_signs(key: &TokenKey, public_key: &PublicKey) {
    for scheme in public_key.kind().schemes() {
        let signature = key.sign(*scheme, MESSAGE, &mut rand::rng()).unwrap();
        assert_eq!(FAST.verify(*scheme, public_key, MESSAGE, &signature), Ok(()), "{scheme}");
        assert!(FAST.verify(*scheme, public_key, b"another", &signature).is_err(), "{scheme}");
    }
}

const ALL_TYPES: [KeyType; 4] = [KeyType::Rsa2048, KeyType::P256, KeyType::P384, KeyType::Ed25519];

#[test]
fn keys_that_are_made_in_a_token_sign() {
    with_softhsm("keys_that_are_made_in_a_token_sign", |module| {
        let token = load(&make_token(module, "made"));
        for key_type in ALL_TYPES {
            let object = object("made");
            token.generate(key_type, &object, false).unwrap();
            let (key, public_key) = key(&token, &object, Uses::Signing);
            assert_signs(&key, &public_key);
            let again = token.generate(key_type, &object, false).unwrap_err();
            assert!(again.to_string().contains("already"), "{again}");
        }
    });
}

#[test]
fn keys_that_are_put_into_a_token_are_the_same_there() {
    with_softhsm("keys_that_are_put_into_a_token_are_the_same_there", |module| {
        let token = load(&make_token(module, "put"));
        for key_type in ALL_TYPES {
            let (object, material) = (object("put"), KeyMaterial::generate(key_type).unwrap());
            token.import(&material, &object, false).unwrap();
            let (key, public_key) = key(&token, &object, Uses::Signing);
            assert_eq!(public_key.key_id(), material.key_id(), "{key_type:?}");
            assert_signs(&key, material.public_key());
        }
    });
}

#[test]
fn the_raw_operation_is_there_for_key_transport_alone() {
    with_softhsm("the_raw_operation_is_there_for_key_transport_alone", |module| {
        let token = load(&make_token(module, "raw"));
        let (object, material) = (object("raw"), KeyMaterial::of(&pem(rsa())).unwrap());
        token.import(&material, &object, true).unwrap();
        let mut block = vec![0x5a; 256];
        block[..3].fill(0);
        let number = rsa::BoxedUint::from_be_slice(&block, 2048).unwrap();
        let super::super::material::Numbers::Rsa(private) = &material.numbers else { panic!("an RSA key") };
        let ciphertext = rsa::hazmat::rsa_encrypt(&private.to_public_key(), &number).unwrap().to_be_bytes();
        let (transport, _) = key(&token, &object, Uses::KeyTransport);
        assert_eq!(*transport.raw_rsa(&ciphertext).unwrap(), block);
        let (signing, _) = key(&token, &object, Uses::Signing);
        assert_eq!(signing.raw_rsa(&ciphertext).unwrap_err(), KeyFault::Failed);
        // One that may not decrypt in the token does not, whatever the configuration says.
        let (fixed, other) = (self::object("fixed"), KeyMaterial::generate(KeyType::Rsa2048).unwrap());
        token.import(&other, &fixed, false).unwrap();
        assert_eq!(key(&token, &fixed, Uses::KeyTransport).0.raw_rsa(&ciphertext).unwrap_err(), KeyFault::Failed);
    });
}

#[test]
fn a_pool_lends_as_many_sessions_as_it_may_and_then_has_others_wait() {
    with_softhsm("a_pool_lends_as_many_sessions_as_it_may_and_then_has_others_wait", |module| {
        let token = load(&make_token(module, "pool"));
        let object = object("pool");
        token.generate(KeyType::P256, &object, false).unwrap();
        let (key, public_key) = key(&token, &object, Uses::Signing);
        let scheme = SignatureScheme::ECDSA_SECP256R1_SHA256;
        std::thread::scope(|scope| {
            let (lent, is_lent) = mpsc::channel();
            let mut ends = Vec::new();
            for _ in 0..2 {
                let (end, ended) = mpsc::channel::<()>();
                ends.push(end);
                let (token, lent) = (&token, lent.clone());
                scope.spawn(move || {
                    let held = token.pool.with_session(|_, _| {
                        lent.send(()).unwrap();
                        // Until the other end is dropped.
                        let _ = ended.recv();
                        Ok(())
                    });
                    held.unwrap();
                });
                // One after the other: whoever opens a session makes others wait too.
                is_lent.recv().unwrap();
            }
            assert_eq!(token.pool.metrics.in_use.get(), 2);
            let begun = Instant::now();
            assert_eq!(key.sign(scheme, MESSAGE, &mut rand::rng()), Err(KeyFault::TokenBusy));
            assert!(begun.elapsed() >= Duration::from_millis(50));
            assert_eq!(token.pool.metrics.faults("sessions_busy"), 1);
            ends.pop();
            // The session that is given back is lent again.
            while key.sign(scheme, MESSAGE, &mut rand::rng()) == Err(KeyFault::TokenBusy) {}
            assert_signs(&key, &public_key);
            ends.clear();
        });
        assert_eq!((token.pool.metrics.in_use.get(), token.pool.metrics.opened.get()), (0, 3));
    });
}

/// Tries until the key signs, or does not.
fn wait_until_signing(key: &TokenKey, expected: Result<(), KeyFault>) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let sign = || key.sign(SignatureScheme::ECDSA_SECP256R1_SHA256, MESSAGE, &mut rand::rng()).map(drop);
    while sign() != expected {
        assert!(Instant::now() < deadline, "waited in vain for {expected:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_token_that_goes_away_comes_back() {
    with_softhsm("a_token_that_goes_away_comes_back", |module| {
        let config = make_token(module, "away");
        let token = load(&config);
        let object = object("away");
        token.generate(KeyType::P256, &object, false).unwrap();
        let (key, public_key) = key(&token, &object, Uses::Signing);
        wait_until_signing(&key, Ok(()));
        let tokens = tokens_directory().unwrap();
        let elsewhere = tokens.with_file_name("elsewhere");
        for _ in 0..2 {
            fs::rename(tokens, &elsewhere).unwrap();
            // The module holds on to what it has read; a restart of it, as after an upgrade, does not.
            Module::load(module).unwrap().finalize();
            wait_until_signing(&key, Err(KeyFault::TokenUnavailable));
            assert_eq!(token.pool.metrics.up.get(), 0);
            fs::rename(&elsewhere, tokens).unwrap();
            wait_until_signing(&key, Ok(()));
            assert_eq!(token.pool.metrics.up.get(), 1);
            assert_signs(&key, &public_key);
        }
    });
}

#[test]
fn sessions_that_the_module_forgot_are_opened_again_within_the_operation() {
    with_softhsm("sessions_that_the_module_forgot_are_opened_again_within_the_operation", |module| {
        let token = load(&make_token(module, "forgot"));
        let object = object("forgot");
        token.generate(KeyType::P256, &object, false).unwrap();
        let (key, public_key) = key(&token, &object, Uses::Signing);
        assert_signs(&key, &public_key);
        Module::load(module).unwrap().forget_everything();
        // Sessions, login and handles are gone, and the first try finds that.
        assert_signs(&key, &public_key);
        assert_eq!(token.pool.metrics.opened.get(), 3);
    });
}

#[test]
fn a_token_that_is_not_there_at_start_is_found_later() {
    with_softhsm("a_token_that_is_not_there_at_start_is_found_later", |module| {
        let config = TokenConfig { label: Some("late".to_owned()), ..make_token(module, "early") };
        let token = load(&config);
        let object = object("late");
        let key = TokenKey::new(token.clone(), object.clone(), KeyKind::EcdsaP256, Uses::Signing);
        let fault = key.locate().unwrap_err();
        assert!(matches!(&fault, TokenFault::TokenAway(_)) && fault.is_passing(), "{fault:?}");
        assert_eq!(token.pool.metrics.up.get(), 0);
        make_token(module, "late");
        let deadline = Instant::now() + Duration::from_secs(20);
        while token.pool.metrics.up.get() == 0 {
            assert!(Instant::now() < deadline, "the token is not found");
            token.probe();
            std::thread::sleep(Duration::from_millis(50));
        }
        token.generate(KeyType::P256, &object, false).unwrap();
        wait_until_signing(&key, Ok(()));
    });
}

#[test]
fn a_wrong_pin_is_tried_once() {
    with_softhsm("a_wrong_pin_is_tried_once", |module| {
        let config = TokenConfig { sessions: 8, session_wait: Duration::from_secs(20), ..make_token(module, "pin") };
        fs::write(tokens_directory().unwrap().with_file_name("wrong"), "000000").unwrap();
        let wrong = tokens_directory().unwrap().with_file_name("wrong");
        let token = load(&TokenConfig { pin: SecretSource::File(wrong.into()), ..config.clone() });
        let key = TokenKey::new(token.clone(), object("pin"), KeyKind::EcdsaP256, Uses::Signing);
        let locate = || {
            let fault = key.locate().unwrap_err();
            assert!(matches!(&fault, TokenFault::PinRefused(_)) && !fault.is_passing(), "{fault:?}");
            assert!(!fault.to_string().contains("000000"));
        };
        // As many at once as there may be sessions, and then others.
        std::thread::scope(|scope| {
            for _ in 0..config.sessions {
                scope.spawn(locate);
            }
        });
        locate();
        token.generate(KeyType::P256, &object("pin"), false).unwrap_err();
        assert_eq!(token.pool.logins.load(Ordering::Relaxed), 1);
        assert!(!token.pool.wants_probe());
        assert_eq!(token.pool.metrics.opened.get(), 0);
    });
}

#[test]
fn a_key_that_fails_takes_its_token_from_no_other() {
    with_softhsm("a_key_that_fails_takes_its_token_from_no_other", |module| {
        let token = load(&make_token(module, "fails"));
        let (good, bad) = (object("good"), ObjectName::new(Some("bad"), None).unwrap());
        token.generate(KeyType::P256, &good, false).unwrap();
        // One that wants the PIN with each operation: without it, its token says that nobody is logged in.
        let attributes =
            |more: &[Attribute]| [&[Attribute::Token(true), Attribute::Label(b"bad".to_vec())], more].concat();
        let public = attributes(&[Attribute::EcParams(b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07".to_vec())]);
        let private =
            attributes(&[Attribute::Sign(true), Attribute::Private(true), Attribute::AlwaysAuthenticate(true)]);
        let made = token.pool.with_writing_session(|session| {
            Ok(session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private).map(drop)?)
        });
        made.unwrap();
        let ((key, public_key), (failing, _)) = (key(&token, &good, Uses::Signing), key(&token, &bad, Uses::Signing));
        assert_signs(&key, &public_key);
        let opened = token.pool.metrics.opened.get();
        for round in 1..=3 {
            wait_until_signing(&failing, Err(KeyFault::TokenUnavailable));
            assert_eq!(token.pool.metrics.up.get(), 1);
            assert_signs(&key, &public_key);
            assert_eq!(token.pool.metrics.opened.get(), opened + round);
        }
    });
}

#[test]
fn what_fails_in_every_session_leaves_those_of_others_open() {
    with_softhsm("what_fails_in_every_session_leaves_those_of_others_open", |module| {
        let token = load(&make_token(module, "every"));
        let object = object("every");
        token.generate(KeyType::P256, &object, false).unwrap();
        let (key, public_key) = key(&token, &object, Uses::Signing);
        let ages = std::sync::Mutex::new(Vec::new());
        let fails = |_: &Session, age| {
            // Beside an operation in another session, so that there are two.
            if ages.lock().unwrap().is_empty() {
                assert_signs(&key, &public_key);
            }
            ages.lock().unwrap().push(age);
            Err::<(), _>(TokenFault::SessionLost("C_Sign: GeneralError".to_owned()))
        };
        assert_eq!(token.pool.with_session(fails), Err(TokenFault::KeyFails("C_Sign: GeneralError".to_owned())));
        let after = token.pool.with_session(|_, age| Ok(age)).unwrap();
        let ages = ages.into_inner().unwrap();
        assert_ne!(ages[0], ages[1], "handles were found again for the second try");
        assert_eq!(ages[0], after, "and are what they were for all others");
        assert_eq!((token.pool.metrics.up.get(), token.pool.metrics.opened.get()), (1, 4));
    });
}

#[test]
fn a_panic_gives_its_session_back() {
    with_softhsm("a_panic_gives_its_session_back", |module| {
        let token = load(&make_token(module, "panic"));
        let object = object("panic");
        token.generate(KeyType::P256, &object, false).unwrap();
        let (key, public_key) = key(&token, &object, Uses::Signing);
        for _ in 0..3 {
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                token.pool.with_session(|_, _| -> Result<(), _> { panic!("of the module") })
            }));
            assert!(caught.is_err());
        }
        assert_eq!(token.pool.metrics.in_use.get(), 0);
        assert_signs(&key, &public_key);
    });
}

#[test]
fn tokens_that_are_dropped_leave_no_session_open() {
    with_softhsm("tokens_that_are_dropped_leave_no_session_open", |module| {
        let token = load(&make_token(module, "dropped"));
        token.probe();
        assert_eq!(token.pool.metrics.up.get(), 1);
        assert!(!Module::load(module).unwrap().restart());
        drop(token);
        assert!(Module::load(module).unwrap().restart());
    });
}

#[test]
fn what_a_token_does_not_have_is_named() {
    with_softhsm("what_a_token_does_not_have_is_named", |module| {
        let token = load(&make_token(module, "named"));
        let name = ObjectName::new(Some("twin"), None).unwrap();
        let locate =
            |name: &ObjectName| TokenKey::new(token.clone(), name.clone(), KeyKind::EcdsaP256, Uses::Signing).locate();
        assert_eq!(locate(&name), Err(TokenFault::KeyMissing));
        token.generate(KeyType::P256, &ObjectName::new(Some("twin"), Some("01")).unwrap(), false).unwrap();
        assert_eq!(locate(&name), Ok(()));
        token.generate(KeyType::P256, &ObjectName::new(Some("twin"), Some("02")).unwrap(), false).unwrap();
        assert_eq!(locate(&name), Err(TokenFault::KeyAmbiguous));
    });
}

#[test]
fn what_cannot_be_loaded_is_named() {
    let config = TokenConfig {
        name: "t".to_owned(),
        module: "/nowhere/module.so".into(),
        label: Some("t".to_owned()),
        serial: None,
        slot: None,
        pin: SecretSource::File("/nowhere/pin".into()),
        sessions: 1,
        session_wait: Duration::ZERO,
        queue: 1,
    };
    let error = |config: TokenConfig| Tokens::load(&[config], Path::new("/")).unwrap_err().to_string();
    assert!(error(config.clone()).starts_with("[[token]] t: pin: /nowhere/pin: "));
    let pin = tempfile::NamedTempFile::new().unwrap();
    fs::write(pin.path(), PIN).unwrap();
    let config = TokenConfig { pin: SecretSource::File(pin.path().into()), ..config };
    assert!(error(config.clone()).contains("the PKCS#11 module /nowhere/module.so: "));
    assert!(error(TokenConfig { label: None, ..config.clone() }).contains("label, serial or slot"));
    assert!(error(TokenConfig { sessions: 0, ..config }).contains("1 to 256"));
}
