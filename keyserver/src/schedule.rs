//! Private operations run on threads of their own, never on the reactor.
//!
//! Each cost class has its own threads and its own bounded queue, so that a flood of expensive operations leaves the
//! cheap ones alone. A full queue refuses at once. Threads take the next task as soon as they have done the last.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, TrySendError};
use keystead_tls::KeyKind;
use rand_core::CryptoRng;

use crate::metrics::{ClassMetrics, Metrics};
use crate::refusal::Refusal;

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

/// Something to do on a thread for operations. Exactly one of [`run`](Self::run) and [`refuse`](Self::refuse) is
/// called, once.
pub trait Task: Send + 'static {
    /// Which queue it waits in.
    fn cost(&self) -> CostClass;

    /// When it need not be begun any more.
    fn deadline(&self) -> Instant;

    /// Whether anybody still waits for it.
    fn is_wanted(&self) -> bool;

    /// Does it.
    fn run(self, rng: &mut dyn CryptoRng);

    /// Answers that it will not be done.
    fn refuse(self, reason: Refusal);
}

/// How many threads and how long queues.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// Threads for each class.
    pub threads: usize,
    /// Tasks that may wait, by class.
    pub light: usize,
    /// See `light`.
    pub medium: usize,
    /// See `light`.
    pub heavy: usize,
}

/// The queues, and the threads behind them. When it is dropped, what waits is still done, then the threads end.
#[derive(Debug)]
pub struct Scheduler<T> {
    light: Queue<T>,
    medium: Queue<T>,
    heavy: Queue<T>,
}

impl<T: Task> Scheduler<T> {
    /// Starts the threads.
    ///
    /// # Errors
    /// The system's, when a thread cannot be started.
    pub fn start(capacity: Capacity, metrics: &Metrics) -> std::io::Result<Self> {
        let queue = |class, length| Queue::start(class, capacity.threads, length, metrics.class(class));
        Ok(Self {
            light: queue(CostClass::Light, capacity.light)?,
            medium: queue(CostClass::Medium, capacity.medium)?,
            heavy: queue(CostClass::Heavy, capacity.heavy)?,
        })
    }

    /// Queues `task`, or refuses it at once when the queue is full.
    pub fn submit(&self, task: T) {
        let queue = match task.cost() {
            CostClass::Light => &self.light,
            CostClass::Medium => &self.medium,
            CostClass::Heavy => &self.heavy,
        };
        queue.submit(task);
    }
}

#[derive(Debug)]
struct Queue<T> {
    tasks: Sender<Waiting<T>>,
    metrics: ClassMetrics,
}

#[derive(Debug)]
struct Waiting<T> {
    since: Instant,
    task: T,
}

impl<T: Task> Queue<T> {
    fn start(class: CostClass, threads: usize, length: usize, metrics: ClassMetrics) -> std::io::Result<Self> {
        let (tasks, waiting) = crossbeam_channel::bounded(length);
        let name: &'static str = class.into();
        for number in 0..threads {
            let (waiting, metrics) = (waiting.clone(), metrics.clone());
            std::thread::Builder::new()
                .name(format!("sign-{name}-{number}"))
                .spawn(move || work(&waiting, &metrics))?;
        }
        Ok(Self { tasks, metrics })
    }

    fn submit(&self, task: T) {
        // Counted first: the thread that takes the task counts down.
        self.metrics.queued.inc();
        let refused = match self.tasks.try_send(Waiting { since: Instant::now(), task }) {
            Ok(()) => return,
            Err(TrySendError::Full(waiting)) => (waiting.task, Refusal::QueueFull),
            Err(TrySendError::Disconnected(waiting)) => (waiting.task, Refusal::Stopping),
        };
        self.metrics.queued.dec();
        let (task, reason) = refused;
        task.refuse(reason);
    }
}

fn work<T: Task>(waiting: &Receiver<Waiting<T>>, metrics: &ClassMetrics) {
    // Seeded, and seeded again after every 64 KiB, by the system.
    let mut rng = rand::rng();
    for Waiting { since, task } in waiting {
        metrics.queued.dec();
        let begun = Instant::now();
        metrics.waited.observe((begun - since).as_secs_f64());
        if !task.is_wanted() {
            task.refuse(Refusal::CallerGone);
        } else if task.deadline() <= begun {
            task.refuse(Refusal::DeadlineExceeded);
        } else {
            // A task's panic is its own: the thread serves others.
            if catch_unwind(AssertUnwindSafe(|| task.run(&mut rng))).is_err() {
                tracing::error!("an operation panicked");
            }
            metrics.worked.observe(begun.elapsed().as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests;
