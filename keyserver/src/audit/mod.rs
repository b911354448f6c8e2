//! The audit log: who asked for what, in a chain that cannot be altered unseen.
//!
//! ```text
//! operation's thread          reserve a place ─▶ operate ─▶ hand the record over ─▶ answer
//!                                                              │ bounded queue
//! writer's thread                                              ▼
//!                             number, chain, write in batches; sign and sync at checkpoints; rotate
//! ```
//!
//! - [`record`] is what is told of,
//! - [`chain`] makes lines of records, each with the hash of all before it,
//! - [`signing_key`] signs where the chain stands, and verifies that,
//! - [`log`](mod@log) is the files,
//! - [`writer`] is the thread that alone writes them, behind [`recorder`], which operations tell,
//! - [`meter`] sums refusals up, so that a flood of them does not fill the disk,
//! - [`verify`] reads a log and finds what was altered.
//!
//! `docs/AUDIT.md` describes the format.

pub mod chain;
pub mod config;
pub mod log;
pub mod meter;
pub mod metrics;
pub mod record;
pub mod recorder;
pub mod signing_key;
pub mod verify;
pub mod writer;

pub use config::{AuditConfig, AuditSettings};
pub use recorder::Audit;

#[cfg(test)]
mod tests;
