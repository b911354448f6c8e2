//! What a key server's answer means to a handshake.

use keystead_proto::v1;
use keystead_proto::v1::exchange_reply::Outcome;
use keystead_tls::KeyServerFailure;
use keystead_tls::handshake::{SignatureRequest, SignedParams};
use tonic::Code;

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

/// The signature in an answer.
///
/// # Errors
/// What the refusal says, or [`KeyServerFailure::Refused`] for an answer that makes no sense.
pub(super) fn signed_params(outcome: Outcome) -> Result<SignedParams, KeyServerFailure> {
    match outcome {
        Outcome::SignServerKeyExchange(reply) => {
            let server_random = reply.server_random.try_into().map_err(|_| KeyServerFailure::Refused)?;
            if reply.signature.len() > LONGEST_SIGNATURE {
                return Err(KeyServerFailure::Refused);
            }
            Ok(SignedParams { server_random, signature: reply.signature })
        }
        Outcome::Refusal(refusal) => {
            let code = i32::try_from(refusal.code).map_or(Code::Unknown, Code::from_i32);
            tracing::warn!(?code, message = refusal.message, "refused by the key server");
            Err(failure(code))
        }
    }
}

/// What a gRPC status means to a handshake.
pub(super) fn failure(code: Code) -> KeyServerFailure {
    match code {
        Code::Unavailable | Code::Cancelled | Code::Aborted => KeyServerFailure::Unreachable,
        Code::DeadlineExceeded => KeyServerFailure::NoAnswer,
        Code::PermissionDenied | Code::Unauthenticated | Code::NotFound => KeyServerFailure::NotAuthorised,
        Code::ResourceExhausted => KeyServerFailure::Overloaded,
        Code::Ok
        | Code::Unknown
        | Code::InvalidArgument
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss => KeyServerFailure::Refused,
    }
}

/// Whether the same request may fare better on another connection. The client has been sent nothing, and the key server
/// keeps no state, so asking twice is harmless.
pub(super) fn may_be_retried(failure: KeyServerFailure) -> bool {
    match failure {
        KeyServerFailure::Unreachable
        | KeyServerFailure::NoAnswer
        | KeyServerFailure::Overloaded
        | KeyServerFailure::WrongSignature => true,
        // Every key server will say the same.
        KeyServerFailure::NotAuthorised | KeyServerFailure::Refused => false,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
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
            assert_eq!(signed_params(outcome).unwrap_err(), KeyServerFailure::Refused);
        }
    }

    #[test]
    fn each_status_has_its_reason() {
        for (code, expected) in [
            (7, KeyServerFailure::NotAuthorised),
            (8, KeyServerFailure::Overloaded),
            (4, KeyServerFailure::NoAnswer),
            (14, KeyServerFailure::Unreachable),
            (13, KeyServerFailure::Refused),
            (u32::MAX, KeyServerFailure::Refused),
        ] {
            let refusal = Outcome::Refusal(v1::Refusal { code, message: "why".to_owned() });
            assert_eq!(signed_params(refusal).unwrap_err(), expected, "{code}");
        }
    }
}
