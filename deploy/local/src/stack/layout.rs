//! What runs where: addresses, files and the programs' configurations.
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Options;
use super::store::{Store, StoreServer};
use crate::pki::{CLIENT_NAME, KEY_SERVER_NAME, LEGACY_NAME, MUTUAL_NAME, edge_identity};

const EDGE_NAMES: [&str; 8] = ["one", "two", "three", "four", "five", "six", "seven", "eight"];
/// Less than what a program that is told to stop is given before it is killed.
const DRAIN_TIMEOUT: &str = "5s";
const KEYS: &str = r#"["localhost-rsa", "localhost-p256"]"#;

const TICKET_SECRET: &str = "ticket-keys.toml";

/// The whole stack on paper.
pub(super) struct Layout {
    pub(super) directory: PathBuf,
    pub(super) key_server: KeyServer,
    pub(super) edges: Vec<Edge>,
    pub(super) store: Store,
    pub(super) backend: SocketAddr,
}

pub(super) struct KeyServer {
    pub(super) configuration: PathBuf,
    pub(super) grpc: SocketAddr,
    pub(super) metrics: SocketAddr,
}

pub(super) struct Edge {
    pub(super) name: &'static str,
    pub(super) configuration: PathBuf,
    pub(super) tls: SocketAddr,
    pub(super) metrics: SocketAddr,
}

/// An address of the stack and the option that moves it.
pub(super) struct Port {
    pub(super) what: String,
    pub(super) address: SocketAddr,
    pub(super) option: &'static str,
}

impl Layout {
    /// Lays out what `options` ask for, with `store_server` for a store of sessions where edges share one.
    pub(super) fn new(options: &Options, store_server: Option<PathBuf>) -> Result<Self> {
        let directory = options.dir.clone();
        let key_server = KeyServer {
            configuration: directory.join("keyserver/keyserver.toml"),
            grpc: loopback(options.key_server_port),
            metrics: loopback(options.key_server_metrics_port),
        };
        let names = EDGE_NAMES.into_iter().take(options.edges.into());
        let edges = names.zip(0..).map(|(name, position)| Edge::new(options, name, position)).collect::<Result<_>>()?;
        let store = match (&options.shared_store, store_server) {
            (Some(address), _) => Store::Given(address.clone()),
            (None, _) if options.edges < 2 => Store::Alone,
            (None, None) => Store::Missing,
            (None, Some(program)) => {
                Store::Own(StoreServer::new(program, loopback(options.shared_store_port), directory.join("store")))
            }
        };
        Ok(Self { directory, key_server, edges, store, backend: loopback(options.backend_port) })
    }

    pub(super) fn pki(&self) -> PathBuf {
        self.directory.join("pki")
    }

    pub(super) fn log(&self, program: &str) -> PathBuf {
        self.directory.join("log").join(program).with_extension("log")
    }

    pub(super) fn edge_names(&self) -> impl Iterator<Item = &'static str> {
        self.edges.iter().map(|edge| edge.name)
    }

    /// Every address that is taken.
    pub(super) fn ports(&self) -> Vec<Port> {
        let port = |what: &str, address, option| Port { what: what.to_owned(), address, option };
        let mut ports = vec![
            port("key server", self.key_server.grpc, "--key-server-port"),
            port("key server's metrics", self.key_server.metrics, "--key-server-metrics-port"),
            port("backend", self.backend, "--backend-port"),
        ];
        for Edge { name, tls, metrics, .. } in &self.edges {
            ports.push(port(&format!("edge {name}"), *tls, "--tls-port"));
            ports.push(port(&format!("edge {name}'s metrics"), *metrics, "--edge-metrics-port"));
        }
        if let Store::Own(server) = &self.store {
            ports.push(port("store of sessions", server.address, "--shared-store-port"));
        }
        ports
    }

    /// The file of the cluster's ticket secret.
    pub(super) fn ticket_secret(&self) -> PathBuf {
        self.key_server.configuration.with_file_name(TICKET_SECRET)
    }

    /// Writes the programs' configurations anew.
    pub(super) fn write_configurations(&self) -> Result<()> {
        write(&self.key_server.configuration, &self.key_server_configuration())?;
        self.edges.iter().try_for_each(|edge| write(&edge.configuration, &self.edge_configuration(edge)))
    }

    fn key_server_configuration(&self) -> String {
        let KeyServer { grpc, metrics, .. } = &self.key_server;
        let mut text = format!(
            r#"# Written by keystead-local at each start.
listen = "{grpc}"

[limits]
drain_timeout = "{DRAIN_TIMEOUT}"

[metrics]
listen = "{metrics}"

[channel]
certificate = "../pki/keyserver/channel.pem"
private_key = "../pki/keyserver/channel.key"
trust_roots = "../pki/keyserver/channel-ca.pem"

[tickets]
state = "{TICKET_SECRET}"

[[key]]
name = "localhost-rsa"
private_key = "../pki/keyserver/localhost-rsa.key"
certificate_chain = "../pki/keyserver/localhost-rsa.pem"

[[key]]
name = "localhost-p256"
private_key = "../pki/keyserver/localhost-p256.key"
certificate_chain = "../pki/keyserver/localhost-p256.pem"

[[key]]
name = "legacy-rsa"
private_key = "../pki/keyserver/{LEGACY_NAME}-rsa.key"
certificate_chain = "../pki/keyserver/{LEGACY_NAME}-rsa.pem"
danger_rsa_key_transport = true
"#
        );
        for name in self.edge_names() {
            let keys = KEYS.replace(']', ", \"legacy-rsa\"]");
            text += &format!("\n[[edge]]\nid = \"{}\"\nkeys = {keys}\n", edge_identity(name));
        }
        text
    }

    fn edge_configuration(&self, edge: &Edge) -> String {
        let Edge { name, tls, metrics, .. } = edge;
        let (key_server, backend) = (self.key_server.grpc, self.backend);
        let shared = self.store.address().map_or_else(String::new, |address| {
            // More than by default: a machine that compiles meanwhile is slow.
            format!("\n[sessions.shared]\nkind = \"single\"\naddresses = [\"{address}\"]\ntimeout = \"1s\"\n")
        });
        format!(
            r#"# Written by keystead-local at each start.
state_directory = "state"

[limits]
drain_timeout = "{DRAIN_TIMEOUT}"

[metrics]
listen = "{metrics}"

[channel]
certificate = "../pki/edge-{name}/channel.pem"
private_key = "../pki/edge-{name}/channel.key"
trust_roots = "../pki/edge-{name}/channel-ca.pem"

[[listener]]
address = "{tls}"

[key_server]
addresses = ["{key_server}"]
server_name = "{KEY_SERVER_NAME}"
{shared}
[[virtual_host]]
names = ["localhost"]
default = true
keys = {KEYS}
backends = ["{backend}"]
proxy_protocol = "v2"
alpn = ["http/1.1"]

[[virtual_host]]
names = ["{LEGACY_NAME}"]
keys = ["legacy-rsa"]
backends = ["{backend}"]
proxy_protocol = "v2"
alpn = ["http/1.1"]
danger_rsa_key_transport = true

[[virtual_host]]
names = ["{MUTUAL_NAME}"]
keys = {KEYS}
backends = ["{backend}"]
proxy_protocol = "v2"
alpn = ["http/1.1"]

[virtual_host.client_auth]
mode = "required"
authorities = "../pki/edge-{name}/client-ca.pem"
allow = [{{ dns = "{CLIENT_NAME}" }}]
"#
        )
    }
}

impl Edge {
    fn new(options: &Options, name: &'static str, position: u16) -> Result<Self> {
        // The port after the first edge's metrics is the key server's by default.
        let metrics = if position == 0 { 0 } else { position + 1 };
        let above = |port: u16, distance| port.checked_add(distance).context("no port is left for the last edge");
        Ok(Self {
            name,
            configuration: options.dir.join(format!("edge-{name}/edge.toml")),
            tls: loopback(above(options.tls_port, position)?),
            metrics: loopback(above(options.edge_metrics_port, metrics)?),
        })
    }
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn write(path: &Path, content: &str) -> Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}
