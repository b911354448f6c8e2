//! What a key server's answer means to a handshake.

use keystead_proto::v1;
use keystead_proto::v1::exchange_reply::Outcome;
use keystead_tls::KeyServerFailure;
use keystead_tls::handshake::{Lease, MasterSecretRequest, SignatureRequest, SignedParams};
use keystead_tls::secret::MasterSecret;
use tonic::Code;
use zeroize::Zeroize;

/// The question as it goes over the wire.
pub(super) fn question(request: &SignatureRequest<'_>) -> v1::SignServerKeyExchangeRequest {
    v1::SignServerKeyExchangeRequest {
        key_id: request.identity.public_key().key_id().0.to_vec(),
        client_random: request.client_random.to_vec(),
        scheme: request.scheme.0.into(),
        group: request.group.0.into(),
        public: request.public.to_vec(),
        server_name: request.server_name.unwrap_or_default().to_owned(),
    }
}

/// The longest signature there is: RSA with 8192 bits.
const LONGEST_SIGNATURE: usize = 1024;

/// What came of asking, when it was no answer to the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The connection is gone, or the key server says that it stops.
    Unreachable,
    /// Nothing has come in time.
    NoAnswer,
    /// The key server says that there was no time left when it came to the request.
    TooLate,
    /// The key is not this edge's there.
    NotAuthorised,
    /// The key server cannot use the key at this moment, as when the token that holds it is away.
    KeyUnavailable,
    /// The client asks for a name that this edge may not use the key for.
    NameNotAllowed,
    /// The key server has too much to do.
    Overloaded,
    /// The connection has no place for one more request, or for one more of this key.
    NoPlace,
    /// The request is refused for what it is: whoever else is asked would say the same.
    Rejected,
    /// The key server could not do it.
    Internal,
    /// The answer makes no sense.
    Senseless,
    /// A signature that does not verify.
    WrongSignature,
}

impl Fault {
    /// What a handshake that fails for it is said to have failed for.
    pub(super) fn failure(self) -> KeyServerFailure {
        match self {
            Self::Unreachable => KeyServerFailure::Unreachable,
            Self::NoAnswer | Self::TooLate => KeyServerFailure::NoAnswer,
            Self::NotAuthorised => KeyServerFailure::NotAuthorised,
            Self::KeyUnavailable => KeyServerFailure::KeyUnavailable,
            Self::NameNotAllowed => KeyServerFailure::NameNotAllowed,
            Self::Overloaded | Self::NoPlace => KeyServerFailure::Overloaded,
            Self::Rejected | Self::Internal | Self::Senseless => KeyServerFailure::Refused,
            Self::WrongSignature => KeyServerFailure::WrongSignature,
        }
    }

    /// Whether it says something of the key server as a whole.
    pub(super) fn is_servers(self) -> bool {
        match self {
            Self::Unreachable | Self::NoAnswer | Self::Internal | Self::Senseless | Self::WrongSignature => true,
            Self::TooLate
            | Self::NotAuthorised
            | Self::KeyUnavailable
            | Self::NameNotAllowed
            | Self::Overloaded
            | Self::NoPlace
            | Self::Rejected => false,
        }
    }

    /// Whether it says something of the key at that key server.
    pub(super) fn is_keys(self) -> bool {
        match self {
            Self::NoAnswer
            | Self::TooLate
            | Self::NotAuthorised
            | Self::KeyUnavailable
            | Self::Overloaded
            | Self::Internal
            | Self::Senseless
            | Self::WrongSignature => true,
            Self::Unreachable | Self::NameNotAllowed | Self::NoPlace | Self::Rejected => false,
        }
    }

    /// Whether it says something only if there was time enough. How much there was is often the client's doing.
    pub(super) fn is_for_want_of_time(self) -> bool {
        matches!(self, Self::NoAnswer | Self::TooLate)
    }

    /// Whether another key server would say the same.
    pub(super) fn is_final(self) -> bool {
        matches!(self, Self::Rejected | Self::NameNotAllowed)
    }
}

/// The signature in an answer.
///
/// # Errors
/// What the refusal says, or [`Fault::Senseless`] for an answer that makes no sense.
pub(super) fn signed_params(outcome: Outcome) -> Result<SignedParams, Fault> {
    match outcome {
        Outcome::SignServerKeyExchange(reply) => {
            let server_random = reply.server_random.try_into().map_err(|_| Fault::Senseless)?;
            if reply.signature.len() > LONGEST_SIGNATURE {
                return Err(Fault::Senseless);
            }
            Ok(SignedParams { server_random, signature: reply.signature })
        }
        Outcome::Refusal(refusal) => Err(refused(&refusal)),
        Outcome::LeaseRandoms(_) | Outcome::RecoverMasterSecret(_) => Err(Fault::Senseless),
    }
}

fn refused(refusal: &v1::Refusal) -> Fault {
    let (code, fault) = (code(refusal), fault(code(refusal)));
    // Clients ask for what name they like, as often as they like.
    if fault == Fault::NameNotAllowed {
        tracing::debug!(?code, message = refusal.message, "refused by the key server");
    } else {
        tracing::warn!(?code, message = refusal.message, "refused by the key server");
    }
    fault
}

fn code(refusal: &v1::Refusal) -> Code {
    i32::try_from(refusal.code).map_or(Code::Unknown, Code::from_i32)
}

/// The longest token of a lease that is taken: many times what one needs.
const LONGEST_TOKEN: usize = 256;

/// The leases in an answer to a request for `count`.
///
/// # Errors
/// What the refusal says, or [`KeyServerFailure::Refused`] for an answer that makes no sense: without a lease, with more
/// than were asked for, or with a malformed one.
pub(super) fn leases(outcome: Outcome, count: u32) -> Result<Vec<Lease>, KeyServerFailure> {
    match outcome {
        Outcome::LeaseRandoms(reply) => {
            if reply.leases.is_empty() || reply.leases.len() > count as usize {
                return Err(KeyServerFailure::Refused);
            }
            reply.leases.into_iter().map(lease).collect()
        }
        Outcome::Refusal(refusal) => Err(fault(code(&refusal)).failure()),
        Outcome::SignServerKeyExchange(_) | Outcome::RecoverMasterSecret(_) => Err(KeyServerFailure::Refused),
    }
}

fn lease(lease: v1::Lease) -> Result<Lease, KeyServerFailure> {
    let server_random = lease.server_random.try_into().map_err(|_| KeyServerFailure::Refused)?;
    if lease.token.is_empty() || lease.token.len() > LONGEST_TOKEN {
        return Err(KeyServerFailure::Refused);
    }
    Ok(Lease { server_random, token: lease.token })
}

/// The question as it goes over the wire.
pub(super) fn recover_question(request: &MasterSecretRequest<'_>) -> v1::RecoverMasterSecretRequest {
    v1::RecoverMasterSecretRequest {
        key_id: request.identity.public_key().key_id().0.to_vec(),
        lease: request.lease.token.clone(),
        handshake_messages: request.handshake_messages.to_vec(),
        finished_record: request.finished_record.to_vec(),
        server_name: request.server_name.unwrap_or_default().to_owned(),
    }
}

/// A key server's answer about a master secret.
#[derive(Debug)]
pub enum Recovery {
    /// The client's Finished verified with it.
    MasterSecret(MasterSecret),
    /// The one refusal there is.
    Refused,
}

/// The master secret in an answer. Nothing is logged of a refusal, which has no cause that could be told.
///
/// # Errors
/// What says that the key server has not come to look at the handshake, or [`Fault::Senseless`] for an answer that makes
/// no sense.
pub(super) fn recovery(outcome: Outcome) -> Result<Recovery, Fault> {
    match outcome {
        Outcome::RecoverMasterSecret(mut reply) => {
            let master_secret = reply.master_secret.as_slice().try_into().map(MasterSecret::new);
            reply.master_secret.zeroize();
            master_secret.map(Recovery::MasterSecret).map_err(|_| Fault::Senseless)
        }
        Outcome::Refusal(refusal) => match fault(code(&refusal)) {
            Fault::Rejected | Fault::Internal | Fault::Senseless | Fault::WrongSignature => Ok(Recovery::Refused),
            fault @ (Fault::Unreachable
            | Fault::NoAnswer
            | Fault::TooLate
            | Fault::NotAuthorised
            | Fault::KeyUnavailable
            | Fault::NameNotAllowed
            | Fault::Overloaded
            | Fault::NoPlace) => Err(fault),
        },
        Outcome::SignServerKeyExchange(_) | Outcome::LeaseRandoms(_) => Err(Fault::Senseless),
    }
}

/// What the code of one request's refusal means.
fn fault(code: Code) -> Fault {
    match code {
        Code::Cancelled | Code::Aborted => Fault::Unreachable,
        Code::DeadlineExceeded => Fault::TooLate,
        Code::PermissionDenied | Code::Unauthenticated => Fault::NotAuthorised,
        // A key server that stops, or is none, ends the whole stream.
        Code::NotFound | Code::Unavailable => Fault::KeyUnavailable,
        Code::OutOfRange => Fault::NameNotAllowed,
        Code::ResourceExhausted => Fault::Overloaded,
        Code::InvalidArgument | Code::AlreadyExists | Code::FailedPrecondition | Code::Unimplemented => Fault::Rejected,
        Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss => Fault::Internal,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
    use super::*;

    fn reply(random: usize, signature: usize) -> Outcome {
        Outcome::SignServerKeyExchange(v1::SignServerKeyExchangeReply {
            server_random: vec![1; random],
            signature: vec![2; signature],
        })
    }

    #[test]
    fn a_signature_is_taken_over() {
        let signed = signed_params(reply(32, 256)).unwrap();
        assert_eq!((signed.server_random, signed.signature.len()), ([1; 32], 256));
    }

    #[test]
    fn answers_without_sense_are_refusals() {
        for outcome in [reply(31, 256), reply(33, 256), reply(32, 1025)] {
            assert_eq!(signed_params(outcome).unwrap_err(), Fault::Senseless);
        }
    }

    #[test]
    fn each_status_has_its_reason() {
        for (code, expected) in [
            (7, KeyServerFailure::NotAuthorised),
            (8, KeyServerFailure::Overloaded),
            (4, KeyServerFailure::NoAnswer),
            (14, KeyServerFailure::KeyUnavailable),
            (1, KeyServerFailure::Unreachable),
            (5, KeyServerFailure::KeyUnavailable),
            (11, KeyServerFailure::NameNotAllowed),
            (3, KeyServerFailure::Refused),
            (13, KeyServerFailure::Refused),
            (u32::MAX, KeyServerFailure::Refused),
        ] {
            let refusal = Outcome::Refusal(v1::Refusal { code, message: "why".to_owned() });
            assert_eq!(signed_params(refusal).unwrap_err().failure(), expected, "{code}");
        }
    }

    #[test]
    fn a_key_that_is_away_speaks_against_the_key_alone_and_a_foreign_name_against_nobody() {
        for (code, is_servers, is_keys, is_final) in [
            (Code::NotFound, false, true, false),
            (Code::OutOfRange, false, false, true),
            (Code::Unavailable, false, true, false),
        ] {
            let fault = signed_params(refusal(code)).unwrap_err();
            assert_eq!(
                (fault.is_servers(), fault.is_keys(), fault.is_final()),
                (is_servers, is_keys, is_final),
                "{code}"
            );
        }
    }

    fn leased(count: usize, random: usize, token: usize) -> Outcome {
        let lease = v1::Lease { server_random: vec![1; random], token: vec![2; token] };
        Outcome::LeaseRandoms(v1::LeaseRandomsReply { leases: vec![lease; count] })
    }

    fn refusal(code: Code) -> Outcome {
        Outcome::Refusal(v1::Refusal { code: code as u32, message: "why".to_owned() })
    }

    #[test]
    fn leases_are_taken_over_up_to_the_number_asked_for() {
        let taken = leases(leased(3, 32, 32), 3).unwrap();
        assert_eq!(taken, vec![Lease { server_random: [1; 32], token: vec![2; 32] }; 3]);
        for outcome in [leased(0, 32, 32), leased(4, 32, 32), leased(1, 31, 32), leased(1, 32, 0), leased(1, 32, 257)] {
            assert_eq!(leases(outcome, 3).unwrap_err(), KeyServerFailure::Refused);
        }
        assert_eq!(leases(reply(32, 1), 3).unwrap_err(), KeyServerFailure::Refused);
        assert_eq!(leases(refusal(Code::PermissionDenied), 3).unwrap_err(), KeyServerFailure::NotAuthorised);
    }

    #[test]
    fn a_master_secret_is_taken_over_and_a_refusal_told_from_an_outage() {
        let recovered = |length| {
            recovery(Outcome::RecoverMasterSecret(v1::RecoverMasterSecretReply { master_secret: vec![3; length] }))
        };
        let Recovery::MasterSecret(secret) = recovered(48).unwrap() else { panic!("refused") };
        assert_eq!(secret.expose(), [3; 48]);
        for length in [0, 47, 49] {
            assert_eq!(recovered(length).unwrap_err(), Fault::Senseless);
        }
        for code in [Code::InvalidArgument, Code::FailedPrecondition, Code::Internal, Code::Unknown] {
            assert!(matches!(recovery(refusal(code)), Ok(Recovery::Refused)));
        }
        assert_eq!(recovery(refusal(Code::ResourceExhausted)).unwrap_err(), Fault::Overloaded);
        assert_eq!(recovery(refusal(Code::Unavailable)).unwrap_err(), Fault::KeyUnavailable);
        assert_eq!(recovery(refusal(Code::NotFound)).unwrap_err(), Fault::KeyUnavailable);
    }
}
