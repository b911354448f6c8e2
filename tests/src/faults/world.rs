//! The fleet in network namespaces: the real programs, each in a place of its own, with its own disk and its own clock.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use keystead_local::pki::Deployment;
use tempfile::TempDir;

use super::audited::{self, Audited};
use super::campaign::Fleet;
use super::configuration::{self, ADDED_NAME, EDGE_PORT, EDGES, EdgeConfig, KEY_SERVER_PORT, METRICS_PORT};
use super::ledger::Kill;
use super::load::Load;
use super::network::{Delay, Network, OUTSIDE, Place, run};
use crate::stack::{PATIENCE, Process, Signal, get, programs, wait_until};

/// How many key servers there are.
pub(super) const KEY_SERVERS: usize = 3;

/// What a world is like.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    /// How long edges seal tickets under one key.
    pub(super) rotation_period: &'static str,
    /// The library that gives each program a clock of its own, where clocks shall be moved.
    pub(super) faketime: Option<PathBuf>,
}

/// A running fleet. What it is made of ends with the process, which has namespaces of its own.
pub(super) struct World {
    pub(super) key_servers: Vec<Node>,
    pub(super) edges: Vec<Node>,
    /// Delays in force.
    pub(super) delays: Vec<Delay>,
    pub(super) load: Load,
    kills: Vec<Kill>,
    backend: SocketAddr,
    deployment: Deployment,
    shape: Shape,
    directory: TempDir,
    _network: Network,
}

/// One program, and where it lives.
pub(super) struct Node {
    pub(super) name: String,
    pub(super) place: Place,
    pub(super) process: Process,
    directory: PathBuf,
    metrics: SocketAddr,
    /// How many successors it has had.
    successions: u16,
}

impl World {
    /// Starts everything, and waits until it is ready.
    ///
    /// # Errors
    /// What keeps it from starting; what does not become ready panics.
    pub(super) fn start(shape: Shape) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("keystead-faults-").tempdir()?;
        let deployment = Deployment::serving(["localhost", ADDED_NAME], EDGES);
        let pki = directory.path().join("pki");
        deployment.provide(&pki)?;
        let secret = directory.path().join("ticket-keys.toml");
        let mut init = Command::new(programs::path("keystead-keyserver"));
        init.args(["init", "--rotation-period", shape.rotation_period, "--state"]).arg(&secret);
        ensure!(init.output()?.status.success(), "no ticket secret could be made");

        let network = Network::new()?;
        let mut load = Load::idle()?;
        let backend = load.backend(SocketAddr::from((OUTSIDE, 0)))?;
        let key_servers = (0..KEY_SERVERS).map(|index| {
            let place = network.join(&format!("ks{}", index + 1), 11 + index as u8)?;
            place.set_rate(100)?;
            let home = home(directory.path(), &place, &pki.join("keyserver"))?;
            audited::init(&home)?;
            fs::copy(&secret, home.join("state/ticket-keys.toml"))?;
            fs::write(home.join("program.toml"), configuration::key_server(place.address, None))?;
            Ok(Node::start(format!("key-server-{}", index + 1), "keystead-keyserver", place, home, &shape))
        });
        let key_servers: Vec<Node> = key_servers.collect::<Result<_>>()?;
        let edges = EDGES.iter().zip(21..).map(|(name, last)| {
            let place = network.join(&format!("edge{}", last - 20), last)?;
            let home = home(directory.path(), &place, &pki.join(format!("edge-{name}")))?;
            let config = EdgeConfig::of(place.address, METRICS_PORT, "state/0", backend);
            fs::write(home.join("program.toml"), config.text())?;
            Ok(Node::start(format!("edge-{}", last - 20), "keystead-edge", place, home, &shape))
        });
        let edges: Vec<Node> = edges.collect::<Result<_>>()?;
        key_servers.iter().for_each(|node| node.process.wait_ready());
        edges.iter().for_each(Node::wait_edge);
        let addresses: Vec<_> = edges.iter().map(Node::clients_address).collect();
        load.meet(&addresses, &pki.join("ca.pem"))?;
        let (kills, delays) = (Vec::new(), Vec::new());
        Ok(Self { key_servers, edges, delays, load, kills, backend, deployment, shape, directory, _network: network })
    }

    /// Kills a key server.
    pub(super) fn kill_key_server(&mut self, index: usize) -> Result<()> {
        self.key_server(index)?.process.kill();
        Ok(())
    }

    /// Kills an edge.
    pub(super) fn kill_edge(&mut self, index: usize) -> Result<()> {
        let process = &mut self.edges.get_mut(index).context("no such edge")?.process;
        self.kills.push(Kill::by(index, || {
            process.kill();
            anyhow::Ok(())
        })?);
        Ok(())
    }

    /// One of the key servers.
    pub(super) fn key_server(&mut self, index: usize) -> Result<&mut Node> {
        self.key_servers.get_mut(index).context("no such key server")
    }

    /// One of the edges.
    pub(super) fn edge(&mut self, index: usize) -> Result<&mut Node> {
        self.edges.get_mut(index).context("no such edge")
    }

    /// Puts a successor in an edge's place: it starts beside the edge on the same address, and the edge goes when it is
    /// ready.
    pub(super) fn succeed(&mut self, index: usize) -> Result<()> {
        let (backend, shape) = (self.backend, self.shape.clone());
        let edge = self.edge(index)?;
        edge.successions += 1;
        let metrics = METRICS_PORT + edge.successions % 2;
        let state = format!("state/{}", edge.successions % 2);
        let config = EdgeConfig::of(edge.place.address, metrics, &state, backend);
        let file = edge.directory.join(format!("successor-{}.toml", edge.successions % 2));
        fs::write(&file, config.text())?;
        edge.metrics = (edge.place.address, metrics).into();
        let process = launch("keystead-edge", &edge.name, &edge.place, (&edge.directory, &file), &shape, edge.metrics);
        let mut before = std::mem::replace(&mut edge.process, process);
        edge.wait_edge();
        before.signal(Signal::TERM);
        ensure!(before.wait().success(), "{} did not end well", edge.name);
        Ok(())
    }

    /// Stops a key server in good order and starts it again.
    pub(super) fn roll_key_server(&mut self, index: usize) -> Result<()> {
        let node = self.key_server(index)?;
        node.process.signal(Signal::TERM);
        let status = node.process.wait();
        ensure!(status.success(), "{} did not end well: {status}", node.name);
        node.process.restart();
        Ok(())
    }

    /// Ends the key servers, and verifies what they have on record.
    pub(super) fn audits(&mut self) -> Result<Vec<Audited>> {
        let audited = self.key_servers.iter_mut().map(|node| {
            node.process.signal(Signal::TERM);
            let status = node.process.wait();
            ensure!(status.success(), "{} did not end well: {status}", node.name);
            Ok(Audited::of(node.name.clone(), &node.directory))
        });
        audited.collect()
    }

    /// Makes another P-256 key with its certificate, and gives it to all key servers.
    pub(super) fn replace_certificate(&mut self) -> Result<()> {
        let pki = self.directory.path().join("pki");
        for file in ["localhost-p256.key", "localhost-p256.pem"] {
            fs::remove_file(pki.join("keyserver").join(file))?;
        }
        ensure!(self.deployment.provide(&pki)?.len() == 1, "no other certificate was made");
        for node in &self.key_servers {
            for file in ["localhost-p256.key", "localhost-p256.pem"] {
                place_whole(&node.directory.join("pki").join(file), &fs::read(pki.join("keyserver").join(file))?)?;
            }
        }
        Ok(())
    }

    /// Has all key servers revoke an edge, or none.
    pub(super) fn revoke(&mut self, edge: Option<usize>) -> Result<()> {
        for node in &self.key_servers {
            node.configure(&configuration::key_server(node.place.address, edge))?;
            node.process.signal(Signal::HUP);
        }
        Ok(())
    }

    /// Gives all edges a virtual host more, or takes it away.
    pub(super) fn add_host(&mut self, added: bool) -> Result<()> {
        for node in &self.edges {
            let state = format!("state/{}", node.successions % 2);
            let config = EdgeConfig::of(node.place.address, node.metrics.port(), &state, self.backend);
            let file = format!("successor-{}.toml", node.successions % 2);
            let file = if node.successions == 0 { "program.toml" } else { &file };
            let text = EdgeConfig { has_added_host: added, ..config }.text();
            place_whole(&node.directory.join(file), text.as_bytes())?;
        }
        Ok(())
    }

    /// Waits until clients that ask every edge for `name` get a full handshake, or do not.
    pub(super) fn wait_served(&self, edge: usize, name: &'static str, served: bool) -> Result<()> {
        let address = self.edges.get(edge).context("no such edge")?.clients_address();
        let deadline = Instant::now() + PATIENCE;
        while self.load.is_served(address, name) != served {
            ensure!(Instant::now() < deadline, "{name} at edge {}: served is not {served}", edge + 1);
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

impl Fleet for World {
    fn load(&mut self) -> &mut Load {
        &mut self.load
    }

    fn kills(&self) -> &[Kill] {
        &self.kills
    }

    fn edges(&self) -> Vec<(u64, String)> {
        let metrics = |edge: &Node| Some((edge.process.pid().into(), get(edge.metrics, "/metrics").ok()?.1));
        self.edges.iter().filter_map(metrics).collect()
    }
}

impl Node {
    fn start(name: String, program: &str, place: Place, directory: PathBuf, shape: &Shape) -> Self {
        let metrics = SocketAddr::from((place.address, METRICS_PORT));
        let file = directory.join("program.toml");
        let process = launch(program, &name, &place, (&directory, &file), shape, metrics);
        Self { name, place, process, directory, metrics, successions: 0 }
    }

    pub(super) fn clients_address(&self) -> SocketAddr {
        (self.place.address, EDGE_PORT).into()
    }

    /// Waits until an edge is ready and has ticket keys.
    pub(super) fn wait_edge(&self) {
        self.process.wait_ready();
        let generation = [("role", "current")];
        wait_until(&format!("{} has ticket keys", self.name), || {
            self.process.metric("keystead_edge_ticket_generation", &generation) != 0
        });
    }

    /// Puts another configuration in the place of its own.
    pub(super) fn configure(&self, text: &str) -> Result<()> {
        place_whole(&self.directory.join("program.toml"), text.as_bytes())
    }

    /// Fills its disk to the last byte.
    pub(super) fn fill_disk(&self) -> Result<()> {
        let filled =
            Command::new("dd").args(["if=/dev/zero", "bs=4096"]).arg(format!("of={}", self.ballast())).output();
        let said = String::from_utf8_lossy(&filled?.stderr).into_owned();
        ensure!(said.contains("No space left"), "the disk of {} is not full: {said}", self.name);
        Ok(())
    }

    /// Frees its disk.
    pub(super) fn free_disk(&self) -> Result<()> {
        fs::remove_file(self.ballast()).context("free a disk")
    }

    fn ballast(&self) -> String {
        self.directory.join("state/ballast").display().to_string()
    }

    /// Moves its clock away from this machine's, as in `+1h`.
    pub(super) fn set_clock(&self, offset: &str) -> Result<()> {
        place_whole(&clock(&self.directory), offset.as_bytes())
    }
}

impl<'c> EdgeConfig<'c> {
    fn of(address: Ipv4Addr, metrics_port: u16, state_directory: &'c str, backend: SocketAddr) -> Self {
        let key_servers = (11..).take(KEY_SERVERS).map(|last| format!("10.77.0.{last}:{KEY_SERVER_PORT}")).collect();
        Self { address, metrics_port, state_directory, key_servers, backend, has_added_host: false }
    }
}

/// A program's directory, with its certificates and a small disk for its state.
fn home(root: &Path, place: &Place, pki: &Path) -> Result<PathBuf> {
    let home = root.join(&place.name);
    fs::create_dir_all(home.join("state"))?;
    fs::create_dir(home.join("pki"))?;
    for file in fs::read_dir(pki)? {
        let file = file?;
        fs::copy(file.path(), home.join("pki").join(file.file_name()))?;
    }
    fs::write(clock(&home), "+0")?;
    run(&format!("mount -t tmpfs -o size=64m,mode=700 tmpfs {}", home.join("state").display()))?;
    Ok(home)
}

fn clock(home: &Path) -> PathBuf {
    home.join("clock")
}

fn launch(
    program: &str,
    name: &str,
    place: &Place,
    (home, config): (&Path, &Path),
    shape: &Shape,
    metrics: SocketAddr,
) -> Process {
    let mut command = place.command();
    if let Some(library) = &shape.faketime {
        // Only what tells the date is moved; what measures time is not.
        command.arg("env").arg(format!("LD_PRELOAD={}", library.display()));
        command.args(["FAKETIME_DONT_FAKE_MONOTONIC=1", "FAKETIME_CACHE_DURATION=1"]);
        command.arg(format!("FAKETIME_TIMESTAMP_FILE={}", clock(home).display()));
    }
    command.arg(programs::path(program)).args(["serve", "--config"]).arg(config);
    Process::start(name, command, home, Some(metrics))
}

/// Puts `content` in a file's place, at once as a whole.
fn place_whole(file: &Path, content: &[u8]) -> Result<()> {
    let next = file.with_extension("next");
    fs::write(&next, content)?;
    if file.extension().is_some_and(|extension| extension == "key") {
        fs::set_permissions(&next, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    }
    fs::rename(&next, file).with_context(|| format!("replace {}", file.display()))
}
