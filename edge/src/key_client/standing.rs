//! How many connections to key servers stand.

use std::sync::{Arc, Mutex, PoisonError};

use keystead_program::observe::Condition;

use crate::telemetry::Telemetry;

/// Counts connections, and says that the edge is ready while there is one.
#[derive(Debug)]
pub(super) struct Standing {
    count: Mutex<i64>,
    ready: Condition,
    telemetry: Arc<Telemetry>,
}

impl Standing {
    pub(super) fn new(ready: Condition, telemetry: Arc<Telemetry>) -> Self {
        Self { count: Mutex::new(0), ready, telemetry }
    }

    pub(super) fn up(&self) {
        self.change(1);
    }

    pub(super) fn down(&self) {
        self.change(-1);
    }

    fn change(&self, by: i64) {
        // Held while the change is told, so that what is told last is what is true.
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        *count += by;
        self.telemetry.key_server_connections.set(*count);
        if *count > 0 {
            self.ready.met();
        } else {
            self.ready.unmet("no connection");
        }
    }
}
