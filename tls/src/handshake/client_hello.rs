//! The first message: what every version of TLS decides before it goes its own way.

use super::joiner::Message;
use super::wire::Wire;
use crate::code_point::{CipherSuite, ProtocolVersion};
use crate::error::{Error, PeerIncompatible};
use crate::message::client_hello::ClientHello;

/// Nothing has come yet.
pub(crate) struct ExpectClientHello;

/// A ClientHello that this engine can answer.
pub(crate) struct ClientHelloReceived {
    pub(crate) hello: ClientHello,
    /// The message as it stood on the wire, for the transcript.
    pub(crate) message: Vec<u8>,
}

impl ClientHelloReceived {
    /// Whether the client knows what to do with a ticket (RFC 5077 §3.2).
    pub(crate) fn takes_tickets(&self) -> bool {
        self.hello.extensions.session_ticket.is_some()
    }

    /// The client's ticket. An empty one says that it has none, and takes one.
    pub(crate) fn ticket(&self) -> Option<&[u8]> {
        self.hello.extensions.session_ticket.as_deref().filter(|ticket| !ticket.is_empty())
    }

    /// Whether the client offers a session to go on from.
    pub(crate) fn offers_session(&self) -> bool {
        self.ticket().is_some() || !self.hello.session_id.is_empty()
    }
}

impl ExpectClientHello {
    pub(crate) fn take(self, message: Message, wire: &mut Wire) -> Result<ClientHelloReceived, Error> {
        let hello = ClientHello::read(message.body())?;
        wire.sealer.speak_at_most(hello.version);
        check_version(&hello)?;
        Ok(ClientHelloReceived { hello, message: message.into_bytes() })
    }
}

fn check_version(hello: &ClientHello) -> Result<(), PeerIncompatible> {
    if hello.version < ProtocolVersion::TLS_1_2 {
        // RFC 7507 §3. A client that falls back is told so, rather than that its version is too old.
        return Err(match hello.offers(CipherSuite::FALLBACK_SCSV) {
            true => PeerIncompatible::InappropriateFallback,
            false => PeerIncompatible::VersionTooOld,
        });
    }
    match &hello.extensions.supported_versions {
        None => Ok(()),
        Some(versions) if versions.contains(&ProtocolVersion::TLS_1_2) => Ok(()),
        Some(versions) if versions.contains(&ProtocolVersion::TLS_1_3) => Err(PeerIncompatible::VersionTooNew),
        Some(_) => Err(PeerIncompatible::VersionTooOld),
    }
}
