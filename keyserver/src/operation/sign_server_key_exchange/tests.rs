#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use keystead_program::crypto::Crypto;
use keystead_tls::crypto::{FAST, PORTABLE};

use super::*;
use crate::custody::{Custody, KeyFault};
use crate::fixture::{Files, Kind};
fn request(scheme: SignatureScheme) -> SignServerKeyExchange {
    SignServerKeyExchange {
        client_random: [7; 32],
        scheme,
        group: NamedGroup::X25519,
        public: vec![9; 32],
        server_name: String::new(),
    }
}

fn key(kind: Kind, schemes: Option<&[SignatureScheme]>) -> Key {
    let files = Files::new();
    files.add_key("key", kind);
    files.load_key("key", Crypto::Fast, schemes).unwrap()
}

#[test]
fn the_signature_covers_the_randoms_and_the_parameters() {
    for kind in Kind::ALL {
        let key = key(kind, None);
        for scheme in key.identity().schemes() {
            let signed = request(*scheme).run(&key, FAST, &mut rand::rng()).unwrap();
            // client_random ‖ server_random ‖ named_curve, x25519, length, public value (RFC 8422 §5.4).
            let content = [&[7; 32][..], &signed.server_random, &[3, 0, 29, 32], &[9; 32]].concat();
            let verified = PORTABLE.verify(*scheme, key.identity().public_key(), &content, &signed.signature);
            assert_eq!(verified, Ok(()), "{scheme}");
        }
    }
}

#[test]
fn the_random_is_never_the_same() {
    let key = key(Kind::P256, None);
    let request = request(SignatureScheme::ECDSA_SECP256R1_SHA256);
    let mut randoms: Vec<_> =
        (0..100).map(|_| request.run(&key, FAST, &mut rand::rng()).unwrap().server_random).collect();
    randoms.sort();
    randoms.dedup();
    assert_eq!(randoms.len(), 100);
    // Nor has any byte a value of its own, as the clock that RFC 5246 §7.4.1.3 suggests would give the first four.
    assert!((0..32).all(|place| randoms.iter().any(|random| random[place] != randoms[0][place])));
}

#[test]
fn only_schemes_on_the_list_are_signed_with() {
    let key = key(Kind::Rsa2048, Some(&[SignatureScheme::RSA_PSS_RSAE_SHA256]));
    assert!(request(SignatureScheme::RSA_PSS_RSAE_SHA256).run(&key, FAST, &mut rand::rng()).is_ok());
    for scheme in [SignatureScheme::RSA_PKCS1_SHA256, SignatureScheme::ED25519, SignatureScheme(0x0201)] {
        let outcome = request(scheme).run(&key, FAST, &mut rand::rng());
        assert_eq!(outcome, Err(Refusal::SchemeNotAllowed.into()), "{scheme}");
    }
}

#[test]
fn only_points_of_known_groups_are_signed() {
    let key = key(Kind::P256, None);
    for provider in [FAST, PORTABLE] {
        let outcome = |group, public: Vec<u8>| {
            let scheme = SignatureScheme::ECDSA_SECP256R1_SHA256;
            let request = SignServerKeyExchange { group, public, ..request(scheme) };
            request.run(&key, provider, &mut rand::rng()).map(|_| ()).map_err(|failed| failed.reason)
        };
        for group in NamedGroup::KNOWN {
            let pair = provider.key_pair(*group, &mut rand::rng()).unwrap();
            assert_eq!(outcome(*group, pair.public().to_vec()), Ok(()));
            assert_eq!(outcome(*group, pair.public()[1..].to_vec()), Err(Refusal::InvalidPoint));
            assert_eq!(outcome(*group, Vec::new()), Err(Refusal::InvalidPoint));
            assert_eq!(outcome(*group, vec![4; 255]), Err(Refusal::InvalidPoint));
        }
        let mut off_the_curve = provider.key_pair(NamedGroup::SECP256R1, &mut rand::rng()).unwrap().public().to_vec();
        off_the_curve[64] ^= 1;
        assert_eq!(outcome(NamedGroup::SECP256R1, off_the_curve), Err(Refusal::InvalidPoint));
        assert_eq!(outcome(NamedGroup(0x0100), vec![9; 32]), Err(Refusal::UnknownGroup));
    }
}

/// A key whose signatures come out with one bit wrong.
struct Faulty(Box<dyn Custody>);

impl Custody for Faulty {
    fn sign(&self, scheme: SignatureScheme, message: &[u8], rng: &mut dyn CryptoRng) -> Result<Vec<u8>, KeyFault> {
        let mut signature = self.0.sign(scheme, message, rng)?;
        signature[100] ^= 1;
        Ok(signature)
    }
}

#[test]
fn a_faulty_rsa_signature_does_not_leave() {
    let key = key(Kind::Rsa2048, None).kept_by(|custody| Box::new(Faulty(custody)));
    for provider in [FAST, PORTABLE] {
        for scheme in key.identity().schemes() {
            let outcome = request(*scheme).run(&key, provider, &mut rand::rng());
            let failed = outcome.unwrap_err();
            assert_eq!(failed.reason, Refusal::FaultySignature, "{scheme}");
            assert!(failed.tried_for.is_some(), "it is told for which random");
        }
    }
}
