//! The configurations of the fleet's programs.

use std::net::{Ipv4Addr, SocketAddr};

use keystead_local::pki::{KEY_SERVER_NAME, edge_identity};

use super::audited::{LOG, SIGNING_KEY};

pub(super) const EDGES: [&str; 2] = ["one", "two"];

/// Where key servers listen.
pub(super) const KEY_SERVER_PORT: u16 = 7443;
/// Where edges listen.
pub(super) const EDGE_PORT: u16 = 8443;
/// Where key servers and edges show their metrics.
pub(super) const METRICS_PORT: u16 = 9444;

const CHANNEL: &str = r#"[channel]
certificate = "pki/channel.pem"
private_key = "pki/channel.key"
trust_roots = "pki/channel-ca.pem"
"#;

/// A key server's. An edge that is `revoked` is known no longer.
pub(super) fn key_server(address: Ipv4Addr, revoked: Option<usize>) -> String {
    let mut text = format!(
        "listen = \"{address}:{KEY_SERVER_PORT}\"\n[metrics]\nlisten = \"{address}:{METRICS_PORT}\"\n{CHANNEL}\
         [limits]\ndrain_timeout = \"5s\"\n[tickets]\nstate = \"state/ticket-keys.toml\"\n\
         [audit]\ndirectory = {LOG:?}\nsigning_key = {SIGNING_KEY:?}\n"
    );
    for key in ["rsa", "p256"] {
        text += &format!(
            "[[key]]\nname = {key:?}\nprivate_key = \"pki/localhost-{key}.key\"\n\
             certificate_chain = \"pki/localhost-{key}.pem\"\n"
        );
    }
    for (index, edge) in EDGES.iter().enumerate() {
        let (identity, revoked) = (edge_identity(edge), revoked == Some(index));
        text += &format!("[[edge]]\nid = {identity:?}\nkeys = [\"rsa\", \"p256\"]\nrevoked = {revoked}\n");
    }
    text
}

/// What an edge of the fleet is told.
pub(super) struct EdgeConfig<'c> {
    pub(super) address: Ipv4Addr,
    pub(super) metrics_port: u16,
    pub(super) state_directory: &'c str,
    pub(super) key_servers: Vec<String>,
    pub(super) backend: SocketAddr,
    /// Whether it has the host `added.localhost`.
    pub(super) has_added_host: bool,
}

impl EdgeConfig<'_> {
    pub(super) fn text(&self) -> String {
        let Self { address, metrics_port, state_directory, key_servers, backend, has_added_host } = self;
        // Memory has its full size within minutes, so that a soak can tell what grows.
        let mut text = format!(
            "state_directory = {state_directory:?}\n[metrics]\nlisten = \"{address}:{metrics_port}\"\n{CHANNEL}\
             [[listener]]\naddress = \"{address}:{EDGE_PORT}\"\nreuse_port = true\n[limits]\ndrain_timeout = \"20s\"\n\
             [sessions.local]\nmemory_bytes = 1048576\nmax_entries = 65536\nmax_bytes = 67108864\n\
             [key_server]\naddresses = {key_servers:?}\nserver_name = {KEY_SERVER_NAME:?}\n"
        );
        let names = ["localhost", ADDED_NAME];
        for name in names.iter().take(if *has_added_host { 2 } else { 1 }) {
            text += &format!(
                "[[virtual_host]]\nnames = [{name:?}]\nkeys = [\"rsa\", \"p256\"]\nbackends = [\"{backend}\"]\n"
            );
        }
        text
    }
}

/// The host that a reload adds.
pub(super) const ADDED_NAME: &str = "added.localhost";
