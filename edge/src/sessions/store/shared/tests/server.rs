//! Real servers on loopback, which end with their test.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const REDIS: &str = "redis-server";

/// What a server says, in its own directory.
const LOG: &str = "log";
/// What it says once it listens; the second is a sentinel's.
const READY: [&str; 2] = ["eady to accept connections", "Sentinel ID is"];
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether there is no server to start. Then the test is skipped if `KEYSTEAD_SKIP_MISSING_CLIENTS` is set to 1.
pub(super) fn is_missing() -> bool {
    let is_there = Command::new(REDIS).arg("--version").stdout(Stdio::null()).status().is_ok();
    let may_skip = std::env::var_os("KEYSTEAD_SKIP_MISSING_CLIENTS").is_some_and(|value| value == "1");
    assert!(is_there || may_skip, "{REDIS} is missing: install it, or set KEYSTEAD_SKIP_MISSING_CLIENTS=1");
    !is_there
}

/// A port that nobody listens on at the moment, and whose cluster port, 10000 above it, exists.
fn free_port() -> u16 {
    loop {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        if port < 50_000 && TcpListener::bind((Ipv4Addr::LOCALHOST, port + 10_000)).is_ok() {
            return port;
        }
    }
}

pub(super) struct Server {
    child: Child,
    port: u16,
    arguments: Vec<String>,
    directory: tempfile::TempDir,
}

impl Server {
    /// With these arguments, in which `PORT` is its port.
    pub(super) fn start(arguments: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), arguments)
    }

    fn start_in(directory: tempfile::TempDir, wanted: &[&str]) -> Self {
        let (port, arguments, child) = begin(wanted, directory.path());
        let mut server = Self { child, port, arguments, directory };
        let begun = Instant::now();
        // It ends where somebody else has taken its port meanwhile.
        while !server.is_up() {
            assert!(begun.elapsed() < PATIENCE, "{:?} ends: {}", server.arguments, server.said());
            (server.port, server.arguments, server.child) = begin(wanted, server.directory.path());
        }
        server
    }

    /// A sentinel that fails over a second after the master died.
    pub(super) fn sentinel(name: &str, master: u16) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("sentinel.conf");
        let text = format!(
            "sentinel monitor {name} 127.0.0.1 {master} 1\nsentinel down-after-milliseconds {name} 1000\n\
             sentinel failover-timeout {name} 5000\n"
        );
        std::fs::write(&file, text).unwrap();
        let file = file.display().to_string();
        Self::start_in(directory, &[&file, "--sentinel"])
    }

    pub(super) fn clustered() -> Self {
        Self::start(&["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"])
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// What `redis-cli` says.
    pub(super) fn cli(&self, arguments: &[&str]) -> String {
        cli(&[&["-h", "127.0.0.1", "-p", &self.port.to_string()], arguments].concat())
    }

    /// It hears and answers nothing until it is told to go on.
    pub(super) fn stop(&self) {
        self.signal(Signal::STOP);
    }

    pub(super) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(super) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// On the same port, after it was killed.
    pub(super) fn restart(&mut self) {
        let begun = Instant::now();
        // Another test may have taken the port meanwhile, and gives it back.
        loop {
            self.child = spawn(&self.arguments, self.directory.path());
            if self.is_up() {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{}", self.said());
        }
    }

    /// Waits until it listens, or has ended.
    fn is_up(&mut self) -> bool {
        let begun = Instant::now();
        loop {
            let said = self.said();
            if READY.iter().any(|ready| said.contains(ready)) {
                return true;
            }
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            assert!(begun.elapsed() < PATIENCE, "{:?} does not listen: {said}", self.arguments);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.directory.path().join(LOG)).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// On a free port.
fn begin(wanted: &[&str], directory: &Path) -> (u16, Vec<String>, Child) {
    let port = free_port();
    let mut all: Vec<String> = Vec::new();
    if !wanted.contains(&"--sentinel") {
        all.extend(["--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"].map(str::to_owned));
    }
    if !wanted.contains(&"--port") {
        all.extend(["--port".to_owned(), port.to_string()]);
    }
    let rest =
        wanted.iter().map(|argument| if *argument == "PORT" { port.to_string() } else { (*argument).to_owned() });
    // A configuration file, where there is one, comes first.
    let (files, options): (Vec<_>, Vec<_>) = rest.partition(|argument| argument.ends_with(".conf"));
    let arguments = [files, all, options].concat();
    let child = spawn(&arguments, directory);
    (port, arguments, child)
}

fn spawn(arguments: &[String], directory: &Path) -> Child {
    let mut command = Command::new(REDIS);
    command.args(arguments).args(["--bind", "127.0.0.1", "--dir"]).arg(directory);
    let log = File::create(directory.join(LOG)).unwrap();
    command.stdin(Stdio::null()).stdout(log).stderr(Stdio::null()).spawn().unwrap()
}

fn cli(arguments: &[&str]) -> String {
    let output = Command::new("redis-cli").args(arguments).stdin(Stdio::null()).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Gives each of the servers a part of the slots.
pub(super) fn make_cluster(servers: &[Server]) {
    let addresses: Vec<_> = servers.iter().map(|server| format!("127.0.0.1:{}", server.port)).collect();
    let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    let said = cli(&[&["--cluster", "create"], addresses.as_slice(), &["--cluster-yes"]].concat());
    assert!(said.contains("All 16384 slots covered"), "{said}");
    let begun = Instant::now();
    while !servers.iter().all(|server| server.cli(&["cluster", "info"]).contains("cluster_state:ok")) {
        assert!(begun.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// An authority in `ca.pem`, what it certified for 127.0.0.1 in `server.pem` and `server.key`, and another authority.
pub(super) fn certificates() -> tempfile::TempDir {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| std::fs::write(directory.path().join(name), text).unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    write("other.pem", params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem());
    let key = KeyPair::generate().unwrap();
    write("ca.pem", params.self_signed(&key).unwrap().pem());
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    write("server.pem", leaf.signed_by(&key, &issuer).unwrap().pem());
    write("server.key", key.serialize_pem());
    directory
}
