//! Which key server to ask: the less busy of two drawn at random among the best.

use std::sync::Arc;

use keystead_tls::KeyId;
use tokio::time::Instant;

use super::breaker::Status;
use super::held::{Holding, Need};
use super::key_state::KeyState;
use super::link::Link;
use super::stream::RequestStream;

/// Whether a link is fit for requests for one key. The least is the best one to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fitness {
    /// Nothing speaks against it.
    Good,
    /// The key server still answers, but would rather not.
    Avoided,
    /// The key fails there.
    BreakerOpen,
    /// The key server fails.
    Ejected,
    /// As many requests for the key are under way on it as one key may have.
    Full,
}

/// A link as it is at this moment, for somebody with a need.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    /// Whether the key server has what is needed.
    pub(super) holding: Holding,
    pub(super) fitness: Fitness,
    /// What fails there may be tried again by one request, from when on it may.
    pub(super) due_since: Option<Instant>,
    /// The peer's.
    pub(super) slot: usize,
    /// Requests without an answer.
    pub(super) in_flight: usize,
    /// Leases at hand.
    pub(super) leases: usize,
}

impl View {
    /// Of a link whose stream of requests this is.
    pub(super) fn of(stream: &RequestStream, need: Need, key: &KeyState, now: Instant) -> Self {
        let slot = stream.peer.slot;
        let server = stream.peer.breaker.status(now);
        let at_server = key.known_at(slot).map_or(Status::Closed, |key| key.breaker.status(now));
        let fitness = match (server, at_server) {
            _ if !key.has_place(stream.link) => Fitness::Full,
            (Status::Open | Status::Due { .. }, _) => Fitness::Ejected,
            (Status::Closed, Status::Open | Status::Due { .. }) => Fitness::BreakerOpen,
            (Status::Closed, Status::Closed) if stream.is_avoided() => Fitness::Avoided,
            (Status::Closed, Status::Closed) => Fitness::Good,
        };
        let due_since = match (server, at_server) {
            (Status::Due { since }, Status::Closed) | (Status::Closed, Status::Due { since }) => Some(since),
            (Status::Due { since }, Status::Due { since: other }) => Some(since.max(other)),
            (Status::Open, _) | (_, Status::Open) | (Status::Closed, Status::Closed) => None,
        };
        Self {
            holding: stream.holding(need),
            fitness,
            due_since: due_since.filter(|_| fitness != Fitness::Full && !stream.is_avoided()),
            slot,
            in_flight: stream.in_flight(),
            leases: stream.leases(),
        }
    }
}

/// What a link is chosen for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The first try. Who does not hold the key is asked only where nobody does, to have a reason for the refusal.
    First,
    /// A second opinion while the first try is under way: only of another key server, and only where nothing speaks
    /// against it.
    Hedge,
    /// Another try: of another key server, or once on another connection to the only one.
    Retry,
}

/// What is wanted of a link, and who was asked before.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub(super) key_id: KeyId,
    pub(super) key: &'a KeyState,
    pub(super) purpose: Purpose,
    /// Number of the link and slot of the peer, of each try before.
    pub(super) asked: &'a [(usize, usize)],
    pub(super) now: Instant,
}

/// A link to ask on.
#[derive(Debug)]
pub(super) struct Chosen<'l> {
    pub(super) link: &'l Arc<Link>,
    /// Whether the request tells if all is well again there.
    pub(super) is_probe: bool,
}

/// How much speaks against a link. The least is the best.
type Class = (Holding, bool, Fitness);

/// The link to ask on, if there is any. What has failed and may be tried again is tried by a first request, if there is a good
/// link to ask on meanwhile.
pub(super) fn choose<'l>(links: &'l [Arc<Link>], wanted: &Wanted<'_>) -> Option<Chosen<'l>> {
    let mut pair = Pair::default();
    let mut due = None;
    for link in links.iter().filter(|link| wanted.asked.iter().all(|(asked, _)| *asked != link.number)) {
        let Some(view) = link.view(Need::Signing(wanted.key_id), wanted.key, wanted.now) else { continue };
        let Some(class) = wanted.class(&view) else { continue };
        if view.due_since.is_some() && view.holding == Holding::Held && wanted.purpose == Purpose::First {
            due.get_or_insert((link, view.slot));
        }
        pair.add(class, Candidate { link, view });
    }
    if let Some((link, slot)) = due.filter(|_| pair.is_good())
        && wanted.probe(link, slot)
    {
        return Some(Chosen { link, is_probe: true });
    }
    Some(Chosen { link: pair.less_busy(wanted)?, is_probe: false })
}

impl Wanted<'_> {
    /// `None` for a link that is not to be asked on at all.
    fn class(&self, view: &View) -> Option<Class> {
        let was_asked = self.asked.iter().any(|(_, slot)| *slot == view.slot);
        let is_possible = match self.purpose {
            Purpose::First => true,
            Purpose::Hedge => !was_asked && view.holding == Holding::Held && view.fitness <= Fitness::Avoided,
            Purpose::Retry => view.holding != Holding::NotHeld && (!was_asked || self.asked.len() == 1),
        };
        is_possible.then_some((view.holding, was_asked, view.fitness))
    }

    /// Whether this request is the one that tells if all is well again: of the key server, and of the key there.
    fn probe(&self, link: &Link, slot: usize) -> bool {
        let Ok(stream) = link.stream() else { return false };
        let of_server = stream.peer.breaker.is_open().then(|| stream.peer.breaker.probe(self.now));
        let key = self.key.known_at(slot).filter(|key| key.breaker.is_open());
        let of_key = key.map(|key| key.breaker.probe(self.now));
        of_server.unwrap_or(true) && of_key.unwrap_or(true)
    }
}

#[derive(Clone, Copy)]
struct Candidate<'l> {
    link: &'l Arc<Link>,
    view: View,
}

impl Candidate<'_> {
    /// How long a request would wait here, as far as can be told.
    fn cost(&self, wanted: &Wanted<'_>) -> Option<f64> {
        let seconds = wanted.key.known_at(self.view.slot)?.seconds(wanted.now)?;
        Some(seconds * (self.view.in_flight + 1) as f64)
    }
}

/// Two links of the best class that was seen, of different peers where there are two, each pair of peers as likely as any other.
#[derive(Default)]
struct Pair<'l> {
    class: Option<Class>,
    one: Option<Candidate<'l>>,
    two: Option<Candidate<'l>>,
    /// Peers of this class that were seen.
    peers: usize,
}

impl<'l> Pair<'l> {
    fn add(&mut self, class: Class, candidate: Candidate<'l>) {
        match self.class {
            Some(best) if best < class => return,
            Some(best) if best == class => {}
            Some(_) | None => *self = Self { class: Some(class), ..Self::default() },
        }
        for slot in [&mut self.one, &mut self.two] {
            match slot {
                Some(other) if other.view.slot == candidate.view.slot => {
                    let is_less = candidate.view.in_flight < other.view.in_flight;
                    // Connections that have as little to do take turns.
                    if is_less || (candidate.view.in_flight == other.view.in_flight && rand::random()) {
                        *other = candidate;
                    }
                    return;
                }
                Some(_) => {}
                None => {
                    *slot = Some(candidate);
                    self.peers += 1;
                    return;
                }
            }
        }
        // Connections to one peer follow one another.
        self.peers += 1;
        match rand::random_range(0..self.peers) {
            0 => self.one = Some(candidate),
            1 => self.two = Some(candidate),
            _ => {}
        }
    }

    fn is_good(&self) -> bool {
        matches!(self.class, Some((Holding::Held, _, Fitness::Good)))
    }

    fn less_busy(self, wanted: &Wanted<'_>) -> Option<&'l Arc<Link>> {
        let one = self.one?;
        let Some(two) = self.two else { return Some(one.link) };
        let (cost_one, cost_two) = match (one.cost(wanted), two.cost(wanted)) {
            (Some(one), Some(two)) => (one, two),
            // Where one was not measured, both count by what they have to do.
            (Some(_) | None, Some(_) | None) => (one.view.in_flight as f64, two.view.in_flight as f64),
        };
        let takes_one = if cost_one == cost_two { rand::random() } else { cost_one < cost_two };
        Some(if takes_one { one.link } else { two.link })
    }
}
