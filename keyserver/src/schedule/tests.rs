#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use super::*;
use crate::fixture::woken::waker;

const LONG: Duration = Duration::from_secs(20);
const TOKEN: Lane = Lane::of_token(0);

/// Four lanes of one thread and four places each.
fn start(metrics: &Metrics) -> Scheduler<Telling> {
    let classes = [CostClass::Light, CostClass::Medium, CostClass::Heavy];
    let token = LaneConfig { name: "token".into(), threads: 1, bound: 4, niceness: 0, hold: Duration::ZERO };
    let lanes = classes.map(|class| LaneConfig::of(class, 1, 4)).into_iter().chain([token]);
    Scheduler::start(&lanes.collect::<Vec<_>>(), metrics).unwrap()
}

fn light() -> Lane {
    Lane::of(CostClass::Light)
}

/// A task that tells what became of it, and does what it is made for.
struct Telling {
    lane: Lane,
    peer: PeerIdentity,
    deadline: Instant,
    wanted: bool,
    told: Sender<Result<(), Refusal>>,
    work: Box<dyn FnOnce() + Send>,
    waker: Option<Waker>,
}

impl Task for Telling {
    fn lane(&self) -> Lane {
        self.lane
    }

    fn peer(&self) -> &PeerIdentity {
        &self.peer
    }

    fn deadline(&self) -> Instant {
        self.deadline
    }

    fn is_wanted(&self) -> bool {
        self.wanted
    }

    fn run(self, _: &mut dyn CryptoRng) -> Option<Waker> {
        (self.work)();
        let _ = self.told.send(Ok(()));
        self.waker
    }

    fn refuse(self, reason: Refusal) {
        let _ = self.told.send(Err(reason));
    }
}

fn peer(name: &str) -> PeerIdentity {
    format!("spiffe://keystead.test/edge/{name}").parse().unwrap()
}

fn task(lane: Lane, work: impl FnOnce() + Send + 'static) -> (Telling, Receiver<Result<(), Refusal>>) {
    let (told, outcome) = channel();
    let deadline = Instant::now() + LONG;
    (Telling { lane, peer: peer("one"), deadline, wanted: true, told, work: Box::new(work), waker: None }, outcome)
}

fn outcome(outcome: &Receiver<Result<(), Refusal>>) -> Result<(), Refusal> {
    outcome.recv_timeout(LONG).unwrap()
}

/// Keeps the one thread of `lane` busy until what is returned is dropped.
fn occupy(scheduler: &Scheduler<Telling>, lane: Lane) -> Sender<()> {
    let (free, freed) = channel::<()>();
    let (begun, has_begun) = channel();
    let (occupier, _) = task(lane, move || {
        begun.send(()).unwrap();
        let _ = freed.recv();
    });
    scheduler.submit(occupier);
    has_begun.recv_timeout(LONG).unwrap();
    free
}

#[test]
fn a_full_lane_refuses_at_once() {
    let metrics = Metrics::default();
    let scheduler = start(&metrics);
    let queued = || metrics.lane(&"light".into()).queued.get();
    let free = occupy(&scheduler, light());
    let submit = || {
        let (task, outcome) = task(light(), || {});
        scheduler.submit(task);
        outcome
    };
    let waiting: Vec<_> = (0..4).map(|_| submit()).collect();
    assert_eq!(queued(), 4);
    assert_eq!(submit().try_recv().unwrap(), Err(Refusal::QueueFull));
    assert_eq!(queued(), 4);

    drop(free);
    assert!(waiting.iter().all(|waiting| outcome(waiting) == Ok(())));
    assert_eq!(queued(), 0);
}

#[test]
fn a_flooding_peer_neither_keeps_another_waiting_nor_out() {
    let scheduler = start(&Metrics::default());
    let free = occupy(&scheduler, light());
    let (done, order) = channel();
    let submit = |name: &'static str| {
        let done = done.clone();
        let (task, outcome) = task(light(), move || done.send(name).unwrap());
        scheduler.submit(Telling { peer: peer(name), ..task });
        outcome
    };
    let flood: Vec<_> = (0..100).map(|_| submit("flooding")).collect();
    let refused =
        |flood: &[Receiver<_>]| flood.iter().filter(|told| told.try_recv() == Ok(Err(Refusal::QueueFull))).count();
    assert_eq!(refused(&flood), 96);
    let other = submit("other");
    assert_eq!(refused(&flood), 1, "the newest of the flood made room");
    drop(free);
    assert_eq!(outcome(&other), Ok(()));
    assert_eq!([order.recv().unwrap(), order.recv().unwrap()], ["flooding", "other"]);
}

#[test]
fn what_is_too_late_or_unwanted_is_not_done() {
    let scheduler = start(&Metrics::default());
    let free = occupy(&scheduler, light());
    let (late, too_late) = task(light(), || panic!("done too late"));
    scheduler.submit(Telling { deadline: Instant::now(), ..late });
    let (unwanted, gone) = task(light(), || panic!("done for nobody"));
    scheduler.submit(Telling { wanted: false, ..unwanted });
    drop(free);
    assert_eq!(outcome(&too_late), Err(Refusal::DeadlineExceeded));
    assert_eq!(outcome(&gone), Err(Refusal::CallerGone));
}

#[test]
fn a_flood_in_one_lane_leaves_the_others_alone() {
    let scheduler = start(&Metrics::default());
    let busy = [Lane::of(CostClass::Heavy), Lane::of(CostClass::Medium), TOKEN];
    let _occupied = busy.map(|lane| occupy(&scheduler, lane));
    for lane in busy.into_iter().cycle().take(300) {
        scheduler.submit(task(lane, || {}).0);
    }
    let (task, done) = task(light(), || {});
    scheduler.submit(task);
    assert_eq!(outcome(&done), Ok(()));
}

#[test]
fn a_lane_that_was_not_started_refuses() {
    let scheduler = start(&Metrics::default());
    let (task, refused) = task(Lane::of_token(1), || {});
    scheduler.submit(task);
    assert_eq!(refused.try_recv().unwrap(), Err(Refusal::NoLane));
}

#[test]
fn long_operations_give_way_to_short_ones() {
    let scheduler = start(&Metrics::default());
    let (tell, told) = channel();
    let of = |lane| {
        let tell = tell.clone();
        scheduler.submit(task(lane, move || tell.send(rustix::process::getpriority_process(None)).unwrap()).0);
        told.recv_timeout(LONG).unwrap().unwrap()
    };
    let own = rustix::process::getpriority_process(None).unwrap();
    assert_eq!(of(light()), own);
    let (medium, heavy) = (of(Lane::of(CostClass::Medium)), of(Lane::of(CostClass::Heavy)));
    assert!(own < medium && medium < heavy, "{own} {medium} {heavy}");
    assert_eq!(rustix::process::getpriority_process(None).unwrap(), own, "each thread has its own");
}

#[test]
fn a_panic_ends_the_task_and_not_the_thread() {
    let scheduler = start(&Metrics::default());
    let (panicking, lost) = task(light(), || panic!("on purpose"));
    scheduler.submit(panicking);
    let (next, done) = task(light(), || {});
    scheduler.submit(next);
    assert_eq!(outcome(&done), Ok(()));
    assert!(lost.recv_timeout(LONG).is_err());
}

#[test]
fn what_waits_when_the_scheduler_goes_is_still_done() {
    let scheduler = start(&Metrics::default());
    let free = occupy(&scheduler, light());
    let (waiting, done) = task(light(), || {});
    scheduler.submit(waiting);
    drop(scheduler);
    drop(free);
    assert_eq!(outcome(&done), Ok(()));
}

/// How often one who waits for six outcomes is woken, by a lane that holds outcomes back for `hold`.
fn wakings(hold: Duration) -> usize {
    let lanes = [LaneConfig { hold, ..LaneConfig::of(CostClass::Light, 1, 8) }];
    let scheduler = Scheduler::start(&lanes, &Metrics::default()).unwrap();
    let free = occupy(&scheduler, light());
    let (waker, woken) = waker();
    for _ in 0..6 {
        let (task, _) = task(light(), || ());
        scheduler.submit(Telling { waker: Some(waker.clone()), ..task });
    }
    drop((waker, free));
    // Until the lane has dropped the last of the wakers.
    std::iter::from_fn(|| match woken.recv_timeout(LONG) {
        Err(RecvTimeoutError::Timeout) => panic!("nobody was woken"),
        told => told.ok(),
    })
    .count()
}

#[test]
fn who_waits_is_woken_once_for_what_is_held_back() {
    assert_eq!(wakings(LONG), 1);
    assert_eq!(wakings(Duration::ZERO), 6);
}

#[test]
fn nothing_is_held_back_longer_than_allowed() {
    let lanes = [LaneConfig { hold: Duration::from_millis(50), ..LaneConfig::of(CostClass::Light, 1, 8) }];
    let scheduler = Scheduler::start(&lanes, &Metrics::default()).unwrap();
    let free = occupy(&scheduler, light());
    let ((waker_one, one), (waker_two, two)) = (waker(), waker());
    let (first, _) = task(light(), || ());
    scheduler.submit(Telling { waker: Some(waker_one), ..first });
    // By itself as long as what may be held back, so that nothing waits until the next is done as well.
    let (second, _) = task(light(), || std::thread::sleep(Duration::from_millis(50)));
    scheduler.submit(Telling { waker: Some(waker_two), ..second });
    let (let_go, until_let_go) = channel::<()>();
    let (third, _) = task(light(), move || {
        let _ = until_let_go.recv();
    });
    scheduler.submit(third);
    drop(free);
    assert_eq!([one, two].map(|woken| woken.recv_timeout(LONG)), [Ok(()); 2], "while the third is still being done");
    drop(let_go);
}

#[test]
fn who_has_nothing_more_to_wait_for_is_woken_whatever_others_have() {
    let lanes = [LaneConfig { hold: LONG, ..LaneConfig::of(CostClass::Light, 1, 8) }];
    let scheduler = Scheduler::start(&lanes, &Metrics::default()).unwrap();
    let free = occupy(&scheduler, light());
    let (waker, woken) = waker();
    let (let_go, until_let_go) = channel::<()>();
    let (single, _) = task(light(), || ());
    scheduler.submit(Telling { peer: peer("two"), waker: Some(waker), ..single });
    let (other, _) = task(light(), move || {
        let _ = until_let_go.recv();
    });
    scheduler.submit(other);
    drop(free);
    assert_eq!(woken.recv_timeout(LONG), Ok(()), "while others' work goes on");
    drop(let_go);
}
