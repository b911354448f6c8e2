//! Why a client that offered a session had a full handshake.

use keystead_tls::session::Difference;
use strum::IntoStaticStr;

use super::seal::Unopened;
use super::store;

/// Why a session was not gone on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Miss {
    /// It could not be had, or may not be.
    Own(NoSession),
    /// No store gives it.
    Store(store::Miss),
    /// It does not fit what the client offers, or the host as it is.
    Differs(Difference),
}

/// Why there is no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, strum::EnumIter)]
#[strum(serialize_all = "snake_case")]
pub enum NoSession {
    /// Sealed under a key that this edge does not have: too old, revoked, or of another fleet or group.
    UnknownGeneration,
    /// Altered, or sealed for another virtual host.
    Unreadable,
    /// The id is none that an edge of the group gives, or of a generation that is gone, and there is no ticket.
    ForeignId,
    /// Its full handshake was too long ago.
    TooOld,
    /// A fatal alert ended it (RFC 5246 §7.2.2).
    Ended,
    /// The host authenticates clients in another way than it did.
    OtherPolicy,
    /// The client's certificate would not let it in at this moment.
    ClientCertificate,
    /// Whether the client's certificate would let it in cannot be told at this moment.
    ClientUnverified,
    /// Resumption of this kind is off.
    Off,
}

impl Miss {
    /// The word by which log and metric name this cause.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Own(cause) => cause.into(),
            Self::Store(cause) => cause.reason(),
            Self::Differs(difference) => difference.reason(),
        }
    }
}

impl From<Unopened> for Miss {
    fn from(cause: Unopened) -> Self {
        Self::Own(match cause {
            Unopened::UnknownGeneration => NoSession::UnknownGeneration,
            Unopened::Unreadable => NoSession::Unreadable,
        })
    }
}

impl From<NoSession> for Miss {
    fn from(cause: NoSession) -> Self {
        Self::Own(cause)
    }
}

impl From<store::Miss> for Miss {
    fn from(cause: store::Miss) -> Self {
        Self::Store(cause)
    }
}

impl From<Difference> for Miss {
    fn from(difference: Difference) -> Self {
        Self::Differs(difference)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use strum::IntoEnumIterator;

    #[test]
    fn every_cause_has_a_word_of_its_own() {
        let own = NoSession::iter().map(|cause| Miss::from(cause).reason());
        let mut words: Vec<_> = own.chain(Difference::iter().map(Difference::reason)).collect();
        let all = words.len();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), all);
    }
}
