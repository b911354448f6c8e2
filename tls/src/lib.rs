//! A TLS 1.2 server engine that pauses where the private key is needed.
//!
//! No sockets, no clock, no randomness of its own, no private key: bytes come in, bytes go out, and where the caller
//! must fetch something the handshake stops at a named [`Step`]. The same bytes and the same randomness give the same
//! bytes.
//!
//! ```
//! use keystead_tls::crypto::FAST;
//! use keystead_tls::{Error, Handshake, PeerIncompatible, Step};
//!
//! let mut out = Vec::new();
//! let handshake = Handshake::new(FAST);
//! // A handshake that wants more is fed what the socket gives; `out` goes to the socket.
//! let Ok(Step::NeedsInput(handshake)) = handshake.feed(&[0x16, 0x03, 0x01], &mut out) else { panic!() };
//! # drop(handshake);
//! // On an error too: the alert is sent before the connection is closed.
//! let error = Handshake::new(FAST).feed(b"GET / HTTP/1.1\r\n\r\n", &mut out).unwrap_err();
//! assert_eq!(error, Error::PeerIncompatible(PeerIncompatible::PlainHttp));
//! assert_eq!(out, [21, 3, 3, 0, 2, 2, 10]);
//! ```
//!
//! The whole road, with the key server's part played by `sign`:
//!
//! ```
//! # use std::sync::Arc;
//! # use keystead_tls::handshake::{Keeping, SignatureRequest, SignedParams};
//! # use keystead_tls::{Error, Established, Handshake, HostParameters, KeyServerFailure, Step};
//! # fn drive(
//! #     mut read: impl FnMut() -> Vec<u8>,
//! #     host: &Arc<HostParameters>,
//! #     rng: &mut dyn rand_core::CryptoRng,
//! #     sign: impl Fn(SignatureRequest<'_>) -> SignedParams,
//! #     out: &mut Vec<u8>,
//! # ) -> Result<Box<Established>, Error> {
//! let mut step = Step::NeedsInput(Handshake::new(keystead_tls::crypto::FAST));
//! loop {
//!     step = match step {
//!         Step::NeedsInput(handshake) => handshake.feed(&read(), out)?,
//!         Step::ChooseIdentity(handshake) => handshake.choose(host, Keeping::default(), rng, out)?,
//!         // Where sessions are kept, the client's may be found.
//!         Step::FindSession(handshake) => handshake.decline(rng, out)?,
//!         Step::NeedsSignature(handshake) => match handshake.verify(sign(handshake.request())) {
//!             Ok(verified) => handshake.resume(verified, out)?,
//!             Err(_) => return Err(handshake.abort(KeyServerFailure::WrongSignature.into(), out)),
//!         },
//!         // RSA key transport and client certificates, where the host has them.
//!         Step::NeedsLease(_) | Step::VerifyClient(_) | Step::NeedsMasterSecret(_) => unreachable!(),
//!         // A ticket for the client to come back with, where the caller seals them.
//!         Step::KeepSession(handshake) => handshake.resume(None, out)?,
//!         Step::Established(connection) => return Ok(connection),
//!     };
//! }
//! # }
//! ```

mod alert;
mod code_point;
mod codec;
pub mod connection;
pub mod crypto;
mod error;
pub mod handshake;
pub mod identity;
pub mod message;
pub mod record;
pub mod secret;
pub mod session;
pub mod suite;

pub use alert::{Alert, AlertDescription, AlertLevel};
pub use code_point::{
    CipherSuite, ContentType, ExtensionType, HandshakeType, NamedGroup, ProtocolVersion, SignatureScheme,
};
pub use connection::{Established, Opened, Summary};
pub use error::{
    ClientCertificateRefusal, Error, Fault, InvalidMessage, KeyServerFailure, LocalFailure, PeerClosed,
    PeerIncompatible, PeerMisbehaved,
};
pub use handshake::{ClientAuth, Handshake, HostParameters, Step};
pub use identity::{Identity, IdentityError, KeyId, KeyKind, PublicKey};
pub use session::{Session, SessionId};
