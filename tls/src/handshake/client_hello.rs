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
