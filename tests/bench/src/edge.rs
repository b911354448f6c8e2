//! The edge as a process, beside nginx, HAProxy and hitch: one after another in each round, so that what disturbs this
//! machine for a while disturbs all of them.
//!
//! CPU time is what counts: load generator, backend and key server have one processor together, and may be the first to
//! have too little of it.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::Path;
use std::thread::{self, sleep};

use anyhow::{Result, anyhow, ensure};

use crate::backend::{BULK, Backend};
use crate::effort::Effort;
use crate::load;
use crate::load::plan::{Plan, Resuming, Version};
use crate::load::tally::Summary;
use crate::table::{Better, OURS, Table};
use crate::terminator::{Account, KeyType, Running, Site, Terminator, most_connections};

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
        for key_type in [KeyType::Rsa, KeyType::P256] {
            for terminator in &present {
                effort.say(&format!("edge, round {}: {terminator}, {key_type}", round + 1));
                let running = site.start(*terminator, key_type)?;
                let mut bench =
                    Bench { effort, site: &site, running: &running, subject: *terminator, table: &mut table };
                bench.handshakes(key_type)?;
                if key_type == KeyType::P256 {
                    bench.resumptions()?;
                    bench.transfers()?;
                    bench.idle()?;
                }
            }
        }
    }
    Ok(table)
}

/// One terminator under measurement.
struct Bench<'b> {
    effort: &'b Effort,
    site: &'b Site,
    running: &'b Running,
    subject: Terminator,
    table: &'b mut Table,
}

/// What load came to, and what it took.
struct Outcome {
    load: Summary,
    /// CPU seconds of the terminator.
    terminator: f64,
    /// Of its key server, where there is one.
    key_server: Option<f64>,
}

impl Bench<'_> {
    fn handshakes(&mut self, key_type: KeyType) -> Result<()> {
        let full = self.load(self.plan())?;
        let count = full.load.full_handshakes as f64;
        self.note(&format!("full handshakes, {key_type}: per second"), Better::More, full.load.handshakes_per_second);
        self.charge(&format!("full handshakes, {key_type}: CPU µs each"), &full, count / 1e6);

        let due = Plan { rate: NonZeroU32::new(RATE), ..self.plan() };
        let due = self.load(due)?.load;
        if let Some(latency) = due.handshake_milliseconds {
            self.note(&format!("full handshakes, {key_type}, {RATE}/s: p50 ms"), Better::Less, latency.p50);
            self.note(&format!("full handshakes, {key_type}, {RATE}/s: p99 ms"), Better::Less, latency.p99);
        }
        Ok(())
    }

    /// Which key there is matters to the first handshake alone.
    fn resumptions(&mut self) -> Result<()> {
        for (resumption, by) in [(Resuming::Ticket, "ticket"), (Resuming::Id, "id")] {
            let resumed = self.load(Plan { resumption, ..self.plan() })?;
            let count = resumed.load.resumed_handshakes as f64;
            // The first of each client is a full one.
            if count < resumed.load.full_handshakes as f64 {
                self.table.skip(format!("edge: {} resumes no session by {by}", self.subject));
                continue;
            }
            self.note(&format!("resumed by {by}: per second"), Better::More, resumed.load.handshakes_per_second);
            self.charge(&format!("resumed by {by}: CPU µs each"), &resumed, count / 1e6);
        }
        Ok(())
    }

    fn transfers(&mut self) -> Result<()> {
        for (streams, name) in [(1, "one stream"), (32, "32 streams")] {
            let bulk = self.load(Plan {
                keep_alive: true,
                path: format!("/{BULK}"),
                connections: NonZeroUsize::new(streams).unwrap_or(NonZeroUsize::MIN),
                ..self.plan()
            })?;
            self.note(&format!("{name}: MB/s"), Better::More, bulk.load.bytes_per_second / 1e6);
            self.charge(&format!("{name}: CPU s per GB"), &bulk, bulk.load.bytes as f64 / 1e9);
        }
        for size in [64, 1400, 16_384] {
            let path = format!("/{size}");
            let kept = self.load(Plan { keep_alive: true, path: path.clone(), ..self.plan() })?;
            let count = kept.load.requests as f64;
            self.note(&format!("{size} B, kept connections: requests/s"), Better::More, kept.load.requests_per_second);
            self.charge(&format!("{size} B, kept connections: CPU µs each"), &kept, count / 1e6);
        }
        let once = self.load(Plan { requests: 1, path: "/1400".to_owned(), ..self.plan() })?;
        self.note("1400 B, a connection each: requests/s", Better::More, once.load.requests_per_second);
        self.charge("1400 B, a connection each: CPU µs each", &once, once.load.requests as f64 / 1e6);
        Ok(())
    }

    /// What connections take that only stand.
    fn idle(&mut self) -> Result<()> {
        let connections =
            self.effort.idle_connections.min(NonZeroUsize::new(most_connections() - 100).unwrap_or(NonZeroUsize::MIN));
        let before = self.running.account()?.terminator.memory_bytes;
        let plan = Plan {
            hold: true,
            path: "/64".to_owned(),
            connections,
            resumption: Resuming::Ticket,
            duration: self.effort.idle,
            ..self.plan()
        };
        let (held, during) = under_load(&plan, || {
            sleep(self.effort.idle.mul_f64(0.9));
            self.running.account()
        })?;
        let count = held.requests;
        ensure!(count == connections.get() as u64, "{}: {count} connections stood: {held}", self.subject);
        let grown = during.terminator.memory_bytes - before;
        self.note("idle connections: memory of each, bytes", Better::Less, grown / count as f64);
        Ok(())
    }

    fn plan(&self) -> Plan {
        Plan {
            address: self.running.address,
            server_name: "localhost".to_owned(),
            ca: Some(self.site.authority()),
            connections: NonZeroUsize::new(32).unwrap_or(NonZeroUsize::MIN),
            rate: None,
            duration: self.effort.length,
            warm_up: self.effort.length / 4,
            keep_alive: false,
            requests: 0,
            path: "/".to_owned(),
            hold: false,
            resumption: Resuming::None,
            tls: Version::Tls12,
            suite: None,
            // All of them: a client without P-256 takes no certificate with it (RFC 8422 §5.1). Servers choose X25519.
            group: None,
            threads: NonZeroUsize::MIN,
        }
    }

    /// Runs the load, and takes the account of the time that is counted.
    fn load(&self, plan: Plan) -> Result<Outcome> {
        let (load, (before, after)) = under_load(&plan, || {
            sleep(plan.warm_up);
            let before = self.running.account()?;
            sleep(plan.duration);
            Ok((before, self.running.account()?))
        })?;
        ensure!(load.failures.is_empty(), "{}: {load}", self.subject);
        let since = |of: fn(&Account) -> Option<f64>| Some(of(&after)? - of(&before)?);
        let terminator = since(|it| Some(it.terminator.cpu_seconds)).unwrap_or_default();
        let key_server = since(|it| Some(it.key_server?.cpu_seconds));
        Ok(Outcome { load, terminator, key_server })
    }

    fn note(&mut self, measure: &str, better: Better, value: f64) {
        self.table.add(measure, better, self.subject, value);
    }

    /// What one of `count` took; of ours also with the key server, as subjects of their own.
    fn charge(&mut self, measure: &str, outcome: &Outcome, count: f64) {
        self.note(measure, Better::Less, outcome.terminator / count);
        if let Some(key_server) = outcome.key_server {
            self.table.add(measure, Better::Less, format!("{OURS} key server"), key_server / count);
        }
    }
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

/// Handshakes a second that everybody can make, for latency.
const RATE: u32 = 200;
