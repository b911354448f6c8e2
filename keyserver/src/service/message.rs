//! Between the protocol's messages and the key server's own types.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use keystead_proto::pad::Pad;
use keystead_proto::v1;
use keystead_tls::handshake::Lease;
use keystead_tls::secret::MasterSecret;
use keystead_tls::{KeyId, NamedGroup, SignatureScheme};
use tonic::{Code, Status};

use super::answer::{Done, Outcome};
use crate::authorize::Rights;
use crate::key::Key;
use crate::lease::Batch;
use crate::operation::recover_master_secret::RecoverMasterSecret;
use crate::operation::sign_server_key_exchange::{SignServerKeyExchange, Signed};
use crate::policy::Grant;
use crate::refusal::Refusal;
use crate::ticket_keys::ratchet::{TicketKey, UnixTime};

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
        server_name: server_name(request.server_name)?,
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

/// The name a client asked for, in the edge's words.
fn server_name(name: String) -> Result<String, Refusal> {
    // No DNS name is longer (RFC 1035 §2.3.4), and nothing else is looked up or logged.
    if name.len() > 255 { Err(Refusal::MalformedRequest) } else { Ok(name) }
}

fn bytes(field: &[u8]) -> Result<[u8; 32], Refusal> {
    field.try_into().map_err(|_| Refusal::MalformedRequest)
}

/// The message of an Exchange stream for the request `id`.
pub(crate) fn exchange_reply(id: u64, outcome: Outcome) -> v1::ExchangeReply {
    use v1::exchange_reply::Outcome as Message;
    let outcome = match outcome {
        Ok(Done::Signed(signed)) => Message::SignServerKeyExchange(signed.into()),
        Ok(Done::Leased(batch)) => Message::LeaseRandoms(leased(batch)),
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
pub(crate) fn leased(batch: Batch) -> v1::LeaseRandomsReply {
    let message = |lease: Lease| v1::Lease { server_random: lease.server_random.to_vec(), token: lease.token };
    v1::LeaseRandomsReply { leases: batch.leases.into_iter().map(message).collect() }
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
        Refusal::UnknownPeer
        | Refusal::RightsExpired
        | Refusal::KeyNotAllowed
        | Refusal::OperationNotAllowed
        | Refusal::KeyTransportNotAllowed => Code::PermissionDenied,
        // The client's doing, who asks for what name it likes: it must speak against neither key nor edge.
        Refusal::ServerNameNotAllowed => Code::OutOfRange,
        Refusal::KeyTransportRefused | Refusal::KeyTransportServerName | Refusal::RecoveryFailed => {
            Code::FailedPrecondition
        }
        Refusal::MalformedRequest | Refusal::SchemeNotAllowed | Refusal::UnknownGroup | Refusal::InvalidPoint => {
            Code::InvalidArgument
        }
        Refusal::QueueFull
        | Refusal::TooMuchUnread
        | Refusal::RateLimited
        | Refusal::TokenBusy
        | Refusal::AuditUnavailable => Code::ResourceExhausted,
        Refusal::DeadlineExceeded => Code::DeadlineExceeded,
        Refusal::CallerGone => Code::Cancelled,
        // Of this one key: other requests here fare better, and this one elsewhere.
        Refusal::NoLane | Refusal::TokenUnavailable => Code::NotFound,
        Refusal::Stopping => Code::Unavailable,
        Refusal::SigningFailed | Refusal::FaultySignature => Code::Internal,
    }
}

/// Everything that a peer may serve at that time.
pub(crate) fn identities(rights: &Rights, now: UnixTime) -> v1::WatchEvent {
    let identities = v1::Identities { identities: rights.grants(now).map(identity).collect() };
    v1::WatchEvent { event: Some(v1::watch_event::Event::Identities(identities)) }
}

/// What a peer was told of a key, which is not kept by it: a stream that nobody reads keeps what it told for as long as it
/// stands.
pub(crate) struct Told {
    key: Weak<Key>,
    key_id: KeyId,
    schemes: Vec<SignatureScheme>,
    recovers: bool,
}

impl Told {
    /// What a peer is told that has `rights` at that time, by the keys' names.
    pub(crate) fn of(rights: &Rights, now: UnixTime) -> HashMap<Arc<str>, Self> {
        let told = |grant: &Grant| Self {
            key: Arc::downgrade(grant.key()),
            key_id: grant.key().key_id(),
            schemes: grant.schemes().to_vec(),
            recovers: grant.recovers(),
        };
        rights.grants(now).map(|grant| (grant.key().name().clone(), told(grant))).collect()
    }

    /// Keys that were not loaded again are shared.
    fn is_the_same(&self, other: &Self) -> bool {
        Weak::ptr_eq(&self.key, &other.key) && self.schemes == other.schemes && self.recovers == other.recovers
    }
}

/// What a peer may serve otherwise than it was told before; `None` where that is nothing.
pub(crate) fn identity_changes(
    before: &HashMap<Arc<str>, Told>,
    after: &HashMap<Arc<str>, Told>,
    rights: &Rights,
    now: UnixTime,
) -> Option<v1::WatchEvent> {
    let is_gone = |(name, told): &(&Arc<str>, &Told)| after.get(*name).is_none_or(|now| now.key_id != told.key_id);
    let removed = |(name, told): (&Arc<str>, &Told)| v1::RemovedIdentity {
        name: name.to_string(),
        key_id: told.key_id.0.to_vec(),
    };
    let is_told = |grant: &&Grant| {
        let name = grant.key().name();
        before.get(name).zip(after.get(name)).is_some_and(|(before, after)| before.is_the_same(after))
    };
    let changes = v1::IdentityChanges {
        removed: before.iter().filter(is_gone).map(removed).collect(),
        changed: rights.grants(now).filter(|grant| !is_told(grant)).map(identity).collect(),
    };
    let is_none = changes.removed.is_empty() && changes.changed.is_empty();
    (!is_none).then_some(v1::WatchEvent { event: Some(v1::watch_event::Event::IdentityChanges(changes)) })
}

fn identity(grant: &Grant) -> v1::Identity {
    let (key, identity) = (grant.key(), grant.key().identity());
    v1::Identity {
        name: key.name().to_string(),
        key_id: key.key_id().0.to_vec(),
        certificate_chain: identity.chain().to_vec(),
        signature_schemes: grant.schemes().iter().map(|scheme| scheme.0.into()).collect(),
        ocsp_response: identity.ocsp_response().unwrap_or_default().to_vec(),
        danger_rsa_key_transport: grant.recovers(),
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

#[cfg(test)]
mod tests {
    use strum::IntoEnumIterator;

    use super::*;

    fn sent_as(code_of: Code) -> Vec<Refusal> {
        Refusal::iter().filter(|reason| code(*reason) == code_of).collect()
    }

    #[test]
    fn what_is_of_one_key_or_of_one_client_has_a_code_of_its_own() {
        assert_eq!(sent_as(Code::Unavailable), [Refusal::Stopping]);
        assert_eq!(sent_as(Code::NotFound), [Refusal::NoLane, Refusal::TokenUnavailable]);
        assert_eq!(sent_as(Code::OutOfRange), [Refusal::ServerNameNotAllowed]);
    }
}
