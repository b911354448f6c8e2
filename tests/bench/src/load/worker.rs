//! One thread of the load generator, with its share of the clients.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::io::AsyncWriteExt;
use tokio::task::LocalSet;
use tokio::time::{sleep, sleep_until, timeout_at};

use super::client::{Client, Connected, reason};
use super::http::{Exchange, Unanswered};
use super::pace::Pace;
use super::plan::Plan;
use super::tally::Tally;

/// When load begins, from when on it is counted, and when it ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) start: Instant,
    pub(super) counted_from: Instant,
    pub(super) end: Instant,
}

impl Window {
    /// Whether what is due or happens then is counted.
    fn counts(&self, at: Instant) -> bool {
        (self.counted_from..self.end).contains(&at)
    }
}

/// What is under way when the time is over has this long to end.
const GRACE: Duration = Duration::from_secs(2);

/// A client that could not connect comes back after this.
const PAUSE: Duration = Duration::from_millis(10);

/// Runs the clients of thread `index` until the window's end.
pub(super) fn run(client: &Client, plan: &Plan, index: usize, window: Window) -> Result<Tally> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("a reactor")?;
    let threads = plan.threads.get();
    let interval = plan.rate.map(|rate| Duration::from_secs(1).mul_f64(threads as f64 / f64::from(rate.get())));
    let shared = Rc::new(Shared {
        client: client.clone(),
        plan: plan.clone(),
        pace: Pace::new(interval, window)?,
        window,
        under_way: Cell::new(0),
        tally: RefCell::default(),
    });
    let clients = (index..plan.connections.get()).step_by(threads).count();
    let local = LocalSet::new();
    for _ in 0..clients {
        let shared = shared.clone();
        local.spawn_local(async move { shared.client().await });
    }
    let end = (window.end + GRACE).into();
    // Clients that are stuck end with the reactor.
    let _ = runtime.block_on(async { timeout_at(end, local).await });
    drop(runtime);
    let mut tally = shared.tally.take();
    (tally.unfinished, tally.not_begun) = (shared.under_way.get(), shared.pace.not_begun(window));
    Ok(tally)
}

struct Shared {
    client: Client,
    plan: Plan,
    pace: Pace,
    window: Window,
    /// What is counted when it ends.
    under_way: Cell<u64>,
    tally: RefCell<Tally>,
}

impl Shared {
    /// One client, until the time is over.
    async fn client(&self) {
        let mut exchange = Exchange::new(&self.plan.server_name, &self.plan.path, self.plan.upload);
        while Instant::now() < self.window.end {
            let done = if self.plan.keep_alive || self.plan.hold {
                self.stay(&mut exchange).await
            } else {
                self.visit(&mut exchange).await
            };
            if done.is_none() {
                return;
            }
        }
    }

    /// Connects, asks, and leaves. `None` when no unit is due any more.
    async fn visit(&self, exchange: &mut Exchange) -> Option<()> {
        let due = self.pace.next().await?;
        let Some(mut connected) = self.connect(due).await else { return Some(()) };
        for _ in 0..self.plan.requests {
            if !self.ask(&mut connected, exchange, Instant::now()).await {
                return Some(());
            }
        }
        // What becomes of close_notify is for nobody to know.
        let _ = connected.stream.shutdown().await;
        Some(())
    }

    /// Connects, and asks again and again; or once, and waits.
    async fn stay(&self, exchange: &mut Exchange) -> Option<()> {
        let Some(mut connected) = self.connect(Instant::now()).await else { return Some(()) };
        if self.plan.hold {
            if self.ask(&mut connected, exchange, Instant::now()).await {
                sleep_until(self.window.end.into()).await;
            }
            return Some(());
        }
        while Instant::now() < self.window.end {
            let due = self.pace.next().await?;
            if !self.ask(&mut connected, exchange, due).await {
                break;
            }
        }
        Some(())
    }

    async fn connect(&self, due: Instant) -> Option<Connected> {
        self.begin(due);
        let connected = self.client.connect().await;
        let latency = due.elapsed();
        self.count(due, |tally| match &connected {
            Ok(Connected { resumed, .. }) => {
                let kind = if *resumed { &mut tally.resumed } else { &mut tally.full };
                *kind += 1;
                tally.handshake.record(latency);
            }
            Err(reason) => tally.fail(reason),
        });
        if connected.is_err() {
            sleep(PAUSE).await;
        }
        connected.ok()
    }

    /// One request. Whether the connection is good for another.
    async fn ask(&self, connected: &mut Connected, exchange: &mut Exchange, due: Instant) -> bool {
        self.begin(due);
        let passed = |bytes| {
            if self.window.counts(Instant::now()) {
                self.tally.borrow_mut().bytes += bytes;
            }
        };
        let answer = exchange.once(&mut connected.stream, passed).await;
        let latency = due.elapsed();
        self.count(due, |tally| match &answer {
            Ok(()) => {
                tally.requests += 1;
                tally.request.record(latency);
            }
            Err(Unanswered::Broken(cause)) => tally.fail(reason(cause)),
            Err(Unanswered::Unsuitable(reason)) => tally.fail(reason),
        });
        answer.is_ok()
    }

    fn begin(&self, due: Instant) {
        self.under_way.set(self.under_way.get() + u64::from(self.counts(due)));
    }

    fn count(&self, due: Instant, into: impl FnOnce(&mut Tally)) {
        if self.counts(due) {
            self.under_way.set(self.under_way.get() - 1);
            into(&mut self.tally.borrow_mut());
        }
    }

    fn counts(&self, due: Instant) -> bool {
        // Held connections are made before, and are of interest all the same.
        self.window.counts(due) || self.plan.hold
    }
}
