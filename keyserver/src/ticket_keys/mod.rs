//! Keys under which edges seal tickets and sessions: the same on every key server that holds the same secret.
//!
//! ```text
//! secret_{n+1}            = HKDF-Expand(secret_n, "keystead ratchet v1")
//! name(16) ‖ key(32) of n = HKDF-Expand(secret_n, "keystead ticket v1" ‖ 0 ‖ group ‖ 0 ‖ SHA-256(revoked edges of the group))
//! ```
//!
//! n is the *generation*: Unix time divided by the rotation period. Nothing leads back from a secret to the one before
//! it, so what was sealed under a generation that everybody has forgotten stays sealed.
//!
//! [`group`] says whose tickets open where, [`ratchet`] holds the secrets of three generations and is told the time,
//! [`state`] is the file that survives a restart, [`keeper`] turns the ratchet as time goes by.

pub mod group;
pub mod keeper;
pub mod ratchet;
mod secret;
pub mod state;
pub(crate) mod whole_file;

#[cfg(test)]
mod tests;
