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
    /// The time until which the peer may have anything, or the key, is over.
    RightsExpired,
    /// The peer may use the key, but not for this.
    OperationNotAllowed,
    /// The peer may not use the key for clients that ask for this name.
    ServerNameNotAllowed,
    /// The peer has had as much as its rate allows.
    RateLimited,
    /// The scheme is not on the key's list, or not on the peer's for this key.
    SchemeNotAllowed,
    /// The group is none this key server knows.
    UnknownGroup,
    /// The edge's public value is no point of the group.
    InvalidPoint,
    /// As many operations of this cost wait as may, and of no peer more than of this one.
    QueueFull,
    /// The peer has as many streams, or batches of leases on their way to it, as it may have at one time.
    TooMuchUnread,
    /// The key is in a token that this process was not started with.
    NoLane,
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
    /// The messages of a handshake by RSA key transport ask for a name that the peer may not use the key for. The peer is
    /// told what it is told of a handshake that is wrong.
    KeyTransportServerName,
    /// The private key could not be used to recover a master secret. The peer is told what it is told of a handshake
    /// that is wrong.
    RecoveryFailed,
    /// The token that the key is in cannot be reached; another key server may have one that can.
    TokenUnavailable,
    /// Every session with the key's token was in use for as long as one may wait.
    TokenBusy,
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

    /// Whether a private key failed.
    pub fn is_a_keys(self) -> bool {
        matches!(self, Self::RecoveryFailed | Self::SigningFailed | Self::FaultySignature)
    }

    /// What the peer is told.
    pub fn message(self) -> &'static str {
        match self {
            Self::UnknownPeer => "this edge is not known here",
            Self::KeyNotAllowed => "this edge has no such key",
            Self::RightsExpired => "the time until which this edge may have this is over",
            Self::OperationNotAllowed => "this edge may not use the key for this",
            Self::ServerNameNotAllowed => "this edge may not use the key for this server name",
            Self::RateLimited => "this edge has had as much as it may have at this time",
            Self::MalformedRequest => "the request is malformed",
            Self::SchemeNotAllowed => "the key does not sign with this scheme",
            Self::UnknownGroup => "the group is not known",
            Self::InvalidPoint => "the public value is not a point of the group",
            Self::QueueFull => "too many operations are waiting",
            Self::TooMuchUnread => "this edge has too many streams, or too much that it has not read",
            Self::NoLane => "the key can be used once the key server was restarted",
            Self::AuditUnavailable => "the operation could not be put on record",
            Self::DeadlineExceeded => "the time was over before the operation began",
            Self::CallerGone => "nobody waits for the answer",
            Self::Stopping => "the key server is stopping",
            Self::KeyTransportNotAllowed => "the key is not for RSA key transport",
            Self::KeyTransportRefused | Self::KeyTransportServerName | Self::RecoveryFailed => {
                "the handshake is refused"
            }
            Self::TokenUnavailable => "the key is not available here at this moment",
            Self::TokenBusy => "too many operations with the key's token",
            Self::SigningFailed | Self::FaultySignature => "the operation failed",
        }
    }
}
