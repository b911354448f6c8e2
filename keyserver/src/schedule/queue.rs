//! What waits in one lane, and the threads that do it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

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
            let (shared, niceness, sleepers) = (queue.0.clone(), config.niceness, Sleepers::new(config.hold));
            std::thread::Builder::new().name(format!("{}-{number}", config.name)).spawn(move || {
                give_way(niceness);
                shared.work(sleepers);
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
    fn work(&self, mut sleepers: Sleepers) {
        // Seeded, and seeded again after every 64 KiB, by the system.
        let mut rng = rand::rng();
        while let Some((Waiting { since, task }, more)) = self.next(&mut sleepers) {
            self.metrics.queued.dec();
            let begun = Instant::now();
            self.metrics.waited.observe((begun - since).as_secs_f64());
            sleepers.wake_late(begun);
            if !task.is_wanted() {
                task.refuse(Refusal::CallerGone);
            } else if task.deadline() <= begun {
                task.refuse(Refusal::DeadlineExceeded);
            } else {
                // A task's panic is its own: the thread serves others.
                let done = catch_unwind(AssertUnwindSafe(|| task.run(&mut rng)));
                let took = begun.elapsed();
                self.metrics.worked.observe(took.as_secs_f64());
                match done {
                    Ok(Some(waker)) if more => sleepers.add(waker, begun + took, took),
                    Ok(Some(waker)) => sleepers.wake_one(waker),
                    Ok(None) => {}
                    Err(_) => tracing::error!("an operation panicked"),
                }
            }
        }
    }

    /// Waits for the next task, when all are awake that an outcome is there for; tells also whether more of its peer waits.
    /// `None` when there will be none.
    fn next(&self, sleepers: &mut Sleepers) -> Option<(Waiting<T>, bool)> {
        let mut state = self.state.lock();
        loop {
            if let Some(waiting) = state.turns.pop() {
                let more = state.turns.has(waiting.task.peer());
                return Some((waiting, more));
            }
            if !sleepers.wakers.is_empty() {
                MutexGuard::unlocked(&mut state, || sleepers.wake());
                continue;
            }
            if state.is_closed {
                return None;
            }
            self.changed.wait(&mut state);
        }
    }
}

/// Who has an outcome to fetch and does not know it yet: each is woken once for all that one thread has done for it.
#[derive(Debug)]
struct Sleepers {
    hold: Duration,
    wakers: Vec<Waker>,
    /// When the first of them is to be awake.
    until: Instant,
}

impl Sleepers {
    fn new(hold: Duration) -> Self {
        Self { hold, wakers: Vec::new(), until: Instant::now() }
    }

    /// Takes in who waits for what is done `now` and `took` that long. If the next would take as long and be too late, all
    /// are woken.
    fn add(&mut self, waker: Waker, now: Instant, took: Duration) {
        if self.wakers.is_empty() {
            self.until = now + self.hold;
        }
        if !self.wakers.iter().any(|other| other.will_wake(&waker)) {
            self.wakers.push(waker);
        }
        self.wake_late(now + took);
    }

    /// Wakes who has nothing more to wait for.
    fn wake_one(&mut self, waker: Waker) {
        self.wakers.retain(|other| !other.will_wake(&waker));
        waker.wake();
    }

    /// Wakes all, if one of them is to be awake by `now`.
    fn wake_late(&mut self, now: Instant) {
        if now >= self.until {
            self.wake();
        }
    }

    fn wake(&mut self) {
        self.wakers.drain(..).for_each(Waker::wake);
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
