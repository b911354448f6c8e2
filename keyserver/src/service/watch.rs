//! What an edge may serve, now and at every change, and the notice that the key server is about to stop.

use std::pin::Pin;
use std::task::{Context, Poll};

use keystead_proto::v1;
use tokio_stream::Stream;
use tonic::Status;

use super::{Peer, Stopping, message};
use crate::refusal::Refusal;

type Event = Result<v1::WatchEvent, Status>;

/// The events of one call.
pub struct Watch(Pin<Box<dyn Stream<Item = Event> + Send>>);

impl Watch {
    pub(super) fn new(peer: Peer, stopping: &Stopping) -> Self {
        let state = State { peer, stopping: stopping.clone(), next: Next::Identities };
        tracing::info!(peer = %state.peer.identity, "watch opened");
        Self(Box::pin(futures_util::stream::unfold(state, State::event)))
    }
}

impl Stream for Watch {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.0.as_mut().poll_next(cx)
    }
}

struct State {
    peer: Peer,
    stopping: Stopping,
    next: Next,
}

/// What the edge has to be told.
enum Next {
    /// All that it may serve, at once.
    Identities,
    /// Whatever happens next.
    Change,
    /// Nothing: the stream is at its end.
    Nothing,
}

impl State {
    async fn event(self) -> Option<(Event, Self)> {
        match self.next {
            Next::Identities => Some(self.identities()),
            Next::Change => Some(self.change().await),
            Next::Nothing => None,
        }
    }

    fn identities(mut self) -> (Event, Self) {
        match self.peer.keys() {
            Some(keys) => {
                let event = message::identities(keys);
                (Ok(event), Self { next: Next::Change, ..self })
            }
            None => (Err(Refusal::UnknownPeer.into()), Self { next: Next::Nothing, ..self }),
        }
    }

    async fn change(mut self) -> (Event, Self) {
        tokio::select! {
            biased;
            () = self.stopping.drain.cancelled() => (Ok(message::drain()), Self { next: Next::Nothing, ..self }),
            () = self.peer.change() => self.identities(),
        }
    }
}
