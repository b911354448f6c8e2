//! RSA key transport: a leased random first, and the master secret later, from the process that leased it.

use std::sync::Arc;

use keystead_proto::v1::exchange_request::Operation;
use keystead_tls::KeyServerFailure;
use keystead_tls::handshake::{Lease, MasterSecretRequest};
use tokio::time::Instant;

use super::KeyClient;
use super::answer::{self, Recovery};
use super::link::{Link, Load};
use super::stream::Lessor;
use crate::telemetry::Recovered;

impl KeyClient {
    /// A leased random, by `deadline` and in no more than the configured time.
    ///
    /// # Errors
    /// [`KeyServerFailure`] when none is to be had.
    pub async fn lease(&self, deadline: Instant) -> Result<(Lease, Lessor), KeyServerFailure> {
        let deadline = deadline.min(Instant::now() + self.timeout);
        let taken = async {
            let link = self.pick_lessor().ok_or(KeyServerFailure::Unreachable)?;
            link.stream()?.lease(deadline).await
        };
        taken.await.inspect_err(|failure| self.telemetry.key_server_failed(*failure))
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

    /// The best link to have a lease from: one that is not about to stop, has a lease at hand, and has the fewest
    /// requests in flight.
    fn pick_lessor(&self) -> Option<&Arc<Link>> {
        let preference = |load: Load| (load.draining, load.leases == 0, load.in_flight);
        let loaded = self.in_turn().filter_map(|link| Some((preference(link.load()?), link)));
        loaded.min_by_key(|(preference, _)| *preference).map(|(_, link)| link)
    }
}
