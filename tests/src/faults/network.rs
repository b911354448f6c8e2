//! A network of namespaces: one for each program, all on one bridge, on which the clients and the backend are too.
//!
//! It lies in the namespaces of processes, network and mounts of the process that makes it, and ends with them.

use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// Where clients and the backend are.
pub(super) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// What a key server's link carries, in kbit/s: a few times what the load takes.
const RATE: u32 = 1000;

/// The bridge. Namespaces that were joined to it are there until the process ends.
#[derive(Debug)]
pub(super) struct Network;

/// The namespace of one program.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Of the namespace; the bridge's end of its link has it with a `p` in front.
    pub(super) name: String,
    pub(super) address: Ipv4Addr,
}

impl Network {
    /// Makes the bridge. To be called once, in a network namespace that has nothing yet.
    ///
    /// # Errors
    /// What `ip` and `mount` say.
    pub(super) fn new() -> Result<Self> {
        // Names of namespaces are mounts: with a directory of their own they end with this namespace of mounts.
        std::fs::create_dir_all("/run/netns").context("/run/netns")?;
        run("mount -t tmpfs tmpfs /run/netns")?;
        run("ip link set lo up")?;
        run("ip link add bridge type bridge")?;
        run(&format!("ip address add {OUTSIDE}/24 dev bridge"))?;
        run("ip link set bridge up")?;
        Ok(Self)
    }

    /// Adds a namespace.
    ///
    /// # Errors
    /// What `ip` says.
    pub(super) fn join(&self, name: &str, last: u8) -> Result<Place> {
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
    pub(super) fn command(&self) -> Command {
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
        let (name, millis) = (&self.name, time.as_millis());
        if run(&format!("ip netns exec {name} tc qdisc replace dev eth0 parent 1:1 netem delay {millis}ms")).is_ok() {
            return Ok(Delay { place: self.clone(), port, holder: None });
        }
        let this = std::env::current_exe().context("the path of this program")?;
        let mut holder = self.command();
        holder.arg(this).args(["hold-back", "--queue", &QUEUE.to_string(), "--time", &format!("{millis}ms")]);
        let holder = holder.stdin(Stdio::null()).spawn().context("the process that holds packets back")?;
        run(&self.rule("-A", port))?;
        Ok(Delay { place: self.clone(), port, holder: Some(holder) })
    }

    fn rule(&self, action: &str, port: u16) -> String {
        // Without a process at the queue, packets pass.
        let queue = format!("NFQUEUE --queue-num {QUEUE} --queue-bypass");
        format!("ip netns exec {} {} {action} OUTPUT -p tcp --sport {port} -j {queue}", self.name, iptables())
    }
}

const QUEUE: u16 = 7;

/// A delay that is in force.
#[derive(Debug)]
pub(super) struct Delay {
    place: Place,
    port: u16,
    holder: Option<Child>,
}

impl Delay {
    /// Lets packets pass again.
    pub(super) fn end(self) -> Result<()> {
        let Some(mut holder) = self.holder else {
            return run(&format!("ip netns exec {} tc qdisc del dev eth0 parent 1:1", self.place.name));
        };
        run(&self.place.rule("-D", self.port))?;
        // What it still holds is lost, and sent again by TCP.
        holder.kill().context("end the process that holds packets back")?;
        holder.wait().context("end the process that holds packets back")?;
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
