//! What a virtual host allows in a handshake.

use std::sync::Arc;

use crate::code_point::{CipherSuite, NamedGroup, SignatureScheme};
use crate::identity::Identity;

/// What a virtual host allows, each list best first.
#[derive(Clone, Debug)]
pub struct HostParameters {
    /// Cipher suites. Those of RSA key transport are used only with an identity that allows it.
    pub suites: Vec<CipherSuite>,
    /// Groups for the key exchange.
    pub groups: Vec<NamedGroup>,
    /// Signature schemes; the client's order decides among them (RFC 8446 §4.2.3).
    pub schemes: Vec<SignatureScheme>,
    /// Certificates, of different kinds of keys or of the same.
    pub identities: Vec<Arc<Identity>>,
    /// Application protocols (RFC 7301); empty means that the extension is ignored.
    pub alpn: Vec<Vec<u8>>,
    /// Whether clients are asked for a certificate.
    pub client_auth: ClientAuth,
}

/// Whether clients are asked for a certificate (RFC 5246 §7.4.4).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// They are not.
    #[default]
    None,
    /// A client may come without; one that it sends must be good.
    Optional {
        /// DER names of the authorities to ask for, of 65,535 bytes in all at most.
        authorities: Vec<Vec<u8>>,
    },
    /// A client without one is refused.
    Required {
        /// As in `Optional`.
        authorities: Vec<Vec<u8>>,
    },
}

impl ClientAuth {
    /// The names to ask for; `None` when no certificate is asked for.
    pub(crate) fn authorities(&self) -> Option<&[Vec<u8>]> {
        match self {
            Self::None => None,
            Self::Optional { authorities } | Self::Required { authorities } => Some(authorities),
        }
    }
}

impl HostParameters {
    /// The suites of ECDHE, which have forward secrecy, best first.
    pub const FORWARD_SECRET_SUITES: &'static [CipherSuite] = &[
        CipherSuite::ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        CipherSuite::ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ];

    /// The suites of RSA key transport: whoever gets the private key later reads what was recorded earlier.
    pub const KEY_TRANSPORT_SUITES: &'static [CipherSuite] =
        &[CipherSuite::RSA_WITH_AES_128_GCM_SHA256, CipherSuite::RSA_WITH_AES_256_GCM_SHA384];
}

impl Default for HostParameters {
    fn default() -> Self {
        Self {
            suites: Self::FORWARD_SECRET_SUITES.to_vec(),
            groups: vec![NamedGroup::X25519, NamedGroup::SECP256R1, NamedGroup::SECP384R1],
            schemes: SignatureScheme::KNOWN.to_vec(),
            identities: Vec::new(),
            alpn: Vec::new(),
            client_auth: ClientAuth::None,
        }
    }
}
