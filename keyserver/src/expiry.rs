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
    /// What the clock said when ends were announced last.
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
                () = tokio::time::sleep(wait) => self.announce(UnixTime::now()),
                // This holds a sender, so it never ends.
                _ = changes.changed() => {}
            }
        }
    }

    /// The next end.
    fn next(&self, authorizations: &Authorizations) -> Option<UnixTime> {
        authorizations.ends().map(|(end, ..)| end).filter(|end| *end > self.announced).min()
    }

    /// Announces the ends up to `now`; and those that are yet to come once more, where the clock ran ahead and was set back.
    fn announce(&mut self, now: UnixTime) {
        let authorizations = self.authorizations.borrow().clone();
        let (first, last) = (self.announced.min(now), self.announced.max(now));
        let mut any = false;
        for (end, edge, key) in authorizations.ends().filter(|(end, ..)| first < *end && *end <= last) {
            let key = key.map_or("all", |key| key.name());
            if end <= now {
                tracing::info!(%edge, key, reason = Refusal::RightsExpired.reason(), "rights ended");
            } else {
                tracing::warn!(%edge, key, reason = "clock_set_back", "rights that had ended are there again");
            }
            any = true;
        }
        self.announced = now;
        if any {
            self.authorizations.send_modify(|_| ());
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::time::SystemTime;

    use super::*;
    use crate::authorize::Rights;
    use crate::fixture::EDGE_ONE;
    use crate::policy::Budget;
    use crate::ticket_keys::group::{GroupName, TicketGroup};

    fn at(seconds: u64) -> UnixTime {
        UnixTime(Duration::from_secs(seconds))
    }

    #[test]
    fn an_end_is_announced_again_when_a_clock_that_ran_ahead_is_set_back() {
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let rights = Rights::new([], TicketGroup::new(GroupName::default(), []));
        let rights = rights.within(Budget::default(), Some(end).into());
        let table: Authorizations = [(EDGE_ONE.parse().unwrap(), rights)].into_iter().collect();
        let authorizations = watch::Sender::new(Arc::new(table));
        let mut changes = authorizations.subscribe();
        let mut expiry = Expiry { authorizations, announced: at(0) };
        let mut is_announced = |now| {
            expiry.announce(at(now));
            let has_changed = changes.has_changed().unwrap();
            drop(changes.borrow_and_update());
            has_changed
        };
        assert!(!is_announced(900));
        assert!(is_announced(100_000), "it has come, by a clock that runs ahead");
        assert!(!is_announced(100_010));
        assert!(is_announced(910), "it is yet to come");
        assert!(!is_announced(920));
        assert!(is_announced(1000), "it has come");
    }
}
