//! Joins handshake messages from the fragments that records carry (RFC 5246 §6.2.1).

use crate::code_point::HandshakeType;
use crate::error::{Error, InvalidMessage, PeerMisbehaved};
use crate::message::HEADER_LENGTH;

/// One whole handshake message.
#[derive(Debug)]
pub(crate) struct Message {
    /// Header and body, as the transcript takes them.
    bytes: Vec<u8>,
}

impl Message {
    pub(crate) fn body(&self) -> &[u8] {
        self.bytes.get(HEADER_LENGTH..).unwrap_or_default()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// The proof that no handshake message is in the middle: keys may change only there, and other records come only there.
#[derive(Debug)]
pub(crate) struct MessageBoundary(());

/// The fragments that are not yet a whole message.
#[derive(Debug, Default)]
pub(crate) struct Joiner {
    pending: Vec<u8>,
    /// Bytes yet to come of a message that nobody wants.
    unwanted: usize,
}

impl Joiner {
    pub(crate) fn push(&mut self, fragment: &[u8]) {
        let (unwanted, wanted) = fragment.split_at(self.unwanted.min(fragment.len()));
        self.unwanted -= unwanted.len();
        self.pending.extend_from_slice(wanted);
    }

    /// # Errors
    /// [`PeerMisbehaved::InterleavedHandshake`] in the middle of a message.
    pub(crate) fn boundary(&self) -> Result<MessageBoundary, PeerMisbehaved> {
        if self.pending.is_empty() && self.unwanted == 0 {
            Ok(MessageBoundary(()))
        } else {
            Err(PeerMisbehaved::InterleavedHandshake)
        }
    }

    /// The next message, if it is whole. `longest` gives the most bytes of body for a message that may come here, and
    /// `None` for one that may not; both are held as soon as the header is there.
    pub(crate) fn next(
        &mut self,
        longest: impl FnOnce(HandshakeType) -> Option<usize>,
    ) -> Result<Option<Message>, Error> {
        match self.length(longest)? {
            Some(length) if self.pending.len() >= length => {
                let rest = self.pending.split_off(length);
                Ok(Some(Message { bytes: std::mem::replace(&mut self.pending, rest) }))
            }
            Some(_) | None => Ok(None),
        }
    }

    /// Drops the next message as soon as its header is there, without keeping what has yet to come of it. Whether there
    /// was one; `longest` as in [`Self::next`].
    pub(crate) fn discard(&mut self, longest: impl FnOnce(HandshakeType) -> Option<usize>) -> Result<bool, Error> {
        let Some(length) = self.length(longest)? else { return Ok(false) };
        let there = length.min(self.pending.len());
        self.pending.drain(..there);
        self.unwanted = length - there;
        Ok(true)
    }

    /// Bytes of the next message, header included, once its header is there.
    fn length(&self, longest: impl FnOnce(HandshakeType) -> Option<usize>) -> Result<Option<usize>, Error> {
        let Some(&[kind, high, middle, low]) = self.pending.first_chunk::<HEADER_LENGTH>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        let longest = longest(HandshakeType(kind)).ok_or(PeerMisbehaved::UnexpectedHandshakeMessage)?;
        if length > longest {
            return Err(InvalidMessage::MessageTooLarge.into());
        }
        Ok(Some(HEADER_LENGTH + length))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn joins_a_message_from_single_bytes() {
        let mut joiner = Joiner::default();
        for byte in [20, 0, 0, 2, 7] {
            joiner.push(&[byte]);
            assert!(joiner.next(|_| Some(2)).unwrap().is_none());
            assert_eq!(joiner.boundary().unwrap_err(), PeerMisbehaved::InterleavedHandshake);
        }
        joiner.push(&[8, 16]);
        let message = joiner.next(|_| Some(2)).unwrap().unwrap();
        assert_eq!((message.body(), message.bytes()), (&[7, 8][..], &[20, 0, 0, 2, 7, 8][..]));
        assert!(joiner.boundary().is_err());
    }

    #[test]
    fn an_unwanted_message_is_not_kept() {
        let mut joiner = Joiner::default();
        joiner.push(&[1, 0, 0, 3, 9]);
        assert!(joiner.discard(|_| Some(3)).unwrap());
        assert!(joiner.pending.is_empty() && joiner.boundary().is_err());
        joiner.push(&[9, 9, 20, 0, 0, 0]);
        assert!(joiner.next(|_| Some(0)).unwrap().is_some());
        assert!(joiner.boundary().is_ok());
    }

    #[test]
    fn refuses_by_the_header_alone() {
        let mut joiner = Joiner::default();
        joiner.push(&[20, 0, 0, 3]);
        assert_eq!(joiner.next(|_| Some(2)).unwrap_err(), InvalidMessage::MessageTooLarge.into());
        assert_eq!(joiner.next(|_| None).unwrap_err(), PeerMisbehaved::UnexpectedHandshakeMessage.into());
    }
}
