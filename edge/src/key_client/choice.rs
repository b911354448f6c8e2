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
        pair.add(class, (link, view));
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

/// How long a request would wait there, as far as can be told.
fn cost(view: &View, wanted: &Wanted<'_>) -> Option<f64> {
    let seconds = wanted.key.known_at(view.slot)?.seconds(wanted.now)?;
    Some(seconds * (view.in_flight + 1) as f64)
}

/// Two links of the best class that was seen, of different peers where there are two, each pair of peers as likely as any other.
struct Pair<L> {
    class: Option<Class>,
    one: Option<(L, View)>,
    two: Option<(L, View)>,
    /// Peers of this class that were seen.
    peers: usize,
    /// The slot of the last of them.
    last: Option<usize>,
}

impl<L> Default for Pair<L> {
    fn default() -> Self {
        Self { class: None, one: None, two: None, peers: 0, last: None }
    }
}

impl<L> Pair<L> {
    fn add(&mut self, class: Class, (link, view): (L, View)) {
        match self.class {
            Some(best) if best < class => return,
            Some(best) if best == class => {}
            Some(_) | None => *self = Self { class: Some(class), ..Self::default() },
        }
        for place in [&mut self.one, &mut self.two] {
            match place {
                Some((_, other)) if other.slot == view.slot => {
                    let is_less = view.in_flight < other.in_flight;
                    // Connections that have as little to do take turns.
                    if is_less || (view.in_flight == other.in_flight && rand::random()) {
                        *place = Some((link, view));
                    }
                    return;
                }
                Some(_) => {}
                None => {
                    *place = Some((link, view));
                    self.peers += 1;
                    return;
                }
            }
        }
        // Connections to one peer follow one another: it was drawn for already, and lost.
        if self.last.replace(view.slot) == Some(view.slot) {
            return;
        }
        self.peers += 1;
        match rand::random_range(0..self.peers) {
            0 => self.one = Some((link, view)),
            1 => self.two = Some((link, view)),
            _ => {}
        }
    }

    fn is_good(&self) -> bool {
        matches!(self.class, Some((Holding::Held, _, Fitness::Good)))
    }

    fn less_busy(self, wanted: &Wanted<'_>) -> Option<L> {
        let (one, view_one) = self.one?;
        let Some((two, view_two)) = self.two else { return Some(one) };
        let (cost_one, cost_two) = match (cost(&view_one, wanted), cost(&view_two, wanted)) {
            (Some(one), Some(two)) => (one, two),
            // Where one was not measured, both count by what they have to do.
            (Some(_) | None, Some(_) | None) => (view_one.in_flight as f64, view_two.in_flight as f64),
        };
        let takes_one = if cost_one == cost_two { rand::random() } else { cost_one < cost_two };
        Some(if takes_one { one } else { two })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::time::Duration;

    use super::*;
    use crate::key_client::breaker::{Breaker, Failed, Weight};
    use crate::key_client::held::HeldKeys;
    use crate::key_client::key_state::tests::states;
    use crate::key_client::peer::tests::{address, server};
    use crate::telemetry::LeaseTelemetry;
    use keystead_proto::v1;
    use tokio::sync::mpsc;

    const KEY: KeyId = KeyId([1; 32]);

    fn key() -> Arc<KeyState> {
        states().0.of(KEY)
    }

    fn wanted(key: &KeyState, purpose: Purpose) -> Wanted<'_> {
        Wanted { key_id: KEY, key, purpose, asked: &[], now: Instant::now() }
    }

    fn view(slot: usize, in_flight: usize) -> View {
        View { holding: Holding::Held, fitness: Fitness::Good, due_since: None, slot, in_flight, leases: 0 }
    }

    /// The slot and the load of what is chosen, of links that are alike in all else.
    fn chosen(views: &[View], wanted: &Wanted<'_>) -> Option<(usize, usize)> {
        let mut pair = Pair::default();
        for view in views {
            if let Some(class) = wanted.class(view) {
                pair.add(class, ((view.slot, view.in_flight), *view));
            }
        }
        pair.less_busy(wanted)
    }

    #[test]
    fn of_two_the_less_busy_is_asked() {
        let key = key();
        let wanted = wanted(&key, Purpose::First);
        for _ in 0..100 {
            assert_eq!(chosen(&[view(0, 3), view(0, 1), view(1, 5), view(1, 2)], &wanted), Some((0, 1)));
        }
        assert_eq!(chosen(&[], &wanted), None);
    }

    #[test]
    fn the_busiest_of_three_is_never_asked_and_the_other_two_are() {
        let key = key();
        let wanted = wanted(&key, Purpose::First);
        let views = [view(0, 1), view(0, 1), view(1, 9), view(1, 9), view(2, 0), view(2, 0)];
        let mut asked = [0; 3];
        for _ in 0..3000 {
            let (slot, _) = chosen(&views, &wanted).unwrap();
            *asked.get_mut(slot).unwrap() += 1;
        }
        // Each pair is drawn in a third of the cases.
        assert_eq!(asked[1], 0);
        assert!((800..1200).contains(&asked[0]) && (1800..2200).contains(&asked[2]), "{asked:?}");
    }

    #[test]
    fn what_a_request_costs_there_counts_and_not_the_number_alone() {
        let key = key();
        key.at(0).unwrap().record(Duration::from_millis(1), Instant::now());
        key.at(1).unwrap().record(Duration::from_millis(50), Instant::now());
        let wanted = wanted(&key, Purpose::First);
        assert_eq!(chosen(&[view(0, 8), view(1, 0)], &wanted), Some((0, 8)));
        // The third was not measured.
        assert_eq!(chosen(&[view(0, 8), view(2, 0)], &wanted), Some((2, 0)));
    }

    #[test]
    fn each_thing_that_speaks_against_a_link_weighs_more_than_the_one_before() {
        let key = key();
        let fit = |fitness, slot| View { fitness, ..view(slot, 0) };
        let ranks = [Fitness::Good, Fitness::Avoided, Fitness::BreakerOpen, Fitness::Ejected, Fitness::Full];
        let views: Vec<_> = ranks.into_iter().enumerate().map(|(slot, fitness)| fit(fitness, slot)).collect();
        for best in 0..views.len() {
            let left = views.get(best..).unwrap();
            assert_eq!(chosen(left, &wanted(&key, Purpose::First)), Some((best, 0)));
            let hedged = (best < 2).then_some((best, 0));
            assert_eq!(chosen(left, &wanted(&key, Purpose::Hedge)), hedged, "nobody is hedged to who fails");
        }
        let holds = |holding, slot| View { holding, ..view(slot, 0) };
        let ejected = fit(Fitness::Ejected, 2);
        let views = [holds(Holding::NotHeld, 0), holds(Holding::NotTold, 1), ejected];
        assert_eq!(chosen(&views, &wanted(&key, Purpose::First)), Some((2, 0)));
        assert_eq!(chosen(&views[..1], &wanted(&key, Purpose::First)), Some((0, 0)));
        assert_eq!(chosen(&views[..1], &wanted(&key, Purpose::Retry)), None);
        assert_eq!(chosen(&views[1..2], &wanted(&key, Purpose::Hedge)), None);
    }

    #[test]
    fn other_key_servers_are_tried_and_the_only_one_once_more() {
        let key = key();
        let again = |asked, purpose| Wanted { asked, ..wanted(&key, purpose) };
        let views = [view(0, 0), view(1, 9)];
        assert_eq!(chosen(&views, &again(&[(0, 0)], Purpose::Retry)), Some((1, 9)));
        assert_eq!(chosen(&views[..1], &again(&[(0, 0)], Purpose::Retry)), Some((0, 0)));
        assert_eq!(chosen(&views[..1], &again(&[(0, 0)], Purpose::Hedge)), None);
        assert_eq!(chosen(&views[..1], &again(&[(0, 0), (1, 0)], Purpose::Retry)), None);
    }

    fn stream(peer: usize) -> RequestStream {
        let (requests, _) = mpsc::channel(1);
        let peer = server(0, peer..peer + 1).peer(address(1));
        let stream = RequestStream::new((peer, 0), requests, 8, LeaseTelemetry::default());
        let identity = v1::Identity { key_id: KEY.0.to_vec(), ..v1::Identity::default() };
        stream.hold(HeldKeys::read(&v1::Identities { identities: vec![identity] }));
        stream
    }

    fn open(breaker: &Breaker, now: Instant) {
        let last = (0..3).map(|_| breaker.failed(Weight::Full, now, now, u32::MAX)).last();
        assert_eq!(last, Some(Failed::Opened(Duration::from_secs(1))));
        assert!(breaker.is_open());
    }

    #[test]
    fn a_link_is_as_fit_as_what_is_known_says() {
        let (key, stream, now) = (key(), stream(1), Instant::now());
        let view_at = |now| View::of(&stream, Need::Signing(KEY), &key, now);
        let view = || view_at(now);
        assert_eq!((view().holding, view().fitness, view().slot), (Holding::Held, Fitness::Good, 1));
        stream.serve(false);
        assert_eq!(view().fitness, Fitness::Avoided);
        stream.serve(true);
        assert_eq!(view().fitness, Fitness::Good);
        open(&key.at(1).unwrap().breaker, now);
        assert_eq!((view().fitness, view().due_since), (Fitness::BreakerOpen, None));
        open(&stream.peer.breaker, now);
        assert_eq!(view().fitness, Fitness::Ejected);
        let due = now + Duration::from_secs(1);
        assert_eq!((view_at(due).fitness, view_at(due).due_since), (Fitness::Ejected, Some(due)));
        let _places = [key.place(0), key.place(0)];
        assert_eq!((view_at(due).fitness, view_at(due).due_since), (Fitness::Full, None));
    }
}
