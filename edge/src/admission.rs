//! Which clients are let in at all: bounds on what one address, and all together, may ask of the edge, checked before a
//! byte of TLS is read.
//!
//! An address is an IPv4 address or an IPv6 /64, which is what one subscriber has.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use keystead_program::share::{Share, Shares};
use strum::IntoStaticStr;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::config::Limits;

/// Lets clients in, or not. Memory is bounded: by the connections that stand, and by `MOST_REMEMBERED`.
#[derive(Debug)]
pub struct Admission {
    began: Instant,
    connections: Option<Arc<Shares<Network>>>,
    handshakes: Option<Arc<Semaphore>>,
    address_rates: Option<Mutex<AddressBuckets>>,
    rate: Option<Mutex<Bucket>>,
}

/// Why a client was not let in, by the name of the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Refused {
    /// The address has as many connections as it may.
    MaxConnectionsPerAddress,
    /// As many handshakes are under way as may be.
    MaxHandshakes,
    /// The address began as many handshakes as it may.
    HandshakesPerSecondPerAddress,
    /// All addresses together began as many handshakes as they may.
    HandshakesPerSecond,
}

impl Refused {
    /// The word by which log and metric name this cause.
    pub fn reason(self) -> &'static str {
        self.into()
    }
}

/// A client that was let in, for as long as its connection stands.
#[derive(Debug)]
pub struct Admitted {
    _connection: Option<Share<Network>>,
    handshake: Option<OwnedSemaphorePermit>,
}

impl Admitted {
    /// Makes room for somebody else's handshake.
    pub fn handshake_ended(&mut self) {
        self.handshake = None;
    }
}

impl Admission {
    /// Bounds as `limits` says; 0 is without bound.
    pub fn new(limits: &Limits) -> Self {
        let rate = |per_second, burst| Rate::new(per_second, if burst == 0 { per_second } else { burst });
        let address_rate = rate(limits.handshakes_per_second_per_address, limits.handshakes_burst_per_address);
        let total_rate = rate(limits.handshakes_per_second, limits.handshakes_burst);
        let is_bound = |most: &usize| *most != 0;
        Self {
            began: Instant::now(),
            connections: Some(limits.max_connections_per_address).filter(is_bound).map(Shares::new),
            handshakes: Some(limits.max_handshakes.min(Semaphore::MAX_PERMITS))
                .filter(is_bound)
                .map(|most| Arc::new(Semaphore::new(most))),
            address_rates: address_rate.map(|rate| Mutex::new(AddressBuckets::new(rate, MOST_REMEMBERED))),
            rate: total_rate.map(|rate| Mutex::new(Bucket { rate, full_at: 0 })),
        }
    }

    /// Lets the client at `address` in.
    ///
    /// # Errors
    /// The limit that it, or all clients together, have come to.
    pub fn admit(&self, address: IpAddr) -> Result<Admitted, Refused> {
        self.admit_at(address, self.began.elapsed())
    }

    fn admit_at(&self, address: IpAddr, now: Duration) -> Result<Admitted, Refused> {
        let (network, now) = (Network::of(address), u64::try_from(now.as_nanos()).unwrap_or(u64::MAX));
        // What an address has had for itself comes first, so that one that is refused takes nothing from the others.
        let connection = self.connections.as_ref().map(|shares| shares.take(network));
        let connection = connection.map(|share| share.ok_or(Refused::MaxConnectionsPerAddress)).transpose()?;
        let handshake = self.handshakes.as_ref().map(|places| places.clone().try_acquire_owned());
        let handshake = handshake.transpose().map_err(|_| Refused::MaxHandshakes)?;
        if let Some(rates) = &self.address_rates
            && !rates.lock().unwrap_or_else(PoisonError::into_inner).take(network, now)
        {
            return Err(Refused::HandshakesPerSecondPerAddress);
        }
        if let Some(rate) = &self.rate
            && !rate.lock().unwrap_or_else(PoisonError::into_inner).take(now)
        {
            return Err(Refused::HandshakesPerSecond);
        }
        Ok(Admitted { _connection: connection, handshake })
    }
}

/// What counts as one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Network(u128);

impl Network {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(address.to_ipv6_mapped().to_bits()),
            IpAddr::V6(address) => Self(address.to_bits() & !u128::from(u64::MAX)),
        }
    }
}

/// How fast tokens come, and how many may be saved up, in nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Rate {
    /// From one token to the next.
    interval: u64,
    /// Until an empty bucket is full.
    depth: u64,
}

impl Rate {
    fn new(per_second: u32, burst: u32) -> Option<Self> {
        let interval = 1_000_000_000_u64.checked_div(per_second.into())?;
        Some(Self { interval, depth: interval.saturating_mul(burst.into()) })
    }

    /// Takes a token at `now` from a bucket that is full at `full_at`, and gives the moment at which it is full then; `None`
    /// when there is none. (This is the generic cell rate algorithm: one number says how empty a bucket is.)
    fn take(self, full_at: u64, now: u64) -> Option<u64> {
        let full_at = full_at.max(now).saturating_add(self.interval);
        (full_at - now <= self.depth).then_some(full_at)
    }
}

/// A token bucket.
#[derive(Debug)]
struct Bucket {
    rate: Rate,
    full_at: u64,
}

impl Bucket {
    fn take(&mut self, now: u64) -> bool {
        let taken = self.rate.take(self.full_at, now);
        self.full_at = taken.unwrap_or(self.full_at);
        taken.is_some()
    }
}

/// Addresses whose buckets are remembered between two changes of generation; about 4 MB for each of two generations. The
/// handshakes of further ones are bounded by the rate of all alone.
const MOST_REMEMBERED: usize = 1 << 17;

/// A token bucket for each address. An address whose bucket is full again needs none: buckets are kept in two
/// generations, and the older one is dropped as a whole once all that is in it must be full.
#[derive(Debug)]
struct AddressBuckets {
    rate: Rate,
    most: usize,
    current: HashMap<Network, u64>,
    previous: HashMap<Network, u64>,
    /// When `current` began.
    since: u64,
}

impl AddressBuckets {
    fn new(rate: Rate, most: usize) -> Self {
        Self { rate, most, current: HashMap::new(), previous: HashMap::new(), since: 0 }
    }

    fn take(&mut self, network: Network, now: u64) -> bool {
        if now.saturating_sub(self.since) >= self.rate.depth {
            self.previous = std::mem::take(&mut self.current);
            self.since = now;
        }
        let known = self.current.get(&network).or_else(|| self.previous.get(&network));
        let Some(full_at) = self.rate.take(known.copied().unwrap_or_default(), now) else {
            return false;
        };
        if self.current.len() < self.most || self.current.contains_key(&network) {
            self.current.insert(network, full_at);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn none() -> Limits {
        Limits { max_connections_per_address: 0, ..Limits::default() }
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn without_limits_everybody_is_let_in() {
        let admission = Admission::new(&none());
        let all: Vec<_> = (0..10_000).map(|_| admission.admit(address("192.0.2.1")).unwrap()).collect();
        assert_eq!(all.len(), 10_000);
    }

    #[test]
    fn an_address_has_so_many_connections_and_no_more() {
        let admission = Admission::new(&Limits { max_connections_per_address: 2, ..none() });
        let admit = |text| admission.admit(address(text));
        let (first, second) = (admit("192.0.2.1").unwrap(), admit("::ffff:192.0.2.1").unwrap());
        assert_eq!(admit("192.0.2.1").unwrap_err(), Refused::MaxConnectionsPerAddress);
        let _other = admit("192.0.2.2").unwrap();
        drop(first);
        let _third = admit("192.0.2.1").unwrap();
        drop(second);
    }

    #[test]
    fn an_ipv6_network_counts_as_one_address() {
        let admission = Admission::new(&Limits { max_connections_per_address: 1, ..none() });
        let first = admission.admit(address("2001:db8::1")).unwrap();
        assert!(admission.admit(address("2001:db8::ffff:0:0:1")).is_err());
        assert!(admission.admit(address("2001:db8:0:1::1")).is_ok());
        drop(first);
        assert!(admission.admit(address("2001:db8::2")).is_ok());
    }

    #[test]
    fn a_place_for_a_handshake_is_free_when_it_has_ended() {
        let admission = Admission::new(&Limits { max_handshakes: 1, ..none() });
        let mut first = admission.admit(address("192.0.2.1")).unwrap();
        assert_eq!(admission.admit(address("192.0.2.2")).unwrap_err(), Refused::MaxHandshakes);
        first.handshake_ended();
        let second = admission.admit(address("192.0.2.2")).unwrap();
        drop(second);
        assert!(admission.admit(address("192.0.2.2")).is_ok());
    }

    #[test]
    fn handshakes_come_at_a_rate_with_a_burst() {
        let limits = Limits { handshakes_per_second: 10, handshakes_burst: 3, ..none() };
        let admission = Admission::new(&limits);
        let admitted = |now| (0..20).filter(|_| admission.admit_at(address("192.0.2.1"), now).is_ok()).count();
        assert_eq!(admitted(SECOND), 3);
        assert_eq!(admitted(SECOND + SECOND / 10), 1);
        assert_eq!(admitted(SECOND + SECOND / 10), 0);
        assert_eq!(admitted(100 * SECOND), 3);
        let refused = admission.admit_at(address("192.0.2.9"), 100 * SECOND).unwrap_err();
        assert_eq!(refused.reason(), "handshakes_per_second");
    }

    #[test]
    fn an_address_at_its_rate_takes_nothing_from_the_others() {
        let limits = Limits { handshakes_per_second_per_address: 2, handshakes_per_second: 4, ..none() };
        let admission = Admission::new(&limits);
        let admitted = |text, now| (0..20).filter(|_| admission.admit_at(address(text), now).is_ok()).count();
        assert_eq!(admitted("192.0.2.1", SECOND), 2);
        assert_eq!(admitted("192.0.2.2", SECOND), 2);
        let refused = admission.admit_at(address("192.0.2.1"), SECOND).unwrap_err();
        assert_eq!(refused, Refused::HandshakesPerSecondPerAddress);
        assert_eq!(admission.admit_at(address("192.0.2.3"), SECOND).unwrap_err(), Refused::HandshakesPerSecond);
    }

    #[test]
    fn what_is_remembered_of_addresses_ages_out_and_is_bounded() {
        let rate = Rate::new(1, 2).unwrap();
        let mut buckets = AddressBuckets::new(rate, 1000);
        let network = |number: u128| Network(number << 64);
        let at = |seconds: u64| seconds * 1_000_000_000;
        for number in 0..5000 {
            assert!(buckets.take(network(number), at(10)));
        }
        assert_eq!(buckets.current.len(), 1000);
        // Remembered over a change of generation while its bucket is not full.
        assert!(buckets.take(network(1), at(10)));
        assert!(!buckets.take(network(1), at(10)));
        assert!(buckets.take(network(9999), at(12)));
        assert!(buckets.take(network(1), at(12)) && buckets.take(network(1), at(12)));
        assert!(!buckets.take(network(1), at(12)));
        buckets.take(network(1), at(20));
        buckets.take(network(1), at(30));
        assert_eq!((buckets.current.len(), buckets.previous.len()), (1, 1));
    }
}
