//! The `[[token]]` table.

use std::time::Duration;

use keystead_program::config::RelativePath;
use serde::Deserialize;

use crate::custody::secret::SecretSource;
use crate::schedule::LaneConfig;

/// A `[[token]]`: a PKCS#11 token, such as a hardware security module.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// The name by which keys ask for it and logs tell of it.
    pub name: String,
    /// The PKCS#11 module: the shared library that its maker provides.
    pub module: RelativePath,
    /// The token's label. Of label, serial and slot one is needed; all that are there must fit.
    pub label: Option<String>,
    /// The token's serial number.
    pub serial: Option<String>,
    /// The number of its slot. Modules may number slots anew at each start.
    pub slot: Option<u64>,
    /// The user's PIN.
    pub pin: SecretSource,
    /// Sessions that are open at one time, and threads that use them.
    #[serde(default = "sessions")]
    pub sessions: u32,
    /// How long an operation waits for a session.
    #[serde(default = "session_wait", with = "humantime_serde")]
    pub session_wait: Duration,
    /// Operations that may wait for their turn.
    #[serde(default = "queue")]
    pub queue: usize,
}

fn sessions() -> u32 {
    4
}

fn queue() -> usize {
    512
}

fn session_wait() -> Duration {
    Duration::from_millis(500)
}

impl TokenConfig {
    /// The lane in which its operations wait: a thread for each session, at the priority of the cheapest.
    pub fn lane(&self) -> LaneConfig {
        let name = format!("token_{}", self.name);
        let (threads, bound) = (self.sessions as usize, self.queue);
        LaneConfig { name: name.into(), threads, bound, niceness: 0, hold: Duration::ZERO }
    }

    /// Looks for what cannot be.
    ///
    /// # Errors
    /// [`TokenConfigError`].
    pub fn check(&self) -> Result<(), TokenConfigError> {
        if self.label.is_none() && self.serial.is_none() && self.slot.is_none() {
            return Err(TokenConfigError::Nameless);
        }
        if self.sessions == 0 || self.sessions > MOST_SESSIONS {
            return Err(TokenConfigError::Sessions);
        }
        if self.queue == 0 {
            return Err(TokenConfigError::Queue);
        }
        Ok(())
    }
}

const MOST_SESSIONS: u32 = 256;

/// What cannot be in a `[[token]]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenConfigError {
    /// Which token of the module it is, nobody said.
    #[error("say which token it is: label, serial or slot")]
    Nameless,
    /// A bound that lets nothing through.
    #[error("queue must not be 0")]
    Queue,
    /// No session, or more than any token has.
    #[error("sessions must be 1 to 256")]
    Sessions,
}
