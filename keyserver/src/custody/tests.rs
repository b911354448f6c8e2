#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use keystead_tls::PublicKey;
use keystead_tls::crypto::{FAST, PORTABLE};
use pkcs8::DecodePrivateKey;
use rcgen::{KeyPair, PublicKeyData};
use rsa::pkcs1::EncodeRsaPrivateKey;

use super::pem::{PemError, Section};
use super::*;
use crate::fixture::{Kind, pem, plain, rsa};

const MESSAGE: &[u8] = b"what is to be signed";

fn public_key(pair: &KeyPair) -> PublicKey {
    PublicKey::from_spki_der(&pair.subject_public_key_info()).unwrap()
}

#[test]
fn each_implementation_signs_what_the_other_verifies() {
    for kind in Kind::ALL {
        let pair = kind.generate();
        let public = public_key(&pair);
        for (crypto, other) in [(Crypto::Fast, PORTABLE), (Crypto::Portable, FAST)] {
            let custody = in_memory(crypto, public.kind(), &pem(&pair), Uses::Signing).unwrap();
            for scheme in public.kind().schemes() {
                let signature = custody.sign(*scheme, MESSAGE, &mut rand::rng()).unwrap();
                assert_eq!(other.verify(*scheme, &public, MESSAGE, &signature), Ok(()), "{crypto:?} {scheme}");
                assert!(other.verify(*scheme, &public, b"another", &signature).is_err(), "{crypto:?} {scheme}");
            }
        }
    }
}

#[test]
fn a_key_signs_with_no_scheme_of_another_kind() {
    for kind in Kind::ALL {
        let pair = kind.generate();
        let fitting = public_key(&pair).kind().schemes();
        for crypto in [Crypto::Fast, Crypto::Portable] {
            let custody = in_memory(crypto, public_key(&pair).kind(), &pem(&pair), Uses::Signing).unwrap();
            for scheme in SignatureScheme::KNOWN.iter().filter(|scheme| !fitting.contains(scheme)) {
                assert_eq!(
                    custody.sign(*scheme, MESSAGE, &mut rand::rng()),
                    Err(KeyFault::Failed),
                    "{crypto:?} {scheme}"
                );
            }
        }
    }
}

#[test]
fn the_raw_operation_is_there_for_key_transport_alone_and_undoes_the_public_one() {
    let pair = rsa();
    let kind = public_key(pair).kind();
    let private = rsa::PrivateKey::from_pkcs8_pem(&pair.serialize_pem()).unwrap();
    let pkcs1 = private.to_pkcs1_pem(pkcs8::LineEnding::LF).unwrap();
    let mut block = vec![0x5a; 256];
    block[0] = 0;
    let number = rsa::BoxedUint::from_be_slice(&block, 2048).unwrap();
    let ciphertext = rsa::hazmat::rsa_encrypt(&private.to_public_key(), &number).unwrap().to_be_bytes();
    for text in [pair.serialize_pem(), pkcs1.to_string()] {
        let key = plain(&text);
        let custody = in_memory(Crypto::Fast, kind, &key, Uses::KeyTransport).unwrap();
        assert_eq!(*custody.raw_rsa(&ciphertext).unwrap(), block);
        assert!(custody.sign(SignatureScheme::RSA_PKCS1_SHA256, MESSAGE, &mut rand::rng()).is_ok());
        for unfit in [&[][..], &ciphertext[1..], &[0; 256], &[0xff; 256], &[&ciphertext[..], &[0]].concat()] {
            assert!(custody.raw_rsa(unfit).is_err(), "{unfit:?}");
        }
        let signing = in_memory(Crypto::Fast, kind, &key, Uses::Signing).unwrap();
        assert!(signing.raw_rsa(&ciphertext).is_err());
        let portable = in_memory(Crypto::Portable, kind, &key, Uses::KeyTransport);
        assert_eq!(portable.err(), Some(InvalidPrivateKey::KeyTransportNeedsFast));
    }
    let ec = Kind::P256.generate();
    let refused = in_memory(Crypto::Fast, KeyKind::EcdsaP256, &pem(&ec), Uses::KeyTransport);
    assert_eq!(refused.err(), Some(InvalidPrivateKey::KeyTransportNeedsRsa));
}

/// Private keys in each form that PEM files come in.
fn every_form() -> Vec<(KeyPair, String)> {
    let again = |pair: &KeyPair| KeyPair::from_pem(&pair.serialize_pem()).unwrap();
    let lf = pkcs8::LineEnding::LF;
    let (rsa, p256, p384) = (again(rsa()), Kind::P256.generate(), Kind::P384.generate());
    let pkcs1 = rsa::PrivateKey::from_pkcs8_pem(&rsa.serialize_pem()).unwrap().to_pkcs1_pem(lf).unwrap();
    let p256_sec1 = p256::SecretKey::from_pkcs8_pem(&p256.serialize_pem()).unwrap().to_sec1_pem(lf).unwrap();
    let p384_sec1 = p384::SecretKey::from_pkcs8_pem(&p384.serialize_pem()).unwrap().to_sec1_pem(lf).unwrap();
    let parameters = "A key\n-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
    vec![
        (again(&rsa), rsa.serialize_pem()),
        (again(&rsa), pkcs1.to_string()),
        (again(&p256), p256.serialize_pem()),
        (again(&p256), p256.serialize_pem().replace('\n', "\r\n")),
        (again(&p256), p256_sec1.to_string()),
        (again(&p256), format!("{parameters}{}", *p256_sec1)),
        (again(&p384), p384.serialize_pem()),
        (again(&p384), p384_sec1.to_string()),
    ]
}

#[test]
fn every_form_of_pem_loads() {
    for (pair, text) in every_form() {
        let public = public_key(&pair);
        let scheme = public.kind().schemes()[0];
        for crypto in [Crypto::Fast, Crypto::Portable] {
            let custody = in_memory(crypto, public.kind(), &plain(&text), Uses::Signing).unwrap();
            let signature = custody.sign(scheme, MESSAGE, &mut rand::rng()).unwrap();
            assert_eq!(FAST.verify(scheme, &public, MESSAGE, &signature), Ok(()), "{crypto:?}\n{text}");
        }
    }
}

#[test]
fn a_key_of_another_kind_is_refused() {
    let forms = every_form();
    for (pair, text) in &forms {
        let key = plain(text);
        for other in [KeyKind::Rsa { bits: 2048 }, KeyKind::EcdsaP256, KeyKind::EcdsaP384, KeyKind::Ed25519] {
            if std::mem::discriminant(&other) == std::mem::discriminant(&public_key(pair).kind()) {
                continue;
            }
            for crypto in [Crypto::Fast, Crypto::Portable] {
                assert!(in_memory(crypto, other, &key, Uses::Signing).is_err(), "{crypto:?} {other:?}");
            }
        }
    }
}

#[test]
fn a_damaged_rsa_key_never_makes_a_wrong_signature() {
    let private = rsa::PrivateKey::from_pkcs8_pem(&rsa().serialize_pem()).unwrap();
    let der = private.to_pkcs1_der().unwrap();
    let mut refused = 0;
    // The numbers of an RSAPrivateKey are at least 128 bytes long, so that this hits every one of them.
    for position in (20..der.as_bytes().len()).step_by(97) {
        let mut damaged = der.as_bytes().to_vec();
        damaged[position] ^= 1;
        let document = pkcs8::SecretDocument::try_from(damaged.as_slice()).unwrap();
        let text = document.to_pem("RSA PRIVATE KEY", pkcs8::LineEnding::LF).unwrap();
        let key = plain(&text);
        for crypto in [Crypto::Fast, Crypto::Portable] {
            let Ok(custody) = in_memory(crypto, KeyKind::Rsa { bits: 2048 }, &key, Uses::Signing) else {
                refused += 1;
                continue;
            };
            // `portable` makes the numbers for the Chinese remainder theorem anew, so that damage to them is healed.
            let scheme = SignatureScheme::RSA_PKCS1_SHA256;
            let signature = custody.sign(scheme, MESSAGE, &mut rand::rng()).unwrap();
            assert_eq!(
                FAST.verify(scheme, &public_key(rsa()), MESSAGE, &signature),
                Ok(()),
                "{crypto:?} at {position}"
            );
        }
    }
    assert!(refused >= 16, "{refused} refused");
}

#[test]
fn what_is_no_private_key_is_named() {
    let read = |text: &str| Section::read(text).unwrap_err();
    let key = Kind::P256.generate().serialize_pem();
    assert_eq!(read(""), PemError::NoPrivateKey);
    assert_eq!(read("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), PemError::NoPrivateKey);
    assert_eq!(read(&format!("{key}{key}")), PemError::SeveralPrivateKeys);
    assert_eq!(read(&key.replace("PRIVATE KEY", "OPENSSH PRIVATE KEY")), PemError::UnknownLabel);
    assert_eq!(read("-----BEGIN PRIVATE KEY-----\n%%%%\n-----END PRIVATE KEY-----\n"), PemError::Malformed);
    assert_eq!(read("-----BEGIN PRIVATE KEY-----"), PemError::Malformed);
}
