//! What the tests share, a part each.

pub mod client;
pub mod conversation;
pub mod server;
pub mod signer;
