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
use crate::authorize::AllowedKeys;
use crate::key::Key;
use crate::lease::Leases;
use crate::operation::Call;
use crate::operation::recover_master_secret::RecoverMasterSecret;
use crate::operation::sign_server_key_exchange::SignServerKeyExchange;
use crate::refusal::Refusal;
use crate::schedule::{CostClass, Task};

/// What is asked for.
pub(super) fn call(asked: &Asked) -> Call {
    match asked {
        Asked::SignServerKeyExchange(_) => Call::SignServerKeyExchange,
        Asked::LeaseRandoms(_) => Call::LeaseRandoms,
        Asked::RecoverMasterSecret(_) => Call::RecoverMasterSecret,
    }
}

/// A request that its peer may make, with all that it takes.
#[derive(Debug)]
pub(super) enum Work {
    Sign { key: Arc<Key>, request: SignServerKeyExchange },
    Lease { peer: Peer, count: u32, leases: Arc<Leases> },
    Recover { key: Arc<Key>, edge: PeerIdentity, request: RecoverMasterSecret, leases: Arc<Leases> },
}

impl Work {
    /// Reads what `peer` asks for.
    ///
    /// # Errors
    /// [`Refusal`] for what is malformed, and for keys that the peer may not use, or not so.
    pub(super) fn accept(asked: Asked, peer: &mut Peer, leases: &Arc<Leases>) -> Result<Self, Refusal> {
        let leases = leases.clone();
        match asked {
            Asked::SignServerKeyExchange(request) => {
                let (key_id, request) = message::sign_server_key_exchange(request)?;
                Ok(Self::Sign { key: find(peer.keys(), &key_id)?, request })
            }
            Asked::LeaseRandoms(request) => {
                if !may_lease(peer) {
                    return Err(Refusal::KeyTransportNotAllowed);
                }
                Ok(Self::Lease { peer: peer.clone(), count: request.count, leases })
            }
            Asked::RecoverMasterSecret(request) => {
                let (key_id, request) = message::recover_master_secret(request)?;
                let key = find(peer.keys(), &key_id)?;
                match is_for_key_transport(&key) {
                    true => Ok(Self::Recover { key, edge: peer.identity.clone(), request, leases }),
                    false => Err(Refusal::KeyTransportNotAllowed),
                }
            }
        }
    }

    /// The key it is done with.
    pub(super) fn key(&self) -> Option<&Arc<Key>> {
        match self {
            Self::Sign { key, .. } | Self::Recover { key, .. } => Some(key),
            Self::Lease { .. } => None,
        }
    }

    fn run(&mut self, provider: &dyn Provider, rng: &mut dyn CryptoRng) -> Outcome {
        match self {
            Self::Sign { key, request } => request.run(key, provider, rng).map(Done::Signed),
            Self::Lease { peer, count, leases } => {
                // The edge may have been removed while this waited.
                let edge = peer.identity.clone();
                let batch = leases.lease_if(&edge, *count, || may_lease(peer));
                batch.map(Done::Leased).ok_or(Refusal::KeyTransportNotAllowed)
            }
            Self::Recover { key, edge, request, leases } => {
                request.run(key, edge, leases, provider, rng).map(Done::Recovered)
            }
        }
    }
}

fn find(keys: Option<&AllowedKeys>, key_id: &KeyId) -> Result<Arc<Key>, Refusal> {
    keys.and_then(|keys| keys.find(key_id)).ok_or(Refusal::KeyNotAllowed)
}

/// Whether randoms are of any use to `peer` at this moment.
fn may_lease(peer: &mut Peer) -> bool {
    peer.keys().is_some_and(|keys| keys.iter().any(is_for_key_transport))
}

fn is_for_key_transport(key: &Key) -> bool {
    key.identity().allows_key_transport()
}

/// A request on its way through the scheduler.
#[derive(Debug)]
pub struct Operation {
    pub(super) work: Work,
    pub(super) provider: &'static dyn Provider,
    pub(super) deadline: Instant,
    pub(super) answer: Answer,
}

impl Task for Operation {
    /// A batch of randoms is hundreds of hashes, which cost what one signature by an elliptic curve does. It must not
    /// wait behind RSA: without a lease, no handshake gets as far as that.
    fn cost(&self) -> CostClass {
        self.work.key().map_or(CostClass::Light, |key| key.cost())
    }

    fn deadline(&self) -> Instant {
        self.deadline
    }

    fn is_wanted(&self) -> bool {
        self.answer.is_wanted()
    }

    fn run(mut self, rng: &mut dyn CryptoRng) {
        let outcome = self.work.run(self.provider, rng);
        let failed = [Refusal::SigningFailed, Refusal::FaultySignature, Refusal::RecoveryFailed];
        if let (Some(key), Err(reason)) = (self.work.key(), &outcome)
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
