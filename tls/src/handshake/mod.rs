//! The handshake: bytes in, bytes out, and named pauses where the caller must fetch something.
//!
//! ```text
//!  NeedsInput ── ClientHello ──► ChooseIdentity ── choose ──┬──► NeedsSignature ── resume ──┐
//!   ▲   │  ▲                                                ├──► NeedsLease ── resume ──────┤
//!   └───┘  │ feed                                           └──► FindSession ─┐             │
//!          │                    as choose does ◄── decline ──────────┴─────────┤ fit         │
//!          │                                                                   ▼             │
//!          │                                         ReadyToResume ── resume ──┐             │
//!          └───────────────────────────────────────────────────────────────────┴─────────────┘
//!  NeedsInput ── the client's Certificate ──► VerifyClient ── accept ──► NeedsInput
//!  NeedsInput ── Finished in RSA key transport ──► NeedsMasterSecret ── resume ──► Established
//!  NeedsInput ── Finished of a session that can be kept ──► KeepSession ── resume ──► Established
//!  NeedsInput ── Finished ──► Established
//! ```
//!
//! Each [`Step`] owns the handshake and offers only the method that goes on from there. Output is appended to the
//! caller's buffer, also on error: send it first, then act on the error.

mod client_hello;
mod expected;
mod host;
pub(crate) mod joiner;
mod negotiate;
pub(crate) mod tls12;
mod transcript;
pub(crate) mod wire;

pub use host::{ClientAuth, HostParameters};
pub use tls12::keeping::{Keeping, KeptBy};
pub use tls12::key_transport::{Lease, MasterSecretRequest};
pub use tls12::signing::{SignatureRequest, SignedParams, VerifiedParams};

use std::fmt;
use std::sync::Arc;

use rand_core::CryptoRng;

use self::client_hello::{ClientHelloReceived, ExpectClientHello};
use self::expected::{Expected, advance};
use self::tls12::client_auth::ClientChain;
use self::tls12::keeping::SessionToKeep;
use self::tls12::key_transport::{AwaitLease, SealedFinished};
use self::tls12::resumption;
use self::tls12::server_flight::RandomFrom;
use self::tls12::signing::ReadyToSign;
use self::wire::Wire;
use crate::connection::Established;
use crate::crypto::{BadSignature, Provider};
use crate::error::{ClientCertificateRefusal, Error, PeerClosed, PeerIncompatible, PeerMisbehaved};
use crate::identity::Identity;
use crate::message::client_hello::ProtocolNames;
use crate::message::new_session_ticket::NewSessionTicket;
use crate::secret::MasterSecret;
use crate::session::{Difference, Session, SessionId};

/// What a handshake needs next.
#[must_use]
#[derive(Debug)]
pub enum Step {
    /// More bytes from the client.
    NeedsInput(Handshake<NeedsInput>),
    /// The virtual host that the client asked for.
    ChooseIdentity(Handshake<ChooseIdentity>),
    /// The session that the client would go on from, if there is one.
    FindSession(Handshake<FindSession>),
    /// The key server's signature. The client has been sent nothing yet.
    NeedsSignature(Handshake<NeedsSignature>),
    /// A random that a key server leases, for RSA key transport. The client has been sent nothing yet.
    NeedsLease(Handshake<NeedsLease>),
    /// The verdict on the client's certificate.
    VerifyClient(Handshake<VerifyClient>),
    /// The master secret of RSA key transport.
    NeedsMasterSecret(Handshake<NeedsMasterSecret>),
    /// That its session be kept.
    KeepSession(Handshake<KeepSession>),
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
///
/// No session is gone on from that has not been found to fit:
///
/// ```compile_fail,E0599
/// # use keystead_tls::handshake::{FindSession, Handshake};
/// fn resume_unchecked(paused: Handshake<FindSession>, rng: &mut dyn rand_core::CryptoRng) {
///     let _ = paused.resume(None, rng, &mut Vec::new());
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

/// The client offers a session to go on from.
pub struct FindSession(resumption::SessionOffered);

/// There is a session, and it fits.
pub struct ReadyToResume(resumption::ReadyToResume);

/// Whether a session fits what the client offers and the host allows.
#[must_use]
#[derive(Debug)]
pub enum Fit {
    /// It does.
    Fits(Handshake<ReadyToResume>),
    /// It does not.
    Differs(Handshake<FindSession>, Difference),
}

/// Everything is negotiated but the signature.
pub struct NeedsSignature(ReadyToSign);

/// Everything is negotiated but ServerHello.random.
pub struct NeedsLease(AwaitLease);

/// The client has sent its certificate.
pub struct VerifyClient(ClientChain);

/// The handshake is complete but for this side's Finished.
pub struct KeepSession(Box<SessionToKeep>);

/// The client has sent everything, and only the key server can read the end of it.
pub struct NeedsMasterSecret(SealedFinished);

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

    /// The client took longer than the caller allows; one that has sent nothing is a probe, and is sent nothing.
    pub fn time_out(mut self, out: &mut Vec<u8>) -> Error {
        let cause = match self.wire.end_of_input() {
            PeerClosed::NothingSent => PeerClosed::NothingSent,
            PeerClosed::ClosedInHandshake | PeerClosed::Truncated | PeerClosed::TimedOut => PeerClosed::TimedOut,
        };
        self.wire.fail(cause.into(), out)
    }
}

impl Handshake<ChooseIdentity> {
    /// The DNS name the client asked for, in lower case, without a trailing dot.
    pub fn server_name(&self) -> Option<&str> {
        self.state.0.hello.extensions.server_name.as_deref()
    }

    /// The protocols the client offers by ALPN, in its order; none when it sent none.
    pub fn alpn_protocols(&self) -> impl Iterator<Item = &[u8]> {
        self.state.0.hello.extensions.alpn.iter().flat_map(ProtocolNames::iter)
    }

    /// Goes on as this virtual host, whose session may be kept as `keeping` says. The ephemeral key is drawn from `rng`.
    ///
    /// # Errors
    /// [`Error::PeerIncompatible`] when client and host share too little. The alert that answers it is in `out`.
    pub fn choose(
        self,
        host: &Arc<HostParameters>,
        keeping: Keeping,
        rng: &mut dyn CryptoRng,
        out: &mut Vec<u8>,
    ) -> Result<Step, Error> {
        let Self { wire, state: ChooseIdentity(received) } = self;
        if received.offers_session() {
            let offered = resumption::SessionOffered { received, host: Arc::clone(host), keeping };
            return Ok(Step::FindSession(Handshake { wire, state: FindSession(offered) }));
        }
        let random_from = received.negotiate(wire.provider, host, keeping, rng);
        random_needed(wire, random_from, out)
    }

    /// No virtual host has the name the client asked for (RFC 6066 §3).
    pub fn reject_name(self, out: &mut Vec<u8>) -> Error {
        self.abort(PeerIncompatible::UnrecognizedName.into(), out)
    }
}

/// Asks for ServerHello.random where it comes from.
fn random_needed(
    mut wire: Box<Wire>,
    random_from: Result<RandomFrom, Error>,
    out: &mut Vec<u8>,
) -> Result<Step, Error> {
    match random_from {
        Ok(RandomFrom::Signature(state)) => Ok(Step::NeedsSignature(Handshake { wire, state: NeedsSignature(state) })),
        Ok(RandomFrom::Lease(state)) => Ok(Step::NeedsLease(Handshake { wire, state: NeedsLease(state) })),
        Err(error) => Err(wire.fail(error, out)),
    }
}

impl Handshake<FindSession> {
    /// The client's ticket, of one byte at least (RFC 5077).
    pub fn ticket(&self) -> Option<&[u8]> {
        self.state.0.ticket()
    }

    /// The id of the client's session, of those that have 32 bytes. `None` beside a ticket (RFC 5077 §3.4).
    pub fn session_id(&self) -> Option<SessionId> {
        self.state.0.session_id()
    }

    /// Whether the client may go on from `session`. Its age and where it is from are the caller's to judge.
    ///
    /// # Errors
    /// [`PeerMisbehaved::ExtendedMasterSecretDropped`]. The alert that answers it is in `out`.
    pub fn fit(mut self, session: Session, out: &mut Vec<u8>) -> Result<Fit, Error> {
        match self.state.0.fit(&session) {
            Ok(Ok(suite)) => {
                let state = ReadyToResume(resumption::ReadyToResume { offered: self.state.0, session, suite });
                Ok(Fit::Fits(Handshake { wire: self.wire, state }))
            }
            Ok(Err(difference)) => Ok(Fit::Differs(self, difference)),
            Err(cause) => Err(self.wire.fail(cause.into(), out)),
        }
    }

    /// Goes on with a full handshake.
    ///
    /// # Errors
    /// As those of [`Handshake::choose`].
    pub fn decline(self, rng: &mut dyn CryptoRng, out: &mut Vec<u8>) -> Result<Step, Error> {
        let random_from = self.state.0.decline(self.wire.provider, rng);
        random_needed(self.wire, random_from, out)
    }
}

impl Handshake<ReadyToResume> {
    /// The session that the client goes on from.
    pub fn session(&self) -> &Session {
        &self.state.0.session
    }

    /// Whether the client knows what to do with a ticket.
    pub fn takes_tickets(&self) -> bool {
        self.state.0.offered.received.takes_tickets()
    }

    /// The id by which the client offered it; `None` for a ticket.
    pub fn session_id(&self) -> Option<SessionId> {
        self.state.0.offered.session_id()
    }

    /// Sends ServerHello to Finished, with a ticket in place of the client's if there is one and the client takes it.
    /// ServerHello.random is drawn from `rng`.
    ///
    /// # Errors
    /// Whatever ends the handshake. The alert that answers it is in `out`.
    pub fn resume(
        mut self,
        renewed: Option<NewSessionTicket>,
        rng: &mut dyn CryptoRng,
        out: &mut Vec<u8>,
    ) -> Result<Step, Error> {
        match self.state.0.send(renewed, rng, &mut self.wire, out) {
            Ok(expected) => advance(self.wire, expected, out),
            Err(error) => Err(self.wire.fail(error, out)),
        }
    }

    /// Goes on with a full handshake.
    ///
    /// # Errors
    /// As those of [`Handshake::choose`].
    pub fn decline(self, rng: &mut dyn CryptoRng, out: &mut Vec<u8>) -> Result<Step, Error> {
        let random_from = self.state.0.offered.decline(self.wire.provider, rng);
        random_needed(self.wire, random_from, out)
    }
}

impl Handshake<KeepSession> {
    /// The session.
    pub fn session(&self) -> &Session {
        &self.state.0.session
    }

    /// How the client is to come back to it.
    pub fn kept_by(&self) -> KeptBy {
        self.state.0.kept_by
    }

    /// Sends the ticket, if the client waits for one, and this side's Finished. Without a ticket the client is told that
    /// there is none after all.
    ///
    /// # Errors
    /// Whatever ends the handshake. The alert that answers it is in `out`.
    pub fn resume(mut self, ticket: Option<NewSessionTicket>, out: &mut Vec<u8>) -> Result<Step, Error> {
        match self.state.0.send(ticket, &mut self.wire, out) {
            Ok(complete) => Ok(Step::Established(Box::new(Established::new(*self.wire, complete)))),
            Err(error) => Err(self.wire.fail(error, out)),
        }
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
            Ok(expected) => advance(self.wire, expected, out),
            Err(error) => Err(self.wire.fail(error, out)),
        }
    }
}

impl Handshake<NeedsLease> {
    /// The certificate whose key the lease is for.
    pub fn identity(&self) -> &Arc<Identity> {
        self.state.0.identity()
    }

    /// Sends ServerHello to ServerHelloDone, and goes on with what the client has sent already.
    ///
    /// # Errors
    /// Whatever ends the handshake. The alert that answers it is in `out`.
    pub fn resume(mut self, lease: Lease, out: &mut Vec<u8>) -> Result<Step, Error> {
        match self.state.0.send(lease, &mut self.wire, out) {
            Ok(expected) => advance(self.wire, expected, out),
            Err(error) => Err(self.wire.fail(error, out)),
        }
    }
}

impl Handshake<VerifyClient> {
    /// The client's DER certificates, its own first. That it has the key is yet to be proven.
    pub fn chain(&self) -> &[Vec<u8>] {
        self.state.0.chain()
    }

    /// The chain verifies and may come in, provided the client proves to have its key.
    ///
    /// # Errors
    /// Whatever ends the handshake. The alert that answers it is in `out`.
    pub fn accept(self, out: &mut Vec<u8>) -> Result<Step, Error> {
        advance(self.wire, Expected::ClientKeyExchange(Box::new(self.state.0.accept())), out)
    }

    /// The chain does not let the client in.
    pub fn refuse(self, cause: ClientCertificateRefusal, out: &mut Vec<u8>) -> Error {
        self.abort(cause.into(), out)
    }
}

impl Handshake<NeedsMasterSecret> {
    /// What to ask the key server that gave the lease.
    pub fn request(&self) -> MasterSecretRequest<'_> {
        self.state.0.request()
    }

    /// Goes on with the master secret.
    ///
    /// # Errors
    /// Whatever ends the handshake. The alert that answers it is in `out`.
    pub fn resume(mut self, master_secret: MasterSecret, out: &mut Vec<u8>) -> Result<Step, Error> {
        let expected = self.state.0.resume(master_secret, &mut self.wire);
        advance(self.wire, expected, out)
    }

    /// The key server refuses, for whatever cause: one error, one alert, at one point.
    pub fn refuse(self, out: &mut Vec<u8>) -> Error {
        self.abort(PeerMisbehaved::KeyTransportRefused.into(), out)
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
