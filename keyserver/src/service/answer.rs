//! The way back: every request is answered exactly once.

use std::sync::Arc;
use std::task::Waker;

use keystead_tls::secret::MasterSecret;
use tokio::sync::oneshot;

use super::answers::Answers;
use super::draft::Draft;
use crate::key::Key;
use crate::lease::Batch;
use crate::metrics::Metrics;
use crate::operation::Call;
use crate::operation::sign_server_key_exchange::Signed;
use crate::refusal::Refusal;

/// How a request ended.
pub(crate) type Outcome = Result<Done, Refusal>;

/// What a request was answered with, one for each [`Call`].
#[derive(Debug)]
pub(crate) enum Done {
    Signed(Signed),
    Leased(Batch),
    Recovered(MasterSecret),
}

/// The place that a request's outcome goes to. Dropped without an outcome, as when an operation panics, it answers that
/// the operation failed.
#[derive(Debug)]
pub(crate) struct Answer {
    metrics: Arc<Metrics>,
    asked: Option<Call>,
    key: Option<Arc<Key>>,
    draft: Option<Draft>,
    way: Option<Way>,
}

#[derive(Debug)]
enum Way {
    Unary(oneshot::Sender<Outcome>),
    Exchange { id: u64, answers: Arc<Answers> },
}

impl Answer {
    /// To a unary call.
    pub(crate) fn unary(metrics: Arc<Metrics>, call: oneshot::Sender<Outcome>) -> Self {
        Self { metrics, asked: None, key: None, draft: None, way: Some(Way::Unary(call)) }
    }

    /// To the request `id` of an Exchange stream. The stream bounds how many of its requests are unanswered, so `answers`
    /// is bounded by that.
    pub(crate) fn exchange(metrics: Arc<Metrics>, id: u64, answers: Arc<Answers>) -> Self {
        let way = Some(Way::Exchange { id, answers });
        Self { metrics, asked: None, key: None, draft: None, way }
    }

    /// What the request asks for, to be counted with its outcome.
    pub(crate) fn to(&mut self, call: Call) {
        self.asked = Some(call);
    }

    /// The key that the request names, to be counted with its outcome.
    pub(crate) fn about(&mut self, key: Arc<Key>) {
        self.key = Some(key);
    }

    /// The key that the request names, if its peer may use it.
    pub(crate) fn key(&self) -> Option<&Key> {
        self.key.as_deref()
    }

    /// What goes on record with its outcome.
    pub(crate) fn on_record(&mut self, draft: Draft) {
        self.draft = Some(draft);
    }

    /// Makes sure of a place for the record, before anything private is done.
    ///
    /// # Errors
    /// [`Refusal::AuditUnavailable`] when there is none.
    pub(crate) fn reserve(&mut self) -> Result<(), Refusal> {
        self.draft.as_mut().map_or(Ok(()), Draft::reserve)
    }

    /// The ServerHello.random that the key was used for, or tried, if it came to that: it goes on record also where that
    /// was in vain.
    pub(crate) fn tried_for(&mut self, server_random: Option<[u8; 32]>) {
        if let Some(draft) = &mut self.draft {
            draft.tried_for(server_random);
        }
    }

    /// Whether anybody waits.
    pub(crate) fn is_wanted(&self) -> bool {
        match &self.way {
            Some(Way::Unary(call)) => !call.is_closed(),
            Some(Way::Exchange { answers, .. }) => !answers.is_closed(),
            None => false,
        }
    }

    /// Answers.
    pub(crate) fn send(mut self, outcome: Outcome) {
        self.send_now(outcome);
    }

    fn send_now(&mut self, outcome: Outcome) {
        if let Some(waker) = self.deliver(outcome) {
            waker.wake();
        }
    }

    /// Leaves the answer with the stream that sends it, which must be woken then; a unary call is answered at once.
    pub(crate) fn leave(mut self, outcome: Outcome) -> Option<Waker> {
        self.deliver(outcome)
    }

    fn deliver(&mut self, outcome: Outcome) -> Option<Waker> {
        let way = self.way.take()?;
        // On record before the answer leaves, and what cannot be on record does not leave.
        let recorded = match self.draft.take() {
            Some(draft) => draft.settle(self.asked, self.key.as_deref(), &outcome),
            None => Ok(()),
        };
        let outcome = recorded.and(outcome);
        let counted = match &outcome {
            Ok(_) => Ok(()),
            Err(reason) => Err(*reason),
        };
        self.metrics.answered(self.asked, self.key.as_deref(), counted);
        match way {
            Way::Unary(call) => {
                // Fails when the caller has gone, and then nobody misses it.
                drop(call.send(outcome));
                None
            }
            Way::Exchange { id, answers } => {
                answers.put(id, outcome);
                Some(answers.into())
            }
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.send_now(Err(match self.asked {
            Some(Call::RecoverMasterSecret) => Refusal::RecoveryFailed,
            Some(Call::SignServerKeyExchange | Call::LeaseRandoms) | None => Refusal::SigningFailed,
        }));
    }
}
