//! The handshake: bytes in, bytes out, and named pauses where the caller must fetch something.
pub mod host;

pub use host::HostParameters;

use crate::code_point::*;
use crate::connection::Established;
use crate::crypto::Provider;
use crate::error::Error;
use crate::identity::Identity;
use rand_core::CryptoRng;
use std::sync::Arc;

/// What a handshake needs next.
#[must_use]
#[derive(Debug)]
pub enum Step {
    /// More bytes from the client.
    NeedsInput(Handshake<NeedsInput>),
    /// The virtual host that the client asked for.
    ChooseIdentity(Handshake<ChooseIdentity>),
    /// The key server's signature.
    NeedsSignature(Handshake<NeedsSignature>),
    /// Nothing: it is complete.
    Established(Box<Established>),
}

/// A handshake at the point that `S` names.
#[derive(Debug)]
pub struct Handshake<S> {
    state: S,
}

/// More bytes are needed.
#[derive(Debug)]
pub struct NeedsInput {}
/// The client has said whom it wants.
#[derive(Debug)]
pub struct ChooseIdentity {}
/// Everything is negotiated.
#[derive(Debug)]
pub struct NeedsSignature {}

/// What a key server is asked to sign. See proto SignServerKeyExchangeRequest.
#[derive(Clone, Copy, Debug)]
pub struct SignatureRequest<'h> {
    /// Whose key
    pub identity: &'h Arc<Identity>,
    /// ClientHello.random
    pub client_random: &'h [u8; 32],
    /// chosen scheme
    pub scheme: SignatureScheme,
    /// chosen group
    pub group: NamedGroup,
    /// our ephemeral public value
    pub public: &'h [u8],
    /// the name that the client asked for
    pub server_name: Option<&'h str>,
}

/// The key server's answer.
#[derive(Clone, Debug)]
pub struct SignedParams {
    /// ServerHello.random.
    pub server_random: [u8; 32],
    /// over client_random ‖ server_random ‖ ServerECDHParams.
    pub signature: Vec<u8>,
}

#[allow(unused_variables)]
impl Handshake<NeedsInput> {
    /// A connection whose first byte is yet to come.
    pub fn new(provider: &'static dyn Provider) -> Self {
        unimplemented!()
    }
    /// Takes bytes from the client. All of `input` is taken. Output is appended to `out`, also on error.
    pub fn feed(self, input: &[u8], out: &mut Vec<u8>) -> Result<Step, Error> {
        unimplemented!()
    }
    /// The client's stream ended: says how it left (NothingSent, ClosedInHandshake, Truncated).
    pub fn end_of_input(self) -> Error {
        unimplemented!()
    }
    /// The client took longer than the caller allows; writes the alert.
    pub fn time_out(self, out: &mut Vec<u8>) -> Error {
        unimplemented!()
    }
}

#[allow(unused_variables)]
impl Handshake<ChooseIdentity> {
    /// The DNS name the client asked for, lower case, without a trailing dot; None when it sent none.
    pub fn server_name(&self) -> Option<&str> {
        unimplemented!()
    }
    /// The protocols the client offers by ALPN, in its order; empty when it sent none.
    pub fn alpn_protocols(&self) -> impl Iterator<Item = &[u8]> {
        [].into_iter()
    }
    /// Goes on as this virtual host. Draws the ephemeral key from `rng`.
    pub fn choose(self, host: &HostParameters, rng: &mut dyn CryptoRng, out: &mut Vec<u8>) -> Result<Step, Error> {
        unimplemented!()
    }
    /// No virtual host has that name: `unrecognized_name`.
    pub fn reject_name(self, out: &mut Vec<u8>) -> Error {
        unimplemented!()
    }
}

#[allow(unused_variables)]
impl Handshake<NeedsSignature> {
    /// What to ask.
    pub fn request(&self) -> SignatureRequest<'_> {
        unimplemented!()
    }
    /// Checks the answer against the certificate's key; the client has been sent nothing yet, so that on error the same
    /// request (same client_random, same public) may be asked of another key server.
    pub fn verify(&self, signed: SignedParams) -> Result<VerifiedParams, crate::crypto::BadSignature> {
        unimplemented!()
    }
    /// Sends ServerHello .. ServerHelloDone and goes on with what the client had already sent.
    pub fn resume(self, verified: VerifiedParams, out: &mut Vec<u8>) -> Result<Step, Error> {
        unimplemented!()
    }
}

#[allow(unused_variables)]
impl<S> Handshake<S> {
    /// This side, or the key server, failed with `cause`: the alert `internal_error`.
    pub fn abort(self, cause: Error, out: &mut Vec<u8>) -> Error {
        unimplemented!()
    }
}

/// Signed params whose signature verified.
#[derive(Debug)]
pub struct VerifiedParams(SignedParams);
