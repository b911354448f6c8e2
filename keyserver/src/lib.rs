//! Holds private keys and signs for edges.
//!
//! A request passes through these parts, in this order:
//!
//! - [`service`] decodes it, says who asks, and encodes the answer,
//! - [`authorize`] tells which keys the peer may use, [`policy`] for what, and [`rate`] how much,
//! - [`schedule`] puts it on a thread for operations of its cost,
//! - [`operation`] checks what it asks for and does it,
//! - [`custody`] is where the private key lives.
//!
//! [`lease`] gives randoms out for handshakes by RSA key transport, and takes each back once.
//!
//! [`ticket_keys`] makes the keys under which edges seal tickets and sessions.
//!
//! [`memory`] keeps secrets from swap and core dumps.
//!
//! [`audit`] keeps a record of everything that was asked for and done.
//!
//! [`enrolment`] certifies edges and key servers for the channel between them.
//!
//! [`config`] is what the configuration file says and [`settings`] what it means; [`server`] puts everything together.

pub mod audit;
pub mod authorize;
pub mod config;
pub mod custody;
pub mod enrolment;
mod expiry;
pub mod key;
pub mod lease;
pub mod memory;
pub mod metrics;
pub mod operation;
pub mod policy;
pub mod private_file;
pub mod rate;
pub mod refusal;
mod reload;
pub mod schedule;
pub mod server;
pub mod service;
pub mod settings;
pub mod ticket_keys;

#[cfg(test)]
mod fixture;
