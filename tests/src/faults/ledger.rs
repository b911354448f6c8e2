//! What every client has left behind.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How a client comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A full handshake with the RSA key.
    FullRsa,
    /// A full handshake with the P-256 key.
    FullP256,
    /// With a ticket, once it has one, at either edge.
    Ticket,
    /// With a session id, once it has one, at the edge that gave it.
    Id,
}

impl Kind {
    pub(super) const ALL: [Self; 4] = [Self::FullRsa, Self::FullP256, Self::Ticket, Self::Id];
}

/// One handshake, and the few bytes behind it.
#[derive(Clone, Debug)]
pub(super) struct Visit {
    /// When the client connected.
    pub(super) began: Instant,
    /// When it left.
    pub(super) ended: Instant,
    /// Which edge it met last.
    pub(super) edge: usize,
    /// Whether its first edge refused the connection and it went to the other, as behind a balancer.
    pub(super) elsewhere: bool,
    /// How long the handshake took and whether it resumed, or why there was none.
    pub(super) handshake: Result<Greeted, &'static str>,
    /// What became of its bytes.
    pub(super) bytes: Bytes,
}

/// A handshake that completed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Greeted {
    /// From the first connection attempt to the end of the handshake.
    pub(super) latency: Duration,
    pub(super) resumed: bool,
}

/// Application data of one connection, there and back.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bytes {
    /// Handed to TLS.
    pub(super) sent: u64,
    /// Come back as they were sent, up to the first that was not.
    pub(super) echoed: u64,
    /// Whether something else came back than was sent.
    pub(super) altered: bool,
    /// Why the connection ended before everything was back.
    pub(super) broken: Option<&'static str>,
}

/// An edge that was killed on purpose, with the connections that it held. A key server takes none along when it is killed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kill {
    /// Before and after it was done.
    pub(super) from: Instant,
    pub(super) to: Instant,
    pub(super) edge: usize,
}

impl Kill {
    /// Does it, and remembers when.
    pub(super) fn by<E>(edge: usize, action: impl FnOnce() -> Result<(), E>) -> Result<Self, E> {
        let from = Instant::now();
        action()?;
        Ok(Self { from, to: Instant::now(), edge })
    }
}

impl Visit {
    /// Whether its edge was killed meanwhile.
    pub(super) fn lost_its_edge(&self, kills: &[Kill]) -> bool {
        kills.iter().any(|kill| kill.edge == self.edge && self.began <= kill.to && kill.from <= self.ended)
    }
}

/// Everything that happened.
#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    next: u64,
    under_way: BTreeMap<u64, Instant>,
    visits: Vec<Visit>,
}

impl Ledger {
    /// A client sets out. It is to be closed with [`Self::leave`].
    pub(super) fn enter(&self, began: Instant) -> u64 {
        let mut book = self.book();
        book.next += 1;
        let number = book.next;
        book.under_way.insert(number, began);
        number
    }

    /// A client is done.
    pub(super) fn leave(&self, number: u64, visit: Visit) {
        let mut book = self.book();
        book.under_way.remove(&number);
        book.visits.push(visit);
    }

    /// Waits until all that began before `end` are done, at most for `patience`. How many are not.
    pub(super) fn settle(&self, end: Instant, patience: Duration) -> usize {
        let deadline = Instant::now() + patience;
        loop {
            let open = self.book().under_way.values().filter(|began| **began < end).count();
            if open == 0 || Instant::now() > deadline {
                return open;
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// The visits that began in `window`: each is in one of windows that follow one another.
    pub(super) fn during(&self, window: &Range<Instant>) -> Vec<Visit> {
        self.book().visits.iter().filter(|visit| window.contains(&visit.began)).cloned().collect()
    }

    /// How long the handshakes that began in `window` took.
    pub(super) fn latencies(&self, window: &Range<Instant>) -> Vec<Duration> {
        self.during(window).iter().filter_map(|visit| Some(visit.handshake.ok()?.latency)).collect()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
