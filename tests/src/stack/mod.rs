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
mod edge;
pub mod pki;
mod process;
pub mod programs;
mod session_store;
pub mod token;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, id};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub use config::{CLIENT_AUTHORITIES, Host, KeyType};
pub use edge::{Edge, connect};
pub use process::{Process, Signal, get};

/// Longer than anything takes that is not broken.
pub const PATIENCE: Duration = Duration::from_secs(20);

const KEY_SERVER_PORT: u16 = 7443;

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
    /// `None` where edges share none.
    session_store: Option<Process>,
    directory: TempDir,
}

/// Where an audit log is.
#[derive(Clone, Copy)]
enum Audit {
    Directory,
    Disk { size: &'static str },
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
    /// Those that are in a token and in no file.
    keys_in_token: Vec<KeyType>,
    rotation_period: Option<&'static str>,
    ticket_groups: Vec<&'static str>,
    audit: Option<Audit>,
    sessions: Vec<String>,
    shares_sessions: bool,
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
            keys_in_token: Vec::new(),
            rotation_period: None,
            ticket_groups: Vec::new(),
            audit: None,
            sessions: Vec::new(),
            shares_sessions: false,
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

    /// Where edges connect to the key server.
    pub fn key_server_address(&self) -> SocketAddr {
        SocketAddr::new(self.edge().address.ip(), KEY_SERVER_PORT)
    }

    /// The stack's files. Each program's are in a directory of its own.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Puts what `change` makes of a file below [`Self::directory`] in that file's place, at once as a whole.
    ///
    /// # Panics
    /// When there is no such text file, and when nothing has changed.
    #[track_caller]
    pub fn edit(&self, file: &str, change: impl FnOnce(&str) -> String) {
        edit_file(&self.directory().join(file), change);
    }

    /// The directory of the key server's audit log.
    pub fn audit_log(&self) -> PathBuf {
        self.directory().join("keyserver").join(config::AUDIT_DIRECTORY)
    }

    /// The output of `keystead-keyserver audit verify` of a log with the stack's key, and whether it found no fault.
    ///
    /// # Panics
    /// When the program does not start.
    pub fn verify_audit(&self, log: &Path, more: &[&str]) -> (bool, String) {
        let mut command = programs::command("keystead-keyserver");
        command.args(["audit", "verify", "--directory"]).arg(log);
        command.arg("--public-key").arg(self.directory().join("keyserver/audit.pub")).args(more);
        let output = command.output().expect("the program starts");
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }

    /// PEM file with the authority that clients trust.
    pub fn authority(&self) -> PathBuf {
        self.directory().join("ca.pem")
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

    /// Moves these of the key server's keys into a SoftHSM2 token.
    pub fn keys_in_token(mut self, keys: &[KeyType]) -> Self {
        self.keys_in_token = keys.to_vec();
        self
    }

    /// Has the key server give ticket keys out, each for so long as in `1h`.
    pub fn tickets(mut self, rotation_period: &'static str) -> Self {
        self.rotation_period = Some(rotation_period);
        self
    }

    /// The edges' ticket groups, in their order. All are of one where this is left out.
    pub fn ticket_groups(mut self, groups: &[&'static str]) -> Self {
        self.ticket_groups = groups.to_vec();
        self
    }

    /// Has the key server keep an audit log, below its directory: see [`Stack::audit_log`].
    pub fn audit(mut self) -> Self {
        self.audit = Some(Audit::Directory);
        self
    }

    /// As [`Self::audit`], on a disk of this size, such as `300k`, which the key server alone sees.
    pub fn audit_on_disk(mut self, size: &'static str) -> Self {
        self.audit = Some(Audit::Disk { size });
        self
    }

    /// A line of the edges' `[sessions]`: a number, or a duration.
    pub fn sessions(mut self, name: &str, value: &str) -> Self {
        self.sessions.push(config::line(name, value));
        self
    }

    /// A line of the edges' `[sessions]`, as it is.
    pub fn session_line(mut self, line: &str) -> Self {
        self.sessions.push(line.to_owned());
        self
    }

    /// Has the edges share sessions with ids, in a Redis of the stack's own.
    pub fn share_sessions(mut self) -> Self {
        self.shares_sessions = true;
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
        let has_tickets = self.rotation_period.is_some();
        let stack = self.prepare();
        stack.key_server.iter().chain(&stack.backend).for_each(Process::wait_ready);
        stack.edges.iter().for_each(|edge| edge.process.wait_ready());
        if has_tickets {
            stack.edges.iter().for_each(Edge::wait_for_ticket_keys);
        }
        stack.wait_for_session_store();
        stack
    }

    /// Starts the programs and waits for none.
    pub fn prepare(mut self) -> Stack {
        let directory = tempfile::Builder::new().prefix("keystead-test-").tempdir().expect("a directory");
        let address = loopback();
        let at = |port| SocketAddr::from((address, port));
        let (key_server_address, backend_address) = (at(KEY_SERVER_PORT), at(8080));
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
            let audit = directory.path().join("keyserver").join(config::AUDIT_DIRECTORY);
            if self.audit.is_some() {
                fs::create_dir(&audit).expect("a directory");
                make_signing_key(&directory.path().join("keyserver"));
            }
            if let Some(period) = self.rotation_period {
                make_ticket_secret(&directory.path().join("keyserver").join(config::TICKETS_FILE), period);
            }
            let command = match self.audit {
                Some(Audit::Disk { size }) => serve_with_disk("keystead-keyserver", &file, (&audit, size)),
                Some(Audit::Directory) | None if !self.keys_in_token.is_empty() => {
                    token::provide(directory.path(), &file, &self.keys_in_token);
                    token::serve(&file, directory.path())
                }
                Some(Audit::Directory) | None => serve("keystead-keyserver", &file),
            };
            Process::start("keyserver", command, directory.path(), Some(at(9444)))
        });
        let backend = needs_backend.then(|| {
            let mut command = programs::command("keystead-local");
            command.args(["backend", "--proxy-protocol", "perhaps", "--listen"]).arg(backend_address.to_string());
            Process::start("backend", command, directory.path(), None).listening_on(backend_address)
        });
        let session_store = self.shares_sessions.then(|| {
            let address = at(6379);
            // A busy machine is not what its tests are about.
            self.sessions
                .push(format!("shared = {{ kind = \"single\", addresses = [\"{address}\"], timeout = \"1s\" }}"));
            session_store::start(address, directory.path())
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
        Stack { key_server, edges, backend, session_store, directory }
    }
}

/// Puts what `change` makes of a text file in its place, at once as a whole.
///
/// # Panics
/// When there is no such text file, and when nothing has changed.
#[track_caller]
pub fn edit_file(file: &Path, change: impl FnOnce(&str) -> String) {
    let before = fs::read_to_string(file).expect("a text file");
    let after = change(&before);
    assert_ne!(after, before, "{} is what it was", file.display());
    put(file, &after);
}

fn put(file: &Path, content: &str) {
    let next = file.with_extension("next");
    fs::write(&next, content).expect("written");
    fs::rename(&next, file).expect("put in place");
}

fn serve(program: &str, config: &Path) -> Command {
    serve_by(programs::command(program), config)
}

fn serve_by(mut program: Command, config: &Path) -> Command {
    program.args(["serve", "--config"]).arg(config);
    program
}

/// With a file system of its own, in namespaces of its own, so that nobody has to be root.
fn serve_with_disk(program: &str, config: &Path, (mounted, size): (&Path, &str)) -> Command {
    const MOUNT: &str = r#"mount -t tmpfs -o "size=$1" tmpfs "$2" && shift 2 && exec "$@""#;
    let mut command = programs::of_this_thread(Path::new("unshare"));
    command.args(["--map-root-user", "--mount", "sh", "-c", MOUNT, "sh", size]).arg(mounted);
    command.arg(programs::path(program)).args(["serve", "--config"]).arg(config);
    command
}

fn make_ticket_secret(file: &Path, rotation_period: &str) {
    let mut command = programs::command("keystead-keyserver");
    command.args(["init", "--rotation-period", rotation_period, "--state"]).arg(file);
    let made = command.output().expect("the program starts");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// Makes audit.key and audit.pub.
fn make_signing_key(directory: &Path) {
    let mut command = programs::command("keystead-keyserver");
    command.args(["audit", "init", "--signing-key"]).arg(directory.join("audit.key"));
    let made = command.output().expect("the program starts");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    fs::write(directory.join("audit.pub"), made.stdout).expect("written");
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
