#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::process::{Command, Stdio};

use super::*;
use crate::custody::material::{KeyMaterial, KeyType};

const SEALING_KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

fn sealing_key(digits: &str) -> SealingKey {
    SealingKey::read(&Secret::new(digits.as_bytes().to_vec())).unwrap()
}

fn secret(text: &str) -> Secret {
    Secret::new(text.as_bytes().to_vec())
}

fn protection() -> KeyProtection {
    KeyProtection { sealing_key: Some(sealing_key(SEALING_KEY)), passphrase: Some(secret("correct horse")) }
}

fn p256() -> KeyMaterial {
    KeyMaterial::generate(KeyType::P256).unwrap()
}

#[test]
fn every_kind_of_key_comes_back_from_every_kind_of_file() {
    for key_type in [KeyType::Rsa2048, KeyType::P256, KeyType::P384, KeyType::Ed25519] {
        let key = KeyMaterial::generate(key_type).unwrap();
        let sealed = key.to_sealed_pem(&sealing_key(SEALING_KEY), &mut rand::rng()).unwrap();
        let encrypted = key.to_encrypted_pem(&secret("correct horse"), &mut rand::rng()).unwrap();
        let plain = key.to_plain_pem().unwrap().to_string();
        let files = [(sealed, Protected::Sealed), (encrypted, Protected::Encrypted), (plain, Protected::Plain)];
        for (text, expected) in files {
            let (read, protected) = protection().open(&text, None, Some(key.key_id())).unwrap();
            assert_eq!(protected, expected);
            assert_eq!(KeyMaterial::of(&read).unwrap().key_id(), key.key_id(), "{key_type:?} {expected:?}");
        }
    }
}

#[test]
fn a_sealed_file_opens_under_its_key_alone_and_only_whole() {
    let key = p256();
    let text = key.to_sealed_pem(&sealing_key(SEALING_KEY), &mut rand::rng()).unwrap();
    let other = KeyProtection { sealing_key: Some(sealing_key(&SEALING_KEY.replace("00", "ff"))), passphrase: None };
    assert!(matches!(other.open(&text, None, None), Err(ProtectionError::Sealed(SealError::Wrong))));
    assert!(matches!(KeyProtection::default().open(&text, None, None), Err(ProtectionError::NoSealingKey)));
    let (_, bytes) = pkcs8::der::pem::decode_vec(text.as_bytes()).unwrap();
    for position in 0..bytes.len() {
        let mut altered = bytes.clone();
        altered[position] ^= 1;
        let text =
            pkcs8::der::pem::encode_string(super::super::sealed::LABEL, pkcs8::LineEnding::LF, &altered).unwrap();
        assert!(protection().open(&text, None, None).is_err(), "byte {position}");
    }
    for length in [0, 1, 32, 64, bytes.len() - 1] {
        let text = pkcs8::der::pem::encode_string(super::super::sealed::LABEL, pkcs8::LineEnding::LF, &bytes[..length])
            .unwrap();
        assert!(protection().open(&text, None, None).is_err(), "{length} bytes");
    }
}

#[test]
fn a_sealed_file_is_not_passed_off_as_another_key() {
    let (one, two) = (p256(), p256());
    let text = one.to_sealed_pem(&sealing_key(SEALING_KEY), &mut rand::rng()).unwrap();
    let refused = protection().open(&text, None, Some(two.key_id())).unwrap_err();
    assert!(matches!(refused, ProtectionError::OtherKey(id) if id == one.key_id()));
    assert!(refused.to_string().contains(&one.key_id().to_string()));
}

#[test]
fn two_seals_of_one_key_have_nothing_in_common() {
    let key = p256();
    let seal = || key.to_sealed_pem(&sealing_key(SEALING_KEY), &mut rand::rng()).unwrap();
    let (one, two) = (seal(), seal());
    let line = |text: &str| text.lines().nth(2).unwrap().to_owned();
    assert_ne!(line(&one), line(&two));
}

#[test]
fn a_wrong_passphrase_is_told_and_a_keys_own_goes_first() {
    let text = p256().to_encrypted_pem(&secret("its own"), &mut rand::rng()).unwrap();
    let wrong = protection().open(&text, None, None);
    assert!(matches!(wrong, Err(ProtectionError::Encrypted(EncryptionError::Wrong))));
    assert!(protection().open(&text, Some(&secret("its own")), None).is_ok());
    assert!(matches!(KeyProtection::default().open(&text, None, None), Err(ProtectionError::NoPassphrase)));
}

/// What `openssl pkcs8` makes of a key.
fn by_openssl(arguments: &[&str]) -> Option<String> {
    use std::io::Write;
    let key = p256().to_plain_pem().unwrap();
    let mut child = Command::new("openssl")
        .args(["pkcs8", "-topk8", "-passout", "pass:correct horse"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(key.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

#[test]
fn what_openssl_encrypts_well_opens_and_what_it_does_not_is_refused_with_advice() {
    let open = |arguments: &[&str]| protection().open(&by_openssl(arguments).unwrap(), None, None);
    for good in [
        &["-v2", "aes256"][..],
        &["-v2", "aes-128-cbc", "-v2prf", "hmacWithSHA512", "-iter", "20000"],
        &["-v2", "aes256", "-scrypt"],
        &["-v2", "aes256", "-scrypt", "-scrypt_N", "8192", "-scrypt_r", "8", "-scrypt_p", "2"],
    ] {
        assert_eq!(open(good).unwrap().1, Protected::Encrypted, "{good:?}");
    }
    let refused = |arguments: &[&str]| open(arguments).unwrap_err().to_string();
    for weak in [&["-v2", "des3"][..], &["-v2", "aes256", "-v2prf", "hmacWithSHA1"], &["-v1", "PBE-SHA1-3DES"]] {
        assert!(refused(weak).contains("openssl pkcs8 -topk8 -v2 aes256 -scrypt"), "{weak:?}");
    }
    assert!(refused(&["-v2", "aes256", "-iter", "10"]).contains("1000 iterations"));
    let begun = std::time::Instant::now();
    let costly = protection().open(&with_iterations(50_000_000), None, None);
    assert!(matches!(costly, Err(ProtectionError::Encrypted(EncryptionError::Cost))), "{costly:?}");
    assert!(begun.elapsed() < std::time::Duration::from_secs(20));
}

/// A file that says that its passphrase is to be hashed so often.
fn with_iterations(count: u32) -> String {
    use pkcs8::der::Encode;
    let parameters =
        pkcs8::pkcs5::pbes2::Parameters::generate_pbkdf2_sha256_aes256cbc(count, &[1; 16], [2; 16]).unwrap();
    let data = pkcs8::der::asn1::OctetStringRef::new(&[0; 64]).unwrap();
    let info = pkcs8::EncryptedPrivateKeyInfoRef { encryption_algorithm: parameters.into(), encrypted_data: data };
    pkcs8::der::pem::encode_string(encrypted::LABEL, pkcs8::LineEnding::LF, &info.to_der().unwrap()).unwrap()
}

#[test]
fn a_legacy_section_is_refused_with_advice() {
    let text = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: DES-EDE3-CBC,00\n\nAAAA\n\
                -----END RSA PRIVATE KEY-----\n";
    assert!(matches!(protection().open(text, None, None), Err(ProtectionError::Pem(PemError::Legacy))));
}

#[test]
fn secrets_come_from_one_place_without_their_line_end_and_are_never_printed() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("secret");
    std::fs::write(&file, "pass word\r\n").unwrap();
    let source = SecretSource::File("secret".into());
    let secret = source.read(directory.path()).unwrap();
    assert_eq!(secret.expose(), b"pass word");
    assert_eq!(format!("{secret:?} {:?}", protection()).matches("redacted").count(), 3);
    std::fs::write(&file, "\n").unwrap();
    assert!(matches!(source.read(directory.path()), Err(SecretError::Empty(_))));
    std::fs::write(&file, vec![b'x'; 5000]).unwrap();
    assert!(matches!(source.read(directory.path()), Err(SecretError::TooLong(_))));
    let variable = SecretSource::Environment("KEYSTEAD_NO_SUCH_VARIABLE".to_owned()).read(directory.path());
    assert!(variable.unwrap_err().to_string().contains("KEYSTEAD_NO_SUCH_VARIABLE is not set"));
    let path = SecretSource::Credential("../etc/passwd".to_owned()).read(directory.path());
    assert!(matches!(path, Err(SecretError::CredentialName(_))));
    for wrong in ["secret", "file:", "value:x"] {
        assert!(wrong.parse::<SecretSource>().is_err(), "{wrong}");
    }
    #[derive(Debug, Deserialize)]
    struct Sample {
        #[expect(dead_code, reason = "whether it parses is what is tested")]
        pin: SecretSource,
    }
    assert!(toml::from_str::<Sample>("pin = { file = \"a\" }").is_ok());
    assert!(toml::from_str::<Sample>("pin = { file = \"a\", environment = \"B\" }").is_err());
    assert!(toml::from_str::<Sample>("pin = \"1234\"").is_err());
}

#[test]
fn a_sealing_key_is_64_hexadecimal_digits() {
    for wrong in ["", "00", &SEALING_KEY[1..], &SEALING_KEY.replace('0', "g"), "+001020304050607"] {
        assert_eq!(SealingKey::read(&secret(wrong)).unwrap_err(), SealError::SealingKey, "{wrong}");
    }
}

/// 10,000 of them are to load in about a second with what else there is to do for each.
#[test]
fn thousands_of_sealed_keys_open_in_a_moment() {
    let key = p256().to_sealed_pem(&sealing_key(SEALING_KEY), &mut rand::rng()).unwrap();
    let protection = protection();
    let begun = std::time::Instant::now();
    for _ in 0..2000 {
        protection.open(&key, None, None).unwrap();
    }
    // Stretching a passphrase takes 40 ms each.
    assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{:?}", begun.elapsed());
}
