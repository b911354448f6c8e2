//! What the tests share, a part each.

pub mod client;
pub mod server;
pub mod signer;
