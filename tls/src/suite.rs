//! What a cipher suite is made of.

use crate::code_point::CipherSuite;
use crate::crypto::Aead;
use crate::crypto::hash::Hash;
use crate::identity::KeyKind;

/// The parts of a suite.
#[derive(Debug, PartialEq, Eq)]
pub struct Suite {
    /// Its number.
    pub code_point: CipherSuite,
    /// How the pre-master secret comes about, and what authenticates the server.
    pub key_exchange: KeyExchange,
    /// What protects its records.
    pub aead: Aead,
    /// The hash of its PRF and transcript.
    pub hash: Hash,
}

/// How a suite agrees on the pre-master secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyExchange {
    /// ECDHE signed with ECDSA or EdDSA: the registry's "ECDHE_ECDSA" stands for both (RFC 8422 §2.2).
    EcdheEcdsa,
    /// ECDHE signed with RSA, by PKCS #1 v1.5 or PSS.
    EcdheRsa,
    /// RSA key transport (RFC 5246 §7.4.7.1): without forward secrecy.
    Rsa,
}

impl KeyExchange {
    /// Whether a key of this kind can serve the suite.
    pub fn fits(self, key: KeyKind) -> bool {
        match key {
            KeyKind::Rsa { .. } => matches!(self, Self::EcdheRsa | Self::Rsa),
            KeyKind::EcdsaP256 | KeyKind::EcdsaP384 | KeyKind::Ed25519 => self == Self::EcdheEcdsa,
        }
    }
}

/// Every suite of this engine.
static SUITES: [Suite; 8] = {
    use Aead::{Aes128Gcm, Aes256Gcm, ChaCha20Poly1305};
    use CipherSuite as Name;
    use Hash::{Sha256, Sha384};
    use KeyExchange::{EcdheEcdsa, EcdheRsa, Rsa};
    const fn suite(code_point: CipherSuite, key_exchange: KeyExchange, aead: Aead, hash: Hash) -> Suite {
        Suite { code_point, key_exchange, aead, hash }
    }
    [
        suite(Name::ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, EcdheEcdsa, Aes128Gcm, Sha256),
        suite(Name::ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, EcdheEcdsa, Aes256Gcm, Sha384),
        suite(Name::ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, EcdheEcdsa, ChaCha20Poly1305, Sha256),
        suite(Name::ECDHE_RSA_WITH_AES_128_GCM_SHA256, EcdheRsa, Aes128Gcm, Sha256),
        suite(Name::ECDHE_RSA_WITH_AES_256_GCM_SHA384, EcdheRsa, Aes256Gcm, Sha384),
        suite(Name::ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, EcdheRsa, ChaCha20Poly1305, Sha256),
        suite(Name::RSA_WITH_AES_128_GCM_SHA256, Rsa, Aes128Gcm, Sha256),
        suite(Name::RSA_WITH_AES_256_GCM_SHA384, Rsa, Aes256Gcm, Sha384),
    ]
};

impl Suite {
    /// The suite of that number; `None` for one this engine does not have, and for signalling values.
    pub fn find(code_point: CipherSuite) -> Option<&'static Self> {
        SUITES.iter().find(|suite| suite.code_point == code_point)
    }
}
