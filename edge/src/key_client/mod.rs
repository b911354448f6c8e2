//! The edge's way to its key servers: a few long-lived connections to each, on which requests are pipelined.

mod answer;
mod backoff;
mod held;
mod leases;
mod link;
mod pending;
mod recover;
mod renewal;
mod standing;
mod stream;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use keystead_program::channel::{ClientChannel, Connector, InvalidHostPort};
use keystead_program::observe::Condition;
use keystead_proto::v1;
use keystead_proto::v1::exchange_request::Operation;
use keystead_tls::handshake::{SignatureRequest, SignedParams};
use keystead_tls::{KeyId, KeyServerFailure};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::config::KeyServerConfig;
use crate::directory::{Directory, ServerIndex};
use crate::telemetry::Telemetry;
use held::{Holding, Need};
use link::Link;
use renewal::{Renewal, Turns};
use standing::Standing;

pub use answer::Recovery;
pub use stream::Lessor;

/// Asks key servers for signatures, and for the randoms and master secrets of RSA key transport.
#[derive(Debug)]
pub struct KeyClient {
    links: Vec<Arc<Link>>,
    /// Where the search for the least loaded link begins, so that links with the same load take turns.
    turn: AtomicUsize,
    timeout: Duration,
    telemetry: Arc<Telemetry>,
}

impl KeyClient {
    /// A client without connections, until [`Self::keep_up`]. `ready` holds while there is a connection.
    ///
    /// # Errors
    /// [`InvalidHostPort`] when the key servers' name is none.
    pub fn new(
        config: &KeyServerConfig,
        channel: &ClientChannel,
        ready: Condition,
        telemetry: Arc<Telemetry>,
    ) -> Result<Self, InvalidHostPort> {
        let standing = Arc::new(Standing::new(ready, telemetry.clone()));
        let (mut links, turns) = (Vec::new(), Turns::default());
        for (index, address) in config.addresses.iter().enumerate() {
            let connector = Connector::new(channel.clone(), address.clone(), Some(config.server_name.clone()))?;
            for _ in 0..config.connections {
                let (address, connector, standing) = (address.clone(), connector.clone(), standing.clone());
                let leases = telemetry.leases.clone();
                let link = Link::new(ServerIndex(index), address, connector, config.max_in_flight, standing, leases)
                    .renewed_by(Renewal::new(channel, turns.clone()));
                links.push(Arc::new(link));
            }
        }
        Ok(Self { links, turn: AtomicUsize::new(0), timeout: config.timeout, telemetry })
    }

    /// Keeps all connections up, and tells `directory` what the key servers tell, until the set is dropped.
    pub fn keep_up(&self, directory: &Arc<Directory>) -> JoinSet<()> {
        self.links.iter().map(|link| link.clone().keep_up(directory.clone())).collect()
    }

    /// Begins to ask for a signature, which must be there by `deadline` and in no more than the configured time.
    pub fn ask(&self, request: &SignatureRequest<'_>, deadline: Instant) -> Asking<'_> {
        let began = Instant::now();
        Asking {
            client: self,
            key_id: request.identity.public_key().key_id(),
            question: answer::question(request),
            began,
            deadline: deadline.min(began + self.timeout),
            asked: None,
            retries: RETRIES,
        }
    }

    /// The best link to ask for a signature, other than `asked`: one whose key server holds the key, is not about to stop,
    /// is not the one just asked, and has the fewest requests in flight. Who does not hold the key is asked only where
    /// nobody has been, to have a reason for the refusal.
    fn pick(&self, key_id: KeyId, asked: Option<&Arc<Link>>) -> Option<&Arc<Link>> {
        self.best(asked, |link| {
            let load = link.load(Need::Signing(key_id))?;
            let preference = (load.holding, load.draining, is_same_server(link, asked), load.in_flight);
            (asked.is_none() || load.holding != Holding::NotHeld).then_some(preference)
        })
    }

    /// The link other than `asked` whose preference is the least, of those that have one.
    fn best<P: Ord + Copy>(
        &self,
        asked: Option<&Arc<Link>>,
        preference: impl Fn(&Link) -> Option<P>,
    ) -> Option<&Arc<Link>> {
        let others = self.in_turn().filter(|link| !asked.is_some_and(|asked| Arc::ptr_eq(link, asked)));
        let preferred = others.filter_map(|link| Some((preference(link)?, link)));
        preferred.min_by_key(|(preference, _)| *preference).map(|(_, link)| link)
    }

    /// Every link once, each time another one first.
    fn in_turn(&self) -> impl Iterator<Item = &Arc<Link>> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed).checked_rem(self.links.len()).unwrap_or(0);
        self.links.iter().cycle().skip(turn).take(self.links.len())
    }
}

fn is_same_server(link: &Link, asked: Option<&Arc<Link>>) -> bool {
    asked.is_some_and(|asked| asked.server == link.server)
}

/// The deadline of a try that leaves another one possible: it gets half of the time that is left, so that a key server that
/// does not answer leaves the other half to one that does.
fn half_way_to(deadline: Instant) -> Instant {
    let now = Instant::now();
    now + deadline.saturating_duration_since(now) / 2
}

/// How often a request is asked again.
const RETRIES: usize = 1;

/// A request for one signature, over as many tries as it may have.
#[derive(Debug)]
pub struct Asking<'c> {
    client: &'c KeyClient,
    key_id: KeyId,
    question: v1::SignServerKeyExchangeRequest,
    began: Instant,
    deadline: Instant,
    asked: Option<Arc<Link>>,
    retries: usize,
}

impl Asking<'_> {
    /// The answer to the request. A try that fails is repeated on another connection, of another key server if there is
    /// one, which may hold a key that the first does not, or be less busy, or in better health. The client has been sent
    /// nothing, and a key server keeps no state of it, so asking twice is harmless.
    ///
    /// # Errors
    /// [`KeyServerFailure`] of the last try.
    pub async fn signed(&mut self) -> Result<SignedParams, KeyServerFailure> {
        loop {
            match self.try_once().await {
                Ok(signed) => {
                    self.client.telemetry.key_server_answered(self.began.elapsed());
                    return Ok(signed);
                }
                Err(failure) => self.failed(failure)?,
            }
        }
    }

    /// The answer was a wrong signature. On success, [`Self::signed`] asks elsewhere.
    ///
    /// # Errors
    /// [`KeyServerFailure::WrongSignature`] when no further try is to be had.
    pub fn wrong_signature(&mut self) -> Result<(), KeyServerFailure> {
        self.failed(KeyServerFailure::WrongSignature)
    }

    async fn try_once(&mut self) -> Result<SignedParams, KeyServerFailure> {
        let link = self.client.pick(self.key_id, self.asked.as_ref()).ok_or(KeyServerFailure::Unreachable)?.clone();
        let operation = Operation::SignServerKeyExchange(self.question.clone());
        let deadline = self.deadline_of_try(&link);
        let outcome = self.asked.insert(link).stream()?.ask(operation, deadline).await?;
        answer::signed_params(outcome)
    }

    fn deadline_of_try(&self, link: &Arc<Link>) -> Instant {
        let is_last = self.retries == 0 || self.client.pick(self.key_id, Some(link)).is_none();
        if is_last { self.deadline } else { half_way_to(self.deadline) }
    }

    fn failed(&mut self, failure: KeyServerFailure) -> Result<(), KeyServerFailure> {
        self.client.telemetry.key_server_failed(failure);
        let elsewhere = self.asked.as_ref().is_some_and(|asked| self.client.pick(self.key_id, Some(asked)).is_some());
        if self.retries == 0 || !elsewhere {
            return Err(failure);
        }
        self.retries -= 1;
        self.client.telemetry.key_server_retries.inc();
        Ok(())
    }
}
