//! What every Keystead program has around its core: configuration, the choice of cryptography, logs, metrics, health,
//! the occasions to load a configuration again, the channel between edge and key server, and the frame of `main`.

pub mod channel;
pub mod config;
pub mod crypto;
pub mod logging;
pub mod observe;
pub mod reload;
pub mod run;
pub mod server_name;
