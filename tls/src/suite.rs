//! What a cipher suite is made of.

use crate::code_point::CipherSuite;
use crate::crypto::Aead;
use crate::crypto::hash::Hash;
use crate::identity::KeyKind;

/// The parts of an ECDHE suite.
#[derive(Debug, PartialEq, Eq)]
pub struct Suite {
    /// Its number.
    pub code_point: CipherSuite,
    /// What signs its ServerKeyExchange.
    pub authentication: Authentication,
    /// What protects its records.
    pub aead: Aead,
    /// The hash of its PRF and transcript.
    pub hash: Hash,
}

/// The kind of certificate that a suite's ServerKeyExchange is signed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// ECDSA or EdDSA: the registry's "ECDHE_ECDSA" stands for both (RFC 8422 §2.2).
    Ecdsa,
    /// RSA, by PKCS #1 v1.5 or PSS.
    Rsa,
}

impl Authentication {
    /// Whether a key of this kind can sign for the suite.
    pub fn fits(self, key: KeyKind) -> bool {
        match key {
            KeyKind::Rsa { .. } => self == Self::Rsa,
            KeyKind::EcdsaP256 | KeyKind::EcdsaP384 | KeyKind::Ed25519 => self == Self::Ecdsa,
        }
    }
}

/// Every suite of this engine.
static SUITES: [Suite; 6] = {
    use Aead::{Aes128Gcm, Aes256Gcm, ChaCha20Poly1305};
    use Authentication::{Ecdsa, Rsa};
    use CipherSuite as Name;
    use Hash::{Sha256, Sha384};
    const fn suite(code_point: CipherSuite, authentication: Authentication, aead: Aead, hash: Hash) -> Suite {
        Suite { code_point, authentication, aead, hash }
    }
    [
        suite(Name::ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, Ecdsa, Aes128Gcm, Sha256),
        suite(Name::ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, Ecdsa, Aes256Gcm, Sha384),
        suite(Name::ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, Ecdsa, ChaCha20Poly1305, Sha256),
        suite(Name::ECDHE_RSA_WITH_AES_128_GCM_SHA256, Rsa, Aes128Gcm, Sha256),
        suite(Name::ECDHE_RSA_WITH_AES_256_GCM_SHA384, Rsa, Aes256Gcm, Sha384),
        suite(Name::ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, Rsa, ChaCha20Poly1305, Sha256),
    ]
};

impl Suite {
    /// The suite of that number; `None` for one this engine does not have, and for signalling values.
    pub fn find(code_point: CipherSuite) -> Option<&'static Self> {
        SUITES.iter().find(|suite| suite.code_point == code_point)
    }
}
