//! The real programs as child processes: a key server, edges and a backend, with a directory, an address and
//! certificates of their own.
//!
//! ```no_run
//! use keystead_tests::stack::{Host, Stack};
//!
//! let stack = Stack::builder().limit("idle_timeout", "1s").host(Host::new("localhost").alpn(&["http/1.1"])).start();
//! assert_eq!(stack.edge().metric("keystead_edge_connections", &[]), 0);
//! ```
//!
//! Every stack has a loopback address of its own, so that all can have the same ports. It ends with its value, and the
//! programs' logs are printed when a test fails.

#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod config;
pub mod pki;
mod process;
pub mod programs;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, id};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub use config::{CLIENT_AUTHORITIES, Host, KeyType};
pub use process::{Process, Signal};

/// Longer than anything takes that is not broken.
pub const PATIENCE: Duration = Duration::from_secs(20);

const EDGE_NAMES: [&str; 2] = ["one", "two"];

/// Polls `condition` until it holds.
///
/// # Panics
/// When it does not hold within [`PATIENCE`].
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Running programs.
pub struct Stack {
    /// `None` where the test plays the key server.
    key_server: Option<Process>,
    edges: Vec<Edge>,
    /// `None` where no host uses it.
    backend: Option<Process>,
    directory: TempDir,
}

/// One running edge.
pub struct Edge {
    /// The process.
    pub process: Process,
    /// Where clients connect.
    pub address: SocketAddr,
}

/// What a stack shall be like.
pub struct Builder {
    keys: Vec<KeyType>,
    hosts: Vec<Host>,
    crypto: &'static str,
    edges: usize,
    share_address: bool,
    limits: Vec<String>,
    key_server_table: Vec<String>,
    key_server: Option<SocketAddr>,
    ocsp_response: Option<Vec<u8>>,
    key_transport: bool,
    edge_files: Vec<(&'static str, String)>,
}

impl Stack {
    /// Begins with RSA-2048 and P-256 keys, one edge, and the host `localhost`, which is the default, on a backend that
    /// reports what it saw.
    pub fn builder() -> Builder {
        Builder {
            keys: vec![KeyType::Rsa2048, KeyType::P256],
            hosts: Vec::new(),
            crypto: "fast",
            edges: 1,
            share_address: false,
            limits: Vec::new(),
            key_server_table: Vec::new(),
            key_server: None,
            ocsp_response: None,
            key_transport: false,
            edge_files: Vec::new(),
        }
    }

    /// What [`Self::builder`] begins with.
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// The first edge.
    pub fn edge(&self) -> &Edge {
        &self.edges[0]
    }

    /// The first edge.
    pub fn edge_mut(&mut self) -> &mut Edge {
        &mut self.edges[0]
    }

    /// All edges.
    pub fn edges(&self) -> &[Edge] {
        &self.edges
    }

    /// All edges.
    pub fn edges_mut(&mut self) -> &mut [Edge] {
        &mut self.edges
    }

    /// The key server.
    ///
    /// # Panics
    /// Where the test plays it.
    pub fn key_server(&mut self) -> &mut Process {
        self.key_server.as_mut().expect("a key server of this stack")
    }

    /// The stack's files. Each program's are in a directory of its own.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// PEM file with the authority that clients trust.
    pub fn authority(&self) -> PathBuf {
        self.directory().join("ca.pem")
    }
}

impl Edge {
    /// The sum of the samples of the metric `name` that carry all of `labels`; 0 where there is none.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> i64 {
        self.process.metric(name, labels)
    }

    /// Failed handshakes with this reason.
    pub fn failures(&self, reason: &str) -> i64 {
        self.metric("keystead_edge_handshake_failures_total", &[("reason", reason)])
    }

    /// Connections that ended after their handshake for this reason.
    pub fn ended(&self, reason: &str) -> i64 {
        self.metric("keystead_edge_connections_ended_total", &[("reason", reason)])
    }

    /// Completed handshakes.
    pub fn handshakes(&self) -> i64 {
        self.metric("keystead_edge_handshakes_total", &[])
    }

    /// Connections of clients that stand.
    pub fn connections(&self) -> i64 {
        self.metric("keystead_edge_connections", &[])
    }

    /// A TCP connection to the edge whose reads and writes end after [`PATIENCE`].
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("the edge accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_nodelay(true).expect("no delay");
        stream
    }
}

impl Builder {
    /// The keys of the key server; every host without keys of its own has all of them.
    pub fn keys(mut self, keys: &[KeyType]) -> Self {
        self.keys = keys.to_vec();
        self
    }

    /// Adds a virtual host; with the first, the one that stacks begin with goes.
    pub fn host(mut self, host: Host) -> Self {
        self.hosts.push(host);
        self
    }

    /// The cryptography of all programs: `fast` or `portable`.
    pub fn crypto(mut self, crypto: &'static str) -> Self {
        self.crypto = crypto;
        self
    }

    /// How many edges, at most two.
    pub fn edges(mut self, edges: usize) -> Self {
        self.edges = edges;
        self
    }

    /// Has all edges listen on one address (`SO_REUSEPORT`).
    pub fn share_address(mut self) -> Self {
        self.share_address = true;
        self
    }

    /// A line of the edges' `[limits]`: a number, or a duration.
    pub fn limit(mut self, name: &str, value: &str) -> Self {
        self.limits.push(config::line(name, value));
        self
    }

    /// A line of the edges' `[key_server]`: a number, or a duration.
    pub fn key_server_option(mut self, name: &str, value: &str) -> Self {
        self.key_server_table.push(config::line(name, value));
        self
    }

    /// Has the edges ask this key server. The stack starts none.
    pub fn key_server(mut self, address: SocketAddr) -> Self {
        self.key_server = Some(address);
        self
    }

    /// DER to staple with every certificate.
    pub fn ocsp_response(mut self, response: Vec<u8>) -> Self {
        self.ocsp_response = Some(response);
        self
    }

    /// Has the key server allow RSA key transport with its RSA key.
    pub fn key_transport(mut self) -> Self {
        self.key_transport = true;
        self
    }

    /// A file beside each edge's configuration.
    pub fn edge_file(mut self, name: &'static str, content: String) -> Self {
        self.edge_files.push((name, content));
        self
    }

    /// Starts the programs and waits until all are ready.
    ///
    /// # Panics
    /// When one does not become ready.
    pub fn start(self) -> Stack {
        let stack = self.prepare();
        stack.key_server.iter().chain(&stack.backend).for_each(Process::wait_ready);
        stack.edges.iter().for_each(|edge| edge.process.wait_ready());
        stack
    }

    /// Starts the programs and waits for none.
    pub fn prepare(mut self) -> Stack {
        let directory = tempfile::Builder::new().prefix("keystead-test-").tempdir().expect("a directory");
        let address = loopback();
        let at = |port| SocketAddr::from((address, port));
        let (key_server_address, backend_address) = (at(7443), at(8080));
        let edge_names = &EDGE_NAMES[..self.edges];
        if self.hosts.is_empty() {
            self.hosts.push(Host::new("localhost").default());
        }
        let needs_backend = self.hosts.iter().any(Host::needs_backend);
        self.hosts.iter_mut().for_each(|host| host.complete(&self.keys, backend_address));
        pki::copy_into(directory.path());

        let key_server = self.key_server.is_none().then(|| {
            let table = config::key_server(&self, key_server_address, at(9444), edge_names);
            let file = write(directory.path(), "keyserver/keyserver.toml", &table);
            if let Some(response) = &self.ocsp_response {
                fs::write(directory.path().join("keyserver").join(config::OCSP_FILE), response).expect("written");
            }
            Process::start("keyserver", serve("keystead-keyserver", &file), directory.path(), Some(at(9444)))
        });
        let backend = needs_backend.then(|| {
            let mut command = programs::command("keystead-local");
            command.args(["backend", "--proxy-protocol", "perhaps", "--listen"]).arg(backend_address.to_string());
            Process::start("backend", command, directory.path(), None).listening_on(backend_address)
        });
        let asked = self.key_server.unwrap_or(key_server_address);
        let edges = edge_names.iter().zip(0..).map(|(name, position)| {
            let port = if self.share_address { 8443 } else { 8443 + position };
            let (address, metrics) = (at(port), at(9453 + position));
            for (file, content) in &self.edge_files {
                write(directory.path(), &format!("edge-{name}/{file}"), content);
            }
            let table = config::edge(&self, address, metrics, asked);
            let file = write(directory.path(), &format!("edge-{name}/edge.toml"), &table);
            let process =
                Process::start(&format!("edge-{name}"), serve("keystead-edge", &file), directory.path(), Some(metrics));
            Edge { process, address }
        });
        let edges = edges.collect();
        Stack { key_server, edges, backend, directory }
    }
}

fn serve(program: &str, config: &Path) -> Command {
    let mut command = programs::command(program);
    command.args(["serve", "--config"]).arg(config);
    command
}

fn write(directory: &Path, file: &str, content: &str) -> PathBuf {
    let file = directory.join(file);
    fs::write(&file, content).expect("a configuration is written");
    file
}

/// A loopback address that no other stack has: the process tells it apart from those of tests that run beside this one.
fn loopback() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = id().to_be_bytes();
    Ipv4Addr::new(127, 64 | (high & 63), low, NEXT.fetch_add(1, Ordering::Relaxed))
}
