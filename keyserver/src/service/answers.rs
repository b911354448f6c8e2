//! Answers between the threads that make them and the stream that sends them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, ready};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::task::coop;

use super::answer::Outcome;

/// The answers of one stream, by the ids of their requests. To put one there wakes nobody: whoever did wakes the stream, once
/// for several. As long as they are as many as the stream's requests they are bounded by that.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    state: Mutex<State>,
    stream: AtomicWaker,
}

#[derive(Debug, Default)]
struct State {
    answers: VecDeque<(u64, Outcome)>,
    is_closed: bool,
}

impl Answers {
    /// Puts an answer behind the others; where nobody sends it any more, it is dropped.
    pub(super) fn put(&self, id: u64, outcome: Outcome) {
        let mut state = self.state.lock();
        if !state.is_closed {
            state.answers.push_back((id, outcome));
        }
    }

    /// Takes the oldest, or has the task of `cx` woken when there is one. After some it lets other tasks have their turn.
    pub(super) fn poll_take(&self, cx: &mut Context<'_>) -> Poll<(u64, Outcome)> {
        let budget = ready!(coop::poll_proceed(cx));
        let oldest = || self.state.lock().answers.pop_front();
        // One that is put there before the task can be woken is seen by the second look.
        let answer = oldest().or_else(|| {
            self.stream.register(cx.waker());
            oldest()
        });
        answer.map_or(Poll::Pending, |answer| {
            budget.made_progress();
            Poll::Ready(answer)
        })
    }

    /// Drops what is there and what comes.
    pub(super) fn close(&self) {
        *self.state.lock() = State { answers: VecDeque::new(), is_closed: true };
        // What is still to be done for the stream need not keep its task.
        drop(self.stream.take());
    }

    /// Whether nobody sends them any more.
    pub(super) fn is_closed(&self) -> bool {
        self.state.lock().is_closed
    }
}

impl Wake for Answers {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.stream.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::TryRecvError;

    use super::*;
    use crate::fixture::woken::waker;
    use crate::refusal::Refusal;

    #[test]
    fn a_stream_is_woken_when_it_is_told_and_finds_all_that_was_put_there() {
        let answers = Arc::<Answers>::default();
        let (waker, woken) = waker();
        let mut cx = Context::from_waker(&waker);
        assert!(answers.poll_take(&mut cx).is_pending());
        (1..=2).for_each(|id| answers.put(id, Err(Refusal::QueueFull)));
        assert!(woken.try_recv().is_err());
        answers.wake_by_ref();
        answers.wake_by_ref();
        assert!(woken.try_recv().is_ok() && woken.try_recv().is_err(), "once, until it waits again");
        for id in 1..=2 {
            assert!(matches!(answers.poll_take(&mut cx), Poll::Ready((it, Err(Refusal::QueueFull))) if it == id));
        }
        assert!(answers.poll_take(&mut cx).is_pending());
    }

    #[test]
    fn what_nobody_sends_any_more_is_dropped_and_so_is_who_waited() {
        let answers = Arc::<Answers>::default();
        let (waker, woken) = waker();
        assert!(answers.poll_take(&mut Context::from_waker(&waker)).is_pending());
        drop(waker);
        answers.put(1, Err(Refusal::QueueFull));
        answers.close();
        answers.put(2, Err(Refusal::QueueFull));
        assert!(answers.is_closed() && answers.state.lock().answers.is_empty());
        assert_eq!(woken.try_recv(), Err(TryRecvError::Disconnected));
    }
}
