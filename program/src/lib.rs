//! What every Keystead program has around its core: configuration, the choice of cryptography, logs, metrics, health,
//! the occasions to load a configuration again, the channel between edge and key server, sockets that were handed over,
//! privileges given up, and the frame of `main`.

pub mod channel;
pub mod config;
pub mod crypto;
pub mod inherited;
pub mod logging;
pub mod observe;
pub mod reload;
pub mod run;
pub mod sandbox;
pub mod server_name;
pub mod share;
pub mod watched;
