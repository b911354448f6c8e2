//! The gRPC service: who asks, what for, and what is answered. No cryptography here.

mod answer;
mod exchange;
mod message;
mod watch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use keystead_program::channel::{PeerIdentity, PeerInfo};
use keystead_proto::v1;
use keystead_proto::v1::key_server_server::KeyServer;
use keystead_tls::crypto::Provider;
use rand_core::CryptoRng;
use tokio::sync::{oneshot, watch as changing};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::authorize::{AllowedKeys, Authorizations};
use crate::key::Key;
use crate::metrics::Metrics;
use crate::operation::sign_server_key_exchange::SignServerKeyExchange;
use crate::refusal::Refusal;
use crate::schedule::{CostClass, Scheduler, Task};
use answer::{Answer, Outcome};
use exchange::Exchange;
use watch::Watch;

/// The service `keystead.v1.KeyServer`. Clones share everything.
#[derive(Clone, Debug)]
pub struct Service {
    desk: Arc<Desk>,
    authorizations: changing::Receiver<Arc<Authorizations>>,
    stopping: Stopping,
    in_flight_per_stream: usize,
}

/// The two moments of an end.
#[derive(Clone, Debug, Default)]
pub struct Stopping {
    /// Peers are told to go elsewhere; what they ask is still answered.
    pub drain: CancellationToken,
    /// Streams that are still open end.
    pub end: CancellationToken,
}

/// Bounds of a [`Service`].
#[derive(Clone, Copy, Debug)]
pub struct ServiceLimits {
    /// Requests of one stream that are not yet answered.
    pub in_flight_per_stream: usize,
    /// How long a request may wait for its answer at the most.
    pub operation_timeout: Duration,
}

impl Service {
    /// A service that does operations on the threads of `scheduler`, for the peers that `authorizations` names at each
    /// moment.
    pub fn new(
        scheduler: Scheduler<Operation>,
        provider: &'static dyn Provider,
        metrics: Arc<Metrics>,
        authorizations: changing::Receiver<Arc<Authorizations>>,
        limits: ServiceLimits,
    ) -> Self {
        let desk = Desk { scheduler, provider, metrics, operation_timeout: limits.operation_timeout };
        let in_flight_per_stream = limits.in_flight_per_stream;
        Self { desk: Arc::new(desk), authorizations, stopping: Stopping::default(), in_flight_per_stream }
    }

    /// By which the service is told to stop.
    pub fn stopping(&self) -> &Stopping {
        &self.stopping
    }

    fn peer<T>(&self, request: &Request<T>) -> Result<Peer, Status> {
        // Connections are only ever those of an acceptor that identifies its peers.
        let info = request.extensions().get::<PeerInfo>().ok_or_else(|| Status::from(Refusal::UnknownPeer))?;
        let mut peer =
            Peer { identity: info.identity.clone(), authorizations: self.authorizations.clone(), keys: None };
        peer.look_up();
        if peer.keys.is_none() {
            self.desk.metrics.unknown_peer();
            tracing::info!(peer = %peer.identity, reason = Refusal::UnknownPeer.reason(), "call refused");
            return Err(Refusal::UnknownPeer.into());
        }
        Ok(peer)
    }
}

#[tonic::async_trait]
impl KeyServer for Service {
    type ExchangeStream = Exchange;
    type WatchStream = Watch;

    async fn exchange(&self, request: Request<Streaming<v1::ExchangeRequest>>) -> Result<Response<Exchange>, Status> {
        let peer = self.peer(&request)?;
        let requests = request.into_inner();
        let end = self.stopping.end.clone();
        Ok(Response::new(Exchange::new(self.desk.clone(), peer, requests, end, self.in_flight_per_stream)))
    }

    async fn sign_server_key_exchange(
        &self,
        request: Request<v1::SignServerKeyExchangeRequest>,
    ) -> Result<Response<v1::SignServerKeyExchangeReply>, Status> {
        let mut peer = self.peer(&request)?;
        let (call, outcome) = oneshot::channel();
        let answer = Answer::unary(self.desk.metrics.clone(), call);
        self.desk.begin(peer.keys(), Some(request.into_inner()), 0, answer);
        // An answer that is dropped has answered.
        let outcome = outcome.await.unwrap_or(Err(Refusal::SigningFailed));
        outcome.map(|signed| Response::new(signed.into())).map_err(|reason| {
            tracing::debug!(peer = %peer.identity, reason = reason.reason(), "request refused");
            reason.into()
        })
    }

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Watch>, Status> {
        let peer = self.peer(&request)?;
        Ok(Response::new(Watch::new(peer, &self.stopping)))
    }
}

/// Whose call it is, and which keys it may use at this moment.
#[derive(Debug)]
struct Peer {
    identity: PeerIdentity,
    authorizations: changing::Receiver<Arc<Authorizations>>,
    keys: Option<Arc<AllowedKeys>>,
}

impl Peer {
    fn look_up(&mut self) {
        self.keys = self.authorizations.borrow_and_update().of(&self.identity).cloned();
    }

    /// Waits until the keys may have changed.
    async fn change(&mut self) {
        if self.authorizations.changed().await.is_err() {
            // The table will not change again.
            std::future::pending::<()>().await;
        }
        self.look_up();
    }

    /// The keys; `None` when the peer is known no longer.
    fn keys(&mut self) -> Option<&AllowedKeys> {
        // The shared table is only read after it changed. An error means that it will not change again.
        if self.authorizations.has_changed().unwrap_or(false) {
            self.look_up();
        }
        self.keys.as_deref()
    }
}

/// Where requests are taken in.
#[derive(Debug)]
struct Desk {
    scheduler: Scheduler<Operation>,
    provider: &'static dyn Provider,
    metrics: Arc<Metrics>,
    operation_timeout: Duration,
}

impl Desk {
    /// Takes a request of a peer that may use `keys`; what it comes to goes to `answer`, at once or later. `timeout_ms`
    /// is what the peer allows; 0 leaves it to the key server.
    fn begin(
        &self,
        keys: Option<&AllowedKeys>,
        request: Option<v1::SignServerKeyExchangeRequest>,
        timeout_ms: u32,
        mut answer: Answer,
    ) {
        match find(keys, request) {
            Ok((key, operation)) => {
                answer.about(key.clone());
                let deadline = Instant::now() + self.timeout(timeout_ms);
                self.scheduler.submit(Operation { key, operation, provider: self.provider, deadline, answer });
            }
            Err(reason) => answer.send(Err(reason)),
        }
    }

    fn timeout(&self, timeout_ms: u32) -> Duration {
        match timeout_ms {
            0 => self.operation_timeout,
            ms => self.operation_timeout.min(Duration::from_millis(ms.into())),
        }
    }
}

fn find(
    keys: Option<&AllowedKeys>,
    request: Option<v1::SignServerKeyExchangeRequest>,
) -> Result<(Arc<Key>, SignServerKeyExchange), Refusal> {
    let (key_id, operation) = message::decode(request.ok_or(Refusal::MalformedRequest)?)?;
    let key = keys.and_then(|keys| keys.find(&key_id)).ok_or(Refusal::KeyNotAllowed)?;
    Ok((key.clone(), operation))
}

/// A request on its way through the scheduler.
#[derive(Debug)]
pub struct Operation {
    key: Arc<Key>,
    operation: SignServerKeyExchange,
    provider: &'static dyn Provider,
    deadline: Instant,
    answer: Answer,
}

impl Task for Operation {
    fn cost(&self) -> CostClass {
        self.key.cost()
    }

    fn deadline(&self) -> Instant {
        self.deadline
    }

    fn is_wanted(&self) -> bool {
        self.answer.is_wanted()
    }

    fn run(self, rng: &mut dyn CryptoRng) {
        let outcome: Outcome = self.operation.run(&self.key, self.provider, rng);
        if let Err(reason @ (Refusal::SigningFailed | Refusal::FaultySignature)) = outcome {
            tracing::error!(key = %self.key.name(), scheme = %self.operation.scheme, reason = reason.reason(), "key failed");
        }
        self.answer.send(outcome);
    }

    fn refuse(self, reason: Refusal) {
        self.answer.send(Err(reason));
    }
}

#[cfg(test)]
mod tests;
