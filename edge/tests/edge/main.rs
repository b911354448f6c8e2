//! The edge in one process, between real clients, a real backend and a key server that can misbehave.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod backends;
mod client_certificates;
mod handshakes;
mod key_server;
mod leases;
mod proxied;
mod relaying;
mod sessions;
mod several_key_servers;
mod stack;
mod traffic;
