//! Between the protocol's messages and the key server's own types.

use std::collections::HashMap;
use std::time::Duration;

use keystead_proto::pad::Pad;
use keystead_proto::v1;
use keystead_tls::handshake::Lease;
use keystead_tls::secret::MasterSecret;
use keystead_tls::{KeyId, NamedGroup, SignatureScheme};
use tonic::{Code, Status};

use super::answer::{Done, Outcome};
use crate::authorize::AllowedKeys;
use crate::key::Key;
use crate::operation::recover_master_secret::RecoverMasterSecret;
use crate::operation::sign_server_key_exchange::{SignServerKeyExchange, Signed};
use crate::refusal::Refusal;
use crate::ticket_keys::ratchet::TicketKey;

/// Reads a request: which key, and what to do with it.
///
/// # Errors
/// [`Refusal::MalformedRequest`] for fields of wrong lengths.
pub(crate) fn sign_server_key_exchange(
    request: v1::SignServerKeyExchangeRequest,
) -> Result<(KeyId, SignServerKeyExchange), Refusal> {
    let number = |number: u32| u16::try_from(number).map_err(|_| Refusal::MalformedRequest);
    let key_id = KeyId(bytes(&request.key_id)?);
    let operation = SignServerKeyExchange {
        client_random: bytes(&request.client_random)?,
        scheme: SignatureScheme(number(request.scheme)?),
        group: NamedGroup(number(request.group)?),
        public: request.public,
    };
    Ok((key_id, operation))
}

/// Reads a request: which key, and what to do with it.
///
/// # Errors
/// [`Refusal::MalformedRequest`] for a key id of wrong length; what else is wrong with it is nobody's to know.
pub(crate) fn recover_master_secret(
    request: v1::RecoverMasterSecretRequest,
) -> Result<(KeyId, RecoverMasterSecret), Refusal> {
    let v1::RecoverMasterSecretRequest { key_id, lease, handshake_messages, finished_record, server_name: _ } = request;
    Ok((KeyId(bytes(&key_id)?), RecoverMasterSecret { lease, handshake_messages, finished_record }))
}

fn bytes(field: &[u8]) -> Result<[u8; 32], Refusal> {
    field.try_into().map_err(|_| Refusal::MalformedRequest)
}

/// The message of an Exchange stream for the request `id`.
pub(crate) fn exchange_reply(id: u64, outcome: Outcome) -> v1::ExchangeReply {
    use v1::exchange_reply::Outcome as Message;
    let outcome = match outcome {
        Ok(Done::Signed(signed)) => Message::SignServerKeyExchange(signed.into()),
        Ok(Done::Leased(leases)) => Message::LeaseRandoms(leased(leases)),
        Ok(Done::Recovered(master_secret)) => Message::RecoverMasterSecret(recovered(&master_secret)),
        Err(reason) => {
            Message::Refusal(v1::Refusal { code: code(reason) as u32, message: reason.message().to_owned() })
        }
    };
    let mut reply = v1::ExchangeReply { id, padding: Vec::new(), outcome: Some(outcome) };
    reply.pad();
    reply
}

impl From<Signed> for v1::SignServerKeyExchangeReply {
    fn from(signed: Signed) -> Self {
        Self { server_random: signed.server_random.to_vec(), signature: signed.signature }
    }
}

/// The randoms that were leased.
pub(crate) fn leased(leases: Vec<Lease>) -> v1::LeaseRandomsReply {
    let message = |lease: Lease| v1::Lease { server_random: lease.server_random.to_vec(), token: lease.token };
    v1::LeaseRandomsReply { leases: leases.into_iter().map(message).collect() }
}

/// The master secret. From here to the channel's encryption it is bytes that the libraries do not wipe.
pub(crate) fn recovered(master_secret: &MasterSecret) -> v1::RecoverMasterSecretReply {
    v1::RecoverMasterSecretReply { master_secret: master_secret.expose().to_vec() }
}

/// The status that a unary call ends with.
impl From<Refusal> for Status {
    fn from(reason: Refusal) -> Self {
        Self::new(code(reason), reason.message())
    }
}

/// The one place that says which code stands for which cause.
fn code(reason: Refusal) -> Code {
    match reason {
        Refusal::UnknownPeer | Refusal::KeyNotAllowed | Refusal::KeyTransportNotAllowed => Code::PermissionDenied,
        Refusal::KeyTransportRefused | Refusal::RecoveryFailed => Code::FailedPrecondition,
        Refusal::MalformedRequest | Refusal::SchemeNotAllowed | Refusal::UnknownGroup | Refusal::InvalidPoint => {
            Code::InvalidArgument
        }
        Refusal::QueueFull => Code::ResourceExhausted,
        Refusal::DeadlineExceeded => Code::DeadlineExceeded,
        Refusal::CallerGone => Code::Cancelled,
        Refusal::Stopping => Code::Unavailable,
        Refusal::SigningFailed | Refusal::FaultySignature => Code::Internal,
    }
}

/// Everything that a peer may serve.
pub(crate) fn identities(keys: &AllowedKeys) -> v1::WatchEvent {
    let identities = v1::Identities { identities: keys.iter().map(identity).collect() };
    v1::WatchEvent { event: Some(v1::watch_event::Event::Identities(identities)) }
}

/// What a peer may serve otherwise than before; `None` where that is nothing.
pub(crate) fn identity_changes(before: &AllowedKeys, after: &AllowedKeys) -> Option<v1::WatchEvent> {
    let after_by_name: HashMap<&str, &Key> = after.iter().map(|key| (key.name().as_ref(), key)).collect();
    let before_by_name: HashMap<&str, &Key> = before.iter().map(|key| (key.name().as_ref(), key)).collect();
    // Keys that were not loaded again are shared.
    let is_told = |key: &&Key| before_by_name.get(key.name().as_ref()).is_some_and(|told| std::ptr::eq(*told, *key));
    let is_gone = |key: &&Key| after_by_name.get(key.name().as_ref()).is_none_or(|now| now.key_id() != key.key_id());
    let removed = |key: &Key| v1::RemovedIdentity { name: key.name().to_string(), key_id: key.key_id().0.to_vec() };
    let changes = v1::IdentityChanges {
        removed: before.iter().filter(is_gone).map(removed).collect(),
        changed: after.iter().filter(|key| !is_told(key)).map(identity).collect(),
    };
    let is_none = changes.removed.is_empty() && changes.changed.is_empty();
    (!is_none).then_some(v1::WatchEvent { event: Some(v1::watch_event::Event::IdentityChanges(changes)) })
}

fn identity(key: &Key) -> v1::Identity {
    let identity = key.identity();
    v1::Identity {
        name: key.name().to_string(),
        key_id: key.key_id().0.to_vec(),
        certificate_chain: identity.chain().to_vec(),
        signature_schemes: identity.schemes().iter().map(|scheme| scheme.0.into()).collect(),
        ocsp_response: identity.ocsp_response().unwrap_or_default().to_vec(),
        danger_rsa_key_transport: identity.allows_key_transport(),
    }
}

/// What the edges of a group seal and open with. From here to the channel's encryption keys are bytes that the libraries
/// do not wipe.
pub(crate) fn ticket_keys(keys: impl IntoIterator<Item = TicketKey>) -> v1::WatchEvent {
    let milliseconds = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let message = |key: TicketKey| v1::TicketKey {
        generation: key.generation,
        name: key.key.name().to_vec(),
        key: key.key.expose().to_vec(),
        seal_for_ms: milliseconds(key.seal_for),
        open_for_ms: milliseconds(key.open_for),
    };
    let keys = v1::TicketKeys { keys: keys.into_iter().map(message).collect() };
    v1::WatchEvent { event: Some(v1::watch_event::Event::TicketKeys(keys)) }
}

/// The notice that the key server is about to stop.
pub(crate) fn drain() -> v1::WatchEvent {
    v1::WatchEvent { event: Some(v1::watch_event::Event::Drain(v1::Drain {})) }
}
