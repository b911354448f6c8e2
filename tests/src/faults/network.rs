//! A network of namespaces: one for each program, all on one bridge, on which the clients and the backend are too.
//!
//! It lies in the namespaces of processes, network and mounts of the process that makes it ([`own_namespaces`]), and ends with
//! them.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::delay::{self, HoldBack};
use crate::stack::programs;

/// A command that runs `program` as the first process of its own namespaces. What it starts ends with it.
///
/// # Errors
/// When `unshare` is not there; that no namespace may be made is for the command to say.
pub fn own_namespaces(program: &Path) -> Result<Command> {
    let unshare = ["/usr/bin/unshare", "/bin/unshare"].into_iter().map(Path::new).find(|path| path.is_file());
    let mut command = programs::of_this_thread(unshare.context("unshare is not installed (package util-linux)")?);
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]).arg(program);
    Ok(command)
}

/// Why no namespaces can be made here; `None` where they can.
pub fn no_namespaces() -> Option<String> {
    match own_namespaces(Path::new("true")).and_then(|mut command| Ok(command.stdin(Stdio::null()).output()?)) {
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Some(format!("none can be made here ({said})"))
        }
        Err(cause) => Some(cause.to_string()),
    }
}

/// Where clients and the backend are.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// What a key server's link carries, in kbit/s: a few times what the load takes.
const RATE: u32 = 1000;

/// The bridge. Namespaces that were joined to it are there until the process ends.
#[derive(Debug)]
pub struct Network;

/// The namespace of one program.
#[derive(Clone, Debug)]
pub struct Place {
    /// Of the namespace; the bridge's end of its link has it with a `p` in front.
    pub name: String,
    /// On the bridge's network.
    pub address: Ipv4Addr,
}

impl Network {
    /// Makes the bridge. To be called once, in a network namespace that has nothing yet.
    ///
    /// # Errors
    /// What `ip` and `mount` say.
    pub fn new() -> Result<Self> {
        // Names of namespaces are mounts: with a directory of their own they end with this namespace of mounts.
        std::fs::create_dir_all("/run/netns").context("/run/netns")?;
        run("mount -t tmpfs tmpfs /run/netns")?;
        run("ip link set lo up")?;
        run("ip link add bridge type bridge")?;
        run(&format!("ip address add {OUTSIDE}/24 dev bridge"))?;
        run("ip link set bridge up")?;
        Ok(Self)
    }

    /// Adds a namespace, whose address ends with `last`.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn join(&self, name: &str, last: u8) -> Result<Place> {
        let [a, b, c, _] = OUTSIDE.octets();
        let address = Ipv4Addr::new(a, b, c, last);
        run(&format!("ip netns add {name}"))?;
        run(&format!("ip link add p{name} type veth peer name eth0 netns {name}"))?;
        run(&format!("ip link set p{name} master bridge up"))?;
        run(&format!("ip -n {name} link set lo up"))?;
        run(&format!("ip -n {name} address add {address}/24 dev eth0"))?;
        run(&format!("ip -n {name} link set eth0 up"))?;
        Ok(Place { name: name.to_owned(), address })
    }
}

impl Place {
    /// A command in this namespace. The process that starts is the program's own.
    pub fn command(&self) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]);
        command
    }

    /// Gives the link its bandwidth, or this share of it.
    pub(super) fn set_rate(&self, percent: u32) -> Result<()> {
        let rate = RATE * percent / 100;
        self.shape(&format!("handle 1: tbf rate {rate}kbit burst 16kb latency 400ms"))
    }

    /// Loses every packet, both ways, and tells nobody.
    pub(super) fn lose_everything(&self) -> Result<()> {
        self.shape("blackhole")
    }

    fn shape(&self, discipline: &str) -> Result<()> {
        run(&format!("ip netns exec {} tc qdisc replace dev eth0 root {discipline}", self.name))?;
        run(&format!("tc qdisc replace dev p{} root {discipline}", self.name))
    }

    /// Pulls the cable, or puts it back.
    pub(super) fn set_connected(&self, connected: bool) -> Result<()> {
        run(&format!("ip link set p{} {}", self.name, if connected { "up" } else { "down" }))
    }

    /// Delays what the program that listens on `port` sends: by netem where the kernel has it, else by a process that
    /// holds packets back.
    pub(super) fn delay(&self, port: u16, time: Duration) -> Result<Delay> {
        let tc = |action: &str| format!("ip netns exec {} tc qdisc {action} dev eth0 parent 1:1", self.name);
        if run(&format!("{} netem delay {}us", tc("replace"), time.as_micros())).is_ok() {
            return Ok(Delay { undo: vec![tc("del")], holders: Vec::new() });
        }
        let mut delay = Delay::default();
        delay.hold_back(self, &format!("OUTPUT -p tcp --sport {port}"), time)?;
        Ok(delay)
    }

    /// Puts the program that listens on `port` far away from another place: half of `round_trip` passes on the way to it,
    /// and half on the way back, by netem where the kernel has it, else by processes that hold packets back. Its link has
    /// no bandwidth of its own then.
    ///
    /// # Errors
    /// What the system says that has neither of them.
    pub fn set_distance(&self, from: &Self, port: u16, round_trip: Duration) -> Result<Delay> {
        let half = round_trip / 2;
        if self.shape(&format!("netem delay {}us limit {}", half.as_micros(), delay::MOST)).is_ok() {
            let near = format!("tc qdisc del dev p{} root", self.name);
            let far = format!("ip netns exec {} tc qdisc del dev eth0 root", self.name);
            return Ok(Delay { undo: vec![near, far], holders: Vec::new() });
        }
        // Where they arrive: a socket has but a few packets on their way out of its host, and waits until they have left.
        let mut delay = Delay::default();
        delay.hold_back(self, &format!("INPUT -p tcp --dport {port}"), half)?;
        delay.hold_back(from, &format!("INPUT -p tcp --sport {port}"), half)?;
        Ok(delay)
    }
}

const QUEUE: u16 = 7;

/// A delay that is in force.
#[derive(Debug, Default)]
pub struct Delay {
    /// What takes it back.
    undo: Vec<String>,
    holders: Vec<Child>,
}

impl Delay {
    /// Has a process hold back the packets of a place that a chain and its matches say.
    fn hold_back(&mut self, place: &Place, packets: &str, time: Duration) -> Result<()> {
        let mut holder = place.command();
        holder.arg(std::env::current_exe().context("the path of this program")?);
        holder.args(HoldBack { queue: QUEUE, time }.arguments());
        let holder = holder.stdin(Stdio::null()).spawn().context("the process that holds packets back")?;
        self.holders.push(holder);
        // Without a process at the queue, packets pass.
        let queue = format!("NFQUEUE --queue-num {QUEUE} --queue-bypass");
        let rule = |action| format!("ip netns exec {} {} {action} {packets} -j {queue}", place.name, iptables());
        run(&rule("-A"))?;
        self.undo.push(rule("-D"));
        Ok(())
    }

    /// Lets packets pass again.
    ///
    /// # Errors
    /// What the system says.
    pub fn end(self) -> Result<()> {
        self.undo.iter().try_for_each(|line| run(line))?;
        for mut holder in self.holders {
            // What it still holds is lost, and sent again by TCP.
            holder.kill().context("end the process that holds packets back")?;
            holder.wait().context("end the process that holds packets back")?;
        }
        Ok(())
    }
}

/// The one that needs nothing of nf_tables, where it is there.
fn iptables() -> &'static str {
    if crate::tool::find("iptables-legacy") { "iptables-legacy" } else { "iptables" }
}

/// Runs a command that says what is wrong on standard error.
pub(super) fn run(line: &str) -> Result<()> {
    let mut words = line.split_whitespace();
    let Some(program) = words.next() else { bail!("no command") };
    let output = Command::new(program).args(words).stdin(Stdio::null()).output().with_context(|| line.to_owned())?;
    ensure!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
