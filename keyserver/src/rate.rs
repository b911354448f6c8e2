//! How much an edge may have done: token buckets, in units of what operations cost.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use keystead_tls::KeyKind;

/// What an operation costs, in signatures with a P-256 key (about 20 µs of a processor).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cost(pub u32);

impl Cost {
    /// What everything costs that needs no private key: a batch of leases, and a refusal.
    pub const LEAST: Self = Self(1);

    /// What an operation with a key of this kind costs. RSA's private operation grows with the cube of the modulus'
    /// length: 30 with 2048 bits, 102 with 3072, 240 with 4096, 1920 with 8192.
    pub fn of(kind: KeyKind) -> Self {
        match kind {
            KeyKind::EcdsaP256 | KeyKind::Ed25519 => Self(1),
            KeyKind::EcdsaP384 => Self(5),
            KeyKind::Rsa { bits } => {
                let (cube, unit) = (u128::try_from(bits).unwrap_or(u128::MAX).saturating_pow(3), 2048_u128.pow(3));
                Self(u32::try_from(cube.saturating_mul(30).div_ceil(unit)).unwrap_or(u32::MAX))
            }
        }
    }
}

/// What a bucket is filled with each second, and what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Units of cost each second.
    pub per_second: NonZeroU32,
    /// Units of cost at once, after some time without any.
    pub burst: NonZeroU32,
}

/// What is left of a rate. It begins full.
#[derive(Debug)]
pub struct Bucket {
    rate: Rate,
    begun: Instant,
    /// When it is full again if nothing is taken, in nanoseconds since `begun`.
    full_at: AtomicU64,
}

impl Bucket {
    /// A full one.
    pub fn new(rate: Rate) -> Self {
        Self { rate, begun: Instant::now(), full_at: AtomicU64::new(0) }
    }

    /// What it was made for.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// Takes `cost` out, if there is as much in it `at` that time.
    pub fn take(&self, cost: Cost, at: Instant) -> bool {
        let at = u64::try_from(at.saturating_duration_since(self.begun).as_nanos()).unwrap_or(u64::MAX);
        let (price, whole) = (self.filling(cost.0), self.filling(self.rate.burst.get()));
        let taken = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
            let then = full_at.max(at).saturating_add(price);
            (then - at <= whole).then_some(then)
        });
        taken.is_ok()
    }

    /// Puts back what was taken for something that is not done.
    pub fn give_back(&self, cost: Cost) {
        self.full_at.fetch_sub(self.filling(cost.0), Ordering::Relaxed);
    }

    /// How long so many units take to come in, in nanoseconds.
    fn filling(&self, units: u32) -> u64 {
        u64::from(units) * 1_000_000_000 / u64::from(self.rate.per_second.get())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::time::Duration;

    use keystead_program::crypto::Crypto;
    use rcgen::{KeyPair, RsaKeySize};

    use super::*;
    use crate::fixture::{Files, Kind};

    fn bucket(per_second: u32, burst: u32) -> Bucket {
        Bucket::new(Rate { per_second: per_second.try_into().unwrap(), burst: burst.try_into().unwrap() })
    }

    #[test]
    fn a_bucket_gives_its_burst_at_once_and_then_its_rate() {
        let bucket = bucket(100, 300);
        let begun = bucket.begun;
        assert_eq!((0..1000).filter(|_| bucket.take(Cost(1), begun)).count(), 300);
        for second in 1..=3 {
            let at = begun + Duration::from_secs(second);
            assert_eq!((0..1000).filter(|_| bucket.take(Cost(1), at)).count(), 100, "{second}");
        }
        // Full again, and no fuller.
        let much_later = begun + Duration::from_secs(1000);
        assert_eq!((0..1000).filter(|_| bucket.take(Cost(1), much_later)).count(), 300);
    }

    #[test]
    fn what_costs_more_takes_more_and_nothing_when_there_is_not_enough() {
        let bucket = bucket(10, 100);
        let at = bucket.begun;
        assert!(bucket.take(Cost(60), at));
        assert!(!bucket.take(Cost(41), at));
        assert!(bucket.take(Cost(40), at));
        assert!(!bucket.take(Cost(1), at));
        bucket.give_back(Cost(40));
        assert!(bucket.take(Cost(40), at) && !bucket.take(Cost(1), at));
    }

    #[test]
    fn the_extremes_do_not_overflow() {
        let bucket = bucket(1, u32::MAX);
        assert!(bucket.take(Cost(u32::MAX), bucket.begun));
        assert!(!bucket.take(Cost(u32::MAX), bucket.begun + Duration::from_secs(60)));
    }

    #[test]
    fn costs_are_as_documented() {
        let rsa = |bits| Cost::of(KeyKind::Rsa { bits }).0;
        assert_eq!([2048, 3072, 4096, 8192].map(rsa), [30, 102, 240, 1920]);
        let curves = [KeyKind::EcdsaP256, KeyKind::Ed25519, KeyKind::EcdsaP384];
        assert_eq!(curves.map(|kind| Cost::of(kind).0), [1, 1, 5]);
    }

    /// Prints what operations cost on this machine, the shortest of some tries each:
    /// `KEYSTEAD_COST_TRIES=300 cargo test --release -p keystead-keyserver measured_costs -- --nocapture`.
    #[test]
    #[expect(clippy::print_stdout, reason = "the table is what the measurement is for")]
    fn measured_costs_are_in_the_order_of_the_documented_ones() {
        let tries = std::env::var("KEYSTEAD_COST_TRIES").map_or(30, |tries| tries.parse().unwrap());
        let rsa = |size| KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, size).unwrap();
        let pairs = [
            Kind::P256.generate(),
            Kind::P384.generate(),
            rsa(RsaKeySize::_2048),
            rsa(RsaKeySize::_3072),
            rsa(RsaKeySize::_4096),
        ];
        let keys = pairs.map(|pair| {
            let files = Files::new();
            files.write_key("key", &pair, &pair.serialize_pem());
            files.load_key("key", Crypto::Fast, None).unwrap()
        });
        let mut measured = keys.each_ref().map(|key| (key.identity().public_key().kind(), f64::INFINITY));
        // By turns, so that what the machine does besides for a while is in some tries of each alone.
        for _ in 0..tries {
            for (key, (_, shortest)) in keys.iter().zip(&mut measured) {
                let scheme = key.identity().schemes().first().copied().unwrap();
                let begun = Instant::now();
                key.sign(scheme, b"message", &mut rand::rng()).unwrap();
                *shortest = shortest.min(begun.elapsed().as_secs_f64());
            }
        }
        let unit = measured.first().unwrap().1;
        for (kind, time) in &measured {
            let (micros, units) = (time * 1e6, time / unit);
            println!("{kind:?}: {micros:.1} µs, {units:.1} units, documented {}", Cost::of(*kind).0);
        }
        assert!(measured.is_sorted_by(|one, next| one.1 < next.1), "{measured:?}");
        assert!(measured.is_sorted_by(|one, next| Cost::of(one.0) < Cost::of(next.0)));
    }
}
