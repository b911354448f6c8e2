//! The edge: terminates TLS without holding a private key.
//!
//! A connection's road: [`listener`] accepts it, [`handshake`] drives the engine and finds its [`virtual_host`],
//! [`key_client`] gets the signature, [`backend`] connects, [`relay`] moves bytes.

pub mod admission;
pub mod backend;
pub mod buffer;
pub mod certificate;
pub mod check;
pub mod client_auth;
pub mod config;
pub mod connection;
pub mod database;
pub mod directory;
pub mod handover;
pub mod handshake;
pub mod identity;
pub mod key_client;
pub mod listener;
pub mod open_files;
pub mod proxy_protocol;
pub mod relay;
pub mod reload;
pub mod serve;
pub mod sessions;
pub mod socket;
pub mod state;
pub mod telemetry;
pub mod virtual_host;
