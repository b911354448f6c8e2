//! What waits in one lane, and the threads that do it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::turns::Turns;
use super::{LaneConfig, Task};
use crate::metrics::LaneMetrics;
use crate::refusal::Refusal;

/// The way into a lane. Its threads end when it is dropped, once nothing waits.
#[derive(Debug)]
pub(super) struct Queue<T>(Arc<Shared<T>>);

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    /// Something waits, or nothing more will.
    changed: Condvar,
    metrics: LaneMetrics,
}

#[derive(Debug)]
struct State<T> {
    turns: Turns<Waiting<T>>,
    is_closed: bool,
}

#[derive(Debug)]
struct Waiting<T> {
    since: Instant,
    task: T,
}

impl<T: Task> Queue<T> {
    pub(super) fn start(config: &LaneConfig, metrics: LaneMetrics) -> std::io::Result<Self> {
        let state = Mutex::new(State { turns: Turns::new(config.bound), is_closed: false });
        let queue = Self(Arc::new(Shared { state, changed: Condvar::new(), metrics }));
        for number in 0..config.threads {
            let (shared, niceness) = (queue.0.clone(), config.niceness);
            std::thread::Builder::new().name(format!("{}-{number}", config.name)).spawn(move || {
                give_way(niceness);
                shared.work();
            })?;
        }
        Ok(queue)
    }

    pub(super) fn submit(&self, task: T) {
        let Shared { state, changed, metrics } = &*self.0;
        let peer = task.peer().clone();
        // Counted first: the thread that takes the task counts down.
        metrics.queued.inc();
        let refused = state.lock().turns.push(&peer, Waiting { since: Instant::now(), task });
        // Costs one load where all threads are at work: each looks here again before it sleeps.
        changed.notify_one();
        if let Some(Waiting { task, .. }) = refused {
            metrics.queued.dec();
            task.refuse(Refusal::QueueFull);
        }
    }
}

impl<T> Drop for Queue<T> {
    fn drop(&mut self) {
        self.0.state.lock().is_closed = true;
        self.0.changed.notify_all();
    }
}

impl<T: Task> Shared<T> {
    fn work(&self) {
        // Seeded, and seeded again after every 64 KiB, by the system.
        let mut rng = rand::rng();
        while let Some(Waiting { since, task }) = self.next() {
            self.metrics.queued.dec();
            let begun = Instant::now();
            self.metrics.waited.observe((begun - since).as_secs_f64());
            if !task.is_wanted() {
                task.refuse(Refusal::CallerGone);
            } else if task.deadline() <= begun {
                task.refuse(Refusal::DeadlineExceeded);
            } else {
                // A task's panic is its own: the thread serves others.
                if catch_unwind(AssertUnwindSafe(|| task.run(&mut rng))).is_err() {
                    tracing::error!("an operation panicked");
                }
                self.metrics.worked.observe(begun.elapsed().as_secs_f64());
            }
        }
    }

    /// Waits for the next task; `None` when there will be none.
    fn next(&self) -> Option<Waiting<T>> {
        let mut state = self.state.lock();
        loop {
            if let Some(waiting) = state.turns.pop() {
                return Some(waiting);
            }
            if state.is_closed {
                return None;
            }
            self.changed.wait(&mut state);
        }
    }
}

/// Has the calling thread give way to others. POSIX means niceness for whole processes; Linux has one for each thread, and
/// the process "0" is the calling one (setpriority(2), "C library/kernel differences").
fn give_way(niceness: u8) {
    if niceness == 0 {
        return;
    }
    let own = rustix::process::getpriority_process(None);
    let given = own.and_then(|own| rustix::process::setpriority_process(None, own + i32::from(niceness)));
    if let Err(error) = given {
        tracing::warn!(niceness, %error, "long operations do not give way to short ones");
    }
}
