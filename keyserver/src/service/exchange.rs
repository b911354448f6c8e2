//! The pipelined form of the operations: a stream of requests in, a stream of answers out, in the order in which they are
//! done.
//!
//! One task drives both directions. It reads requests while fewer than the bound are unanswered, so an edge that does
//! not read its answers is soon not read either, and an edge that waits reads answers as fast as they are made: tonic
//! writes as many of them at once as are ready.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use keystead_program::channel::PeerIdentity;
use keystead_program::share::Share;
use keystead_proto::v1;
use tokio_stream::Stream;
use tonic::{Status, Streaming};

use super::answer::{Answer, Outcome};
use super::answers::Answers;
use super::draft::Draft;
use super::{Desk, Peer, message, unread};
use crate::metrics::StreamGuard;
use crate::refusal::Refusal;

/// Why the key server ends a stream, when it does.
pub(super) type End = Pin<Box<dyn Future<Output = Refusal> + Send>>;

/// The answers of one stream; polling it also takes requests in.
pub struct Exchange {
    desk: Arc<Desk>,
    peer: Peer,
    /// `None` once the edge will send no more.
    requests: Option<Streaming<v1::ExchangeRequest>>,
    answers: Arc<Answers>,
    in_flight: usize,
    most_in_flight: usize,
    end: End,
    ended: bool,
    span: tracing::Span,
    _counted: StreamGuard,
    _share: Share<PeerIdentity>,
}

impl Exchange {
    pub(super) fn new(
        desk: Arc<Desk>,
        (peer, share): (Peer, Share<PeerIdentity>),
        requests: Streaming<v1::ExchangeRequest>,
        end: End,
        most_in_flight: usize,
    ) -> Self {
        let span = tracing::info_span!("exchange", peer = %peer.identity);
        tracing::info!(parent: &span, "opened");
        let counted = desk.metrics.stream();
        Self {
            desk,
            peer,
            requests: Some(requests),
            answers: Arc::default(),
            in_flight: 0,
            most_in_flight,
            end,
            ended: false,
            span,
            _counted: counted,
            _share: share,
        }
    }

    fn begin(&mut self, request: v1::ExchangeRequest) {
        let v1::ExchangeRequest { id, timeout_ms, operation, padding: _ } = request;
        self.in_flight += 1;
        let answer = Answer::exchange(self.desk.metrics.clone(), id, self.answers.clone());
        self.desk.begin(&mut self.peer, operation, timeout_ms, answer);
    }

    fn reply(&mut self, id: u64, outcome: Outcome) -> v1::ExchangeReply {
        self.in_flight -= 1;
        if let Err(reason) = &outcome {
            tracing::debug!(parent: &self.span, id, reason = reason.reason(), "request refused");
        }
        message::exchange_reply(id, outcome)
    }

    /// Takes in what requests are there; gives the error that ends the stream, if the edge or its connection made one.
    fn poll_requests(&mut self, cx: &mut Context<'_>) -> Result<(), Status> {
        while self.in_flight < self.most_in_flight {
            let Some(requests) = &mut self.requests else {
                return Ok(());
            };
            match Pin::new(requests).poll_next(cx) {
                Poll::Ready(Some(request)) => self.begin(request?),
                Poll::Ready(None) => self.requests = None,
                Poll::Pending => return Ok(()),
            }
        }
        Ok(())
    }

    fn finish(&mut self, error: Option<Status>) -> Poll<Option<Result<v1::ExchangeReply, Status>>> {
        self.ended = true;
        Poll::Ready(error.map(Err))
    }
}

impl Stream for Exchange {
    type Item = Result<v1::ExchangeReply, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let exchange = &mut *self;
        if exchange.ended {
            return Poll::Ready(None);
        }
        // Requests first, so that the threads have work while answers are written.
        if let Err(status) = exchange.poll_requests(cx) {
            tracing::debug!(parent: &exchange.span, %status, "broken");
            if unread::is_the_peers(&status) {
                exchange.desk.unread(Draft::call(&exchange.peer, unread::NOTHING));
            }
            return exchange.finish(Some(status));
        }
        // Found out by a request: an edge that never stops asking is not served until it does.
        if let Err(reason) = exchange.peer.rights {
            return exchange.finish(Some(reason.into()));
        }
        if let Poll::Ready((id, outcome)) = exchange.answers.poll_take(cx) {
            return Poll::Ready(Some(Ok(exchange.reply(id, outcome))));
        }
        if exchange.requests.is_none() && exchange.in_flight == 0 {
            return exchange.finish(None);
        }
        if let Poll::Ready(reason) = exchange.end.as_mut().poll(cx) {
            return exchange.finish(Some(reason.into()));
        }
        Poll::Pending
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.answers.close();
        tracing::info!(parent: &self.span, unanswered = self.in_flight, "closed");
    }
}
