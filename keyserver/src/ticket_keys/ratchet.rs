//! Three generations of secrets, and the time at which one gives way to the next. No clock and no file in here.
//!
//! ```text
//! generation     n-1         n          n+1
//! it         |  opens  |  seals and |  opens  |     n+1 opens what a replica whose clock is ahead has sealed
//!            |         |    opens   |         |
//! ```

use std::time::{Duration, SystemTime};

use super::group::TicketGroup;
use super::secret::{GenerationSecret, SealingKey};
use super::state::State;

/// Time since 1970, without leap seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixTime(pub Duration);

impl UnixTime {
    /// What the system's clock says; one before 1970 says 1970.
    pub fn now() -> Self {
        Self(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
    }
}

/// How long a generation is in use: whole seconds, from one to a week's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RotationPeriod(u32);

impl RotationPeriod {
    /// An hour.
    pub const HOUR: Self = Self(3600);
    const LONGEST: u32 = 7 * 24 * 3600;

    /// The period of so many seconds; `None` for one that is too short or too long.
    pub fn of_seconds(seconds: u64) -> Option<Self> {
        let seconds = u32::try_from(seconds).ok()?;
        (1..=Self::LONGEST).contains(&seconds).then_some(Self(seconds))
    }

    /// Its length.
    pub fn length(self) -> Duration {
        Duration::from_secs(self.seconds())
    }

    /// Its length in seconds.
    pub fn seconds(self) -> u64 {
        self.0.into()
    }

    /// In which generation `time` lies.
    pub fn generation_at(self, time: UnixTime) -> u64 {
        time.0.as_secs() / self.seconds()
    }

    fn begin_of(self, generation: u64) -> Duration {
        Duration::from_secs(generation.saturating_mul(self.seconds()))
    }

    /// For how long a key is used beyond its time, so that edges have the next one before they miss it.
    fn grace(self) -> Duration {
        self.length() / 10
    }
}

/// A step of the clock beyond this is taken for a mistake: a ratchet cannot be turned back.
pub const LONGEST_JUMP: Duration = Duration::from_secs(366 * 24 * 3600);

/// What is wrong with the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum ClockFault {
    /// It says a time before the generation in use.
    #[error(
        "the clock is {} s behind the ticket keys, which stay at their generation until it comes up to it: check the \
         clock of this machine", .by.as_secs()
    )]
    ClockBehind {
        /// Until the generation in use begins.
        by: Duration,
    },
    /// It says a time far after the generation in use.
    #[error(
        "the clock is {} days ahead of the ticket keys, which cannot be turned back: check the clock of this machine. If \
         it is right, make a ticket secret with `init`, and copy it to every key server", .by.as_secs() / 86_400
    )]
    ClockAhead {
        /// Since the generation in use was to end.
        by: Duration,
    },
}

impl ClockFault {
    /// The word by which log and metric name this fault.
    pub fn reason(self) -> &'static str {
        self.into()
    }
}

/// The secrets of the generation in use, the one before and the one after.
#[derive(Debug)]
pub struct Ratchet {
    period: RotationPeriod,
    generation: u64,
    previous: GenerationSecret,
    current: GenerationSecret,
    next: GenerationSecret,
}

/// A key for tickets and when it may be used, as spans from the moment it was asked for.
#[derive(Debug)]
pub struct TicketKey {
    /// Its generation.
    pub generation: u64,
    /// The key.
    pub key: SealingKey,
    /// How much longer it seals; zero where it only opens.
    pub seal_for: Duration,
    /// How much longer it opens what it has sealed.
    pub open_for: Duration,
}

impl Ratchet {
    /// Turns what was `stored` forward to the time `now`. A clock that is behind changes nothing.
    ///
    /// # Errors
    /// [`ClockFault::ClockAhead`] when `now` is more than [`LONGEST_JUMP`] after what was stored.
    pub fn resume(stored: State, now: UnixTime) -> Result<Self, ClockFault> {
        let State { period, oldest, secret } = stored;
        let ratchet = Self::at(period, oldest.saturating_add(1), secret);
        match ratchet.advance(now) {
            Ok(None) | Err(ClockFault::ClockBehind { .. }) => Ok(ratchet),
            Ok(Some(ratchet)) => Ok(ratchet),
            Err(fault @ ClockFault::ClockAhead { .. }) => Err(fault),
        }
    }

    fn at(period: RotationPeriod, generation: u64, previous: GenerationSecret) -> Self {
        let current = previous.next();
        let next = current.next();
        Self { period, generation, previous, current, next }
    }

    /// The ratchet that takes this one's place at the time `now`; `None` while it need not be turned.
    ///
    /// # Errors
    /// [`ClockFault`] when it stays as it is because `now` cannot be right.
    pub fn advance(&self, now: UnixTime) -> Result<Option<Self>, ClockFault> {
        let (begin, end) = (self.begin(), self.end());
        if now.0 < begin {
            return Err(ClockFault::ClockBehind { by: begin - now.0 });
        }
        let Some(late) = now.0.checked_sub(end) else { return Ok(None) };
        if late > LONGEST_JUMP {
            return Err(ClockFault::ClockAhead { by: late });
        }
        let generation = self.period.generation_at(now);
        // The first step leads to the secret of `self.generation`.
        let previous = (self.generation + 1..generation).fold(self.previous.next(), |secret, _| secret.next());
        Ok(Some(Self::at(self.period, generation, previous)))
    }

    /// The generation that seals.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// How long a generation is in use.
    pub fn period(&self) -> RotationPeriod {
        self.period
    }

    /// How long ago at `now` the generation in use began.
    pub fn age(&self, now: UnixTime) -> Duration {
        now.0.saturating_sub(self.begin())
    }

    /// How long after `now` the next generation begins.
    pub fn rest(&self, now: UnixTime) -> Duration {
        self.end().saturating_sub(now.0)
    }

    /// What edges of `group` are told at the time `now`, the oldest first.
    pub fn keys(&self, group: &TicketGroup, now: UnixTime) -> [TicketKey; 3] {
        // Where the clock is wrong, spans are as if it were at the nearest time that can be right.
        let now = now.0.clamp(self.begin(), self.end());
        let key = |secret: &GenerationSecret, generation: u64, seals: bool| TicketKey {
            generation,
            key: secret.sealing_key(group),
            seal_for: if seals { self.end() + self.period.grace() - now } else { Duration::ZERO },
            open_for: self.period.begin_of(generation.saturating_add(2)) + self.period.grace() - now,
        };
        [
            key(&self.previous, self.generation.saturating_sub(1), false),
            key(&self.current, self.generation, true),
            key(&self.next, self.generation.saturating_add(1), false),
        ]
    }

    /// The oldest generation whose tickets are to be opened, and its secret: all that a restart needs.
    pub(super) fn oldest(&self) -> (u64, &GenerationSecret) {
        (self.generation.saturating_sub(1), &self.previous)
    }

    fn begin(&self) -> Duration {
        self.period.begin_of(self.generation)
    }

    fn end(&self) -> Duration {
        self.period.begin_of(self.generation.saturating_add(1))
    }
}
