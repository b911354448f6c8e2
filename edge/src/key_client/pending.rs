//! Requests that wait for their answers on one connection.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use keystead_proto::v1::exchange_reply::Outcome;
use keystead_tls::KeyServerFailure;
use tokio::sync::oneshot;

/// Requests in flight, by id. Answers come in any order.
#[derive(Debug)]
pub(super) struct Pending {
    limit: usize,
    waiting: Mutex<Waiting>,
    /// As many as wait, to be read by those who look for the least busy connection.
    count: AtomicUsize,
}

#[derive(Debug, Default)]
struct Waiting {
    next_id: u64,
    answers: HashMap<u64, oneshot::Sender<Outcome>>,
    closed: bool,
}

impl Pending {
    /// Room for `limit` requests.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, waiting: Mutex::default(), count: AtomicUsize::new(0) }
    }

    /// Makes room for an answer: the id to ask with, and where the answer comes. The receiver fails when the
    /// connection is lost.
    pub(super) fn insert(&self) -> Result<(u64, oneshot::Receiver<Outcome>), KeyServerFailure> {
        self.insert_up_to(self.limit)
    }

    /// As [`Self::insert`], though there may be no room.
    pub(super) fn insert_beyond_limit(&self) -> Result<(u64, oneshot::Receiver<Outcome>), KeyServerFailure> {
        self.insert_up_to(usize::MAX)
    }

    fn insert_up_to(&self, limit: usize) -> Result<(u64, oneshot::Receiver<Outcome>), KeyServerFailure> {
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(KeyServerFailure::Unreachable);
        }
        if waiting.answers.len() >= limit {
            return Err(KeyServerFailure::Overloaded);
        }
        let id = waiting.next_id;
        waiting.next_id += 1;
        let (sender, receiver) = oneshot::channel();
        waiting.answers.insert(id, sender);
        self.count.store(waiting.answers.len(), Ordering::Relaxed);
        Ok((id, receiver))
    }

    /// Hands an answer to whoever waits for it. Nobody does after its time was over.
    pub(super) fn answer(&self, id: u64, outcome: Outcome) {
        let waiting = self.remove(id);
        if let Some(waiting) = waiting {
            let _ = waiting.send(outcome);
        }
    }

    /// Nobody waits for this answer any longer.
    pub(super) fn forget(&self, id: u64) {
        self.remove(id);
    }

    /// Requests without an answer.
    pub(super) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// The connection is lost: every request fails, at once and from here on.
    pub(super) fn close(&self) {
        let mut waiting = self.lock();
        waiting.closed = true;
        waiting.answers = HashMap::new();
        self.count.store(0, Ordering::Relaxed);
    }

    fn remove(&self, id: u64) -> Option<oneshot::Sender<Outcome>> {
        let mut waiting = self.lock();
        let removed = waiting.answers.remove(&id);
        self.count.store(waiting.answers.len(), Ordering::Relaxed);
        removed
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // No change under the lock can panic half done.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use keystead_proto::v1::Refusal;

    fn refusal(code: u32) -> Outcome {
        Outcome::Refusal(Refusal { code, message: String::new() })
    }

    #[tokio::test]
    async fn answers_find_their_requests_in_any_order() {
        let pending = Pending::new(3);
        let (one, one_answer) = pending.insert().unwrap();
        let (two, two_answer) = pending.insert().unwrap();
        pending.answer(two, refusal(2));
        pending.answer(one, refusal(1));
        pending.answer(one, refusal(3));
        pending.answer(99, refusal(4));
        assert_eq!(one_answer.await.unwrap(), refusal(1));
        assert_eq!(two_answer.await.unwrap(), refusal(2));
        assert_eq!(pending.len(), 0);
    }

    #[test]
    fn requests_are_bounded_until_answered_or_forgotten() {
        let pending = Pending::new(1);
        let (id, _answer) = pending.insert().unwrap();
        assert_eq!(pending.insert().unwrap_err(), KeyServerFailure::Overloaded);
        let (beyond, _answer) = pending.insert_beyond_limit().unwrap();
        pending.forget(id);
        assert_eq!(pending.insert().unwrap_err(), KeyServerFailure::Overloaded);
        pending.forget(beyond);
        assert!(pending.insert().is_ok());
    }

    #[tokio::test]
    async fn a_lost_connection_fails_all_at_once() {
        let pending = Pending::new(2);
        let (_, answer) = pending.insert().unwrap();
        pending.close();
        assert!(answer.await.is_err());
        assert_eq!(pending.insert().unwrap_err(), KeyServerFailure::Unreachable);
    }
}
