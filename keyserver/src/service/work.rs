//! A request on its way through the scheduler.

use std::sync::Arc;
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
use crate::operation::Call;
use crate::operation::recover_master_secret::RecoverMasterSecret;
use crate::operation::sign_server_key_exchange::SignServerKeyExchange;
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
    Sign { key_id: KeyId, request: SignServerKeyExchange },
    Lease { count: u32 },
    Recover { key_id: KeyId, request: RecoverMasterSecret },
}

impl Work {
    /// Reads it.
    ///
    /// # Errors
    /// [`Refusal::MalformedRequest`] for what makes none.
    pub(super) fn read(asked: Asked) -> Result<Self, Refusal> {
        match asked {
            Asked::SignServerKeyExchange(request) => {
                message::sign_server_key_exchange(request).map(|(key_id, request)| Self::Sign { key_id, request })
            }
            Asked::LeaseRandoms(request) => Ok(Self::Lease { count: request.count }),
            Asked::RecoverMasterSecret(request) => {
                message::recover_master_secret(request).map(|(key_id, request)| Self::Recover { key_id, request })
            }
        }
    }

    /// What of `rights` the key that it names has, where it names one.
    ///
    /// # Errors
    /// [`Refusal::KeyNotAllowed`] for a key that is not the peer's.
    pub(super) fn grant(&self, rights: &Rights) -> Result<Option<Arc<Grant>>, Refusal> {
        match self {
            Self::Sign { key_id, .. } | Self::Recover { key_id, .. } => rights.grant(key_id).map(Some),
            Self::Lease { .. } => Ok(None),
        }
    }

    /// That `rights` allow it at that time.
    ///
    /// # Errors
    /// [`Refusal`] when they do not.
    pub(super) fn allowed_by(&self, rights: &Rights, now: UnixTime) -> Result<(), Refusal> {
        match self {
            Self::Sign { key_id, request } => rights.grant(key_id)?.may_sign(request.scheme, &request.server_name, now),
            Self::Lease { .. } => rights.may_lease(now),
            Self::Recover { key_id, .. } => rights.grant(key_id)?.may_recover(now),
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

    fn outcome(&mut self, rng: &mut dyn CryptoRng) -> Outcome {
        // What the peer may have may have changed while this waited.
        let rights = self.peer.rights()?.clone();
        self.work.allowed_by(&rights, UnixTime::now())?;
        match &self.work {
            Work::Sign { key_id, request } => {
                request.run(rights.grant(key_id)?.key(), self.provider, rng).map(Done::Signed)
            }
            Work::Lease { count } => {
                let edge = self.peer.identity.clone();
                // Asked once more, while no ledger can be removed.
                let may = || self.peer.rights().and_then(|rights| rights.may_lease(UnixTime::now()));
                self.leases.lease_if(&edge, *count, may).map(Done::Leased)
            }
            Work::Recover { key_id, request } => {
                let (grant, edge) = (rights.grant(key_id)?, &self.peer.identity);
                request.run(&grant, edge, &self.leases, self.provider, rng).map(Done::Recovered)
            }
        }
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

    fn run(mut self, rng: &mut dyn CryptoRng) {
        let outcome = self.outcome(rng);
        let failed = [Refusal::SigningFailed, Refusal::FaultySignature, Refusal::RecoveryFailed];
        if let (Some(key), Err(reason)) = (self.answer.key(), &outcome)
            && failed.contains(reason)
        {
            tracing::error!(key = %key.name(), reason = reason.reason(), "key failed");
        }
        self.answer.send(outcome);
    }

    fn refuse(self, reason: Refusal) {
        self.answer.send(Err(reason));
    }
}
