//! Key servers as they are configured, and the peers that their names lead to.
//!
//! A name may have several addresses, each with a key server of its own behind it. So health belongs to a *peer*, which is
//! one address, and a connection's peer is known once it stands.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keystead_program::channel::HostPort;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::breaker::{Breaker, Failed, Weight};
use super::key_state::KeyStates;
use super::telemetry::ServerTelemetry;
use crate::directory::ServerIndex;
use crate::telemetry::Telemetry;

/// A key server of the configuration.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) index: ServerIndex,
    /// As it is configured.
    pub(super) name: HostPort,
    /// What its name resolves to, in an order that is the same as long as they are; empty before it has resolved.
    pub(super) addresses: watch::Sender<Vec<SocketAddr>>,
    /// Somebody could not connect, and the addresses may be others meanwhile.
    pub(super) resolve: Notify,
    pub(super) tries: ServerTelemetry,
    pub(super) telemetry: Arc<Telemetry>,
    keys: Arc<KeyStates>,
    slots: std::ops::Range<usize>,
    peers: Mutex<Vec<Arc<Peer>>>,
}

impl Server {
    /// A key server whose peers have these slots in the states of `keys`: one for each connection that may stand at one
    /// time.
    pub(super) fn new(
        index: ServerIndex,
        name: HostPort,
        slots: std::ops::Range<usize>,
        keys: Arc<KeyStates>,
        telemetry: Arc<Telemetry>,
    ) -> Self {
        let tries = telemetry.tries.of_server(&name);
        let (addresses, _) = watch::channel(Vec::new());
        Self { index, name, addresses, resolve: Notify::new(), tries, telemetry, keys, slots, peers: Mutex::default() }
    }

    /// The peer at this address: the one known, so that what was learned of it outlives its connections, or another, in the
    /// slot of one that has no connection.
    pub(super) fn peer(self: &Arc<Self>, address: SocketAddr) -> Arc<Peer> {
        let mut peers = self.lock();
        if let Some(peer) = peers.iter().find(|peer| peer.address == address) {
            return peer.clone();
        }
        let slot = self.slots.start + peers.len();
        if slot < self.slots.end {
            let peer = Arc::new(Peer::new(self, address, slot));
            peers.push(peer.clone());
            return peer;
        }
        // More connections than slots are not kept up.
        let unused = peers.iter_mut().find(|peer| Arc::strong_count(peer) == 1);
        let slot = unused.as_ref().map_or(self.slots.start, |peer| peer.slot);
        let peer = Arc::new(Peer::new(self, address, slot));
        if let Some(unused) = unused {
            self.keys.forget_peer(slot);
            *unused = peer.clone();
        }
        peer
    }

    /// Whether a link that stands at `address` should stand at `preferred`: others stand here too, and none there.
    pub(super) fn is_crowded(&self, address: SocketAddr, preferred: SocketAddr) -> bool {
        let peers = self.lock();
        let standing = |address| {
            let peer = peers.iter().find(|peer| peer.address == address);
            peer.map_or(0, |peer| peer.links.load(Ordering::Relaxed))
        };
        standing(address) > 1 && standing(preferred) == 0
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Peer>>> {
        // The changes under the lock are assignments of whole values.
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One process that answers, as far as can be told.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) server: Arc<str>,
    pub(super) address: SocketAddr,
    /// By which keys know it.
    pub(super) slot: usize,
    /// Open while it is ejected.
    pub(super) breaker: Breaker,
    /// Answers that came from it, whatever they said.
    answers: AtomicU64,
    /// Connections to it that stand.
    links: AtomicU64,
    telemetry: Arc<Telemetry>,
}

impl Peer {
    fn new(server: &Server, address: SocketAddr, slot: usize) -> Self {
        Self {
            server: server.name.to_string().into(),
            address,
            slot,
            breaker: Breaker::new(server.keys.tolerance()),
            answers: AtomicU64::new(0),
            links: AtomicU64::new(0),
            telemetry: server.telemetry.clone(),
        }
    }

    /// An answer has come.
    pub(super) fn answered(&self) {
        self.answers.fetch_add(1, Ordering::Relaxed);
    }

    /// How many answers have come.
    pub(super) fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    /// One more connection stands. Whatever was wrong may be right now, so it is tried at once.
    pub(super) fn link_up(&self, now: Instant) {
        self.links.fetch_add(1, Ordering::Relaxed);
        self.breaker.hurry(now);
    }

    /// A connection is gone.
    pub(super) fn link_down(&self) {
        self.links.fetch_sub(1, Ordering::Relaxed);
    }

    /// A request was answered as it should be.
    pub(super) fn succeeded(&self, now: Instant) {
        if self.breaker.succeeded(now) {
            self.telemetry.tries.ejected.dec();
            tracing::info!(key_server = %self.server, address = %self.address, "key server is asked again");
        }
    }

    /// A request that began at `began` has failed in a way that says something of the key server as a whole.
    pub(super) fn failed(&self, reason: &'static str, began: Instant, now: Instant) {
        match self.breaker.failed(Weight::Full, began, now, rand::random()) {
            Failed::Noted => {}
            Failed::Opened(lasting) => {
                self.telemetry.tries.ejected.inc();
                self.telemetry.tries.ejections.inc();
                let (key_server, address) = (&self.server, self.address);
                tracing::warn!(%key_server, %address, reason, ?lasting, "key server ejected: failures in a row");
            }
            Failed::StillOpen(lasting) => {
                tracing::debug!(key_server = %self.server, address = %self.address, reason, ?lasting, "still ejected");
            }
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if self.breaker.is_open() {
            self.telemetry.tries.ejected.dec();
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::key_client::key_state::tests::{open, states};
    use keystead_tls::KeyId;
    use prometheus_client::registry::Registry;

    pub(crate) fn server(index: usize, slots: std::ops::Range<usize>) -> Arc<Server> {
        let telemetry = Arc::new(Telemetry::register(&mut Registry::default()));
        let name = HostPort::from(address(7443));
        Arc::new(Server::new(ServerIndex(index), name, slots, states().0, telemetry))
    }

    pub(crate) fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn an_address_is_one_peer_however_many_connections_there_are() {
        let server = server(0, 2..6);
        let (one, two) = (server.peer(address(1)), server.peer(address(2)));
        assert!(Arc::ptr_eq(&one, &server.peer(address(1))));
        assert_eq!((one.slot, two.slot), (2, 3));
    }

    #[test]
    fn a_slot_that_no_connection_needs_goes_to_the_next_address() {
        let server = server(0, 0..2);
        let kept = server.peer(address(1));
        let gone = server.peer(address(2));
        for _ in 0..3 {
            gone.failed("no_answer", Instant::now(), Instant::now());
        }
        assert_eq!(server.telemetry.tries.ejected.get(), 1);
        let key = KeyId([1; 32]);
        open(&server.keys, key, kept.slot);
        open(&server.keys, key, gone.slot);
        drop(gone);
        let next = server.peer(address(3));
        assert_eq!((kept.slot, next.slot), (0, 1));
        assert!(!next.breaker.is_open());
        let key = server.keys.of(key);
        assert!(key.known_at(next.slot).is_none(), "it is another key server's");
        assert!(key.known_at(kept.slot).is_some());
        assert_eq!(server.telemetry.tries.ejected.get(), 0);
    }

    #[test]
    fn links_are_crowded_where_two_stand_and_none_at_the_other_address() {
        let server = server(0, 0..4);
        let (one, two) = (server.peer(address(1)), server.peer(address(2)));
        one.link_up(Instant::now());
        assert!(!server.is_crowded(address(1), address(2)));
        one.link_up(Instant::now());
        assert!(server.is_crowded(address(1), address(2)));
        assert!(server.is_crowded(address(1), address(3)), "nobody has been there yet");
        two.link_up(Instant::now());
        assert!(!server.is_crowded(address(1), address(2)));
    }
}
