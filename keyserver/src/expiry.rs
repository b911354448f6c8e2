//! Rights that end at a time of the clock.
//!
//! The table of rights says when each ends, and whoever reads it compares that with the clock. Streams, leases and what
//! edges were told follow changes of the table alone, so at each end it is announced as changed.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::authorize::Authorizations;
use crate::refusal::Refusal;
use crate::ticket_keys::ratchet::UnixTime;

/// The longest sleep: somebody may set the clock meanwhile.
const LOOK: Duration = Duration::from_secs(10);

/// Announces the ends.
#[derive(Debug)]
pub(crate) struct Expiry {
    authorizations: watch::Sender<Arc<Authorizations>>,
    /// Up to when every end was announced.
    announced: UnixTime,
}

impl Expiry {
    pub(crate) fn new(authorizations: watch::Sender<Arc<Authorizations>>) -> Self {
        Self { authorizations, announced: UnixTime::now() }
    }

    /// Goes on for as long as the process.
    pub(crate) async fn follow(mut self) -> Infallible {
        let mut changes = self.authorizations.subscribe();
        loop {
            let next = self.next(&changes.borrow_and_update());
            let wait = next.map_or(LOOK, |next| next.0.saturating_sub(UnixTime::now().0).min(LOOK));
            tokio::select! {
                () = tokio::time::sleep(wait) => self.announce(),
                // This holds a sender, so it never ends.
                _ = changes.changed() => {}
            }
        }
    }

    /// The next end.
    fn next(&self, authorizations: &Authorizations) -> Option<UnixTime> {
        authorizations.ends().map(|(end, ..)| end).filter(|end| *end > self.announced).min()
    }

    fn announce(&mut self) {
        let now = UnixTime::now();
        let authorizations = self.authorizations.borrow().clone();
        let over = authorizations.ends().filter(|(end, ..)| self.announced < *end && *end <= now);
        let mut any = false;
        for (_, edge, key) in over {
            let key = key.map_or("all", |key| key.name());
            tracing::info!(%edge, key, reason = Refusal::RightsExpired.reason(), "rights ended");
            any = true;
        }
        self.announced = self.announced.max(now);
        if any {
            self.authorizations.send_modify(|_| ());
        }
    }
}
