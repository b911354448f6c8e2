//! The edge: terminates TLS without holding a private key.

pub mod backend;
pub mod certificate;
pub mod config;
pub mod directory;
pub mod identity;
pub mod proxy_protocol;
pub mod server_name;
pub mod telemetry;
pub mod virtual_host;
