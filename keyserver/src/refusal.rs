//! Why a request was not answered with what it asked for.

/// Why a request was refused: the same word in log and metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::IntoStaticStr, strum::EnumIter)]
#[strum(serialize_all = "snake_case")]
pub enum Refusal {
    /// No `[[edge]]` has the peer's identity.
    UnknownPeer,
    /// There is no such key, or the peer may not use it: to the peer it is the same.
    KeyNotAllowed,
    /// A field has a length that it cannot have, or no operation is asked for.
    MalformedRequest,
    /// The scheme is not on the key's list.
    SchemeNotAllowed,
    /// The group is none this key server knows.
    UnknownGroup,
    /// The edge's public value is no point of the group.
    InvalidPoint,
    /// As many operations of this cost wait as may.
    QueueFull,
    /// There is no place for the operation's record in the queue to the audit log, most likely since the log cannot be
    /// written.
    AuditUnavailable,
    /// The time the edge gave was over before work began.
    DeadlineExceeded,
    /// The edge no longer waits for the answer.
    CallerGone,
    /// The key server stops.
    Stopping,
    /// The key is not for RSA key transport, or no key of the peer's is.
    KeyTransportNotAllowed,
    /// Everything that may be wrong with a handshake by RSA key transport, from the lease to the Finished: nobody may
    /// learn what (RFC 5246 §7.4.7.1).
    KeyTransportRefused,
    /// The private key could not be used to recover a master secret. The peer is told what it is told of a handshake
    /// that is wrong.
    RecoveryFailed,
    /// The private key could not be used.
    SigningFailed,
    /// The signature made does not verify: a fault that must not leave, since it may give the key away.
    FaultySignature,
}

impl Refusal {
    /// The word by which log and metric name this cause.
    pub fn reason(self) -> &'static str {
        self.into()
    }

    /// What the peer is told.
    pub fn message(self) -> &'static str {
        match self {
            Self::UnknownPeer => "this edge is not known here",
            Self::KeyNotAllowed => "this edge has no such key",
            Self::MalformedRequest => "the request is malformed",
            Self::SchemeNotAllowed => "the key does not sign with this scheme",
            Self::UnknownGroup => "the group is not known",
            Self::InvalidPoint => "the public value is not a point of the group",
            Self::QueueFull => "too many operations are waiting",
            Self::AuditUnavailable => "the operation could not be put on record",
            Self::DeadlineExceeded => "the time was over before the operation began",
            Self::CallerGone => "nobody waits for the answer",
            Self::Stopping => "the key server is stopping",
            Self::KeyTransportNotAllowed => "the key is not for RSA key transport",
            Self::KeyTransportRefused | Self::RecoveryFailed => "the handshake is refused",
            Self::SigningFailed | Self::FaultySignature => "the operation failed",
        }
    }
}
