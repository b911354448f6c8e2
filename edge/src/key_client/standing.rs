//! How many connections to key servers stand.

use std::sync::Arc;
use std::time::Duration;

use keystead_program::observe::Condition;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::telemetry::Telemetry;

/// The longest that a handshake waits for a connection where none stands: about what a key server takes to start.
const REVIVAL: Duration = Duration::from_secs(2);
/// Between two attempts at a connection that handshakes wait for.
const SHORT_PAUSE: Duration = Duration::from_millis(50);

/// Counts connections, and says that the edge is ready while there is one.
#[derive(Debug)]
pub(super) struct Standing {
    count: watch::Sender<i64>,
    /// Handshakes that wait for a connection.
    waiting: watch::Sender<usize>,
    ready: Condition,
    telemetry: Arc<Telemetry>,
}

impl Standing {
    pub(super) fn new(ready: Condition, telemetry: Arc<Telemetry>) -> Self {
        Self { count: watch::Sender::new(0), waiting: watch::Sender::new(0), ready, telemetry }
    }

    pub(super) fn up(&self) {
        self.change(1);
    }

    pub(super) fn down(&self) {
        self.change(-1);
    }

    /// Where no connection stands, waits for one, no longer than to `deadline`. Whether one has come.
    pub(super) async fn revives(&self, deadline: Instant) -> bool {
        let mut count = self.count.subscribe();
        if *count.borrow_and_update() > 0 {
            return false;
        }
        let _waiting = Waiting::new(&self.waiting);
        let deadline = deadline.min(Instant::now() + REVIVAL);
        timeout_at(deadline, count.wait_for(|count| *count > 0)).await.is_ok()
    }

    /// Pauses before the next attempt at a connection; shortly where handshakes wait for it.
    pub(super) async fn pause(&self, pause: Duration) {
        sleep(pause.min(SHORT_PAUSE)).await;
        let mut waiting = self.waiting.subscribe();
        let _ = timeout(pause.saturating_sub(SHORT_PAUSE), waiting.wait_for(|waiting| *waiting > 0)).await;
    }

    fn change(&self, by: i64) {
        // What is told last is what is true, since nobody else changes it meanwhile.
        self.count.send_modify(|count| {
            *count += by;
            self.telemetry.key_server_connections.set(*count);
            if *count > 0 {
                self.ready.met();
            } else {
                self.ready.unmet("no connection");
            }
        });
    }
}

/// Counts a handshake for as long as it waits.
struct Waiting<'s>(&'s watch::Sender<usize>);

impl<'s> Waiting<'s> {
    fn new(waiting: &'s watch::Sender<usize>) -> Self {
        waiting.send_modify(|waiting| *waiting += 1);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|waiting| *waiting -= 1);
    }
}

#[cfg(test)]
mod tests {
    use keystead_program::observe::Readiness;
    use prometheus_client::registry::Registry;

    use super::*;

    fn standing() -> Standing {
        let telemetry = Arc::new(Telemetry::register(&mut Registry::default()));
        Standing::new(Readiness::new().condition("key_server"), telemetry)
    }

    #[tokio::test]
    async fn who_waits_for_a_connection_is_told_when_there_is_one_and_cuts_the_pause_before_it_short() {
        let standing = standing();
        let later = Instant::now() + Duration::from_secs(20);
        let reconnected = async {
            standing.pause(Duration::from_secs(600)).await;
            standing.up();
        };
        let (revived, ()) = tokio::join!(standing.revives(later), reconnected);
        assert!(revived);
        assert!(!standing.revives(later).await, "there is nothing to wait for");
        standing.down();
        assert!(!standing.revives(Instant::now()).await, "none has come");
    }
}
