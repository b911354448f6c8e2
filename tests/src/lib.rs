//! What the tests share, a part each.

pub mod backend;
pub mod balancer;
pub mod certificate_status;
pub mod client;
pub mod client_authority;
pub mod conversation;
pub mod faults;
pub mod hostile_edge;
pub mod hostile_key_server;
pub mod key_transport;
pub mod many_names;
pub mod memory;
pub mod over;
pub mod python_client;
pub mod resumption;
pub mod returning;
pub mod rustls_client;
pub mod server;
pub mod sessions;
pub mod signer;
pub mod stack;
pub mod tool;
pub mod twice;
pub mod wire;
