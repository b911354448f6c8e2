//! RSA key transport: a leased random first, and the master secret later, from the process that leased it.

use std::sync::Arc;

use keystead_proto::v1::exchange_request::Operation;
use keystead_tls::handshake::{Lease, MasterSecretRequest};
use keystead_tls::{KeyId, KeyServerFailure};
use tokio::time::Instant;

use super::answer::{self, Fault, Recovery};
use super::choice::Fitness;
use super::held::{Holding, Need};
use super::key_state::KeyState;
use super::link::{KEEP_ALIVE, Link};
use super::stream::Lessor;
use super::verdict::{Key, Sent};
use super::{KeyClient, half_way_to};
use crate::telemetry::Recovered;

/// How often another connection is asked for a lease.
const LEASE_RETRIES: usize = 1;

impl KeyClient {
    /// A leased random for a handshake with the key `key_id`, by `deadline` and in no more than the configured time. A try
    /// that fails is repeated on another connection, of another key server if there is one, and if the budgets have one
    /// left: the client has been sent nothing.
    ///
    /// # Errors
    /// [`KeyServerFailure`] of the last try.
    pub async fn lease(&self, key_id: KeyId, deadline: Instant) -> Result<(Lease, Lessor), KeyServerFailure> {
        let deadline = deadline.min(Instant::now() + self.timeout);
        let (key, need) = (Key { id: key_id, state: self.keys.of(key_id) }, Need::KeyTransport(key_id));
        self.deposit(&key);
        let mut retries = LEASE_RETRIES;
        let mut asked: Option<&Arc<Link>> = None;
        loop {
            let Some(link) = self.pick_lessor(&key.state, need, asked) else {
                let is_lost = self.nobody_leases() == KeyServerFailure::Unreachable;
                if is_lost && self.standing.revives(deadline).await {
                    continue;
                }
                return Err(self.failed_lease(self.nobody_leases()));
            };
            let has_other = retries > 0 && self.pick_lessor(&key.state, need, Some(link)).is_some();
            let leaves_half = has_other && self.could_try_again(&key);
            match lease_of(link, if leaves_half { half_way_to(deadline) } else { deadline }).await {
                Ok(leased) => return Ok(leased),
                Err(failure) => {
                    self.failed_lease(failure);
                    if !has_other || !self.may_try_again(&key) {
                        return Err(failure);
                    }
                }
            }
            retries -= 1;
            self.telemetry.key_server_retries.inc();
            asked = Some(link);
        }
    }

    /// Asks the lessor for the master secret, by `deadline` and in no more than the configured time. It is asked once:
    /// the lease is spent with the first try.
    ///
    /// # Errors
    /// [`KeyServerFailure`] when there is no answer to the question itself.
    pub async fn recover(
        &self,
        request: &MasterSecretRequest<'_>,
        lessor: &Lessor,
        deadline: Instant,
    ) -> Result<Recovery, KeyServerFailure> {
        let key_id = request.identity.public_key().key_id();
        let key = Key { id: key_id, state: self.keys.of(key_id) };
        let operation = Operation::RecoverMasterSecret(answer::recover_question(request));
        let sent = Sent::to(lessor.stream().peer.clone(), Instant::now());
        let recovery = self.recovered(&key, operation, lessor, deadline).await;
        let server = self.server_of(lessor.stream().link);
        match &recovery {
            Ok(answered) => {
                let elapsed = sent.began.elapsed();
                self.telemetry.key_server_answered(elapsed);
                server.inspect(|server| server.tries.answered(elapsed));
                self.telemetry.recovery(match answered {
                    Recovery::MasterSecret(_) => Recovered::Recovered,
                    Recovery::Refused => Recovered::Refused,
                });
                // A client can have a refusal whenever it likes: it says nothing of the key server, good or bad.
                if matches!(answered, Recovery::MasterSecret(_)) {
                    self.judge_right(&key, &sent);
                }
            }
            Err(fault) => {
                self.telemetry.key_server_failed(fault.failure());
                server.inspect(|server| server.tries.failed(fault.failure()));
                self.telemetry.recovery(Recovered::Failed);
                self.judge_wrong(&key, &sent, *fault);
            }
        }
        recovery.map_err(Fault::failure)
    }

    async fn recovered(
        &self,
        key: &Key,
        operation: Operation,
        lessor: &Lessor,
        deadline: Instant,
    ) -> Result<Recovery, Fault> {
        let _place = key.state.place(lessor.stream().link).ok_or(Fault::NoPlace)?;
        let deadline = deadline.min(Instant::now() + self.timeout);
        answer::recovery(lessor.stream().ask(operation, deadline).await?)
    }

    /// The best link to have a lease from, other than `asked`: one whose key server holds the key for RSA key transport, is
    /// neither about to stop nor failing, is not the one just asked, has a lease at hand, and has the fewest requests in
    /// flight.
    fn pick_lessor(&self, key: &KeyState, need: Need, asked: Option<&Arc<Link>>) -> Option<&Arc<Link>> {
        let now = Instant::now();
        let asked_slot = asked.and_then(|asked| Some(asked.stream().ok()?.peer.slot));
        let others = self.in_turn().filter(|link| !asked.is_some_and(|asked| Arc::ptr_eq(link, asked)));
        let preferred = others.filter_map(|link| {
            let view = link.view(need, key, now)?;
            // Nobody else can be asked meanwhile, so no handshake is a probe. But a connection that has stood for so long
            // leads to somebody who is well enough to answer pings.
            let is_overdue = view.due_since.is_some_and(|since| now - since > KEEP_ALIVE);
            let fitness = if is_overdue { Fitness::Good } else { view.fitness };
            let was_asked = asked_slot == Some(view.slot);
            let preference = (view.holding, fitness, was_asked, view.leases == 0, view.in_flight);
            // A lease of any other cannot be made a master secret of.
            (view.holding != Holding::NotHeld).then_some((preference, link))
        });
        preferred.min_by_key(|(preference, _)| *preference).map(|(_, link)| link)
    }

    /// Why no link is there to have a lease from.
    fn nobody_leases(&self) -> KeyServerFailure {
        match self.links.iter().any(|link| link.is_up()) {
            true => KeyServerFailure::NotAuthorised,
            false => self.none_stands().failure(),
        }
    }

    fn failed_lease(&self, failure: KeyServerFailure) -> KeyServerFailure {
        self.telemetry.key_server_failed(failure);
        failure
    }
}

async fn lease_of(link: &Link, deadline: Instant) -> Result<(Lease, Lessor), KeyServerFailure> {
    link.stream().map_err(Fault::failure)?.lease(deadline).await
}
