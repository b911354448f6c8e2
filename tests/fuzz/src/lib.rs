//! What the fuzz targets share: the client and the server of the engine's conversation tests, and the key server's part.

#[path = "../../src/client.rs"]
pub mod client;
#[path = "../../src/conversation.rs"]
pub mod conversation;
#[path = "../../src/key_transport.rs"]
pub mod key_transport;
#[path = "../../src/server.rs"]
pub mod server;
#[path = "../../src/sessions.rs"]
pub mod sessions;
#[path = "../../src/signer.rs"]
pub mod signer;

use std::sync::LazyLock;

use keystead_tls::crypto::FAST;
use keystead_tls::{Alert, AlertDescription, AlertLevel, Error, HostParameters};

use server::Server;

/// A server that says the same to the same bytes: Ed25519 signs the same twice.
pub fn server() -> Server {
    Server::new(FAST, host(), 1)
}

/// The virtual host of [`server`].
pub fn host() -> HostParameters {
    HostParameters { identities: vec![signer::ED25519.identity.clone()], ..HostParameters::default() }
}

/// A pre-master secret for [`key_transport::KEY`], encrypted and in the clear.
pub static PRE_MASTER_SECRET: LazyLock<(Vec<u8>, Vec<u8>)> = LazyLock::new(|| {
    let block = key_transport::good_block();
    (key_transport::encrypt(&block), block[key_transport::SECRET..].to_vec())
});

/// Whether an unprotected alert of the server's is the one that answers `error`.
pub fn ends_with_alert(output: &[u8], error: Error) -> bool {
    let Some(description) = error.alert() else { return true };
    let level = if description == AlertDescription::CLOSE_NOTIFY { AlertLevel::WARNING } else { AlertLevel::FATAL };
    output.ends_with(&Alert { level, description }.encode())
}
