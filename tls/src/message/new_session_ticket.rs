//! NewSessionTicket (RFC 5077 §3.3).

use super::write_message;
use crate::code_point::HandshakeType;
use crate::codec::{Reader, write_vector};
use crate::error::InvalidMessage;

/// Most bytes of a ticket.
pub const MAX_TICKET: usize = u16::MAX as usize;

/// A ticket for the client to come back with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewSessionTicket {
    /// Seconds for which the client may keep it; 0 leaves that to the client.
    pub lifetime_hint: u32,
    /// 0 to [`MAX_TICKET`] bytes that mean something to servers alone; without any, the client gets no ticket after all.
    pub ticket: Vec<u8>,
}

impl NewSessionTicket {
    /// Appends the message.
    pub fn write(&self, out: &mut Vec<u8>) {
        write_message(out, HandshakeType::NEW_SESSION_TICKET, |out| {
            out.extend_from_slice(&self.lifetime_hint.to_be_bytes());
            write_vector::<2>(out, |out| out.extend_from_slice(&self.ticket));
        });
    }

    /// Reads the body.
    ///
    /// # Errors
    /// [`InvalidMessage`] for wrong lengths.
    pub fn read(body: &[u8]) -> Result<Self, InvalidMessage> {
        let mut reader = Reader::new(body);
        let lifetime_hint = u32::from_be_bytes(reader.array()?);
        let ticket = reader.vector16()?.to_vec();
        reader.finish()?;
        Ok(Self { lifetime_hint, ticket })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::body_of;

    #[test]
    fn reads_what_it_writes() {
        for message in
            [NewSessionTicket::default(), NewSessionTicket { lifetime_hint: 7200, ticket: vec![7; MAX_TICKET] }]
        {
            let mut bytes = Vec::new();
            message.write(&mut bytes);
            assert_eq!(NewSessionTicket::read(body_of(&bytes, HandshakeType::NEW_SESSION_TICKET)), Ok(message));
        }
    }

    #[test]
    fn other_lengths_are_refused() {
        assert_eq!(NewSessionTicket::read(&[0, 0, 0, 1, 0, 2, 9]), Err(InvalidMessage::Truncated));
        assert_eq!(NewSessionTicket::read(&[0, 0, 0, 1, 0, 0, 9]), Err(InvalidMessage::TrailingBytes));
    }
}
