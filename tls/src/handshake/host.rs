//! What a virtual host allows in a handshake.

use std::sync::Arc;

use crate::code_point::{CipherSuite, NamedGroup, SignatureScheme};
use crate::identity::Identity;

/// What a virtual host allows, each list best first.
#[derive(Clone, Debug)]
pub struct HostParameters {
    /// Cipher suites.
    pub suites: Vec<CipherSuite>,
    /// Groups for the key exchange.
    pub groups: Vec<NamedGroup>,
    /// Signature schemes; the client's order decides among them (RFC 8446 §4.2.3).
    pub schemes: Vec<SignatureScheme>,
    /// Certificates, of different kinds of keys or of the same.
    pub identities: Vec<Arc<Identity>>,
    /// Application protocols (RFC 7301); empty means that the extension is ignored.
    pub alpn: Vec<Vec<u8>>,
}

impl Default for HostParameters {
    fn default() -> Self {
        use CipherSuite as Suite;
        use SignatureScheme as Scheme;
        Self {
            suites: vec![
                Suite::ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
                Suite::ECDHE_RSA_WITH_AES_128_GCM_SHA256,
                Suite::ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
                Suite::ECDHE_RSA_WITH_AES_256_GCM_SHA384,
                Suite::ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
                Suite::ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
            ],
            groups: NamedGroup::KNOWN.iter().rev().copied().collect(),
            schemes: Scheme::KNOWN.to_vec(),
            identities: Vec::new(),
            alpn: Vec::new(),
        }
    }
}
