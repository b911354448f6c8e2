//! The edge as a process, beside nginx, HAProxy and hitch: one after another for each group of measures, each of them first
//! in its turn, so that what disturbs this machine for a while disturbs all of them.
//!
//! CPU time is what counts: load generator, backend and key server have one processor together, and may be the first to
//! have too little of it.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::Path;
use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};

use crate::backend::{BULK, Backend, SINK};
use crate::effort::Effort;
use crate::load;
use crate::load::plan::{Plan, Resuming};
use crate::load::tally::{Quantiles, Summary};
use crate::process::Program;
use crate::table::{Better, OURS, Table};
use crate::terminator::{KeyType, Running, Site, Terminator, most_connections};

/// Measures all that are installed.
///
/// # Errors
/// What keeps somebody from starting, and load that fails.
pub fn part(effort: &Effort, directory: &Path) -> Result<Table> {
    let mut table = Table::default();
    let (present, missing) = Terminator::present();
    table.skipped.extend(missing.iter().map(|name| format!("edge: {name} is not installed")));
    let backend = Backend::start(directory)?;
    let site = Site::new(directory, backend.address)?;
    for round in 0..effort.rounds {
        for Group { name, key_type, measure } in GROUPS {
            effort.say(&format!("edge, round {}: {name}, {key_type}", round + 1));
            let first = round as usize % present.len();
            for subject in present.iter().cycle().skip(first).take(present.len()).copied() {
                // Each anew: what earlier connections left in an allocator would serve those that stand.
                let running = site.start(subject, key_type)?;
                let (backend, table) = (&backend, &mut table);
                measure(&mut Bench { effort, site: &site, backend, running: &running, subject, key_type, table })?;
            }
        }
    }
    Ok(table)
}

/// What is measured of all, one after another, before the next of these is.
#[derive(Clone, Copy)]
struct Group {
    name: &'static str,
    /// Of the certificate. Which one it is matters to full handshakes alone.
    key_type: KeyType,
    measure: fn(&mut Bench<'_>) -> Result<()>,
}

const GROUPS: [Group; 6] = [
    Group { name: "full handshakes", key_type: KeyType::Rsa, measure: |bench| bench.handshakes() },
    Group { name: "full handshakes", key_type: KeyType::P256, measure: |bench| bench.handshakes() },
    Group { name: "resumed handshakes", key_type: KeyType::P256, measure: |bench| bench.resumptions() },
    Group { name: "streams", key_type: KeyType::P256, measure: |bench| bench.streams() },
    Group { name: "requests", key_type: KeyType::P256, measure: |bench| bench.requests() },
    Group { name: "idle connections", key_type: KeyType::P256, measure: |bench| bench.idle() },
];

/// One terminator under measurement.
struct Bench<'b> {
    effort: &'b Effort,
    site: &'b Site,
    backend: &'b Backend,
    running: &'b Running,
    subject: Terminator,
    key_type: KeyType,
    table: &'b mut Table,
}

/// What load came to, and what it took.
struct Outcome {
    load: Summary,
    /// CPU seconds of the terminator.
    terminator: f64,
    /// Of its key server, where there is one.
    key_server: Option<f64>,
    /// Of the backend.
    backend: f64,
    /// Of the load generator.
    clients: f64,
}

impl Bench<'_> {
    fn handshakes(&mut self) -> Result<()> {
        let what = format!("full handshakes, {}", self.key_type);
        let full = self.load(self.plan())?;
        self.note(&format!("{what}: per second"), Better::More, full.load.handshakes_per_second);
        self.charge(&format!("{what}: CPU µs each"), &full, full.load.full_handshakes as f64 / 1e6, Asks::KeyServer);

        let what = format!("{what}, {HANDSHAKES}/s");
        let due = self.load(Plan { rate: NonZeroU32::new(HANDSHAKES), ..self.plan() })?;
        self.charge(&format!("{what}: CPU µs each"), &due, due.load.full_handshakes as f64 / 1e6, Asks::KeyServer);
        self.latencies(&what, due.load.handshake_milliseconds);
        Ok(())
    }

    fn resumptions(&mut self) -> Result<()> {
        for (resumption, by) in [(Resuming::Ticket, "ticket"), (Resuming::Id, "id")] {
            let resumed = self.load(Plan { resumption, ..self.plan() })?;
            if !self.is_resumed(&resumed, by) {
                continue;
            }
            let due = self.load(Plan { resumption, rate: NonZeroU32::new(HANDSHAKES), ..self.plan() })?;
            let each = |outcome: &Outcome| outcome.load.resumed_handshakes as f64 / 1e6;
            let what = format!("resumed by {by}");
            self.note(&format!("{what}: per second"), Better::More, resumed.load.handshakes_per_second);
            self.charge(&format!("{what}: CPU µs each"), &resumed, each(&resumed), Asks::Nobody);
            let what = format!("{what}, {HANDSHAKES}/s");
            self.charge(&format!("{what}: CPU µs each"), &due, each(&due), Asks::Nobody);
            self.latencies(&what, due.load.handshake_milliseconds);
        }
        Ok(())
    }

    /// Whether sessions were resumed; if not, the table says so.
    fn is_resumed(&mut self, outcome: &Outcome, by: &str) -> bool {
        let is_resumed = outcome.load.resumed_handshakes > 0;
        if !is_resumed {
            self.table.skip(format!("edge: {} resumes no session by {by}", self.subject));
        }
        is_resumed
    }

    fn latencies(&mut self, what: &str, of: Option<Quantiles>) {
        for (name, value) in of.into_iter().flat_map(|of| [("p50", of.p50), ("p99", of.p99)]) {
            self.note(&format!("{what}: {name} ms"), Better::Less, value);
        }
    }

    fn streams(&mut self) -> Result<()> {
        let (download, sink) = (format!("/{BULK}"), SINK.to_owned());
        for (streams, name, path, upload) in [
            (1, "one stream", &download, 0),
            (32, "32 streams", &download, 0),
            (1, "one stream, upload", &sink, BULK),
            (32, "32 streams, upload", &sink, BULK),
        ] {
            let bulk = self.load(Plan {
                keep_alive: true,
                path: path.clone(),
                upload,
                connections: NonZeroUsize::new(streams).unwrap_or(NonZeroUsize::MIN),
                ..self.plan()
            })?;
            self.note(&format!("{name}: MB/s"), Better::More, bulk.load.bytes_per_second / 1e6);
            self.charge(&format!("{name}: CPU s per GB"), &bulk, bulk.load.bytes as f64 / 1e9, Asks::Nobody);
        }
        Ok(())
    }

    fn requests(&mut self) -> Result<()> {
        for size in [64, 1400, 16_384] {
            let plan = || Plan { keep_alive: true, path: format!("/{size}"), ..self.plan() };
            let (kept, due) = (self.load(plan())?, self.load(Plan { rate: NonZeroU32::new(REQUESTS), ..plan() })?);
            let what = format!("{size} B, kept connections");
            self.note(&format!("{what}: requests/s"), Better::More, kept.load.requests_per_second);
            self.charge(&format!("{what}: CPU µs each"), &kept, kept.load.requests as f64 / 1e6, Asks::Nobody);
            let what = format!("{what}, {REQUESTS}/s");
            self.charge(&format!("{what}: CPU µs each"), &due, due.load.requests as f64 / 1e6, Asks::Nobody);
            self.latencies(&what, due.load.request_milliseconds);
        }
        for (size, resumption, how, asks) in [
            (64, Resuming::None, "a connection each", Asks::KeyServer),
            (1400, Resuming::None, "a connection each", Asks::KeyServer),
            (1400, Resuming::Ticket, "a resumed connection each", Asks::Nobody),
        ] {
            let once = self.load(Plan { requests: 1, resumption, path: format!("/{size}"), ..self.plan() })?;
            if resumption == Resuming::Ticket && !self.is_resumed(&once, "ticket") {
                continue;
            }
            self.note(&format!("{size} B, {how}: requests/s"), Better::More, once.load.requests_per_second);
            self.charge(&format!("{size} B, {how}: CPU µs each"), &once, once.load.requests as f64 / 1e6, asks);
        }
        Ok(())
    }

    /// What connections take that only stand.
    fn idle(&mut self) -> Result<()> {
        let wanted = self.effort.idle_connections;
        let connections = wanted.min(NonZeroUsize::new(most_connections() - 100).unwrap_or(NonZeroUsize::MIN));
        if connections < wanted {
            self.table.skip(format!(
                "edge: {} of {wanted} idle connections, for want of descriptors",
                wanted.get() - connections.get()
            ));
        }
        let plan = Plan {
            hold: true,
            path: "/64".to_owned(),
            connections,
            resumption: Resuming::Ticket,
            duration: self.effort.idle,
            ..self.plan()
        };
        // What it has once and for all is there when it has served some.
        load::run(&Plan { connections: FEW, duration: Duration::from_secs(1), ..plan.clone() })?;
        let program = &self.running.program;
        let memory = || program.taken().map(|taken| taken.memory_bytes);
        let before = memory()?;
        let (held, during) = under_load(&plan, || {
            sleep(self.effort.idle.mul_f64(0.9));
            memory()
        })?;
        let count = held.requests;
        ensure!(count == connections.get() as u64, "{}: {count} connections stood: {held}", self.subject);
        self.note("idle connections: memory of each, bytes", Better::Less, (during - before) / count as f64);
        Ok(())
    }

    fn plan(&self) -> Plan {
        let plan = Plan::full_handshakes(self.running.address, self.site.authority(), self.effort.length);
        Plan { suite: Some(self.key_type.suite().to_owned()), ..plan }
    }

    /// Runs the load, and takes the account of the time that is counted.
    fn load(&self, plan: Plan) -> Result<Outcome> {
        let (load, ((before, clients_before), (after, clients_after))) = under_load(&plan, || {
            sleep(plan.warm_up);
            let before = (self.account()?, load::cpu_seconds());
            sleep(plan.duration);
            // What it takes to find out is not the load's.
            let clients = load::cpu_seconds();
            Ok((before, (self.account()?, clients)))
        })?;
        ensure!(load.failures.is_empty(), "{}: {load}", self.subject);
        // A large stream lasts as long as it does.
        let is_bulk = plan.upload > 0 || plan.path == format!("/{BULK}");
        let overdue = load.not_begun + if is_bulk { 0 } else { load.unfinished };
        let units = load.full_handshakes + load.resumed_handshakes + load.requests;
        ensure!(overdue <= units / 100, "{}: {load}", self.subject);
        // The first is a full one. Who resumes none at all is said not to.
        let full_among_resumed = if load.resumed_handshakes > 0 { load.full_handshakes } else { 0 };
        ensure!(full_among_resumed <= units / 100, "{}: {load}", self.subject);
        Ok(Outcome {
            load,
            terminator: after.terminator - before.terminator,
            key_server: after.key_server.zip(before.key_server).map(|(after, before)| after - before),
            backend: after.backend - before.backend,
            clients: clients_after - clients_before,
        })
    }

    /// CPU seconds of all programs until now.
    fn account(&self) -> Result<Account> {
        let (running, seconds) =
            (self.running, |program: &Program| Ok::<_, anyhow::Error>(program.taken()?.cpu_seconds));
        Ok(Account {
            terminator: seconds(&running.program)?,
            key_server: running.key_server.as_ref().map(seconds).transpose()?,
            backend: seconds(&self.backend.program)?,
        })
    }

    fn note(&mut self, measure: &str, better: Better, value: f64) {
        self.table.add(measure, better, self.subject, value);
    }

    /// What one of `count` took; of ours also with the key server, whose own part is a measure of its own if it `asks` it,
    /// and what it took of the backend and of the load generator.
    fn charge(&mut self, measure: &str, outcome: &Outcome, count: f64, asks: Asks) {
        self.note(measure, Better::Less, outcome.terminator / count);
        if let Some(key_server) = outcome.key_server.filter(|_| asks == Asks::KeyServer) {
            self.note(&format!("{measure}, key server's"), Better::Less, key_server / count);
            let both = (outcome.terminator + key_server) / count;
            self.table.add(measure, Better::Less, format!("{OURS} with key server"), both);
        }
        self.note(&format!("{measure}, backend's"), Better::Neither, outcome.backend / count);
        self.note(&format!("{measure}, load generator's"), Better::Neither, outcome.clients / count);
    }
}

/// CPU seconds that programs have taken since they began.
struct Account {
    terminator: f64,
    key_server: Option<f64>,
    backend: f64,
}

/// Runs the load, and looks at something meanwhile.
fn under_load<T>(plan: &Plan, look: impl FnOnce() -> Result<T>) -> Result<(Summary, T)> {
    thread::scope(|scope| {
        let load = scope.spawn(|| load::run(plan));
        let seen = look();
        let tally = load.join().map_err(|_| anyhow!("the load panicked"))??;
        Ok((tally.summary(), seen?))
    })
}

/// Whom a handshake that is counted asks for a signature, where its terminator has no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asks {
    KeyServer,
    /// It is resumed, or was before.
    Nobody,
}

/// Handshakes a second that everybody can make, for latency.
const HANDSHAKES: u32 = 200;
/// The same of requests.
const REQUESTS: u32 = 2000;
/// Connections that come before those whose memory is counted.
const FEW: NonZeroUsize = NonZeroUsize::new(200).unwrap();
