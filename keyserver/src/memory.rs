//! Keeps what is in the process's memory there: no core dumps, no other process's eyes, no swap.

use std::fs;

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use serde::Deserialize;

/// The `[memory]` table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemoryConfig {
    /// Whether memory is locked, so that it never goes to swap.
    pub lock: MemoryLock,
}

/// Whether memory is locked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemoryLock {
    /// Where the system allows it; a warning where it does not.
    #[default]
    Try,
    /// The program does not start without.
    Require,
    /// No.
    Off,
}

/// What the system did not allow.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// Core dumps are still possible.
    #[error("core dumps cannot be switched off ({0}); set LimitCORE=0, and turn kernel.core_pattern's helper off")]
    CoreDumps(std::io::Error),
    /// The limit on locked memory is below what may be needed later.
    #[error(
        "memory is not locked, and may go to swap: RLIMIT_MEMLOCK is limited; set LimitMEMLOCK=infinity in the systemd \
         unit (or `ulimit -l unlimited`), or switch swap off and say [memory] lock = \"off\""
    )]
    Limited,
    /// The system refused.
    #[error("memory is not locked, and may go to swap: {0}; switch swap off, or say [memory] lock = \"off\"")]
    Refused(std::io::Error),
}

/// Switches core dumps off, for this process and its children, and hides its memory and files below `/proc` from other
/// processes of the same user.
///
/// # Errors
/// [`MemoryError::CoreDumps`].
pub fn forbid_core_dumps() -> Result<(), MemoryError> {
    let failed = |cause: rustix::io::Errno| MemoryError::CoreDumps(cause.into());
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if getrlimit(Resource::Core) != none {
        setrlimit(Resource::Core, none).map_err(failed)?;
    }
    // A helper in kernel.core_pattern gets dumps whatever the limit says, but not of such a process.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed)
}

/// Locks all memory of the process, present and future, each page from its first use on.
///
/// # Errors
/// [`MemoryError::Limited`] where a limit would one day make an allocation fail, and [`MemoryError::Refused`]. Nothing is
/// locked then.
pub fn lock() -> Result<(), MemoryError> {
    if getrlimit(Resource::Memlock).current.is_some() && !is_exempt() {
        return Err(MemoryError::Limited);
    }
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)
        .map_err(|cause| MemoryError::Refused(cause.into()))
}

/// Whether the limit does not hold for this process: with CAP_IPC_LOCK, which counts in the first user namespace alone.
fn is_exempt() -> bool {
    const CAP_IPC_LOCK: u32 = 14;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let is_first_namespace = map.split_whitespace().eq(["0", "0", "4294967295"]);
    is_first_namespace && effective & (1 << CAP_IPC_LOCK) != 0
}

/// Locks memory as `wanted`; gives what was not possible and not required.
///
/// # Errors
/// [`MemoryError`] where memory must be locked and cannot be.
pub fn lock_as(wanted: MemoryLock) -> Result<Option<MemoryError>, MemoryError> {
    match wanted {
        MemoryLock::Off => Ok(None),
        MemoryLock::Try => Ok(lock().err()),
        MemoryLock::Require => lock().map(|()| None),
    }
}
