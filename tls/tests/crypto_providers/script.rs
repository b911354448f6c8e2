//! A generator that says what a test tells it to.

use std::collections::VecDeque;
use std::convert::Infallible;

use rand::rand_core::{TryCryptoRng, TryRng};

/// Gives each of its strings once, one a draw, the last one for ever.
pub(crate) struct Script(VecDeque<Vec<u8>>);

impl Script {
    pub(crate) fn new(strings: impl IntoIterator<Item = Vec<u8>>) -> Self {
        Self(strings.into_iter().collect())
    }
}

impl TryRng for Script {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        panic!("a scalar is drawn in one piece")
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        panic!("a scalar is drawn in one piece")
    }

    fn try_fill_bytes(&mut self, to: &mut [u8]) -> Result<(), Infallible> {
        to.copy_from_slice(self.0.front().unwrap());
        if self.0.len() > 1 {
            self.0.pop_front();
        }
        Ok(())
    }
}

impl TryCryptoRng for Script {}
