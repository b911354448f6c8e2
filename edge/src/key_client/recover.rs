//! RSA key transport: a leased random first, and the master secret later, from the process that leased it.

use std::sync::Arc;

use keystead_proto::v1::exchange_request::Operation;
use keystead_tls::handshake::{Lease, MasterSecretRequest};
use keystead_tls::{KeyId, KeyServerFailure};
use tokio::time::Instant;

use super::answer::{self, Recovery};
use super::held::{Holding, Need};
use super::link::Link;
use super::stream::Lessor;
use super::{KeyClient, RETRIES, half_way_to, is_same_server};
use crate::telemetry::Recovered;

impl KeyClient {
    /// A leased random for a handshake with the key `key_id`, by `deadline` and in no more than the configured time. A try
    /// that fails is repeated on another connection, of another key server if there is one: the client has been sent
    /// nothing.
    ///
    /// # Errors
    /// [`KeyServerFailure`] of the last try.
    pub async fn lease(&self, key_id: KeyId, deadline: Instant) -> Result<(Lease, Lessor), KeyServerFailure> {
        let deadline = deadline.min(Instant::now() + self.timeout);
        let mut retries = RETRIES;
        let mut asked: Option<Arc<Link>> = None;
        loop {
            let Some(link) = self.pick_lessor(key_id, asked.as_ref()).cloned() else {
                return Err(self.failed_lease(self.nobody_leases()));
            };
            let has_other = retries > 0 && self.pick_lessor(key_id, Some(&link)).is_some();
            match lease_of(&link, if has_other { half_way_to(deadline) } else { deadline }).await {
                Ok(leased) => return Ok(leased),
                Err(failure) if !has_other => return Err(self.failed_lease(failure)),
                Err(failure) => self.failed_lease(failure),
            };
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
        let began = Instant::now();
        let operation = Operation::RecoverMasterSecret(answer::recover_question(request));
        let outcome = lessor.stream().ask(operation, deadline.min(began + self.timeout)).await;
        let recovery = outcome.and_then(answer::recovery);
        match &recovery {
            Ok(answered) => {
                self.telemetry.key_server_answered(began.elapsed());
                self.telemetry.recovery(match answered {
                    Recovery::MasterSecret(_) => Recovered::Recovered,
                    Recovery::Refused => Recovered::Refused,
                });
            }
            Err(failure) => {
                self.telemetry.key_server_failed(*failure);
                self.telemetry.recovery(Recovered::Failed);
            }
        }
        recovery
    }

    /// The best link to have a lease from, other than `asked`: one whose key server holds the key for RSA key transport, is
    /// not about to stop, is not the one just asked, has a lease at hand, and has the fewest requests in flight.
    fn pick_lessor(&self, key_id: KeyId, asked: Option<&Arc<Link>>) -> Option<&Arc<Link>> {
        self.best(asked, |link| {
            let load = link.load(Need::KeyTransport(key_id))?;
            let preference =
                (load.holding, load.draining, is_same_server(link, asked), load.leases == 0, load.in_flight);
            // A lease of any other cannot be made a master secret of.
            (load.holding != Holding::NotHeld).then_some(preference)
        })
    }

    /// Why no link is there to have a lease from.
    fn nobody_leases(&self) -> KeyServerFailure {
        match self.links.iter().any(|link| link.is_up()) {
            true => KeyServerFailure::NotAuthorised,
            false => KeyServerFailure::Unreachable,
        }
    }

    fn failed_lease(&self, failure: KeyServerFailure) -> KeyServerFailure {
        self.telemetry.key_server_failed(failure);
        failure
    }
}

async fn lease_of(link: &Link, deadline: Instant) -> Result<(Lease, Lessor), KeyServerFailure> {
    link.stream()?.lease(deadline).await
}
