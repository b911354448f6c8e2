//! Private operations run on threads of their own, never on the reactor.
//!
//! Each [`Lane`] has its own threads and its own bounded queue, so that a flood of expensive operations leaves the cheap
//! ones alone. Within a lane peers take turns: one that floods it waits behind itself, and is the one that is refused when
//! the lane is full. Threads take the next task as soon as they have done the last.

mod queue;
mod turns;

use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use keystead_program::channel::PeerIdentity;
use keystead_tls::KeyKind;
use rand_core::CryptoRng;

use crate::metrics::Metrics;
use crate::refusal::Refusal;
use queue::Queue;

/// How much processor time a private operation takes, in steps of magnitude.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::IntoStaticStr, strum::EnumIter)]
#[strum(serialize_all = "snake_case")]
pub enum CostClass {
    /// Elliptic curves: about 20 µs.
    Light,
    /// RSA up to 3072 bits: about 1 ms.
    Medium,
    /// Longer RSA: 5 ms and more.
    Heavy,
}

impl CostClass {
    /// The class of operations with keys of this kind.
    pub fn of(kind: KeyKind) -> Self {
        match kind {
            KeyKind::EcdsaP256 | KeyKind::EcdsaP384 | KeyKind::Ed25519 => Self::Light,
            KeyKind::Rsa { bits } if bits <= 3072 => Self::Medium,
            KeyKind::Rsa { .. } => Self::Heavy,
        }
    }
}

/// One of the lanes that a [`Scheduler`] was started with, by its place in their list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lane(usize);

impl Lane {
    /// The lane of the operations of `class` that this machine's processors do.
    pub const fn of(class: CostClass) -> Self {
        match class {
            CostClass::Light => Self(0),
            CostClass::Medium => Self(1),
            CostClass::Heavy => Self(2),
        }
    }

    /// The lane of what a token does, by the token's place in the list of tokens, from 0. A token has one of its own, so
    /// that a slow one keeps no other key waiting.
    pub const fn of_token(place: usize) -> Self {
        Self(3 + place)
    }
}

/// A lane to be. The first three are those of the cost classes, in their order; behind them come the tokens'.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneConfig {
    /// What metrics call it.
    pub name: Arc<str>,
    /// How many tasks it does at one time.
    pub threads: usize,
    /// Tasks that may wait.
    pub bound: usize,
    /// How much its threads give way to the process's others: what is added to its niceness, which ends at 19.
    pub niceness: u8,
    /// How long an outcome may be held back while more of its peer waits in the lane, so that several leave together.
    pub hold: Duration,
}

impl LaneConfig {
    /// The lane of a cost class. What takes long gives way to what does not: it loses little by it, and the others would
    /// lose much.
    pub fn of(class: CostClass, threads: usize, bound: usize) -> Self {
        let name: &'static str = class.into();
        let (niceness, hold) = match class {
            // Each is done before who waits for the last one is awake.
            CostClass::Light => (0, Duration::ZERO),
            // To wake somebody and send one message costs a fifth of such an operation.
            CostClass::Medium => (5, Duration::from_millis(2)),
            // Each takes as long as one may be held back.
            CostClass::Heavy => (10, Duration::ZERO),
        };
        Self { name: name.into(), threads, bound, niceness, hold }
    }
}

/// Something to do on a thread for operations. Exactly one of [`run`](Self::run) and [`refuse`](Self::refuse) is
/// called, once.
pub trait Task: Send + 'static {
    /// Where it waits.
    fn lane(&self) -> Lane;

    /// In whose turn.
    fn peer(&self) -> &PeerIdentity;

    /// When it need not be begun any more.
    fn deadline(&self) -> Instant;

    /// Whether anybody still waits for it.
    fn is_wanted(&self) -> bool;

    /// Does it, and puts the outcome where whoever waits for it will find it. Who that is must be woken then, soon.
    fn run(self, rng: &mut dyn CryptoRng) -> Option<Waker>;

    /// Answers that it will not be done.
    fn refuse(self, reason: Refusal);
}

/// The lanes, and the threads behind them. When it is dropped, what waits is still done, then the threads end.
#[derive(Debug)]
pub struct Scheduler<T> {
    lanes: Vec<Queue<T>>,
}

impl<T: Task> Scheduler<T> {
    /// Starts the threads of `lanes`.
    ///
    /// # Errors
    /// The system's, when a thread cannot be started.
    pub fn start(lanes: &[LaneConfig], metrics: &Metrics) -> std::io::Result<Self> {
        let start = |config: &LaneConfig| Queue::start(config, metrics.lane(&config.name));
        Ok(Self { lanes: lanes.iter().map(start).collect::<Result<_, _>>()? })
    }

    /// Queues `task`. When its lane is full, the newest task of the peer with the most waiting is refused at once.
    pub fn submit(&self, task: T) {
        match self.lanes.get(task.lane().0) {
            Some(lane) => lane.submit(task),
            // A key of a token that was not there at start.
            None => task.refuse(Refusal::NoLane),
        }
    }
}

#[cfg(test)]
mod tests;
