//! The session of a full handshake, kept for later ones: by the client as a ticket (RFC 5077 §3.1), or by this side under
//! an id (RFC 5246 §7.3).

use super::Context;
use super::finish::{Complete, FinishedVerified};
use crate::code_point::ContentType;
use crate::error::Error;
use crate::handshake::client_hello::ClientHelloReceived;
use crate::handshake::wire::Wire;
use crate::message::new_session_ticket::NewSessionTicket;
use crate::record::protect::Protection;
use crate::session::{Session, SessionId};

/// How the caller is able to keep the session of a handshake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keeping {
    /// Whether there are tickets for clients that take them.
    pub tickets: bool,
    /// The id under which the session of another client would be kept.
    pub session_id: Option<SessionId>,
}

/// How a client may come back to its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeptBy {
    /// By a ticket, which the client waits for.
    Ticket,
    /// By the id that the client has been told.
    Id(SessionId),
}

impl Keeping {
    /// What of it this client takes: tickets, if it knows them.
    pub(crate) fn with(self, client: &ClientHelloReceived) -> Option<KeptBy> {
        match self.tickets && client.takes_tickets() {
            true => Some(KeptBy::Ticket),
            false => self.session_id.map(KeptBy::Id),
        }
    }
}

/// The client's Finished is right, and this side's is yet to be sent, behind the ticket if there is one.
pub(crate) struct SessionToKeep {
    pub(crate) context: Context,
    pub(crate) write_protection: Protection,
    pub(crate) verified: FinishedVerified,
    pub(crate) session: Session,
    pub(crate) kept_by: KeptBy,
}

impl SessionToKeep {
    /// A client that was promised a ticket is sent one; an empty one says that there is none after all.
    pub(crate) fn send(
        self,
        ticket: Option<NewSessionTicket>,
        wire: &mut Wire,
        out: &mut Vec<u8>,
    ) -> Result<Complete, Error> {
        let Self { mut context, write_protection, verified, session, kept_by } = self;
        if kept_by == KeptBy::Ticket {
            let mut message = Vec::with_capacity(512);
            ticket.unwrap_or_default().write(&mut message);
            context.transcript.update(&message);
            wire.sealer.seal(ContentType::HANDSHAKE, &message, out)?;
        }
        let summary = context.finish(write_protection, &session.master_secret, wire, out)?;
        Ok(Complete { summary, verified })
    }
}
