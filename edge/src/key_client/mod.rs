//! The edge's way to its key servers: a few long-lived connections to each, on which requests are pipelined.

mod answer;
mod backoff;
mod leases;
mod link;
mod pending;
mod recover;
mod standing;
mod stream;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use keystead_program::channel::{ClientChannel, Connector, InvalidHostPort};
use keystead_program::observe::Condition;
use keystead_proto::v1;
use keystead_proto::v1::exchange_request::Operation;
use keystead_tls::KeyServerFailure;
use keystead_tls::handshake::{SignatureRequest, SignedParams};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::config::KeyServerConfig;
use crate::directory::{Directory, ServerIndex};
use crate::telemetry::Telemetry;
use link::{Link, Load};
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
        let mut links = Vec::new();
        for (index, address) in config.addresses.iter().enumerate() {
            let connector = Connector::new(channel.clone(), address.clone(), Some(config.server_name.clone()))?;
            for _ in 0..config.connections {
                let (address, connector, standing) = (address.clone(), connector.clone(), standing.clone());
                let leases = telemetry.leases.clone();
                let link = Link::new(ServerIndex(index), address, connector, config.max_in_flight, standing, leases);
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
            question: answer::question(request),
            began,
            deadline: deadline.min(began + self.timeout),
            asked: None,
            retries: RETRIES,
        }
    }

    /// The best link for the next try: another one than `asked`, better of another key server, that is not about to
    /// stop, with the fewest requests in flight.
    fn pick(&self, asked: Option<&Arc<Link>>) -> Option<&Arc<Link>> {
        let others = self.in_turn().filter(|link| !asked.is_some_and(|asked| Arc::ptr_eq(link, asked)));
        let loaded = others.filter_map(|link| Some((preference(link, asked, link.load()?), link)));
        loaded.min_by_key(|(preference, _)| *preference).map(|(_, link)| link)
    }

    /// Every link once, each time another one first.
    fn in_turn(&self) -> impl Iterator<Item = &Arc<Link>> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed).checked_rem(self.links.len()).unwrap_or(0);
        self.links.iter().cycle().skip(turn).take(self.links.len())
    }
}

/// The least is the best.
fn preference(link: &Link, asked: Option<&Arc<Link>>, load: Load) -> (bool, bool, usize) {
    let same_server = asked.is_some_and(|asked| asked.server == link.server);
    (load.draining, same_server, load.in_flight)
}

/// How often a request is asked again.
const RETRIES: usize = 1;

/// A request for one signature, over as many tries as it may have.
#[derive(Debug)]
pub struct Asking<'c> {
    client: &'c KeyClient,
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
        let link = self.client.pick(self.asked.as_ref()).ok_or(KeyServerFailure::Unreachable)?.clone();
        let operation = Operation::SignServerKeyExchange(self.question.clone());
        let deadline = self.deadline_of_try(&link);
        let outcome = self.asked.insert(link).stream()?.ask(operation, deadline).await?;
        answer::signed_params(outcome)
    }

    /// A try that leaves another one possible gets half of the time that is left, so that a key server that does not
    /// answer leaves the other half to one that does.
    fn deadline_of_try(&self, link: &Arc<Link>) -> Instant {
        if self.retries == 0 || self.client.pick(Some(link)).is_none() {
            return self.deadline;
        }
        let now = Instant::now();
        now + self.deadline.saturating_duration_since(now) / 2
    }

    fn failed(&mut self, failure: KeyServerFailure) -> Result<(), KeyServerFailure> {
        self.client.telemetry.key_server_failed(failure);
        let elsewhere = self.asked.as_ref().is_some_and(|asked| self.client.pick(Some(asked)).is_some());
        if self.retries == 0 || !elsewhere {
            return Err(failure);
        }
        self.retries -= 1;
        self.client.telemetry.key_server_retries.inc();
        Ok(())
    }
}
