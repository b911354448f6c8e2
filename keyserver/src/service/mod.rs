//! The gRPC service: who asks, what for, and what is answered. No cryptography here.

mod answer;
mod answers;
mod draft;
mod exchange;
mod message;
mod unread;
mod watch;
mod work;

pub use unread::Recording;
pub use work::Operation;

use std::convert::Infallible;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use keystead_program::channel::{PeerIdentity, PeerInfo};
use keystead_program::share::{Share, Shares};
use keystead_proto::v1;
use keystead_proto::v1::exchange_request::Operation as Asked;
use keystead_proto::v1::key_server_server::KeyServer;
use keystead_tls::crypto::Provider;
use tokio::sync::{oneshot, watch as changing};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::audit::Audit;
use crate::authorize::{Authorizations, Rights};
use crate::lease::{LeaseLimits, Leases};
use crate::metrics::Metrics;
use crate::rate::Cost;
use crate::refusal::Refusal;
use crate::schedule::{Lane, Scheduler};
use crate::ticket_keys::ratchet::{Ratchet, UnixTime};
use answer::{Answer, Done};
use draft::Draft;
use exchange::Exchange;
use unread::Heard;
use watch::Watch;
use work::{Permission, Work};

/// The service `keystead.v1.KeyServer`. Clones share everything.
#[derive(Clone, Debug)]
pub struct Service {
    desk: Arc<Desk>,
    authorizations: changing::Receiver<Arc<Authorizations>>,
    /// The ticket keys; `None` where tickets are off.
    tickets: Option<changing::Receiver<Arc<Ratchet>>>,
    stopping: Stopping,
    in_flight_per_stream: usize,
    /// Streams of requests, by their edges.
    exchanges: Arc<Shares<PeerIdentity>>,
    /// Streams of news, by their edges.
    watches: Arc<Shares<PeerIdentity>>,
    /// Told of every request.
    audit: Audit,
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
    /// Streams of one edge at one time, of each kind.
    pub streams_per_edge: usize,
    /// How long a request may wait for its answer at the most.
    pub operation_timeout: Duration,
    /// Randoms for RSA key transport.
    pub leases: LeaseLimits,
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
        let leases = Arc::new(Leases::new(limits.leases, &mut rand::rng()));
        let desk = Desk { scheduler, provider, leases, metrics, operation_timeout: limits.operation_timeout };
        Self {
            desk: Arc::new(desk),
            authorizations,
            tickets: None,
            stopping: Stopping::default(),
            in_flight_per_stream: limits.in_flight_per_stream,
            exchanges: Shares::new(limits.streams_per_edge),
            watches: Shares::new(limits.streams_per_edge),
            audit: Audit::off(),
        }
    }

    /// The same service, which also tells edges their ticket keys.
    pub fn with_tickets(self, tickets: changing::Receiver<Arc<Ratchet>>) -> Self {
        Self { tickets: Some(tickets), ..self }
    }

    /// The same service, which also tells `audit` of every request.
    pub fn with_audit(self, audit: Audit) -> Self {
        Self { audit, ..self }
    }

    /// What the service tells of every request.
    pub(crate) fn audit(&self) -> &Audit {
        &self.audit
    }

    /// By which the service is told to stop.
    pub fn stopping(&self) -> &Stopping {
        &self.stopping
    }

    /// Ends what is leased to an edge as soon as the edge is removed, or has no key left to use it with.
    pub(crate) async fn follow_removals(self) -> Infallible {
        let mut authorizations = self.authorizations;
        while authorizations.changed().await.is_ok() {
            let known = authorizations.borrow_and_update().clone();
            let now = UnixTime::now();
            self.desk.leases.retain(|edge| known.of(edge, now).is_ok_and(|rights| rights.may_lease(now).is_ok()));
        }
        // The table will not change again.
        std::future::pending().await
    }

    /// Does what one call asks for; it is answered with its own kind.
    async fn unary<T>(&self, request: Request<T>, asked: fn(T) -> Asked) -> Result<Done, Status> {
        let mut peer = self.peer(&request, UNARY)?;
        let (call, outcome) = oneshot::channel();
        let answer = Answer::unary(self.desk.metrics.clone(), call);
        self.desk.begin(&mut peer, Some(asked(request.into_inner())), 0, answer);
        // An answer that is dropped has answered.
        let outcome = outcome.await.unwrap_or(Err(Refusal::SigningFailed));
        outcome.map_err(|reason| {
            tracing::debug!(peer = %peer.identity, reason = reason.reason(), "request refused");
            reason.into()
        })
    }

    /// Who opens a stream, and its place among those `of_kind`. It is on record from here on, `called` so.
    fn stream<T>(
        &self,
        request: &Request<T>,
        called: &'static str,
        of_kind: &Arc<Shares<PeerIdentity>>,
    ) -> Result<(Peer, Share<PeerIdentity>), Status> {
        let peer = self.peer(request, called)?;
        let Some(share) = of_kind.take(peer.identity.clone()) else {
            let reason = Refusal::TooMuchUnread;
            self.desk.metrics.answered(None, None, Err(reason));
            return Err(refused(&peer, called, reason));
        };
        Draft::call(&peer, called).opened();
        Ok((peer, share))
    }

    /// Who calls, if it is known here.
    fn peer<T>(&self, request: &Request<T>, called: &'static str) -> Result<Peer, Status> {
        if let Some(heard) = request.extensions().get::<Heard>() {
            heard.set();
        }
        // Connections are only ever those of an acceptor that identifies its peers.
        let info = request.extensions().get::<PeerInfo>().ok_or_else(|| Status::from(Refusal::UnknownPeer))?;
        let peer = Peer::new(info.identity.clone(), self.authorizations.clone(), self.audit.clone());
        if let Err(reason) = peer.rights {
            self.desk.metrics.unknown_peer();
            return Err(refused(&peer, called, reason));
        }
        Ok(peer)
    }
}

/// Puts a call that is refused as such on record.
fn refused(peer: &Peer, called: &'static str, reason: Refusal) -> Status {
    Draft::call(peer, called).refused(reason);
    tracing::info!(peer = %peer.identity, reason = reason.reason(), "call refused");
    reason.into()
}

/// How the record of a stranger's unary call names what it called.
const UNARY: &str = "unary";

/// Randoms that a unary call gives at the most. Its answer is not counted while nobody reads it, and there may be as many
/// of them as all connections have streams.
const MOST_UNARY_LEASES: u32 = 128;

#[tonic::async_trait]
impl KeyServer for Service {
    type ExchangeStream = Exchange;
    type WatchStream = Watch;

    async fn exchange(&self, request: Request<Streaming<v1::ExchangeRequest>>) -> Result<Response<Exchange>, Status> {
        let (peer, share) = self.stream(&request, "exchange", &self.exchanges)?;
        let requests = request.into_inner();
        let (stop, removal) = (self.stopping.end.clone(), peer.removal());
        let end = async move {
            tokio::select! {
                () = stop.cancelled() => Refusal::Stopping,
                reason = removal => reason,
            }
        };
        let (desk, most) = (self.desk.clone(), self.in_flight_per_stream);
        Ok(Response::new(Exchange::new(desk, (peer, share), requests, Box::pin(end), most)))
    }

    async fn sign_server_key_exchange(
        &self,
        request: Request<v1::SignServerKeyExchangeRequest>,
    ) -> Result<Response<v1::SignServerKeyExchangeReply>, Status> {
        let Done::Signed(signed) = self.unary(request, Asked::SignServerKeyExchange).await? else {
            return Err(Refusal::SigningFailed.into());
        };
        Ok(Response::new(signed.into()))
    }

    async fn lease_randoms(
        &self,
        mut request: Request<v1::LeaseRandomsRequest>,
    ) -> Result<Response<v1::LeaseRandomsReply>, Status> {
        let count = &mut request.get_mut().count;
        *count = (*count).min(MOST_UNARY_LEASES);
        let Done::Leased(batch) = self.unary(request, Asked::LeaseRandoms).await? else {
            return Err(Refusal::SigningFailed.into());
        };
        Ok(Response::new(message::leased(batch)))
    }

    async fn recover_master_secret(
        &self,
        request: Request<v1::RecoverMasterSecretRequest>,
    ) -> Result<Response<v1::RecoverMasterSecretReply>, Status> {
        let Done::Recovered(master_secret) = self.unary(request, Asked::RecoverMasterSecret).await? else {
            return Err(Refusal::RecoveryFailed.into());
        };
        Ok(Response::new(message::recovered(&master_secret)))
    }

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Watch>, Status> {
        let opened = self.stream(&request, "watch", &self.watches)?;
        let takes_changes = request.get_ref().takes_changes;
        Ok(Response::new(Watch::new(opened, takes_changes, self.tickets.clone(), &self.stopping)))
    }
}

/// Whose call it is, and what it may have at this moment.
#[derive(Clone, Debug)]
struct Peer {
    identity: PeerIdentity,
    authorizations: changing::Receiver<Arc<Authorizations>>,
    /// Those that were looked up last, or why it has none. They are the table's to keep: a stream that nobody reads must
    /// not hold on to keys that were taken out of it.
    rights: Result<Weak<Rights>, Refusal>,
    audit: Audit,
}

impl Peer {
    fn new(identity: PeerIdentity, authorizations: changing::Receiver<Arc<Authorizations>>, audit: Audit) -> Self {
        let mut peer = Self { identity, authorizations, rights: Err(Refusal::UnknownPeer), audit };
        peer.look_up();
        peer
    }

    fn look_up(&mut self) {
        let table = self.authorizations.borrow_and_update();
        self.rights = table.of(&self.identity, UnixTime::now()).map(Arc::downgrade);
    }

    /// Waits until its rights may have changed.
    async fn change(&mut self) {
        if self.authorizations.changed().await.is_err() {
            // The table will not change again.
            std::future::pending::<()>().await;
        }
        self.look_up();
    }

    /// Waits until it has no rights any more, and tells why.
    fn removal(&self) -> impl Future<Output = Refusal> + Send + use<> {
        let mut peer = self.clone();
        async move {
            loop {
                if let Err(reason) = peer.rights {
                    return reason;
                }
                peer.change().await;
            }
        }
    }

    /// What it may have.
    ///
    /// # Errors
    /// Why it may have nothing, when it is known no longer or its time is over.
    fn rights(&mut self) -> Result<Arc<Rights>, Refusal> {
        // The shared table is only read after it changed.
        if self.has_changed() {
            self.look_up();
        }
        let rights = match &self.rights {
            Ok(rights) => rights.upgrade(),
            Err(reason) => return Err(*reason),
        };
        let rights = match rights {
            Some(rights) => rights,
            // Between a change of the table and the word of it.
            None => self.authorizations.borrow().of(&self.identity, UnixTime::now()).cloned()?,
        };
        // The clock may be ahead of who tells of its changes.
        if rights.is_over(UnixTime::now()) {
            self.rights = Err(Refusal::RightsExpired);
            return Err(Refusal::RightsExpired);
        }
        Ok(rights)
    }

    /// Whether its rights may be others than were looked up last.
    fn has_changed(&self) -> bool {
        // An error means that they will not change again.
        self.authorizations.has_changed().unwrap_or(false)
    }
}

/// Where requests are taken in.
#[derive(Debug)]
struct Desk {
    scheduler: Scheduler<Operation>,
    provider: &'static dyn Provider,
    leases: Arc<Leases>,
    metrics: Arc<Metrics>,
    operation_timeout: Duration,
}

impl Desk {
    /// Takes a request of `peer`; what it comes to goes to `answer`, at once or later. `timeout_ms` is what the peer
    /// allows; 0 leaves it to the key server.
    fn begin(&self, peer: &mut Peer, asked: Option<Asked>, timeout_ms: u32, mut answer: Answer) {
        answer.on_record(Draft::of(peer, asked.as_ref()));
        let accepted = accept(peer, asked, &mut answer).and_then(|accepted| answer.reserve().map(|()| accepted));
        match accepted {
            Ok((work, lane)) => self.scheduler.submit(Operation {
                work,
                peer: peer.clone(),
                lane,
                leases: self.leases.clone(),
                provider: self.provider,
                deadline: Instant::now() + self.timeout(timeout_ms),
                answer,
            }),
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

/// Reads what is asked for and sees whether `peer` may have it and can pay for it; gives the lane to do it in.
fn accept(peer: &mut Peer, asked: Option<Asked>, answer: &mut Answer) -> Result<(Work, Lane), Refusal> {
    let rights = peer.rights()?;
    if let Some(asked) = &asked {
        answer.to(work::call(asked));
    }
    let work = match asked.ok_or(Refusal::MalformedRequest).and_then(Work::read) {
        Ok(work) => work,
        Err(malformed) => return Err(refused_for(malformed, &rights)),
    };
    let Permission { grant, allowed } = match work.permission(&rights) {
        Ok(permission) => permission,
        Err(foreign) => return Err(refused_for(foreign, &rights)),
    };
    let grant = grant.as_deref();
    if let Some(grant) = grant {
        answer.about(grant.key().clone());
    }
    work.pay(&rights, grant, allowed.is_ok())?;
    allowed?;
    let lane = Operation::lane(grant);
    Ok((work, lane))
}

/// Takes the price of a refusal off the peer's rate; gives the reason to refuse for.
fn refused_for(reason: Refusal, rights: &Rights) -> Refusal {
    rights.pay(None, Cost::LEAST, Instant::now()).err().unwrap_or(reason)
}

#[cfg(test)]
mod tests;
