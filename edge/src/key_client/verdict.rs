//! What tries say of key servers, and of keys there.

use std::sync::Arc;
use std::time::Duration;

use keystead_tls::KeyId;
use tokio::time::Instant;

use super::KeyClient;
use super::answer::Fault;
use super::breaker::{Failed, Weight};
use super::key_state::KeyState;
use super::peer::Peer;

/// A request that was sent.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) peer: Arc<Peer>,
    pub(super) began: Instant,
    /// How many answers of the peer had come before.
    answers: u64,
}

impl Sent {
    /// A request that begins at this moment.
    pub(super) fn to(peer: Arc<Peer>, began: Instant) -> Self {
        Self { answers: peer.answers(), peer, began }
    }

    /// Whether nothing at all has come from the peer since.
    fn met_silence(&self) -> bool {
        self.peer.answers() == self.answers
    }
}

/// A key, with what is known of it.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) id: KeyId,
    pub(super) state: Arc<KeyState>,
}

impl KeyClient {
    /// The answer was right.
    pub(super) fn judge_right(&self, key: &Key, sent: &Sent) {
        let now = Instant::now();
        sent.peer.succeeded(now);
        let at_peer = key.state.known_at(sent.peer.slot);
        if at_peer.is_some_and(|at_peer| at_peer.succeeded(now)) {
            tracing::info!(key_server = %sent.peer.server, key = %key.id, "the key is asked for here again");
        }
    }

    /// There was no right answer. A client that comes with its ClientHello at the last moment leaves key servers no time:
    /// that says nothing of them.
    pub(super) fn judge_wrong(&self, key: &Key, sent: &Sent, fault: Fault) {
        let now = Instant::now();
        if fault.is_for_want_of_time() && now - sent.began < self.fair_time {
            return;
        }
        let reason = fault.failure().reason();
        if fault.is_servers() {
            sent.peer.failed(reason, sent.began, now);
        }
        if fault.is_keys() {
            self.key_failed(key, sent, (Weight::Full, reason), now);
        }
    }

    /// Another was faster, though it was asked later. From who sends nothing else either, it is as bad as no answer.
    pub(super) fn judge_outrun(&self, key: &Key, sent: &Sent) {
        let now = Instant::now();
        let silent = sent.met_silence();
        if silent {
            sent.peer.failed(OUTRUN, sent.began, now);
        }
        let weight = if silent { Weight::Full } else { Weight::Half };
        self.key_failed(key, sent, (weight, OUTRUN), now);
    }

    /// How long an answer took, or would have taken at the least.
    pub(super) fn measure(key: &Key, sent: &Sent) -> Duration {
        let now = Instant::now();
        let elapsed = now - sent.began;
        key.state.latency.record(elapsed);
        if let Some(at_peer) = key.state.at(sent.peer.slot) {
            at_peer.record(elapsed, now);
        }
        elapsed
    }

    fn key_failed(&self, key: &Key, sent: &Sent, (weight, reason): (Weight, &'static str), now: Instant) {
        let Some(at_peer) = key.state.at(sent.peer.slot) else { return };
        match at_peer.failed(weight, sent.began, now) {
            Failed::Noted => {}
            Failed::Opened(lasting) => {
                self.telemetry.tries.breaker_trips.inc();
                let (key_server, key) = (&sent.peer.server, key.id);
                tracing::warn!(%key_server, %key, reason, ?lasting, "the key fails here and is asked for elsewhere");
            }
            Failed::StillOpen(lasting) => {
                tracing::debug!(key_server = %sent.peer.server, key = %key.id, reason, ?lasting, "the key fails here still");
            }
        }
    }
}

/// Another was faster.
const OUTRUN: &str = "outrun";
