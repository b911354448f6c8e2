//! The programs' configurations.

use std::fmt::Write;
use std::iter;
use std::net::SocketAddr;

use keystead_local::pki::{KEY_SERVER_NAME, edge_identity};

use super::{Audit, Builder, token};

/// Beside the key server's configuration.
pub(super) const OCSP_FILE: &str = "ocsp.der";

/// Beside the key server's configuration.
pub(super) const TICKETS_FILE: &str = "tickets.toml";

/// Beside the key server's configuration.
pub(super) const AUDIT_DIRECTORY: &str = "audit";

/// Beside each edge's configuration, where [`Builder::edge_file`] puts it.
pub const CLIENT_AUTHORITIES: &str = "clients.pem";

/// A kind of key, with a certificate for `localhost` and `*.keystead.test`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyType {
    /// RSA with 2048 bits.
    Rsa2048,
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// Ed25519.
    Ed25519,
}

impl KeyType {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Rsa2048, Self::P256, Self::P384, Self::Ed25519];

    /// The key's name in configurations; its files have it behind `localhost-`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rsa2048 => "rsa",
            Self::P256 => "p256",
            Self::P384 => "p384",
            Self::Ed25519 => "ed25519",
        }
    }

    /// The files' name without `.pem` and `.key`.
    pub fn stem(self) -> String {
        format!("localhost-{}", self.name())
    }
}

/// A virtual host.
#[derive(Clone, Debug)]
pub struct Host {
    names: Vec<String>,
    default: bool,
    keys: Vec<KeyType>,
    /// Whether it shows the chains that the key server has for its keys.
    asks_for_chains: bool,
    backends: Vec<SocketAddr>,
    lines: Vec<String>,
}

impl Host {
    /// A host that answers to `name`, on the stack's backend with a PROXY header of version 2.
    pub fn new(name: &str) -> Self {
        Self {
            names: vec![name.to_owned()],
            default: false,
            keys: Vec::new(),
            asks_for_chains: true,
            backends: Vec::new(),
            lines: Vec::new(),
        }
    }

    /// Makes it the host of clients that ask for other names or for none.
    pub fn default(mut self) -> Self {
        self.default = true;
        self
    }

    /// Its keys.
    pub fn keys(mut self, keys: &[KeyType]) -> Self {
        self.keys = keys.to_vec();
        self
    }

    /// Shows the chain in this file, relative to the edge's directory, in place of what the key server tells.
    pub fn chain_from(mut self, file: &str) -> Self {
        self.asks_for_chains = false;
        self.line(format!("certificates = [{{ chain = {file:?} }}]"))
    }

    /// Its backends. They get no PROXY header unless [`Self::proxy_protocol`] says so.
    pub fn backends(mut self, backends: &[SocketAddr]) -> Self {
        self.backends = backends.to_vec();
        self
    }

    /// What precedes the bytes to the backend: `none`, `v1` or `v2`.
    pub fn proxy_protocol(self, version: &str) -> Self {
        self.line(format!("proxy_protocol = \"{version}\""))
    }

    /// Its application protocols.
    pub fn alpn(self, protocols: &[&str]) -> Self {
        self.line(format!("alpn = {protocols:?}"))
    }

    /// Its groups, the first preferred; all where this is left out.
    pub fn groups(self, groups: &[&str]) -> Self {
        self.line(format!("groups = {groups:?}"))
    }

    /// Allows RSA key transport.
    pub fn key_transport(self) -> Self {
        self.line("danger_rsa_key_transport = true".to_owned())
    }

    /// Asks clients for a certificate: `optional` or `required`, of the authorities in [`CLIENT_AUTHORITIES`]. `more` are
    /// further entries of the table, such as `allow = [{ dns = "a" }]`.
    pub fn client_auth(self, mode: &str, more: &[&str]) -> Self {
        let more: String = more.iter().map(|entry| format!(", {entry}")).collect();
        self.line(format!("client_auth = {{ mode = {mode:?}, authorities = {CLIENT_AUTHORITIES:?}{more} }}"))
    }

    fn line(mut self, line: String) -> Self {
        self.lines.push(line);
        self
    }

    pub(super) fn needs_backend(&self) -> bool {
        self.backends.is_empty()
    }

    /// Fills in what was left open.
    pub(super) fn complete(&mut self, keys: &[KeyType], backend: SocketAddr) {
        if self.keys.is_empty() && self.asks_for_chains {
            self.keys = keys.to_vec();
        }
        if self.backends.is_empty() {
            self.backends.push(backend);
            if !self.lines.iter().any(|line| line.starts_with("proxy_protocol")) {
                self.lines.push("proxy_protocol = \"v2\"".to_owned());
            }
        }
    }

    fn table(&self) -> String {
        let Self { names, default, keys, backends, lines, asks_for_chains: _ } = self;
        let keys: Vec<_> = keys.iter().map(|key| key.name()).collect();
        let backends: Vec<_> = backends.iter().map(ToString::to_string).collect();
        let lines = lines.join("\n");
        format!(
            "[[virtual_host]]\nnames = {names:?}\ndefault = {default}\nkeys = {keys:?}\nbackends = {backends:?}\n{lines}\n"
        )
    }
}

/// A number or a string.
pub(super) fn line(name: &str, value: &str) -> String {
    match value.parse::<u64>() {
        Ok(number) => format!("{name} = {number}"),
        Err(_) => format!("{name} = {value:?}"),
    }
}

const CHANNEL: &str = r#"[channel]
certificate = "channel.pem"
private_key = "channel.key"
trust_roots = "channel-ca.pem"
"#;

pub(super) fn key_server(stack: &Builder, address: SocketAddr, metrics: SocketAddr, edges: &[&str]) -> String {
    let crypto = stack.crypto;
    let mut text = format!(
        "listen = \"{address}\"\ncrypto = \"{crypto}\"\n[limits]\ndrain_timeout = \"2s\"\n\
         [log]\nlevel = \"debug,h2=info\"\n[metrics]\nlisten = \"{metrics}\"\n{CHANNEL}"
    );
    if !stack.keys_in_token.is_empty() {
        text += &token::table();
    }
    for key_type in &stack.keys {
        let (name, stem) = (key_type.name(), key_type.stem());
        let place = match stack.keys_in_token.contains(key_type) {
            true => token::key(*key_type),
            false => format!("private_key = \"{stem}.key\""),
        };
        let key = format!("[[key]]\nname = {name:?}\n{place}\ncertificate_chain = \"{stem}.pem\"");
        text += &key;
        text += "\n";
        if stack.key_transport && matches!(key_type, KeyType::Rsa2048) {
            text += "danger_rsa_key_transport = true\n";
        }
        if stack.ocsp_response.is_some() {
            text += &line("ocsp_response", OCSP_FILE);
            text += "\n";
        }
    }
    if stack.rotation_period.is_some() {
        text += &format!("[tickets]\nstate = {TICKETS_FILE:?}\n");
    }
    if stack.audit.is_some() {
        text += &format!("[audit]\ndirectory = {AUDIT_DIRECTORY:?}\nsigning_key = \"audit.key\"\n");
        if matches!(stack.audit, Some(Audit::Disk { .. })) {
            text += "queue = 64\n";
        }
    }
    let keys: Vec<_> = stack.keys.iter().map(|key| key.name()).collect();
    let groups = stack.ticket_groups.iter().map(|group| line("ticket_group", group)).chain(iter::repeat(String::new()));
    for (edge, group) in edges.iter().zip(groups) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "[[edge]]\nid = \"{}\"\nkeys = {keys:?}\n{group}", edge_identity(edge));
    }
    text
}

pub(super) fn edge(stack: &Builder, address: SocketAddr, metrics: SocketAddr, key_server: SocketAddr) -> String {
    let (crypto, limits, options) = (stack.crypto, stack.limits.join("\n"), stack.key_server_table.join("\n"));
    let sessions = stack.sessions.join("\n");
    let share = stack.share_address;
    let hosts: String = stack.hosts.iter().map(Host::table).collect();
    format!(
        "crypto = \"{crypto}\"\nstate_directory = \"state\"\n[log]\nlevel = \"debug,h2=info,sled=info\"\n\
         [limits]\n{limits}\n[sessions]\n{sessions}\n[metrics]\nlisten = \"{metrics}\"\n{CHANNEL}[[listener]]\naddress = \"{address}\"\n\
         reuse_port = {share}\n\
         [key_server]\naddresses = [\"{key_server}\"]\nserver_name = \"{KEY_SERVER_NAME}\"\n{options}\n{hosts}"
    )
}
