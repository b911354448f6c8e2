//! The end of what runs beside a test.

use std::sync::atomic::{AtomicBool, Ordering};

/// Tells threads that a test is over when it is dropped, also by a failure: they would be waited for otherwise.
#[derive(Debug)]
pub struct TellsOver<'f>(pub &'f AtomicBool);

impl Drop for TellsOver<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
