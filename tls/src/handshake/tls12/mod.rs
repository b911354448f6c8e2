//! The states of a TLS 1.2 ECDHE handshake behind ClientHello, in the protocol's order.
//!
//! ```text
//!  ReadyToSign ── ServerHello .. ServerHelloDone ──► ExpectClientKeyExchange ──► ExpectChangeCipherSpec
//!                                                                                        │
//!                           Complete ◄── ChangeCipherSpec, Finished sent ── ExpectFinished ◄┘
//! ```

pub(crate) mod finish;
pub(crate) mod key_exchange;
pub(crate) mod server_flight;
