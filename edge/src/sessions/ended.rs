//! Sessions that a fatal alert has ended, and that must not be gone on from (RFC 5246 §7.2.2). Of sessions in stores
//! nothing is left; a ticket is in the client's hands, so its serial number is remembered here.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::record::{Serial, unix_seconds};

/// Serial numbers that are remembered at one time; the oldest make way.
const CAPACITY: usize = 1 << 16;

/// The sessions that were ended.
#[derive(Debug, Default)]
pub struct Ended(Mutex<Remembered>);

#[derive(Debug, Default)]
struct Remembered {
    serials: HashSet<Serial>,
    /// With the time up to which a ticket may come, in seconds since 1970.
    in_order: VecDeque<(Serial, u64)>,
}

impl Ended {
    /// The session must not be gone on from; after `lifetime` it is not in any case.
    pub fn insert(&self, serial: Serial, lifetime: Duration, now: SystemTime) {
        let mut remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = unix_seconds(now);
        while let Some((oldest, until)) = remembered.in_order.front().copied() {
            if until > now && remembered.in_order.len() < CAPACITY {
                break;
            }
            remembered.in_order.pop_front();
            remembered.serials.remove(&oldest);
        }
        if remembered.serials.insert(serial) {
            remembered.in_order.push_back((serial, now.saturating_add(lifetime.as_secs())));
        }
    }

    /// Whether the session was ended.
    pub fn contains(&self, serial: &Serial) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).serials.contains(serial)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    fn serial(number: usize) -> Serial {
        (number as u128).to_be_bytes()
    }

    #[test]
    fn what_has_ended_stays_so_for_its_lifetime_and_within_bounds() {
        let (ended, hour) = (Ended::default(), Duration::from_secs(3600));
        let start = UNIX_EPOCH + hour;
        ended.insert(serial(0), hour, start);
        ended.insert(serial(0), hour, start);
        assert!(ended.contains(&serial(0)) && !ended.contains(&serial(1)));
        ended.insert(serial(1), hour, start + hour);
        assert!(!ended.contains(&serial(0)) && ended.contains(&serial(1)));
        (2..=CAPACITY + 1).for_each(|number| ended.insert(serial(number), hour, start + hour));
        assert!(!ended.contains(&serial(1)) && ended.contains(&serial(2)) && ended.contains(&serial(CAPACITY + 1)));
    }
}
