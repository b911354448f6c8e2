//! An edge whose key server is far away: what distance adds to a full handshake, and that it adds nothing to a resumed one.
//!
//! ```text
//!  clients ──┐                      each in a network namespace of its own
//!            ├── edge
//!  backend ──┤
//!            └── ~~~~~ key server   half of the round trip on the way there, half on the way back
//! ```
//!
//! Whoever has its key beside it is not affected by this, so that there is nobody to compare with but the edge itself with
//! its key server next to it.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroU32;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use keystead_local::pki::Deployment;
use keystead_tests::faults::backend::echo;
use keystead_tests::faults::network::{Delay, Network, OUTSIDE, Place, no_namespaces, own_namespaces};
use keystead_tests::stack::get;
use keystead_tests::tool;
use tokio::runtime::Runtime;

use crate::effort::Effort;
use crate::load;
use crate::load::plan::{Plan, Resuming};
use crate::load::tally::{Quantiles, Summary};
use crate::ours::{Edge, KeyServer, TICKETS, provide_tickets};
use crate::process::{MEASURED, OTHER, Program};
use crate::table::{Better, OURS, Table};
use crate::terminator::KeyType;

/// How far the key server is from the edge, there and back, in milliseconds.
const ROUND_TRIPS: [u64; 4] = [0, 10, 50, 100];

/// Handshakes a second for latency: few enough that nobody waits for a processor.
const RATE: u32 = 100;

/// Measures in namespaces of its own, which this program is started in again.
///
/// # Errors
/// What keeps somebody from starting, and load that fails.
pub fn part(effort: &Effort, directory: &Path) -> Result<Table> {
    if let Some(why) = missing() {
        let mut table = Table::default();
        table.skip(format!("distance: {why}"));
        return Ok(table);
    }
    let file = directory.join("table.json");
    let mut inside = own_namespaces(&std::env::current_exe().context("the path of this program")?)?;
    inside.args(["distance", "--rounds", &effort.rounds.to_string(), "--json"]).arg(&file);
    inside.args(effort.is_quick.then_some("--quick"));
    let status = inside.stdin(Stdio::null()).status().context("unshare")?;
    ensure!(status.success(), "the part in namespaces of its own ended with {status}");
    Ok(serde_json::from_slice(&fs::read(&file).context("its table")?)?)
}

/// Why it cannot be measured here.
fn missing() -> Option<String> {
    if let Some(why) = no_namespaces() {
        return Some(format!("namespaces: {why}"));
    }
    let tools =
        [("ip", "iproute2"), ("tc", "iproute2"), ("sysctl", "procps"), ("mount", "mount"), ("iptables", "iptables")];
    let (program, package) = tools.into_iter().find(|(program, _)| !tool::find(program))?;
    Some(format!("{program} is not installed (package {package})"))
}

/// Measures. To be called once, in a process that has namespaces of its own.
///
/// # Errors
/// What keeps somebody from starting, and load that fails.
pub fn inside(effort: &Effort, directory: &Path) -> Result<Table> {
    let mut table = Table::default();
    let network = match network() {
        Ok(network) => network,
        Err(cause) => {
            table.skip(format!("distance: no network can be made here: {cause:#}"));
            return Ok(table);
        }
    };
    let site = Site::new(directory, network)?;
    for round in 0..effort.rounds {
        for milliseconds in ROUND_TRIPS {
            effort.say(&format!("distance, round {}: {milliseconds} ms", round + 1));
            let delay = match site.set_distance(Duration::from_millis(milliseconds)) {
                Ok(delay) => delay,
                Err(cause) => {
                    table.skip(format!("distance: packets cannot be held back here: {cause:#}"));
                    // What was begun of it may be in force for those that follow.
                    return Ok(table);
                }
            };
            let running = site.start()?;
            let subject = format!("{OURS}, round trip {milliseconds} ms");
            let mut bench = Bench { effort, site: &site, subject, table: &mut table };
            bench.round_trip()?;
            for (key_type, resumption) in
                [(KeyType::Rsa, Resuming::None), (KeyType::P256, Resuming::None), (KeyType::P256, Resuming::Ticket)]
            {
                bench.handshakes(running.edge, key_type, resumption)?;
            }
            drop(running);
            delay.map_or(Ok(()), Delay::end)?;
        }
    }
    Ok(table)
}

/// How long it takes to connect to `address`, or to be refused.
pub fn connecting(address: SocketAddr) -> Duration {
    let began = Instant::now();
    drop(TcpStream::connect(address));
    began.elapsed()
}

/// The network, with the places of edge and key server.
fn network() -> Result<(Network, [Place; 2])> {
    let network = Network::new()?;
    let places = [network.join("edge", 2)?, network.join("keyserver", 3)?];
    let mut within = places[0].command();
    within.arg("sysctl");
    give_ports(within)?;
    give_ports(Command::new("sysctl"))?;
    Ok((network, places))
}

/// Has ports enough for connections that are made and ended as fast as it goes: that those which ended lately are taken again
/// is otherwise for connections within a host.
fn give_ports(mut sysctl: Command) -> Result<()> {
    sysctl.args(["--quiet", "--write", "net.ipv4.tcp_tw_reuse=1", "net.ipv4.ip_local_port_range=10000 65535"]);
    let output = sysctl.output().context("sysctl")?;
    ensure!(output.status.success(), "sysctl: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// Where the programs are.
struct Site<'d> {
    directory: &'d Path,
    edge: Place,
    key_server: Place,
    backend: SocketAddr,
    /// The backend's.
    _runtime: Runtime,
    _network: Network,
}

/// The programs, while they run.
struct Running {
    edge: SocketAddr,
    /// The edge, and then what it asks.
    _programs: (Program, Program),
}

const EDGE: &str = "distant";
const KEY_SERVER_PORT: u16 = 7443;
const EDGE_PORT: u16 = 8443;
const METRICS_PORT: u16 = 9444;

impl<'d> Site<'d> {
    fn new(directory: &'d Path, (network, [edge, key_server]): (Network, [Place; 2])) -> Result<Self> {
        Deployment::serving(["localhost"], [EDGE]).provide(&directory.join("pki"))?;
        provide_tickets(directory)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let backend = runtime.block_on(echo((OUTSIDE, 0).into())).context("a backend")?;
        Ok(Self { directory, edge, key_server, backend, _runtime: runtime, _network: network })
    }

    /// Puts the key server this far away; `None` where it is next to the edge.
    fn set_distance(&self, round_trip: Duration) -> Result<Option<Delay>> {
        if round_trip.is_zero() {
            return Ok(None);
        }
        let delay = self.key_server.set_distance(&self.edge, KEY_SERVER_PORT, round_trip)?;
        // What holds packets back is a process that begins at some time, or ends with an error.
        let deadline = Instant::now() + PATIENCE;
        while self.connect()? < round_trip {
            ensure!(Instant::now() < deadline, "those to the key server pass at once");
        }
        Ok(Some(delay))
    }

    /// How long it takes at the edge's place until the key server has taken a TCP connection, or refused it.
    fn connect(&self) -> Result<Duration> {
        let mut command = self.edge.command();
        command.arg(std::env::current_exe().context("the path of this program")?).arg("connect");
        command.arg(SocketAddr::from((self.key_server.address, KEY_SERVER_PORT)).to_string());
        let output = command.stdin(Stdio::null()).output().context("ip")?;
        let microseconds =
            String::from_utf8_lossy(&output.stdout).trim().parse().context("the time of a connection")?;
        Ok(Duration::from_micros(microseconds))
    }

    /// Starts the programs, and waits until clients can come back to the edge with tickets.
    fn start(&self) -> Result<Running> {
        let at = |place: &Place, port| SocketAddr::from((place.address, port));
        let key_server = at(&self.key_server, KEY_SERVER_PORT);
        let settings = KeyServer { keys: KeyType::files(), edges: &[EDGE], tables: TICKETS };
        let command = settings.command(key_server, at(&self.key_server, METRICS_PORT), self.directory)?;
        let mut asked = self.launch("keystead-keyserver", &self.key_server, &command, OTHER)?;
        asked.wait_listening(key_server)?;

        let (address, metrics) = (at(&self.edge, EDGE_PORT), at(&self.edge, METRICS_PORT));
        let keys = KeyType::files().into_iter().map(|(name, _)| name).collect();
        let settings = Edge { name: EDGE, address, metrics, key_server, keys, backend: self.backend };
        let mut edge = self.launch("keystead-edge", &self.edge, &settings.command(self.directory)?, MEASURED)?;
        edge.wait("does not become ready", || is_ready(metrics))?;
        Ok(Running { edge: address, _programs: (edge, asked) })
    }

    fn launch(&self, name: &str, place: &Place, command: &Command, processor: usize) -> Result<Program> {
        let mut within = place.command();
        within.arg(command.get_program()).args(command.get_args());
        Program::start(name, &within, processor, self.directory)
    }
}

/// Whether an edge serves, and has the ticket keys of its fleet.
fn is_ready(metrics: SocketAddr) -> bool {
    let is_current = |line: &str| {
        line.starts_with("keystead_edge_ticket_generation{") && line.contains("current") && !line.ends_with(" 0")
    };
    get(metrics, "/readyz").is_ok_and(|(status, _)| status == 200)
        && get(metrics, "/metrics").is_ok_and(|(_, text)| text.lines().any(is_current))
}

/// The edge under measurement, at one distance.
struct Bench<'b> {
    effort: &'b Effort,
    site: &'b Site<'b>,
    subject: String,
    table: &'b mut Table,
}

impl Bench<'_> {
    /// What the network takes by itself.
    fn round_trip(&mut self) -> Result<()> {
        let mut times = (0..CONNECTS).map(|_| self.site.connect()).collect::<Result<Vec<_>>>()?;
        times.sort();
        let median = times.get(CONNECTS / 2).copied().unwrap_or_default();
        self.note("TCP connection to the key server: p50 ms", Better::Less, median.as_secs_f64() * 1e3);
        Ok(())
    }

    fn handshakes(&mut self, edge: SocketAddr, key_type: KeyType, resumption: Resuming) -> Result<()> {
        let kind = match resumption {
            Resuming::None => format!("full handshakes, {key_type}"),
            Resuming::Ticket => "resumed by ticket".to_owned(),
            Resuming::Id => "resumed by id".to_owned(),
        };
        let plan = Plan {
            suite: Some(key_type.suite().to_owned()),
            resumption,
            // The first of each client is a full one, and makes its connections.
            warm_up: Duration::from_secs(1),
            ..Plan::full_handshakes(edge, self.site.directory.join("pki/ca.pem"), self.effort.length)
        };
        let clients = plan.connections;
        let busy = self.load(&plan)?;
        let measure = format!("{kind}, key server far away, {clients} clients: per second");
        self.note(&measure, Better::More, busy.handshakes_per_second);

        let due = self.load(&Plan { rate: NonZeroU32::new(RATE), ..plan })?;
        let Quantiles { p50, p99, .. } = due.handshake_milliseconds.context("no handshake was made")?;
        for (value, name) in [(p50, "p50"), (p99, "p99")] {
            self.note(&format!("{kind}, key server far away, {RATE}/s: {name} ms"), Better::Less, value);
        }
        Ok(())
    }

    fn load(&self, plan: &Plan) -> Result<Summary> {
        let load = load::run(plan)?.summary();
        ensure!(load.failures.is_empty(), "{}: {load}", self.subject);
        let others = if plan.resumption == Resuming::None { load.resumed_handshakes } else { load.full_handshakes };
        ensure!(others == 0, "{}: {others} handshakes of the other kind: {load}", self.subject);
        Ok(load)
    }

    fn note(&mut self, measure: &str, better: Better, value: f64) {
        self.table.add(measure, better, &self.subject, value);
    }
}

/// How long it may take until packets are held back.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often is connected to the key server.
const CONNECTS: usize = 11;
