//! A TLS 1.2 server engine that pauses where the private key is needed.
mod alert;
mod code_point;
mod codec;
pub mod connection;
pub mod crypto;
mod error;
pub mod handshake;
pub mod identity;
pub mod message;
pub mod secret;

pub use alert::{Alert, AlertDescription, AlertLevel};
pub use code_point::{
    CipherSuite, ContentType, ExtensionType, HandshakeType, NamedGroup, ProtocolVersion, SignatureScheme,
};
pub use connection::{Established, Opened, Summary};
pub use error::{
    Error, Fault, InvalidMessage, KeyServerFailure, LocalFailure, PeerClosed, PeerIncompatible, PeerMisbehaved,
};
pub use handshake::{Handshake, HostParameters, Step};
pub use identity::{Identity, IdentityError, KeyId, KeyKind, PublicKey};
pub use message::server_key_exchange;
