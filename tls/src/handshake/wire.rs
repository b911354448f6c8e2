//! The record layer as a handshake sees it: whole messages and key changes in, messages and alerts out.

use super::joiner::{Joiner, Message, MessageBoundary};
use crate::alert::{AlertReader, Heard};
use crate::code_point::{ContentType, HandshakeType};
use crate::crypto::Provider;
use crate::error::{Error, InvalidMessage, PeerClosed, PeerMisbehaved};
use crate::record::{Deframed, Opener, Sealer};

/// Both directions of a connection during its handshake.
pub(crate) struct Wire {
    pub(crate) provider: &'static dyn Provider,
    pub(crate) opener: Opener,
    pub(crate) sealer: Sealer,
    pub(crate) joiner: Joiner,
    pub(crate) alerts: AlertReader,
    received: Vec<u8>,
}

/// What moves a handshake on.
pub(crate) enum Event {
    Message(Message),
    ChangeCipherSpec(MessageBoundary),
    /// A record of handshake messages that only the key server can open, header included.
    SealedRecord(Vec<u8>),
}

/// What a state takes.
pub(crate) trait Expectation {
    /// Most bytes of body that a message of this kind has here; `None` if it may not come.
    fn longest(&self, kind: HandshakeType) -> Option<usize>;

    /// What kind of event comes here.
    fn awaits(&self) -> Awaits;
}

/// The kind of event that a state takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Awaits {
    Message,
    ChangeCipherSpec,
    SealedRecord,
}

impl Wire {
    pub(crate) fn new(provider: &'static dyn Provider) -> Self {
        Self {
            provider,
            opener: Opener::default(),
            sealer: Sealer::default(),
            joiner: Joiner::default(),
            alerts: AlertReader::default(),
            received: Vec::new(),
        }
    }

    pub(crate) fn receive(&mut self, input: &[u8]) {
        self.received.extend_from_slice(input);
    }

    /// Puts a record back in front of what is unread, to be taken again.
    pub(crate) fn put_back(&mut self, mut record: Vec<u8>) {
        record.append(&mut self.received);
        self.received = record;
    }

    /// The bytes behind the last record that was taken.
    pub(crate) fn take_unread(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.received)
    }

    /// How the client left, when its stream ended here.
    pub(crate) fn end_of_input(&self) -> PeerClosed {
        if self.opener.started() || !self.received.is_empty() { PeerClosed::Truncated } else { PeerClosed::NothingSent }
    }

    /// The next event; `None` when more bytes are needed.
    pub(crate) fn next_event(&mut self, expected: &impl Expectation) -> Result<Option<Event>, Error> {
        let mut received = std::mem::take(&mut self.received);
        let mut unread = received.as_mut_slice();
        let event = loop {
            if let Some(message) = self.joiner.next(|kind| expected.longest(kind))? {
                break Some(Event::Message(message));
            }
            let Deframed::Record { content_type, plaintext, consumed } = self.opener.open(unread)? else { break None };
            let (record, rest) = unread.split_at_mut_checked(consumed).ok_or(InvalidMessage::Truncated)?;
            unread = rest;
            let event = match (expected.awaits(), content_type) {
                (Awaits::SealedRecord, ContentType::HANDSHAKE) => Some(Event::SealedRecord(record.to_vec())),
                (awaits, _) => self.take_record(content_type, record.get(plaintext).unwrap_or_default(), awaits)?,
            };
            if event.is_some() {
                break event;
            }
        };
        let left = unread.len();
        received.drain(..received.len() - left);
        self.received = received;
        Ok(event)
    }

    fn take_record(
        &mut self,
        content_type: ContentType,
        payload: &[u8],
        awaits: Awaits,
    ) -> Result<Option<Event>, Error> {
        if content_type == ContentType::HANDSHAKE {
            if awaits == Awaits::ChangeCipherSpec {
                return Err(PeerMisbehaved::UnexpectedHandshakeMessage.into());
            }
            self.alerts.reset();
            self.joiner.push(payload);
            return Ok(None);
        }
        let boundary = self.joiner.boundary()?;
        match content_type {
            // Behind ChangeCipherSpec an alert is sealed too, and nobody here can read it.
            ContentType::ALERT if awaits == Awaits::SealedRecord => Err(PeerClosed::ClosedInHandshake.into()),
            ContentType::ALERT => match self.alerts.read(payload)? {
                Heard::Warning => Ok(None),
                Heard::CloseNotify => Err(PeerClosed::ClosedInHandshake.into()),
            },
            ContentType::CHANGE_CIPHER_SPEC if awaits != Awaits::ChangeCipherSpec => {
                Err(PeerMisbehaved::EarlyChangeCipherSpec.into())
            }
            ContentType::CHANGE_CIPHER_SPEC if payload != [1] => Err(InvalidMessage::MalformedChangeCipherSpec.into()),
            ContentType::CHANGE_CIPHER_SPEC => Ok(Some(Event::ChangeCipherSpec(boundary))),
            _ => Err(PeerMisbehaved::UnexpectedContentType.into()),
        }
    }

    /// Appends the alert that answers `error`, and hands `error` back.
    pub(crate) fn fail(&mut self, error: Error, out: &mut Vec<u8>) -> Error {
        if let Some(alert) = error.alert() {
            self.sealer.alert(alert, out);
        }
        error
    }
}
