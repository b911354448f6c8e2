//! Clients that keep coming, whatever happens to those before them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use super::backend;
use super::client::{Balancer, Clients};
use super::ledger::{Kind, Ledger};
use super::transfer::Volume;

/// How much load there is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Handshakes in a second, of all kinds together.
    pub(super) rate: u32,
    /// Connections at one time, for each edge, that last for seconds and carry bytes both ways.
    pub(super) transfers: u64,
}

/// Clients and a backend, which end with this value.
pub(super) struct Load {
    runtime: Runtime,
    pub(super) ledger: Arc<Ledger>,
    clients: Option<Arc<Clients>>,
    seed: Arc<AtomicU64>,
}

/// What each handshake is followed by.
const FEW_BYTES: (usize, u32, Duration) = (64, 1, Duration::ZERO);
/// A transfer: 4 KiB every 50 ms for three seconds.
const MANY_BYTES: (usize, u32, Duration) = (4 << 10, 60, Duration::from_millis(50));

impl Load {
    /// Nothing yet, and a runtime for it.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn idle() -> anyhow::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.context("a runtime for the load")?;
        runtime.spawn(end_at_signals());
        Ok(Self { runtime, ledger: Arc::default(), clients: None, seed: Arc::default() })
    }

    /// Starts the backend; returns where it listens.
    pub(super) fn backend(&self, address: SocketAddr) -> anyhow::Result<SocketAddr> {
        self.runtime.block_on(backend::echo(address)).with_context(|| format!("the backend on {address}"))
    }

    /// Names the edges that clients will go to, and what they trust.
    pub(super) fn meet(&mut self, edges: &[SocketAddr], authority: &Path) -> anyhow::Result<()> {
        self.clients = Some(Arc::new(Clients::new(Balancer::new(edges), authority)?));
        Ok(())
    }

    /// Sends clients to an edge, or no longer.
    pub(super) fn set_in_use(&self, edge: usize, in_use: bool) {
        self.clients.iter().for_each(|clients| clients.balancer.set_in_use(edge, in_use));
    }

    /// Has clients come from here on.
    pub(super) fn start(&self, pace: Pace) {
        let Some(clients) = &self.clients else { return };
        let each = || (clients.clone(), self.ledger.clone(), self.seed.clone());
        let (these, ledger, seed) = each();
        self.runtime.spawn(keep_coming(these, ledger, seed, pace.rate));
        for edge in 0..clients.balancer.len() {
            for _ in 0..pace.transfers {
                let (these, ledger, seed) = each();
                self.runtime.spawn(keep_transferring(these, ledger, seed, edge));
            }
        }
    }

    /// Whether a client that asks for `name` is served at `edge` with a full handshake.
    pub(super) fn is_served(&self, edge: SocketAddr, name: &'static str) -> bool {
        self.clients.as_ref().is_some_and(|clients| self.runtime.block_on(clients.is_served(edge, name)))
    }
}

/// The first process of a namespace of processes has only the signals that it asks for.
async fn end_at_signals() {
    let both = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    if let (Ok(mut interrupt), Ok(mut terminate)) = both {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        // Not an orderly end, but the end of all that runs in its namespaces.
        std::process::exit(130);
    }
}

async fn keep_coming(clients: Arc<Clients>, ledger: Arc<Ledger>, seed: Arc<AtomicU64>, rate: u32) {
    let mut ticks = interval(Duration::from_secs(1) / rate.max(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for kind in Kind::ALL.into_iter().cycle() {
        ticks.tick().await;
        let (clients, ledger, volume) = (clients.clone(), ledger.clone(), volume(&seed, FEW_BYTES));
        tokio::spawn(async move {
            let number = ledger.enter(Instant::now());
            ledger.leave(number, clients.visit(kind, volume).await);
        });
    }
}

async fn keep_transferring(clients: Arc<Clients>, ledger: Arc<Ledger>, seed: Arc<AtomicU64>, edge: usize) {
    loop {
        // An edge that is taken out keeps what it has, and gets nothing more.
        if clients.balancer.is_in_use(edge) {
            let number = ledger.enter(Instant::now());
            ledger.leave(number, clients.visit_from(edge, Kind::Ticket, volume(&seed, MANY_BYTES)).await);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn volume(seed: &AtomicU64, (piece, pieces, pause): (usize, u32, Duration)) -> Volume {
    Volume { seed: seed.fetch_add(1, Ordering::Relaxed), piece, pieces, pause }
}
