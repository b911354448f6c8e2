//! Both cryptography providers: against known answers, and against each other.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod agreement;
mod record;
mod script;
mod signature;

use keystead_tls::crypto::{FAST, PORTABLE, Provider};
use rand::SeedableRng;
use rand::rngs::StdRng;

const PROVIDERS: [&dyn Provider; 2] = [FAST, PORTABLE];

/// The same random numbers in every run.
fn seeded(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}
