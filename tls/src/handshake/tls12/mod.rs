//! The states of a full TLS 1.2 handshake behind ClientHello, in the protocol's order.
//!
//! ```text
//!   ECDHE: ReadyToSign ──┐                        RSA: NeedsLease ──┐
//!                        └── ServerHello .. ServerHelloDone sent ───┘
//!                                         │
//!           ┌── client authentication ────┴───────────────┐
//!           ▼                                             ▼
//!   ExpectCertificate ── ClientChain, verified ──► ExpectClientKeyExchange
//!                                                         │
//!                     ┌── with a client certificate ──────┤
//!                     ▼                                   ▼
//!         ExpectCertificateVerify ───────────► ExpectChangeCipherSpec
//!                                                         │
//!                     ┌── RSA ────────────────────────────┤ ECDHE
//!                     ▼                                   ▼
//!       ExpectSealedFinished ── SealedFinished, ──► ExpectFinished ──► [SessionToKeep ──►] Complete
//!                               master secret given
//! ```
//!
//! A handshake that goes on from a session takes another road: `resumption`.

pub(crate) mod client_auth;
pub(crate) mod finish;
pub(crate) mod keeping;
pub(crate) mod key_exchange;
pub(crate) mod key_transport;
pub(crate) mod resumption;
pub(crate) mod server_flight;
pub(crate) mod signing;

use self::keeping::KeptBy;
use super::transcript::Transcript;
use crate::connection::Summary;
use crate::suite::Suite;

/// What every state behind ServerHello knows.
pub(crate) struct Context {
    pub(crate) client_random: [u8; 32],
    pub(crate) server_random: [u8; 32],
    pub(crate) suite: &'static Suite,
    pub(crate) transcript: Transcript,
    pub(crate) summary: Summary,
    pub(crate) kept_by: Option<KeptBy>,
}
