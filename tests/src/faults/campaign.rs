//! Fault after fault, under load that never ends.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{Write, stderr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::fault::Fault;
use super::ledger::Kill;
use super::load::{Load, Pace};
use super::report::Report;
use super::row::{Course, Row, seconds_until_normal};
use super::soak::{self, Watched};
use super::world::{Shape, World};
use super::{catalogue, clock};

/// What a caller chooses.
#[derive(Clone, Debug)]
pub struct Options {
    /// The campaign that CI has time for: each kind of fault once.
    pub quick: bool,
    /// Faults whose names contain this; all where it is `None`.
    pub only: Option<String>,
    /// Handshakes in a second.
    pub rate: u32,
    /// How long the soak lasts.
    pub soak: Duration,
}

impl Options {
    pub(super) fn wants(&self, fault: &str) -> bool {
        self.only.as_ref().is_none_or(|only| fault.contains(only.as_str()))
    }

    pub(super) fn pace(&self) -> Pace {
        Pace { rate: self.rate, transfers: 3 }
    }
}

/// A part of the campaign, with a fleet of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Processes, the network, reloads, restarts.
    Fleet,
    /// Ticket keys that change every few seconds, and full disks.
    Rotation,
    /// Clocks.
    Clocks,
    /// Load for long.
    Soak,
}

impl Part {
    /// All of them, in their order.
    pub const ALL: [Self; 4] = [Self::Fleet, Self::Rotation, Self::Clocks, Self::Soak];

    /// The word for it on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fleet => "fleet",
            Self::Rotation => "rotation",
            Self::Clocks => "clocks",
            Self::Soak => "soak",
        }
    }

    fn faults(self, options: &Options) -> Vec<Fault<World>> {
        let mut faults = match self {
            Self::Fleet => catalogue::fleet(options.quick),
            Self::Rotation => catalogue::rotation(options.quick),
            Self::Clocks => catalogue::clocks(options.quick),
            Self::Soak => Vec::new(),
        };
        faults.retain(|fault| options.wants(&fault.name));
        faults
    }

    /// Whether these options leave anything to do.
    pub fn is_wanted(self, options: &Options) -> bool {
        match self {
            Self::Soak => options.wants("soak") && !options.soak.is_zero(),
            Self::Fleet | Self::Rotation | Self::Clocks => !self.faults(options).is_empty(),
        }
    }

    /// Runs it. The process must be in namespaces of its own: of mounts, of the network and of processes.
    ///
    /// # Errors
    /// What keeps the fleet from starting.
    pub fn run(self, options: &Options) -> Result<Report> {
        let mut report = Report::default();
        let faketime = match self {
            Self::Fleet | Self::Rotation | Self::Soak => None,
            Self::Clocks => match clock::library() {
                Ok(library) => Some(library),
                Err(cause) => {
                    report.skipped.push(format!("clocks: {cause}"));
                    return Ok(report);
                }
            },
        };
        let rotation_period = match self {
            Self::Fleet | Self::Clocks => "1h",
            Self::Rotation => "4s",
            Self::Soak => "20s",
        };
        say(&format!("{}: starting", self.name()));
        let mut world = World::start(Shape { rotation_period, faketime })?;
        world.load.start(options.pace());
        match self {
            Self::Soak => soak(&mut world, options.soak, &mut report),
            Self::Fleet | Self::Rotation | Self::Clocks => report.rows = rows(&mut world, self.faults(options)),
        }
        for mut audited in world.audits()? {
            audited.log = format!("{}, {}", self.name(), audited.log);
            report.audits.push(audited);
        }
        Ok(report)
    }
}

/// A row for the time of the soak, and what the processes took.
fn soak(world: &mut World, length: Duration, report: &mut Report) {
    let taken = Rc::new(RefCell::new(Vec::new()));
    let (result, name) = (taken.clone(), format!("soak-{}", humantime::format_duration(length)));
    let watch = Fault::new(name, Duration::ZERO, move |world: &mut World| {
        let nodes = world.key_servers.iter().chain(&world.edges);
        let mut watched: Vec<_> = nodes.map(|node| Watched::new(&node.name, node.process.pid())).collect();
        *result.borrow_mut() = soak::watch(&mut watched, length)?;
        Ok(())
    });
    report.rows = rows(world, vec![watch]);
    report.soak = taken.take();
}

/// A fleet that faults are injected into.
pub(super) trait Fleet {
    fn load(&mut self) -> &mut Load;
    /// What was killed on purpose so far.
    fn kills(&self) -> &[Kill];
    /// Of each edge a number that changes when its counters begin anew, and its metrics; without an edge that does not
    /// answer.
    fn edges(&self) -> Vec<(u64, String)>;
}

/// From which what is normal is taken.
const BEFORE: Duration = Duration::from_secs(4);
/// For how long the fleet is watched behind a repair, at the most.
const AFTER: Duration = Duration::from_secs(10);
/// At the least, so that what breaks late is seen.
const AFTER_AT_LEAST: Duration = Duration::from_secs(4);
/// As long as the slowest client may take.
const SETTLE: Duration = Duration::from_secs(25);

/// Injects one fault after another, and makes a row of each. The load has to be on.
pub(super) fn rows<W: Fleet>(world: &mut W, faults: Vec<Fault<W>>) -> Vec<Row> {
    sleep(BEFORE);
    let mut rows = Vec::new();
    let mut counted_until = Instant::now();
    for fault in faults {
        let row = observe(world, fault, &mut counted_until);
        let complaints: Vec<_> = row.complaints().collect();
        let verdict = if complaints.is_empty() { "held".to_owned() } else { complaints.join("; ") };
        say(&format!("{}: {verdict}", row.fault));
        rows.push(row);
    }
    rows
}

/// A row that counts from the end of the one before, which it moves on.
fn observe<W: Fleet>(world: &mut W, mut fault: Fault<W>, counted_until: &mut Instant) -> Row {
    let counted = world.edges();
    let injected = Instant::now();
    let before = injected - BEFORE..injected;
    let mut problems = Vec::new();
    problems.extend(attempt(|| fault.inject(world)).err().map(|cause| format!("injection: {cause}")));
    sleep(fault.hold);
    problems.extend(attempt(|| fault.repair(world)).err().map(|cause| format!("repair: {cause}")));
    let repaired = Instant::now();
    let ledger = world.load().ledger.clone();
    let counted_from = std::mem::replace(counted_until, repaired);
    let mut course = Course { counted_from, before, fault: injected..repaired, end: repaired };
    while course.end < repaired + AFTER {
        sleep(Duration::from_secs(1));
        course.end = Instant::now();
        if course.end >= repaired + AFTER_AT_LEAST && seconds_until_normal(&ledger, &course).is_some() {
            break;
        }
    }
    *counted_until = course.end;
    let open = ledger.settle(course.end, SETTLE);
    let mut row = Row::of(&fault.name, &ledger, &course, world.kills());
    if !fault.takes_an_edge_away {
        row.expect_both_edges();
    }
    row.edges_say = failures_since(&counted, &world.edges());
    problems.into_iter().for_each(|problem| row.complain(problem));
    if open > 0 {
        row.complain(format!("{open} clients without an end"));
    }
    row
}

/// The error of what fails, or panics.
fn attempt(action: impl FnOnce() -> Result<()>) -> Result<(), String> {
    match catch_unwind(AssertUnwindSafe(action)) {
        Ok(outcome) => outcome.map_err(|cause| format!("{cause:#}")),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            // The first line: what follows may be a log.
            Err(text.and_then(|text| text.lines().next()).unwrap_or("panic").to_owned())
        }
    }
}

const FAILURES: &str = "keystead_edge_handshake_failures_total{";

/// How much each reason of failed handshakes has grown.
fn failures_since(before: &[(u64, String)], after: &[(u64, String)]) -> BTreeMap<String, i64> {
    let mut grown = BTreeMap::<String, i64>::new();
    for (instance, text) in after {
        let same = before.iter().find(|(earlier, _)| earlier == instance);
        let earlier: BTreeMap<_, _> = same.iter().flat_map(|(_, text)| failures(text)).collect();
        for (reason, count) in failures(text) {
            // A counter that is lower has begun anew.
            let before = earlier.get(&reason).copied().filter(|before| *before <= count).unwrap_or(0);
            *grown.entry(reason).or_default() += count - before;
        }
    }
    grown.retain(|_, count| *count != 0);
    grown
}

fn failures(text: &str) -> impl Iterator<Item = (String, i64)> + '_ {
    text.lines().filter_map(|line| {
        let (labels, count) = line.strip_prefix(FAILURES)?.split_once("} ")?;
        let (_, reason) = labels.split_once("reason=\"")?;
        Some((reason.split('"').next()?.to_owned(), count.parse().ok()?))
    })
}

/// Tells whoever watches.
pub(super) fn say(line: &str) {
    // With standard error closed there is nobody to tell.
    let _ = writeln!(stderr(), "faults: {line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_by_reason_and_from_nothing_for_another_instance() {
        let line = |reason, count| format!("{FAILURES}fault=\"key_server\",reason=\"{reason}\"}} {count}\n");
        let before = [(1, line("unreachable", 3)), (2, line("no_answer", 5))];
        let after = [(1, line("unreachable", 4) + &line("no_answer", 1)), (3, line("no_answer", 2))];
        let grown = failures_since(&before, &after);
        assert_eq!(grown.into_iter().collect::<Vec<_>>(), [("no_answer".to_owned(), 3), ("unreachable".to_owned(), 1)]);
    }
}
