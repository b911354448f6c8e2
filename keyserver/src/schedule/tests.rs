#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use super::*;

const ONE_THREAD: Capacity = Capacity { threads: 1, light: 4, medium: 4, heavy: 4 };
const LONG: Duration = Duration::from_secs(10);

/// A task that tells what became of it, and does what it is made for.
struct Telling {
    cost: CostClass,
    deadline: Instant,
    wanted: bool,
    told: Sender<Result<(), Refusal>>,
    work: Box<dyn FnOnce() + Send>,
}

impl Task for Telling {
    fn cost(&self) -> CostClass {
        self.cost
    }

    fn deadline(&self) -> Instant {
        self.deadline
    }

    fn is_wanted(&self) -> bool {
        self.wanted
    }

    fn run(self, _: &mut dyn CryptoRng) {
        (self.work)();
        let _ = self.told.send(Ok(()));
    }

    fn refuse(self, reason: Refusal) {
        let _ = self.told.send(Err(reason));
    }
}

fn task(cost: CostClass, work: impl FnOnce() + Send + 'static) -> (Telling, Receiver<Result<(), Refusal>>) {
    let (told, outcome) = channel();
    (Telling { cost, deadline: Instant::now() + LONG, wanted: true, told, work: Box::new(work) }, outcome)
}

fn outcome(outcome: &Receiver<Result<(), Refusal>>) -> Result<(), Refusal> {
    outcome.recv_timeout(LONG).unwrap()
}

/// Keeps the one thread of `cost` busy until what is returned is dropped.
fn occupy(scheduler: &Scheduler<Telling>, cost: CostClass) -> Sender<()> {
    let (free, freed) = channel::<()>();
    let (begun, has_begun) = channel();
    let (occupier, _) = task(cost, move || {
        begun.send(()).unwrap();
        let _ = freed.recv();
    });
    scheduler.submit(occupier);
    has_begun.recv_timeout(LONG).unwrap();
    free
}

#[test]
fn a_full_queue_refuses_at_once() {
    let metrics = Metrics::default();
    let scheduler = Scheduler::start(ONE_THREAD, &metrics).unwrap();
    let free = occupy(&scheduler, CostClass::Light);
    let waiting: Vec<_> = (0..4)
        .map(|_| {
            let (task, outcome) = task(CostClass::Light, || {});
            scheduler.submit(task);
            outcome
        })
        .collect();
    assert_eq!(metrics.class(CostClass::Light).queued.get(), 4);
    let (one_more, refused) = task(CostClass::Light, || {});
    scheduler.submit(one_more);
    assert_eq!(refused.try_recv().unwrap(), Err(Refusal::QueueFull));

    drop(free);
    assert!(waiting.iter().all(|waiting| outcome(waiting) == Ok(())));
    assert_eq!(metrics.class(CostClass::Light).queued.get(), 0);
}

#[test]
fn what_is_too_late_or_unwanted_is_not_done() {
    let scheduler = Scheduler::start(ONE_THREAD, &Metrics::default()).unwrap();
    let free = occupy(&scheduler, CostClass::Light);
    let (mut late, too_late) = task(CostClass::Light, || panic!("done too late"));
    late.deadline = Instant::now() + Duration::from_millis(20);
    scheduler.submit(late);
    let (mut unwanted, gone) = task(CostClass::Light, || panic!("done for nobody"));
    unwanted.wanted = false;
    scheduler.submit(unwanted);
    std::thread::sleep(Duration::from_millis(40));
    drop(free);
    assert_eq!(outcome(&too_late), Err(Refusal::DeadlineExceeded));
    assert_eq!(outcome(&gone), Err(Refusal::CallerGone));
}

#[test]
fn a_flood_of_one_class_leaves_the_others_alone() {
    let scheduler = Scheduler::start(ONE_THREAD, &Metrics::default()).unwrap();
    let _heavy = occupy(&scheduler, CostClass::Heavy);
    let _medium = occupy(&scheduler, CostClass::Medium);
    for _ in 0..100 {
        scheduler.submit(task(CostClass::Heavy, || {}).0);
        scheduler.submit(task(CostClass::Medium, || {}).0);
    }
    let (light, done) = task(CostClass::Light, || {});
    scheduler.submit(light);
    assert_eq!(outcome(&done), Ok(()));
}

#[test]
fn a_panic_ends_the_task_and_not_the_thread() {
    let scheduler = Scheduler::start(ONE_THREAD, &Metrics::default()).unwrap();
    let (panicking, lost) = task(CostClass::Light, || panic!("on purpose"));
    scheduler.submit(panicking);
    let (next, done) = task(CostClass::Light, || {});
    scheduler.submit(next);
    assert_eq!(outcome(&done), Ok(()));
    assert!(lost.recv_timeout(LONG).is_err());
}

#[test]
fn what_waits_when_the_scheduler_goes_is_still_done() {
    let scheduler = Scheduler::start(ONE_THREAD, &Metrics::default()).unwrap();
    let free = occupy(&scheduler, CostClass::Light);
    let (waiting, done) = task(CostClass::Light, || {});
    scheduler.submit(waiting);
    drop(scheduler);
    drop(free);
    assert_eq!(outcome(&done), Ok(()));
}
