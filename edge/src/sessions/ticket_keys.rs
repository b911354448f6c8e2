//! The keys that sessions are sealed under, as a key server tells them. They are held in memory only, and die by the
//! clock: with them everything that is sealed under them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use keystead_program::channel::HostPort;
use keystead_proto::v1;
use tokio::time::Instant;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::telemetry::Telemetry;

/// What stands in front of whatever a generation has sealed.
pub type KeyName = [u8; 16];

/// The key of one generation.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct TicketKey([u8; 32]);

impl TicketKey {
    /// A copy of these bytes; `None` where they are not 32.
    fn copy_of(bytes: &[u8]) -> Option<Self> {
        let mut key = Self([0; 32]);
        (bytes.len() == key.0.len()).then(|| key.0.copy_from_slice(bytes)).map(|()| key)
    }

    /// The key's bytes.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketKey([redacted])")
    }
}

/// One generation: which one, its key, and how long it serves.
#[derive(Debug)]
pub struct Generation {
    /// Later ones have higher numbers.
    pub number: u64,
    /// Its name on what it seals.
    pub name: KeyName,
    /// Its key.
    pub key: TicketKey,
    /// Up to when it seals; `None` where it only opens.
    pub seals_until: Option<Instant>,
    /// Up to when it opens.
    pub opens_until: Instant,
}

impl Generation {
    fn read(key: v1::TicketKey, now: Instant) -> Option<Self> {
        let v1::TicketKey { generation, name, key, seal_for_ms, open_for_ms } = key;
        let key = Zeroizing::new(key);
        Some(Self {
            number: generation,
            name: name.as_slice().try_into().ok()?,
            key: TicketKey::copy_of(&key)?,
            seals_until: (seal_for_ms != 0).then(|| now + span(seal_for_ms)),
            opens_until: now + span(open_for_ms),
        })
    }

    /// How much longer it opens what it seals at this moment.
    pub fn opens_for(&self, now: Instant) -> Duration {
        self.opens_until.saturating_duration_since(now)
    }
}

/// A span that every clock has room for.
fn span(milliseconds: u64) -> Duration {
    const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);
    Duration::from_millis(milliseconds).min(LONGEST)
}

/// The generations of this edge's group at this moment.
#[derive(Debug)]
pub struct TicketKeys {
    generations: ArcSwap<Generations>,
    telemetry: Arc<Telemetry>,
}

/// A set of generations, oldest first.
#[derive(Debug, Default)]
pub struct Generations(Vec<Arc<Generation>>);

impl Generations {
    /// The one that seals.
    pub fn sealing(&self, now: Instant) -> Option<&Arc<Generation>> {
        self.0.iter().rev().find(|generation| generation.seals_until.is_some_and(|end| now < end))
    }

    /// The one of that name, if it still opens.
    pub fn opening(&self, name: &KeyName, now: Instant) -> Option<&Arc<Generation>> {
        self.0.iter().find(|generation| generation.name == *name && now < generation.opens_until)
    }

    /// Those that still open.
    pub fn all_opening(&self, now: Instant) -> impl Iterator<Item = &Generation> {
        self.0.iter().map(AsRef::as_ref).filter(move |generation| now < generation.opens_until)
    }
}

impl TicketKeys {
    /// None, until a key server tells some.
    pub fn new(telemetry: Arc<Telemetry>) -> Self {
        Self { generations: ArcSwap::default(), telemetry }
    }

    /// The generations at this moment. The guard is for the length of a lookup.
    pub fn load(&self) -> Guard<Arc<Generations>> {
        self.generations.load()
    }

    /// A key server tells what there is. Whoever told last is believed, and alone: what a key server leaves out has been
    /// revoked, whatever another one said before.
    pub fn tell(&self, message: v1::TicketKeys, now: Instant) {
        let told = message.keys.len();
        let mut generations: Vec<_> =
            message.keys.into_iter().filter_map(|key| Generation::read(key, now)).map(Arc::new).collect();
        if generations.len() < told {
            tracing::warn!(told, usable = generations.len(), "unusable ticket keys from the key server");
        }
        generations.sort_by_key(|generation| generation.number);
        let before = self.generations.load();
        let is_same = |one: &Arc<Generation>, other: &Arc<Generation>| {
            one.name == other.name && one.seals_until.is_some() == other.seals_until.is_some()
        };
        if before.0.len() != generations.len() || !before.0.iter().zip(&generations).all(|(a, b)| is_same(a, b)) {
            let numbers: Vec<_> = generations.iter().map(|generation| generation.number).collect();
            tracing::info!(generations = ?numbers, "ticket keys");
        }
        let generations = Arc::new(Generations(generations));
        self.generations.store(generations.clone());
        self.telemetry.ticket_generations(&generations.0);
    }

    /// A key server knows this edge no more: what it told is not this edge's to use.
    pub fn forget(&self, key_server: &HostPort) {
        if !self.generations.swap(Arc::default()).0.is_empty() {
            tracing::warn!(%key_server, "ticket keys dropped: a key server does not know this edge");
        }
        self.telemetry.ticket_generations(&[]);
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use prometheus_client::registry::Registry;

    pub(crate) const HOUR: u64 = 3_600_000;

    /// The generations around `current`, as a key server tells them in the middle of an hour.
    pub(crate) fn message(current: u8) -> v1::TicketKeys {
        let key = |number: u8, seal_for_ms| v1::TicketKey {
            generation: number.into(),
            name: vec![number; 16],
            key: vec![number; 32],
            seal_for_ms,
            open_for_ms: (u64::from(number) + 2 - u64::from(current)) * HOUR - HOUR / 2,
        };
        v1::TicketKeys { keys: vec![key(current - 1, 0), key(current, HOUR / 2), key(current + 1, 0)] }
    }

    pub(crate) fn ticket_keys() -> TicketKeys {
        TicketKeys::new(Arc::new(Telemetry::register(&mut Registry::default())))
    }

    fn number(generation: Option<&Arc<Generation>>) -> Option<u64> {
        generation.map(|generation| generation.number)
    }

    #[test]
    fn three_generations_open_and_one_seals_each_in_its_time() {
        let (keys, now) = (ticket_keys(), Instant::now());
        assert!(keys.load().sealing(now).is_none());
        keys.tell(message(5), now);
        let at = |hours: f64| now + Duration::from_secs_f64(hours * 3600.0);
        let generations = keys.load();
        for (hours, sealing, opening) in
            [(0.0, Some(5), [true; 3]), (0.6, None, [false, true, true]), (1.6, None, [false, false, true])]
        {
            assert_eq!(number(generations.sealing(at(hours))), sealing, "{hours}");
            let opens = [4, 5, 6].map(|name| generations.opening(&[name; 16], at(hours)).is_some());
            assert_eq!(opens, opening, "{hours}");
        }
        assert!(generations.opening(&[7; 16], now).is_none());
        assert!(generations.opening(&[6; 16], at(2.6)).is_none());
    }

    #[test]
    fn what_was_told_last_counts_alone() {
        let (keys, now) = (ticket_keys(), Instant::now());
        keys.tell(message(5), now);
        keys.tell(message(6), now);
        assert_eq!(number(keys.load().sealing(now)), Some(6));
        assert!(keys.load().opening(&[4; 16], now).is_none());
        keys.forget(&"127.0.0.1:1".parse().unwrap());
        assert!(keys.load().sealing(now).is_none() && keys.load().opening(&[6; 16], now).is_none());
    }

    #[test]
    fn keys_that_are_none_are_left_out() {
        let (keys, now) = (ticket_keys(), Instant::now());
        let mut told = message(5);
        told.keys.first_mut().unwrap().key.pop();
        told.keys.last_mut().unwrap().name.push(0);
        told.keys.get_mut(1).unwrap().open_for_ms = u64::MAX;
        keys.tell(told, now);
        assert_eq!(number(keys.load().sealing(now)), Some(5));
        assert!(keys.load().opening(&[4; 16], now).is_none() && keys.load().opening(&[6; 16], now).is_none());
    }

    #[test]
    fn keys_are_not_printed() {
        let keys = ticket_keys();
        keys.tell(message(77), Instant::now());
        let text = format!("{keys:?}");
        assert!(
            text.contains("TicketKey([redacted])")
                && !text.contains("[77, 77, 77, 77, 77, 77, 77, 77, 77, 77, 77, 77, 77, 77, 77, 77, 77"),
            "{text}"
        );
    }
}
