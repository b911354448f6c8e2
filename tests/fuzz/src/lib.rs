//! What the fuzz targets share: the client and the server of the engine's conversation tests.

#[path = "../../src/client.rs"]
pub mod client;
#[path = "../../src/conversation.rs"]
pub mod conversation;
#[path = "../../src/server.rs"]
pub mod server;
#[path = "../../src/sessions.rs"]
pub mod sessions;
#[path = "../../src/signer.rs"]
pub mod signer;

use keystead_tls::crypto::FAST;
use keystead_tls::{Alert, AlertDescription, AlertLevel, Error, HostParameters};

use server::Server;

/// A server that says the same to the same bytes: Ed25519 signs the same twice.
pub fn server() -> Server {
    let identities = vec![signer::ED25519.identity.clone()];
    Server::new(FAST, HostParameters { identities, ..HostParameters::default() }, 1)
}

/// Whether an unprotected alert of the server's is the one that answers `error`.
pub fn ends_with_alert(output: &[u8], error: Error) -> bool {
    let Some(description) = error.alert() else { return true };
    let level = if description == AlertDescription::CLOSE_NOTIFY { AlertLevel::WARNING } else { AlertLevel::FATAL };
    output.ends_with(&Alert { level, description }.encode())
}
