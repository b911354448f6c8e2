//! Sessions: one that the client offers and goes on from (RFC 5246 §7.3, RFC 5077 §3).
//!
//! ```text
//!   SessionOffered ── a session that fits ──► ReadyToResume
//!         │                                        │ ServerHello, [NewSessionTicket,] ChangeCipherSpec, Finished sent
//!         │ none does                              ▼
//!         ▼                              ExpectResumedChangeCipherSpec ──► ExpectResumedFinished ──► Complete
//!   a full handshake
//! ```
//!
//! No private key is needed, and so no key server is.

use std::sync::Arc;

use rand_core::CryptoRng;

use super::finish::{Complete, verify_client, verify_data_of};
use super::keeping::Keeping;
use super::server_flight::{Offer, RandomFrom};
use crate::code_point::{ContentType, ProtocolVersion};
use crate::connection::Summary;
use crate::crypto::Provider;
use crate::crypto::prf::FinishedLabel;
use crate::error::{Error, PeerMisbehaved};
use crate::handshake::client_hello::ClientHelloReceived;
use crate::handshake::expected::Expected;
use crate::handshake::joiner::{Message, MessageBoundary};
use crate::handshake::negotiate::choose_alpn;
use crate::handshake::transcript::Transcript;
use crate::handshake::wire::Wire;
use crate::handshake::{ClientAuth, HostParameters};
use crate::identity::Identity;
use crate::message::finished;
use crate::message::new_session_ticket::NewSessionTicket;
use crate::message::server_hello::{ServerExtensions, ServerHello};
use crate::record::MAX_PLAINTEXT;
use crate::record::protect::{Protection, ProtectionPair};
use crate::secret::MasterSecret;
use crate::session::{Difference, Session, SessionId};
use crate::suite::{KeyExchange, Suite};

/// The client has sent a ticket, or the id of a session.
pub(crate) struct SessionOffered {
    pub(crate) received: ClientHelloReceived,
    pub(crate) host: Arc<HostParameters>,
    pub(crate) keeping: Keeping,
}

impl SessionOffered {
    /// A ticket that is not empty: an empty one says that the client would take one (RFC 5077 §3.2).
    pub(crate) fn ticket(&self) -> Option<&[u8]> {
        self.received.ticket()
    }

    /// The session's id, if it can be one of this side's making. Beside a ticket an id only marks that the ticket was
    /// taken (RFC 5077 §3.4).
    pub(crate) fn session_id(&self) -> Option<SessionId> {
        let id = &self.received.hello.session_id;
        if self.ticket().is_some() { None } else { id.as_slice().try_into().ok().map(SessionId) }
    }

    /// The session's suite, if the session can be resumed here.
    ///
    /// # Errors
    /// A client that once had extended_master_secret and leaves it out is somebody else's doing (RFC 7627 §5.3).
    pub(crate) fn fit(&self, session: &Session) -> Result<Result<&'static Suite, Difference>, PeerMisbehaved> {
        let (hello, host) = (&self.received.hello, &self.host);
        let offered = &hello.extensions;
        if session.server_name != offered.server_name {
            return Ok(Err(Difference::OtherServerName));
        }
        let suite = Suite::find(session.suite)
            .filter(|suite| hello.offers(suite.code_point) && host.suites.contains(&suite.code_point));
        let Some(suite) = suite else { return Ok(Err(Difference::OtherSuite)) };
        let serves = |identity: &Arc<Identity>| {
            let may = suite.key_exchange != KeyExchange::Rsa || identity.allows_key_transport();
            may && identity.public_key().key_id() == session.key_id
        };
        if !host.identities.iter().any(serves) {
            return Ok(Err(Difference::KeyGone));
        }
        if !host.client_auth.takes(session) {
            return Ok(Err(Difference::OtherClientAuth));
        }
        match (session.extended_master_secret, offered.extended_master_secret) {
            (true, false) => Err(PeerMisbehaved::ExtendedMasterSecretDropped),
            (false, true) => Ok(Err(Difference::NoExtendedMasterSecret)),
            // RFC 7627 §5.3 would rather have neither resume without it; §5.4 says what makes it safe: nobody renegotiates
            // here, and nobody is handed a channel binding.
            (true, true) | (false, false) => Ok(Ok(suite)),
        }
    }

    /// Goes on with a full handshake.
    pub(crate) fn decline(self, provider: &dyn Provider, rng: &mut dyn CryptoRng) -> Result<RandomFrom, Error> {
        self.received.negotiate(provider, &self.host, self.keeping, rng)
    }
}

impl ClientAuth {
    /// Whether the host asks for as much as the session has. Whether the chain still lets the client in, the caller says.
    fn takes(&self, session: &Session) -> bool {
        match self {
            Self::None => session.client_chain.is_empty(),
            Self::Optional { .. } => true,
            Self::Required { .. } => !session.client_chain.is_empty(),
        }
    }
}

/// A session that fits what the client offers.
pub(crate) struct ReadyToResume {
    pub(crate) offered: SessionOffered,
    pub(crate) session: Session,
    pub(crate) suite: &'static Suite,
}

impl ReadyToResume {
    /// Sends this side's whole part of the handshake.
    pub(crate) fn send(
        self,
        renewed: Option<NewSessionTicket>,
        rng: &mut dyn CryptoRng,
        wire: &mut Wire,
        out: &mut Vec<u8>,
    ) -> Result<Expected, Error> {
        let mut server_random = [0; 32];
        rng.fill_bytes(&mut server_random);
        let Self { offered: SessionOffered { received, host, .. }, session, suite } = self;
        let alpn = choose_alpn(&received.hello.extensions, &host)?;
        let session_id = received.hello.session_id.clone();
        let renewed = renewed.filter(|_| received.takes_tickets());
        let mut transcript = Transcript::start(suite.hash, received.message, false);
        let offer = Offer::from(received.hello);

        let mut flight = Vec::with_capacity(512);
        let extensions = offer.answers_in_resumption(alpn.clone(), renewed.is_some());
        ServerHello { random: server_random, session_id, cipher_suite: suite.code_point, extensions }
            .write(&mut flight);
        if let Some(ticket) = &renewed {
            ticket.write(&mut flight);
        }
        transcript.update(&flight);
        let protection =
            ProtectionPair::derive(wire.provider, suite, &session.master_secret, &offer.random, &server_random);
        let mut server_finished = Vec::with_capacity(16);
        finished::write(
            &verify_data_of(&transcript, &session.master_secret, FinishedLabel::Server),
            &mut server_finished,
        );
        transcript.update(&server_finished);
        wire.opener.agree_on_version();
        wire.sealer.seal(ContentType::HANDSHAKE, &flight, out)?;
        if let Some(limit) = offer.record_size_limit {
            wire.sealer.limit_records(limit);
        }
        wire.sealer.change_cipher_spec(protection.server, out)?;
        wire.sealer.seal(ContentType::HANDSHAKE, &server_finished, out)?;

        let summary = Summary {
            server_name: session.server_name,
            version: ProtocolVersion::TLS_1_2,
            suite: suite.code_point,
            group: None,
            scheme: None,
            alpn,
            extended_master_secret: session.extended_master_secret,
            key_id: session.key_id,
            client_chain: session.client_chain,
            resumed: true,
        };
        let state = ExpectResumedFinished { transcript, summary, master_secret: session.master_secret };
        Ok(Expected::ResumedChangeCipherSpec(Box::new(ExpectResumedChangeCipherSpec {
            protection: protection.client,
            state,
        })))
    }
}

impl Offer {
    /// Of the extensions, those that a resumed handshake answers: the name is the session's (RFC 6066 §3), and there is
    /// neither key exchange nor certificate.
    fn answers_in_resumption(&self, alpn: Option<Vec<u8>>, session_ticket: bool) -> ServerExtensions {
        ServerExtensions {
            renegotiation_info: self.renegotiation_info,
            server_name: false,
            ec_point_formats: false,
            status_request: false,
            alpn,
            extended_master_secret: self.extended_master_secret,
            record_size_limit: self.record_size_limit.map(|_| MAX_PLAINTEXT as u16),
            session_ticket,
        }
    }
}

/// This side's Finished is sent.
pub(crate) struct ExpectResumedChangeCipherSpec {
    protection: Protection,
    state: ExpectResumedFinished,
}

impl ExpectResumedChangeCipherSpec {
    /// Reads protected records from here on.
    pub(crate) fn take(self, boundary: MessageBoundary, wire: &mut Wire) -> Box<ExpectResumedFinished> {
        wire.opener.protect(self.protection, boundary);
        Box::new(self.state)
    }
}

/// The client's records are protected.
pub(crate) struct ExpectResumedFinished {
    transcript: Transcript,
    summary: Summary,
    master_secret: MasterSecret,
}

impl ExpectResumedFinished {
    pub(crate) fn take(self, message: &Message) -> Result<Complete, Error> {
        let verified = verify_client(&self.transcript, &self.master_secret, message)?;
        Ok(Complete { summary: self.summary, verified })
    }
}
