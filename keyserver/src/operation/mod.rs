//! What a key server does with its keys: synchronous functions of a request, a key and a generator.

mod pkcs1_unpad;
pub mod recover_master_secret;
pub mod sign_server_key_exchange;

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
