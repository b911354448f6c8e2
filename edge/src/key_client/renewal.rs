//! Connections move over to a renewed certificate of the channel, long before the one that they showed is past its time.
//!
//! They do so one after another, each while its keys can be asked for on another: it is asked no more, leaves when it is owed
//! nothing, and connects again. Where the key server refuses the certificate, none follows, and the others go on.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keystead_program::channel::{ClientChannel, Renewals};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;

use super::stream::RequestStream;
use crate::directory::{Directory, ServerIndex};

/// Between two looks at whether the others can do without a connection.
const STEP: Duration = Duration::from_millis(100);

/// Whose turn it is to move over. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Turns(Arc<Semaphore>);

impl Default for Turns {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

/// What one connection knows of renewals.
pub(super) struct Renewal {
    turns: Turns,
    state: Mutex<State>,
}

struct State {
    /// Has seen what the connection shows.
    renewals: Renewals,
    /// From when the connection leaves to when it stands again.
    turn: Option<OwnedSemaphorePermit>,
}

impl Renewal {
    pub(super) fn new(channel: &ClientChannel, turns: Turns) -> Self {
        Self { turns, state: Mutex::new(State { renewals: channel.renewals(), turn: None }) }
    }

    /// A handshake begins, with the certificate of this moment.
    pub(super) fn begin(&self) {
        self.lock().renewals.mark_seen();
    }

    /// The connection stands.
    pub(super) fn done(&self) {
        self.lock().turn = None;
    }

    /// Waits until the certificate is another than was shown, the others can do without this connection, and it is owed
    /// nothing.
    pub(super) async fn left(&self, stream: &RequestStream, server: ServerIndex, directory: &Directory) {
        let mut renewals = self.lock().renewals.clone();
        renewals.next().await;
        let Ok(turn) = self.turns.0.clone().acquire_owned().await else { return std::future::pending().await };
        while !directory.can_spare_link(server) {
            sleep(STEP).await;
        }
        self.lock().turn = Some(turn);
        stream.drain();
        stream.drained().await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change under the lock is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Renewal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renewal").field("leaves", &self.lock().turn.is_some()).finish_non_exhaustive()
    }
}
