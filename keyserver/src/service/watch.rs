//! What an edge may serve and what its tickets are sealed under, now and at every change, and the notice that the key
//! server is about to stop.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use keystead_program::channel::PeerIdentity;
use keystead_program::share::Share;
use keystead_proto::v1;
use tokio::sync::watch::Receiver;
use tokio_stream::Stream;
use tonic::Status;

use super::message::Told;
use super::{Peer, Stopping, message};
use crate::refusal::Refusal;
use crate::ticket_keys::ratchet::{Ratchet, UnixTime};

type Event = Result<v1::WatchEvent, Status>;

/// The events of one call.
pub struct Watch(Pin<Box<dyn Stream<Item = Event> + Send>>);

impl Watch {
    /// `takes_changes`: whether the edge understands them.
    pub(super) fn new(
        (peer, share): (Peer, Share<PeerIdentity>),
        takes_changes: bool,
        tickets: Option<Receiver<Arc<Ratchet>>>,
        stopping: &Stopping,
    ) -> Self {
        let (stopping, next) = (stopping.clone(), Next::Identities);
        let state = State { peer, takes_changes, told: None, tickets, stopping, next, _share: share };
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
    takes_changes: bool,
    /// What the edge was told last of its keys.
    told: Option<HashMap<Arc<str>, Told>>,
    /// `None` where tickets are off.
    tickets: Option<Receiver<Arc<Ratchet>>>,
    stopping: Stopping,
    next: Next,
    _share: Share<PeerIdentity>,
}

/// What the edge has to be told.
enum Next {
    /// All that it may serve, at once.
    Identities,
    /// What its tickets are sealed under, at once.
    TicketKeys,
    /// Whatever happens next.
    Change,
    /// Nothing: the stream is at its end.
    Nothing,
}

impl State {
    async fn event(self) -> Option<(Event, Self)> {
        match self.next {
            Next::Identities => Some(self.identities()),
            Next::TicketKeys => Some(self.ticket_keys()),
            Next::Change => Some(self.change().await),
            Next::Nothing => None,
        }
    }

    fn identities(mut self) -> (Event, Self) {
        let rights = match self.peer.rights() {
            Ok(rights) => rights,
            Err(reason) => return self.refused(reason),
        };
        let now = UnixTime::now();
        let after = Told::of(&rights, now);
        let event = match self.told.filter(|_| self.takes_changes) {
            Some(before) => message::identity_changes(&before, &after, &rights, now),
            None => Some(message::identities(&rights, now)),
        };
        self.told = Some(after);
        match event {
            // What changes an edge's rights may change its group.
            Some(event) => (Ok(event), Self { next: Next::TicketKeys, ..self }),
            None => self.ticket_keys(),
        }
    }

    /// Without tickets there are no keys, which the edge is told too: it may have heard of some before.
    fn ticket_keys(mut self) -> (Event, Self) {
        // Keys go with the identities that were told before them: both are of one table.
        if self.peer.has_changed() {
            return self.identities();
        }
        let group = match self.peer.rights() {
            Ok(rights) => rights.ticket_group.clone(),
            Err(reason) => return self.refused(reason),
        };
        let ratchet = self.tickets.as_mut().map(|tickets| tickets.borrow_and_update().clone());
        let keys = ratchet.map(|ratchet| ratchet.keys(&group, UnixTime::now()));
        (Ok(message::ticket_keys(keys.into_iter().flatten())), Self { next: Next::Change, ..self })
    }

    fn refused(self, reason: Refusal) -> (Event, Self) {
        (Err(reason.into()), Self { next: Next::Nothing, ..self })
    }

    async fn change(mut self) -> (Event, Self) {
        tokio::select! {
            biased;
            () = self.stopping.drain.cancelled() => (Ok(message::drain()), Self { next: Next::Nothing, ..self }),
            () = self.peer.change() => self.identities(),
            () = rotation(&mut self.tickets) => self.ticket_keys(),
        }
    }
}

/// Waits until the ticket keys are others.
async fn rotation(tickets: &mut Option<Receiver<Arc<Ratchet>>>) {
    let Some(tickets) = tickets else { return std::future::pending().await };
    if tickets.changed().await.is_err() {
        // The ratchet is turned no more: the process ends.
        std::future::pending::<()>().await;
    }
}
