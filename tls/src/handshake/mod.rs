//! The handshake: bytes in, bytes out, and named pauses where the caller must fetch something.
//!
//! ```text
//!  NeedsInput ── ClientHello ──► ChooseIdentity ── choose ──► NeedsSignature ── resume ──► NeedsInput
//!      ▲   │                                                                                   │
//!      └───┘ feed                                         ClientKeyExchange, ChangeCipherSpec, │
//!                                                                                     Finished ▼
//!                                                                                         Established
//! ```
//!
//! Each [`Step`] owns the handshake and offers only the method that goes on from there. Output is appended to the
//! caller's buffer, also on error: send it first, then act on the error.

mod client_hello;
mod host;
pub(crate) mod joiner;
mod negotiate;
pub(crate) mod tls12;
pub(crate) mod wire;

pub use host::HostParameters;
pub use tls12::server_flight::{SignatureRequest, SignedParams, VerifiedParams};

use std::fmt;

use rand_core::CryptoRng;

use self::client_hello::{ClientHelloReceived, ExpectClientHello};
use self::tls12::server_flight::ReadyToSign;
use self::wire::{Event, Expectation, Wire};
use crate::code_point::HandshakeType;
use crate::connection::Established;
use crate::crypto::{BadSignature, Provider};
use crate::error::{Error, PeerClosed, PeerIncompatible, PeerMisbehaved};

/// What a handshake needs next.
#[must_use]
#[derive(Debug)]
pub enum Step {
    /// More bytes from the client.
    NeedsInput(Handshake<NeedsInput>),
    /// The virtual host that the client asked for.
    ChooseIdentity(Handshake<ChooseIdentity>),
    /// The key server's signature. The client has been sent nothing yet.
    NeedsSignature(Handshake<NeedsSignature>),
    /// Nothing: it is complete.
    Established(Box<Established>),
}

/// A handshake at the point that `S` names.
///
/// A paused handshake cannot be fed, and a pause cannot be answered twice:
///
/// ```compile_fail,E0599
/// # use keystead_tls::handshake::{ChooseIdentity, Handshake};
/// fn feed(paused: Handshake<ChooseIdentity>) {
///     paused.feed(&[], &mut Vec::new());
/// }
/// ```
///
/// ```compile_fail,E0382
/// # use keystead_tls::handshake::{Handshake, NeedsSignature, VerifiedParams};
/// fn answer_twice(paused: Handshake<NeedsSignature>, one: VerifiedParams, two: VerifiedParams) {
///     let _ = paused.resume(one, &mut Vec::new());
///     let _ = paused.resume(two, &mut Vec::new());
/// }
/// ```
pub struct Handshake<S> {
    wire: Box<Wire>,
    state: S,
}

/// More bytes from the client are needed.
pub struct NeedsInput(Expected);

/// The client has said what it wants, and whom.
pub struct ChooseIdentity(ClientHelloReceived);

/// Everything is negotiated but the signature.
pub struct NeedsSignature(ReadyToSign);

/// What comes next from the client: one state each, with all and only its data.
enum Expected {
    ClientHello(ExpectClientHello),
    ClientKeyExchange(Box<tls12::key_exchange::ExpectClientKeyExchange>),
    ChangeCipherSpec(Box<tls12::finish::ExpectChangeCipherSpec>),
    Finished(Box<tls12::finish::ExpectFinished>),
}

/// Where an event leads.
enum Next {
    Expect(Expected),
    Choose(ClientHelloReceived),
    Establish(tls12::finish::Complete),
}

impl Expectation for Expected {
    fn longest(&self, kind: HandshakeType) -> Option<usize> {
        let (expected, longest) = match self {
            Self::ClientHello(_) => (HandshakeType::CLIENT_HELLO, crate::message::client_hello::MAX_LENGTH),
            Self::ClientKeyExchange(_) => (HandshakeType::CLIENT_KEY_EXCHANGE, 1 + 255),
            Self::Finished(_) => (HandshakeType::FINISHED, crate::message::finished::VERIFY_DATA_LENGTH),
            Self::ChangeCipherSpec(_) => return None,
        };
        (kind == expected).then_some(longest)
    }

    fn is_change_cipher_spec(&self) -> bool {
        matches!(self, Self::ChangeCipherSpec(_))
    }
}

impl Expected {
    fn take(self, event: Event, wire: &mut Wire, out: &mut Vec<u8>) -> Result<Next, Error> {
        match (self, event) {
            (Self::ClientHello(state), Event::Message(message)) => state.take(message, wire).map(Next::Choose),
            (Self::ClientKeyExchange(state), Event::Message(message)) => {
                let next = state.take(&message, wire)?;
                Ok(Next::Expect(Self::ChangeCipherSpec(Box::new(next))))
            }
            (Self::ChangeCipherSpec(state), Event::ChangeCipherSpec(boundary)) => {
                let next = state.take(boundary, wire);
                Ok(Next::Expect(Self::Finished(Box::new(next))))
            }
            (Self::Finished(state), Event::Message(message)) => state.take(&message, wire, out).map(Next::Establish),
            (Self::ClientHello(_) | Self::ClientKeyExchange(_) | Self::Finished(_), Event::ChangeCipherSpec(_)) => {
                Err(PeerMisbehaved::EarlyChangeCipherSpec.into())
            }
            (Self::ChangeCipherSpec(_), Event::Message(_)) => Err(PeerMisbehaved::UnexpectedHandshakeMessage.into()),
        }
    }
}

/// Takes what the client has sent until the handshake pauses, completes, fails or needs more.
fn advance(mut wire: Box<Wire>, mut expected: Expected, out: &mut Vec<u8>) -> Result<Step, Error> {
    loop {
        let event = match wire.next_event(&expected) {
            Ok(Some(event)) => event,
            Ok(None) => return Ok(Step::NeedsInput(Handshake { wire, state: NeedsInput(expected) })),
            Err(error) => return Err(wire.fail(error, out)),
        };
        match expected.take(event, &mut wire, out) {
            Ok(Next::Expect(next)) => expected = next,
            Ok(Next::Choose(state)) => {
                return Ok(Step::ChooseIdentity(Handshake { wire, state: ChooseIdentity(state) }));
            }
            Ok(Next::Establish(complete)) => {
                return Ok(Step::Established(Box::new(Established::new(*wire, complete))));
            }
            Err(error) => return Err(wire.fail(error, out)),
        }
    }
}

impl Handshake<NeedsInput> {
    /// A connection whose first byte is yet to come.
    pub fn new(provider: &'static dyn Provider) -> Self {
        let state = NeedsInput(Expected::ClientHello(ExpectClientHello));
        Self { wire: Box::new(Wire::new(provider)), state }
    }

    /// Takes bytes from the client; all of `input` is taken.
    ///
    /// # Errors
    /// Whatever ends the handshake. The alert that answers it is in `out`.
    pub fn feed(mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Step, Error> {
        self.wire.receive(input);
        advance(self.wire, self.state.0, out)
    }

    /// The client's stream ended: how it left.
    pub fn end_of_input(self) -> Error {
        self.wire.end_of_input().into()
    }

    /// The client took longer than the caller allows.
    pub fn time_out(mut self, out: &mut Vec<u8>) -> Error {
        self.wire.fail(PeerClosed::TimedOut.into(), out)
    }
}

impl Handshake<ChooseIdentity> {
    /// The DNS name the client asked for, in lower case, without a trailing dot.
    pub fn server_name(&self) -> Option<&str> {
        self.state.0.hello.extensions.server_name.as_deref()
    }

    /// The protocols the client offers by ALPN, in its order; none when it sent none.
    pub fn alpn_protocols(&self) -> impl Iterator<Item = &[u8]> {
        self.state.0.hello.extensions.alpn.iter().flatten().map(Vec::as_slice)
    }

    /// Goes on as this virtual host. The ephemeral key is drawn from `rng`.
    ///
    /// # Errors
    /// [`Error::PeerIncompatible`] when client and host share too little. The alert that answers it is in `out`.
    pub fn choose(mut self, host: &HostParameters, rng: &mut dyn CryptoRng, out: &mut Vec<u8>) -> Result<Step, Error> {
        match self.state.0.negotiate(self.wire.provider, host, rng) {
            Ok(state) => Ok(Step::NeedsSignature(Handshake { wire: self.wire, state: NeedsSignature(state) })),
            Err(error) => Err(self.wire.fail(error, out)),
        }
    }

    /// No virtual host has the name the client asked for (RFC 6066 §3).
    pub fn reject_name(self, out: &mut Vec<u8>) -> Error {
        self.abort(PeerIncompatible::UnrecognizedName.into(), out)
    }
}

impl Handshake<NeedsSignature> {
    /// What to ask the key server.
    pub fn request(&self) -> SignatureRequest<'_> {
        self.state.0.request()
    }

    /// Checks the key server's answer with the certificate's key.
    ///
    /// # Errors
    /// [`BadSignature`]. The client has been sent nothing, so that another key server may be asked the same.
    pub fn verify(&self, signed: SignedParams) -> Result<VerifiedParams, BadSignature> {
        self.state.0.verify(self.wire.provider, signed)
    }

    /// Sends ServerHello to ServerHelloDone, and goes on with what the client has sent already.
    ///
    /// # Errors
    /// Whatever ends the handshake. The alert that answers it is in `out`.
    pub fn resume(mut self, verified: VerifiedParams, out: &mut Vec<u8>) -> Result<Step, Error> {
        match self.state.0.send(verified, &mut self.wire, out) {
            Ok(next) => advance(self.wire, Expected::ClientKeyExchange(Box::new(next)), out),
            Err(error) => Err(self.wire.fail(error, out)),
        }
    }
}

impl<S> Handshake<S> {
    /// Gives up because of `cause`, and hands it back. Its alert, if it has one, is appended to `out`.
    pub fn abort(mut self, cause: Error, out: &mut Vec<u8>) -> Error {
        self.wire.fail(cause, out)
    }
}

impl<S> fmt::Debug for Handshake<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(std::any::type_name::<Self>()).finish_non_exhaustive()
    }
}
