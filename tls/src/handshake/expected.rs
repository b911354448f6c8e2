//! The states that wait for the client, and where each event leads.

use super::client_hello::{ClientHelloReceived, ExpectClientHello};
use super::tls12::client_auth::{CertificateAnswer, ClientChain, ExpectCertificate, ExpectCertificateVerify};
use super::tls12::finish::{Complete, ExpectChangeCipherSpec, ExpectFinished, Finished};
use super::tls12::keeping::SessionToKeep;
use super::tls12::key_exchange::ExpectClientKeyExchange;
use super::tls12::key_transport::{ExpectSealedFinished, SealedFinished};
use super::tls12::resumption::{ExpectResumedChangeCipherSpec, ExpectResumedFinished};
use super::wire::{Awaits, Event, Expectation, Wire};
use super::{ChooseIdentity, Handshake, KeepSession, NeedsInput, NeedsMasterSecret, Step, VerifyClient};
use crate::code_point::HandshakeType;
use crate::connection::Established;
use crate::error::{Error, PeerMisbehaved};
use crate::message::{certificate, certificate_verify, client_hello, client_key_exchange, finished};

/// What comes next from the client: one state each, with all and only its data.
pub(crate) enum Expected {
    ClientHello(ExpectClientHello),
    Certificate(Box<ExpectCertificate>),
    ClientKeyExchange(Box<ExpectClientKeyExchange>),
    CertificateVerify(Box<ExpectCertificateVerify>),
    ChangeCipherSpec(Box<ExpectChangeCipherSpec>),
    SealedFinished(Box<ExpectSealedFinished>),
    Finished(Box<ExpectFinished>),
    ResumedChangeCipherSpec(Box<ExpectResumedChangeCipherSpec>),
    ResumedFinished(Box<ExpectResumedFinished>),
}

/// Where an event leads.
enum Next {
    Expect(Expected),
    Choose(ClientHelloReceived),
    VerifyClient(ClientChain),
    RecoverMasterSecret(SealedFinished),
    KeepSession(Box<SessionToKeep>),
    Establish(Complete),
}

impl Expectation for Expected {
    fn longest(&self, kind: HandshakeType) -> Option<usize> {
        let (expected, longest) = match self {
            Self::ClientHello(_) => (HandshakeType::CLIENT_HELLO, client_hello::MAX_LENGTH),
            Self::Certificate(_) => (HandshakeType::CERTIFICATE, certificate::MAX_LENGTH),
            Self::ClientKeyExchange(_) => (HandshakeType::CLIENT_KEY_EXCHANGE, client_key_exchange::MAX_LENGTH),
            Self::CertificateVerify(_) => (HandshakeType::CERTIFICATE_VERIFY, certificate_verify::MAX_LENGTH),
            Self::Finished(_) | Self::ResumedFinished(_) => (HandshakeType::FINISHED, finished::VERIFY_DATA_LENGTH),
            Self::ChangeCipherSpec(_) | Self::ResumedChangeCipherSpec(_) | Self::SealedFinished(_) => return None,
        };
        (kind == expected).then_some(longest)
    }

    fn awaits(&self) -> Awaits {
        match self {
            Self::ChangeCipherSpec(_) | Self::ResumedChangeCipherSpec(_) => Awaits::ChangeCipherSpec,
            Self::SealedFinished(_) => Awaits::SealedRecord,
            Self::ClientHello(_)
            | Self::Certificate(_)
            | Self::ClientKeyExchange(_)
            | Self::CertificateVerify(_)
            | Self::Finished(_)
            | Self::ResumedFinished(_) => Awaits::Message,
        }
    }
}

impl Expected {
    fn take(self, event: Event, wire: &mut Wire, out: &mut Vec<u8>) -> Result<Next, Error> {
        match (self, event) {
            (Self::ClientHello(state), Event::Message(message)) => state.take(message, wire).map(Next::Choose),
            (Self::Certificate(state), Event::Message(message)) => Ok(match state.take(&message)? {
                CertificateAnswer::None(next) => Next::Expect(Self::ClientKeyExchange(Box::new(next))),
                CertificateAnswer::Chain(chain) => Next::VerifyClient(chain),
            }),
            (Self::ClientKeyExchange(state), Event::Message(message)) => state.take(&message, wire).map(Next::Expect),
            (Self::CertificateVerify(state), Event::Message(message)) => {
                let next = state.take(&message, wire)?;
                Ok(Next::Expect(Self::ChangeCipherSpec(Box::new(next))))
            }
            (Self::ChangeCipherSpec(state), Event::ChangeCipherSpec(boundary)) => {
                Ok(Next::Expect(state.take(boundary, wire)))
            }
            (Self::SealedFinished(state), Event::SealedRecord(record)) => {
                Ok(Next::RecoverMasterSecret(state.take(record)))
            }
            (Self::Finished(state), Event::Message(message)) => Ok(match state.take(&message, wire, out)? {
                Finished::Complete(complete) => Next::Establish(complete),
                Finished::Keep(session) => Next::KeepSession(session),
            }),
            (Self::ResumedChangeCipherSpec(state), Event::ChangeCipherSpec(boundary)) => {
                Ok(Next::Expect(Self::ResumedFinished(state.take(boundary, wire))))
            }
            (Self::ResumedFinished(state), Event::Message(message)) => state.take(&message).map(Next::Establish),
            (_, Event::ChangeCipherSpec(_)) => Err(PeerMisbehaved::EarlyChangeCipherSpec.into()),
            (_, Event::Message(_) | Event::SealedRecord(_)) => Err(PeerMisbehaved::UnexpectedHandshakeMessage.into()),
        }
    }
}

/// Takes what the client has sent until the handshake pauses, completes, fails or needs more.
pub(super) fn advance(mut wire: Box<Wire>, mut expected: Expected, out: &mut Vec<u8>) -> Result<Step, Error> {
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
            Ok(Next::VerifyClient(chain)) => {
                return Ok(Step::VerifyClient(Handshake { wire, state: VerifyClient(chain) }));
            }
            Ok(Next::RecoverMasterSecret(sealed)) => {
                return Ok(Step::NeedsMasterSecret(Handshake { wire, state: NeedsMasterSecret(sealed) }));
            }
            Ok(Next::KeepSession(session)) => {
                return Ok(Step::KeepSession(Handshake { wire, state: KeepSession(session) }));
            }
            Ok(Next::Establish(complete)) => {
                return Ok(Step::Established(Box::new(Established::new(*wire, complete))));
            }
            Err(error) => return Err(wire.fail(error, out)),
        }
    }
}
