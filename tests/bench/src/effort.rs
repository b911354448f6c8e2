//! How much is measured.

use std::io::{Write, stderr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

/// How often, and for how long.
#[derive(Clone, Debug)]
pub struct Effort {
    /// Whether all that shall be seen is that it works.
    pub is_quick: bool,
    /// How often each reading is taken.
    pub rounds: u32,
    /// How long one takes.
    pub length: Duration,
    /// How many connections stand idle at one time.
    pub idle_connections: NonZeroUsize,
    /// How long they stand, their making included.
    pub idle: Duration,
}

impl Effort {
    /// Enough for figures that can be told to others; with `quick`, enough to see that all of it works. So many rounds, if
    /// that is said.
    pub fn new(quick: bool, rounds: Option<NonZeroU32>) -> Self {
        let (usual, length, idle_connections, idle) = if quick { (1, 1, 1000, 3) } else { (5, 4, 10_000, 20) };
        Self {
            is_quick: quick,
            rounds: rounds.map_or(usual, NonZeroU32::get),
            length: Duration::from_secs(length),
            idle_connections: NonZeroUsize::new(idle_connections).unwrap_or(NonZeroUsize::MIN),
            idle: Duration::from_secs(idle),
        }
    }

    /// Tells whoever watches.
    pub fn say(&self, line: &str) {
        // With standard error closed there is nobody to tell.
        let _ = writeln!(stderr(), "bench: {line}");
    }
}
