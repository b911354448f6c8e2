//! One connection's stream of requests, with what belongs to the process at its other end.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use keystead_proto::MAX_REQUEST;
use keystead_proto::pad::Pad;
use keystead_proto::v1;
use keystead_proto::v1::exchange_reply::Outcome;
use keystead_proto::v1::exchange_request::Operation;
use keystead_tls::KeyServerFailure;
use keystead_tls::handshake::Lease;
use prost::Message;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::answer::{self, Fault};
use super::held::{HeldKeys, Holding, Need};
use super::leases::Leases;
use super::peer::Peer;
use super::pending::Pending;
use crate::telemetry::LeaseTelemetry;

/// The stream of requests of one connection, for as long as that stands.
#[derive(Debug)]
pub(super) struct RequestStream {
    /// Who answers.
    pub(super) peer: Arc<Peer>,
    /// The number of the link.
    pub(super) link: usize,
    requests: mpsc::Sender<v1::ExchangeRequest>,
    pending: Pending,
    leases: Leases,
    /// The keys that the key server has told of; none until it has.
    held: ArcSwapOption<HeldKeys>,
    /// Handshakes that have a lease and will ask for its master secret.
    lessees: AtomicUsize,
    /// Cancelled when the key server says that it is about to stop.
    draining: CancellationToken,
    /// Unless the key server says that it does not.
    serving: AtomicBool,
}

impl RequestStream {
    /// A stream on the link with this number, to this peer.
    pub(super) fn new(
        (peer, link): (Arc<Peer>, usize),
        requests: mpsc::Sender<v1::ExchangeRequest>,
        max_in_flight: usize,
        lease_telemetry: LeaseTelemetry,
    ) -> Self {
        Self {
            peer,
            link,
            requests,
            pending: Pending::new(max_in_flight),
            leases: Leases::new(lease_telemetry),
            held: ArcSwapOption::empty(),
            lessees: AtomicUsize::new(0),
            draining: CancellationToken::new(),
            serving: AtomicBool::new(true),
        }
    }

    /// Asks, and waits for the answer until `deadline`.
    pub(super) async fn ask(self: &Arc<Self>, operation: Operation, deadline: Instant) -> Result<Outcome, Fault> {
        timeout_at(deadline, self.begin(operation, deadline)?).await.unwrap_or(Err(Fault::NoAnswer))
    }

    /// Asks; the key server is told that the answer is waited for until `deadline`.
    pub(super) fn begin(self: &Arc<Self>, operation: Operation, deadline: Instant) -> Result<Awaited, Fault> {
        let (id, answer) = self.pending.insert().map_err(|failure| match failure {
            KeyServerFailure::Overloaded => Fault::NoPlace,
            KeyServerFailure::Unreachable
            | KeyServerFailure::NoAnswer
            | KeyServerFailure::NotAuthorised
            | KeyServerFailure::KeyUnavailable
            | KeyServerFailure::NameNotAllowed
            | KeyServerFailure::Refused
            | KeyServerFailure::WrongSignature => Fault::Unreachable,
        })?;
        let waiting = Waiting { stream: self.clone(), id };
        let request = waiting.request(operation, deadline).map_err(|_too_long| Fault::Rejected)?;
        self.requests.try_send(request).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => Fault::NoPlace,
            mpsc::error::TrySendError::Closed(_) => Fault::Unreachable,
        })?;
        Ok(Awaited { answer, _waiting: waiting })
    }

    /// An answer has come.
    pub(super) fn answer(&self, id: u64, outcome: Outcome) {
        self.peer.answered();
        self.pending.answer(id, outcome);
    }

    /// Requests without an answer.
    pub(super) fn in_flight(&self) -> usize {
        self.pending.len()
    }

    /// The key server has told which keys it holds.
    pub(super) fn hold(&self, keys: HeldKeys) {
        self.held.store(Some(Arc::new(keys)));
    }

    /// The key server has told which of its keys are others.
    pub(super) fn change_held(&self, changes: &v1::IdentityChanges) {
        let held = self.held.load().as_ref().map(|held| held.changed(changes));
        self.held.store(held.map(Arc::new));
    }

    /// Whether the key server has what `need` says.
    pub(super) fn holding(&self, need: Need) -> Holding {
        self.held.load().as_ref().map_or(Holding::NotTold, |held| held.holding(need))
    }

    /// From here on a reserve of leases is kept, or none.
    pub(super) fn keep_leases(&self, kept: bool) {
        self.leases.keep(kept);
    }

    /// A lease from the reserve, or from the next batch if it comes before `deadline`.
    pub(super) async fn lease(self: Arc<Self>, deadline: Instant) -> Result<(Lease, Lessor), KeyServerFailure> {
        let lessor = Lessor::new(self);
        let lease = lessor.0.leases.take(deadline).await?;
        Ok((lease, lessor))
    }

    /// Leases at hand.
    pub(super) fn leases(&self) -> usize {
        self.leases.len()
    }

    /// Waits until a batch of leases is wanted, and asks for it.
    pub(super) async fn lease_batch(self: &Arc<Self>) -> Result<(), KeyServerFailure> {
        let count = self.leases.batch_wanted().await;
        let outcome = self.ask_for_leases(count, Instant::now() + LEASE_TIMEOUT).await;
        let batch = outcome.and_then(|outcome| answer::leases(outcome, count));
        self.leases.add(batch.inspect_err(|failure| self.leases.fail(*failure))?);
        Ok(())
    }

    /// Has a place of its own beside the requests in flight, however many they are: the handshakes that wait for it hold
    /// none, and those that hold one do not get on faster for its waiting.
    async fn ask_for_leases(self: &Arc<Self>, count: u32, deadline: Instant) -> Result<Outcome, KeyServerFailure> {
        let (id, answer) = self.pending.insert_beyond_limit()?;
        let waiting = Waiting { stream: self.clone(), id };
        let request = waiting.request(Operation::LeaseRandoms(v1::LeaseRandomsRequest { count }), deadline)?;
        let answered = async {
            self.requests.send(request).await.map_err(|_closed| KeyServerFailure::Unreachable)?;
            answer.await.map_err(|_lost| KeyServerFailure::Unreachable)
        };
        timeout_at(deadline, answered).await.unwrap_or(Err(KeyServerFailure::NoAnswer))
    }

    /// The key server is about to stop.
    pub(super) fn drain(&self) {
        self.draining.cancel();
    }

    /// The key server says that it serves, or that it does not.
    pub(super) fn serve(&self, serving: bool) {
        if self.serving.swap(serving, Ordering::Relaxed) != serving {
            let (key_server, address) = (&self.peer.server, self.peer.address);
            tracing::info!(%key_server, %address, link = self.link, serving, "the key server tells of its health");
        }
    }

    /// Whether others should be asked: the key server is about to stop, or says that it does not serve.
    pub(super) fn is_avoided(&self) -> bool {
        self.draining.is_cancelled() || !self.serving.load(Ordering::Relaxed)
    }

    /// Waits until the key server is about to stop and owes nothing.
    pub(super) async fn drained(&self) {
        self.draining.cancelled().await;
        while self.pending.len() > 0 || self.lessees.load(Ordering::Relaxed) > 0 {
            sleep(DRAIN_STEP).await;
        }
    }

    /// The connection is lost, and with it every answer and every lease.
    pub(super) fn close(&self) {
        self.pending.close();
        self.leases.close();
    }
}

/// For a batch, which costs a key server next to nothing. Less than handshakes may wait, so that one that is lost is asked
/// for again before they fail.
const LEASE_TIMEOUT: Duration = Duration::from_millis(500);
/// Pause between two looks at whether a key server that is about to stop owes an answer.
const DRAIN_STEP: Duration = Duration::from_millis(20);

/// Who leased a random, and alone can recover the master secret of the handshake that was given it.
#[derive(Debug)]
pub struct Lessor(Arc<RequestStream>);

impl Lessor {
    fn new(stream: Arc<RequestStream>) -> Self {
        stream.lessees.fetch_add(1, Ordering::Relaxed);
        Self(stream)
    }

    /// The stream to ask on.
    pub(super) fn stream(&self) -> &Arc<RequestStream> {
        &self.0
    }
}

impl Drop for Lessor {
    fn drop(&mut self) {
        self.0.lessees.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An answer that is waited for. Dropped, nobody waits for it.
#[derive(Debug)]
pub(super) struct Awaited {
    answer: oneshot::Receiver<Outcome>,
    _waiting: Waiting,
}

impl Future for Awaited {
    type Output = Result<Outcome, Fault>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answered = ready!(Pin::new(&mut self.answer).poll(cx));
        Poll::Ready(answered.map_err(|_lost| Fault::Unreachable))
    }
}

/// A request that waits for its answer; when dropped, its place is free again.
#[derive(Debug)]
struct Waiting {
    stream: Arc<RequestStream>,
    id: u64,
}

impl Waiting {
    fn request(&self, operation: Operation, deadline: Instant) -> Result<v1::ExchangeRequest, KeyServerFailure> {
        let left = deadline.saturating_duration_since(Instant::now()).as_millis();
        // 0 would leave the limit to the key server.
        let timeout_ms = u32::try_from(left).unwrap_or(u32::MAX).max(1);
        let mut request =
            v1::ExchangeRequest { id: self.id, timeout_ms, operation: Some(operation), padding: Vec::new() };
        request.pad();
        // It would end the stream, and every other request with it.
        if request.encoded_len() > MAX_REQUEST {
            return Err(KeyServerFailure::Refused);
        }
        Ok(request)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.stream.pending.forget(self.id);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::key_client::peer::tests::{address, server};

    #[tokio::test]
    async fn a_batch_of_leases_needs_no_place_among_the_requests() {
        let (requests, mut sent) = mpsc::channel(1);
        let peer = server(0, 0..1).peer(address(1));
        let stream = Arc::new(RequestStream::new((peer, 0), requests, 1, LeaseTelemetry::default()));
        let soon = Instant::now() + Duration::from_secs(5);
        let ask = || stream.ask(Operation::SignServerKeyExchange(v1::SignServerKeyExchangeRequest::default()), soon);
        stream.keep_leases(true);
        let key_server = async {
            // The one place and all room on the way are taken when the batch is asked for.
            tokio::task::yield_now().await;
            assert_eq!(ask().await.unwrap_err(), Fault::NoPlace);
            let first = sent.recv().await.unwrap();
            let batch = sent.recv().await.unwrap();
            assert!(matches!(batch.operation, Some(Operation::LeaseRandoms(_))));
            let lease = v1::Lease { server_random: vec![1; 32], token: vec![2; 32] };
            stream.answer(batch.id, Outcome::LeaseRandoms(v1::LeaseRandomsReply { leases: vec![lease; 3] }));
            tokio::task::yield_now().await;
            stream.answer(first.id, Outcome::Refusal(v1::Refusal::default()));
        };
        let (asked, leased, ()) = tokio::join!(ask(), stream.lease_batch(), key_server);
        assert!(asked.is_ok());
        assert_eq!((leased, stream.leases()), (Ok(()), 3));
    }
}
