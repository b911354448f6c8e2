//! What the ledger has of the time around one fault, and the verdict on it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::ledger::{Kill, Ledger, Visit};
use super::statistics::percentile;

/// A row of the table.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Row {
    /// The fault.
    pub fault: String,
    /// Handshakes attempted since the row before: until the fault, while it lasted and behind it.
    pub attempted: usize,
    /// Those that resumed a session.
    pub resumed: usize,
    /// Those whose first edge refused the connection, and that were made at the other.
    pub elsewhere: usize,
    /// Those that failed with the connections that were killed on purpose.
    pub killed: usize,
    /// All others that failed, by what the client saw.
    pub failed: BTreeMap<String, usize>,
    /// Handshakes that the edges count as failed, by reason.
    pub edges_say: BTreeMap<String, i64>,
    /// Application bytes that clients sent.
    pub sent: u64,
    /// Those that came back as they were.
    pub echoed: u64,
    /// Those that did not, though their edge was not killed.
    pub lost: u64,
    /// Why connections with such bytes broke.
    pub broken: BTreeMap<String, usize>,
    /// Connections on which something else came back than was sent.
    pub altered: usize,
    /// Connections whose edge was killed on purpose.
    pub killed_transfers: usize,
    /// Latency of handshakes.
    pub before: Latency,
    /// While the fault lasted.
    pub during: Latency,
    /// After its repair.
    pub after: Latency,
    /// Seconds from the repair until the p99 of handshakes was what it had been, for two seconds at least.
    pub back: Option<u64>,
    /// What must hold and did not, latency apart.
    pub unmet: Vec<String>,
    /// What was late: a latency that must come back to what it was and did not in time, an edge that is there and that clients
    /// did not reach within a second.
    pub late: Vec<String>,
    /// What else there is to say.
    pub notes: Vec<String>,
}

/// Milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Latency {
    /// Half of the handshakes took no longer.
    pub p50: f64,
    /// 99 in 100 took no longer.
    pub p99: f64,
}

impl Latency {
    fn of(values: Vec<Duration>) -> Self {
        let millis = |share| percentile(values.clone(), share).map_or(0.0, |value| value.as_secs_f64() * 1e3);
        Self { p50: millis(0.5), p99: millis(0.99) }
    }
}

/// When what happened.
#[derive(Clone, Debug)]
pub(super) struct Course {
    /// Where the row before ended.
    pub(super) counted_from: Instant,
    /// Where what is normal is taken from.
    pub(super) before: Range<Instant>,
    /// From the injection to the end of the repair.
    pub(super) fault: Range<Instant>,
    /// When looking on ended.
    pub(super) end: Instant,
}

/// How soon p99 must be back.
const BACK_WITHIN: u64 = 5;

impl Row {
    /// What the ledger has, judged.
    pub(super) fn of(fault: &str, ledger: &Ledger, course: &Course, kills: &[Kill]) -> Self {
        let mut row = Self { fault: fault.to_owned(), back: seconds_until_normal(ledger, course), ..Self::default() };
        for visit in ledger.during(&(course.counted_from..course.end)) {
            row.count(&visit, kills);
        }
        row.before = Latency::of(ledger.latencies(&course.before));
        row.during = Latency::of(ledger.latencies(&course.fault));
        row.after = Latency::of(ledger.latencies(&(course.fault.end..course.end)));
        row.judge();
        row
    }

    /// Everything that must hold and did not.
    pub fn complaints(&self) -> impl Iterator<Item = &str> {
        self.unmet.iter().chain(&self.late).map(String::as_str)
    }

    /// Whether everything held.
    pub fn holds(&self) -> bool {
        self.complaints().next().is_none()
    }

    /// Clients should have reached the edge that they came to first.
    pub(super) fn expect_both_edges(&mut self) {
        if self.elsewhere > 0 {
            self.late.push(format!("{} clients had to go to the other edge", self.elsewhere));
        }
    }

    /// Something that must hold did not.
    pub(super) fn complain(&mut self, what: impl Into<String>) {
        self.unmet.push(what.into());
    }

    fn count(&mut self, visit: &Visit, kills: &[Kill]) {
        self.attempted += 1;
        self.elsewhere += usize::from(visit.elsewhere);
        match visit.handshake {
            Ok(greeted) => self.resumed += usize::from(greeted.resumed),
            Err(_) if visit.lost_its_edge(kills) => self.killed += 1,
            Err(reason) => *self.failed.entry(reason.to_owned()).or_default() += 1,
        }
        let bytes = visit.bytes;
        self.sent += bytes.sent;
        self.echoed += bytes.echoed;
        self.altered += usize::from(bytes.altered);
        match bytes.broken {
            None => {}
            Some(_) if visit.lost_its_edge(kills) => self.killed_transfers += 1,
            Some(reason) => {
                self.lost += bytes.sent - bytes.echoed.min(bytes.sent);
                *self.broken.entry(reason.to_owned()).or_default() += 1;
            }
        }
    }

    fn judge(&mut self) {
        if self.attempted == 0 || self.echoed == 0 {
            self.complain("no load");
        }
        let failed: usize = self.failed.values().sum();
        if failed > 0 {
            self.complain(format!("{failed} handshakes failed"));
        }
        if !self.broken.is_empty() {
            let broken: usize = self.broken.values().sum();
            self.complain(format!("{broken} connections broke and lost {} bytes", self.lost));
        }
        if self.altered > 0 {
            self.complain(format!("bytes altered on {} connections", self.altered));
        }
        match self.back {
            Some(seconds) if seconds <= BACK_WITHIN => {}
            Some(seconds) => self.late.push(format!("p99 back after {seconds} s only")),
            None => self.late.push("p99 not back to what it was".to_owned()),
        }
    }
}

/// Whole seconds from the end of the fault until p99 stays within 1.5 times what it was, and 2 ms, for two seconds. What it
/// was is the worst of the seconds before, since one second has few handshakes and its p99 is about the slowest of them.
pub(super) fn seconds_until_normal(ledger: &Ledger, course: &Course) -> Option<u64> {
    let second = Duration::from_secs(1);
    let p99 = |from: Instant| percentile(ledger.latencies(&(from..from + second)), 0.99);
    let seconds_before = (0..).map(|index| course.before.start + second * index);
    let seconds_before = seconds_before.take_while(|from| *from + second <= course.before.end);
    let normal = seconds_before.filter_map(p99).max()?;
    let bound = normal * 3 / 2 + Duration::from_millis(2);
    let is_normal = |index: u64| {
        let from = course.fault.end + Duration::from_secs(index);
        from + second <= course.end && p99(from).is_some_and(|p99| p99 <= bound)
    };
    let seconds = course.end.saturating_duration_since(course.fault.end).as_secs();
    (0..seconds).find(|index| is_normal(*index) && is_normal(index + 1))
}

#[cfg(test)]
mod tests {
    use super::super::ledger::{Bytes, Greeted};
    use super::*;

    /// Handshakes each 10 ms for ten seconds; the fault is from the fourth to the sixth. `shape` tells latency and outcome.
    fn row(shape: impl Fn(Duration) -> Result<Duration, &'static str>, kills: &[Kill], start: Instant) -> Row {
        let ledger = Ledger::default();
        for step in 0..1000 {
            let at = Duration::from_millis(10) * step;
            let began = start + at;
            let number = ledger.enter(began);
            let handshake = shape(at).map(|latency| Greeted { latency, resumed: false });
            let bytes = Bytes { sent: 4, echoed: 4, ..Bytes::default() };
            let ended = began + Duration::from_millis(5);
            ledger.leave(number, Visit { began, ended, edge: 0, elsewhere: false, handshake, bytes });
        }
        let second = |number| start + Duration::from_secs(number);
        let (before, fault) = (start..second(4), second(4)..second(6));
        let course = Course { counted_from: second(4), before, fault, end: second(10) };
        Row::of("test", &ledger, &course, kills)
    }

    const FAST: Duration = Duration::from_millis(10);

    #[test]
    fn what_holds_has_no_complaint() {
        let slow_while_it_lasts =
            |at: Duration| Ok(if (4..6).contains(&at.as_secs()) { Duration::from_secs(1) } else { FAST });
        let row = row(slow_while_it_lasts, &[], Instant::now());
        assert_eq!((row.holds(), row.back, row.attempted), (true, Some(0), 600), "{row:?}");
        assert!(row.during.p99 > 900.0 && row.after.p99 < 20.0);
    }

    #[test]
    fn one_failure_is_a_complaint_unless_it_was_killed() {
        let start = Instant::now();
        let one = |at: Duration| if at == Duration::from_millis(4500) { Err("reset") } else { Ok(FAST) };
        let kill = |millis, edge| {
            let at = start + Duration::from_millis(millis);
            Kill { from: at, to: at, edge }
        };
        let (of_another_time, of_another_edge, its_own) = (kill(4400, 0), kill(4502, 1), kill(4502, 0));
        for (kills, failures) in [(vec![], 1), (vec![of_another_time, of_another_edge], 1), (vec![its_own], 0)] {
            let row = row(one, &kills, start);
            assert_eq!((row.unmet.len(), row.killed), (failures, 1 - failures), "{row:?}");
        }
    }

    #[test]
    fn clients_that_had_to_go_elsewhere_are_a_complaint_where_both_edges_are_there() {
        let mut row = row(|_| Ok(FAST), &[], Instant::now());
        row.expect_both_edges();
        assert!(row.holds());
        row.elsewhere = 1;
        row.expect_both_edges();
        assert!(!row.holds() && row.unmet.is_empty());
    }

    #[test]
    fn latency_that_stays_is_a_complaint() {
        let row = row(|at| Ok(if at.as_secs() >= 4 { FAST * 3 } else { FAST }), &[], Instant::now());
        assert_eq!(row.complaints().collect::<Vec<_>>(), ["p99 not back to what it was"]);
    }
}
