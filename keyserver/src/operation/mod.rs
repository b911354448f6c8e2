//! What a key server does with its keys: synchronous functions of a request, a key and a generator.

mod pkcs1_unpad;
pub mod recover_master_secret;
pub mod sign_server_key_exchange;

use crate::refusal::Refusal;

/// What an edge may ask for, by the names of the calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Call {
    /// A signature.
    SignServerKeyExchange,
    /// Randoms for RSA key transport.
    LeaseRandoms,
    /// The master secret of RSA key transport.
    RecoverMasterSecret,
}

/// Why an operation came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    /// The cause.
    pub reason: Refusal,
    /// The ServerHello.random that the private key was used for, or tried; `None` where it did not come to that.
    pub tried_for: Option<[u8; 32]>,
}

impl From<Refusal> for Failed {
    fn from(reason: Refusal) -> Self {
        Self { reason, tried_for: None }
    }
}
