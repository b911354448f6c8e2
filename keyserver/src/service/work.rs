//! A request on its way through the scheduler.

use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use keystead_program::channel::PeerIdentity;
use keystead_proto::v1::exchange_request::Operation as Asked;
use keystead_tls::KeyId;
use keystead_tls::crypto::Provider;
use rand_core::CryptoRng;

use super::answer::{Answer, Done, Outcome};
use super::{Peer, message};
use crate::authorize::Rights;
use crate::lease::Leases;
use crate::operation::recover_master_secret::RecoverMasterSecret;
use crate::operation::sign_server_key_exchange::SignServerKeyExchange;
use crate::operation::{Call, Failed};
use crate::policy::Grant;
use crate::rate::Cost;
use crate::refusal::Refusal;
use crate::schedule::{CostClass, Lane, Task};
use crate::ticket_keys::ratchet::UnixTime;

/// What is asked for.
pub(super) fn call(asked: &Asked) -> Call {
    match asked {
        Asked::SignServerKeyExchange(_) => Call::SignServerKeyExchange,
        Asked::LeaseRandoms(_) => Call::LeaseRandoms,
        Asked::RecoverMasterSecret(_) => Call::RecoverMasterSecret,
    }
}

/// A request that makes sense.
#[derive(Debug)]
pub(super) enum Work {
    /// Something with a key.
    Use { key_id: KeyId, to: Use },
    /// Randoms, which take none.
    Lease { count: u32 },
}

/// What is done with a key.
#[derive(Debug)]
pub(super) enum Use {
    Sign(SignServerKeyExchange),
    Recover(RecoverMasterSecret),
}

impl Work {
    /// Reads it.
    ///
    /// # Errors
    /// [`Refusal::MalformedRequest`] for what makes none.
    pub(super) fn read(asked: Asked) -> Result<Self, Refusal> {
        match asked {
            Asked::SignServerKeyExchange(request) => message::sign_server_key_exchange(request)
                .map(|(key_id, request)| Self::Use { key_id, to: Use::Sign(request) }),
            Asked::LeaseRandoms(request) => Ok(Self::Lease { count: request.count }),
            Asked::RecoverMasterSecret(request) => message::recover_master_secret(request)
                .map(|(key_id, request)| Self::Use { key_id, to: Use::Recover(request) }),
        }
    }

    /// What of `rights` the key that it names has, where it names one, and whether that allows it.
    ///
    /// # Errors
    /// [`Refusal::KeyNotAllowed`] for a key that is not the peer's.
    pub(super) fn permission(&self, rights: &Rights) -> Result<Permission, Refusal> {
        let now = UnixTime::now();
        match self {
            Self::Use { key_id, to } => {
                let grant = rights.grant(key_id, Instant::now())?;
                let allowed = to.allowed_by(&grant, now);
                Ok(Permission { grant: Some(grant), allowed })
            }
            Self::Lease { .. } => Ok(Permission { grant: None, allowed: rights.may_lease(now) }),
        }
    }

    /// Takes off the peer's rate what it costs, `grant` being its key's, and `allowed` whether it will be done: what is
    /// refused costs a little too, or else refusals were free.
    ///
    /// # Errors
    /// [`Refusal::RateLimited`] when there is not as much left.
    pub(super) fn pay(&self, rights: &Rights, grant: Option<&Grant>, allowed: bool) -> Result<(), Refusal> {
        let at = Instant::now();
        match (self, grant) {
            (Self::Lease { .. }, _) if allowed => rights.pay_for_leases(UnixTime::now(), at),
            (_, Some(grant)) if allowed => rights.pay(Some(grant), grant.key().unit_cost(), at),
            (_, grant) => rights.pay(grant, Cost::LEAST, at),
        }
    }
}

/// What somebody's rights say of a request.
pub(super) struct Permission {
    /// That of the key, where it names one.
    pub(super) grant: Option<Arc<Grant>>,
    /// Whether it may be done.
    pub(super) allowed: Result<(), Refusal>,
}

impl Use {
    fn allowed_by(&self, grant: &Grant, now: UnixTime) -> Result<(), Refusal> {
        match self {
            Self::Sign(request) => grant.may_sign(request.scheme, &request.server_name, now),
            Self::Recover(_) => grant.may_recover(now),
        }
    }
}

/// A request on its way through the scheduler.
#[derive(Debug)]
pub struct Operation {
    pub(super) work: Work,
    pub(super) peer: Peer,
    pub(super) lane: Lane,
    pub(super) leases: Arc<Leases>,
    pub(super) provider: &'static dyn Provider,
    pub(super) deadline: Instant,
    pub(super) answer: Answer,
}

impl Operation {
    /// Where operations with the key of `grant` wait.
    ///
    /// A batch of randoms is hundreds of hashes, which cost what one signature by an elliptic curve does. It must not
    /// wait behind RSA: without a lease, no handshake gets as far as that.
    pub(super) fn lane(grant: Option<&Grant>) -> Lane {
        grant.map_or(Lane::of(CostClass::Light), |grant| grant.key().lane())
    }

    /// What the peer may have may have changed while this waited, so it is looked at again.
    fn outcome(&mut self, rng: &mut dyn CryptoRng) -> Outcome {
        let (provider, leases) = (self.provider, &self.leases);
        let (key_id, to) = match &self.work {
            Work::Use { key_id, to } => (key_id, to),
            Work::Lease { count } => {
                let edge = self.peer.identity.clone();
                // Asked while no ledger can be removed.
                let may = || self.peer.rights()?.may_lease(UnixTime::now());
                return leases.lease_if(&edge, *count, may).map(Done::Leased);
            }
        };
        let grant = self.peer.rights()?.grant(key_id, Instant::now())?;
        to.allowed_by(&grant, UnixTime::now())?;
        let outcome = match to {
            Use::Sign(request) => request.run(grant.key(), provider, rng).map(Done::Signed),
            Use::Recover(request) => {
                request.run(&grant, &self.peer.identity, leases, provider, rng).map(Done::Recovered)
            }
        };
        outcome.map_err(|Failed { reason, tried_for }| {
            self.answer.tried_for(tried_for);
            reason
        })
    }
}

impl Task for Operation {
    fn lane(&self) -> Lane {
        self.lane
    }

    fn peer(&self) -> &PeerIdentity {
        &self.peer.identity
    }

    fn deadline(&self) -> Instant {
        self.deadline
    }

    fn is_wanted(&self) -> bool {
        self.answer.is_wanted()
    }

    fn run(mut self, rng: &mut dyn CryptoRng) -> Option<Waker> {
        let outcome = self.outcome(rng);
        if let (Some(key), Err(reason)) = (self.answer.key(), &outcome)
            && reason.is_a_keys()
        {
            tracing::error!(key = %key.name(), reason = reason.reason(), "key failed");
        }
        self.answer.leave(outcome)
    }

    fn refuse(self, reason: Refusal) {
        self.answer.send(Err(reason));
    }
}
