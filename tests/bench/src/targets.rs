//! What was wanted, beside what was read.

use std::fmt::Write;

use serde::Serialize;

use crate::table::{OURS, Table};

/// How our median is to stand to that of others.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wanted {
    /// So many times theirs, or more.
    Least(f64),
    /// So many times theirs, or less.
    Most(f64),
    /// So many times as much for the time or the CPU that is measured as they have, or more.
    LeastFor(f64),
}

/// One thing that is wanted.
struct Target {
    what: &'static str,
    /// The measure of [`crate::table::Table`].
    measure: &'static str,
    /// Those beside, of whom the best counts; nobody where the measure is a ratio already.
    beside: &'static [&'static str],
    wanted: Wanted,
}

const TERMINATORS: &[&str] = &["nginx", "haproxy", "hitch"];
const RUSTLS: &[&str] = &["rustls ring", "rustls aws-lc-rs"];

use Wanted::{Least, LeastFor, Most};

#[rustfmt::skip]
const TARGETS: [Target; 16] = [
    Target { what: "Records, 16 KiB, AES-128-GCM, sealed", measure: "seal, AES-128-GCM, 16384 B: MB/s", beside: &["rustls ring"], wanted: Least(1.0) },
    Target { what: "Records, 16 KiB, AES-128-GCM, sealed", measure: "seal, AES-128-GCM, 16384 B: MB/s", beside: &["OpenSSL"], wanted: Least(1.8) },
    Target { what: "Records, 16 KiB, AES-128-GCM, opened", measure: "open, AES-128-GCM, 16384 B: MB/s", beside: &["rustls ring"], wanted: Least(1.0) },
    Target { what: "Records, 16 KiB, AES-128-GCM, opened", measure: "open, AES-128-GCM, 16384 B: MB/s", beside: &["OpenSSL"], wanted: Least(1.8) },
    Target { what: "Resumed handshakes in memory, by id", measure: "resumed handshake, by id: µs", beside: RUSTLS, wanted: LeastFor(1.0) },
    Target { what: "Resumed handshakes in memory, by ticket", measure: "resumed handshake, by ticket: µs", beside: RUSTLS, wanted: LeastFor(1.0) },
    Target { what: "Bytes for the edge's CPU, one stream", measure: "one stream: CPU s per GB", beside: TERMINATORS, wanted: LeastFor(1.3) },
    Target { what: "Bytes for the edge's CPU, 32 streams", measure: "32 streams: CPU s per GB", beside: TERMINATORS, wanted: LeastFor(1.3) },
    Target { what: "Bytes for the edge's CPU, one upload", measure: "one stream, upload: CPU s per GB", beside: TERMINATORS, wanted: LeastFor(1.3) },
    Target { what: "Bytes for the edge's CPU, 32 uploads", measure: "32 streams, upload: CPU s per GB", beside: TERMINATORS, wanted: LeastFor(1.3) },
    Target { what: "Edge CPU of a full RSA-2048 handshake", measure: "full handshakes, rsa: CPU µs each", beside: &["nginx"], wanted: Most(0.35) },
    Target { what: "P-256 signatures for the key server's CPU", measure: "P-256, 64 in flight: signatures per CPU second", beside: &["raw aws-lc"], wanted: Least(0.6) },
    Target { what: "P-256 signatures for the key server's CPU", measure: "P-256, 64 in flight: signatures per CPU second", beside: &["gokeyless"], wanted: Least(1.5) },
    Target { what: "RSA-2048 signatures for the key server's CPU", measure: "RSA-2048, 64 in flight: signatures per CPU second", beside: &["raw aws-lc"], wanted: Least(0.9) },
    Target { what: "P-256 p99 under another edge's RSA-4096 flood", measure: "P-256, while another floods with RSA-4096, over P-256, one edge alone", beside: &[], wanted: Most(2.0) },
    Target { what: "Memory of an idle connection", measure: "idle connections: memory of each, bytes", beside: TERMINATORS, wanted: Most(1.0) },
];

/// What became of a target.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    what: &'static str,
    beside: String,
    wanted: String,
    read: f64,
    is_met: bool,
}

/// What became of the targets whose measures were taken, ours and of somebody beside.
pub fn verdicts<'t>(tables: impl Iterator<Item = &'t Table> + Clone) -> Vec<Verdict> {
    TARGETS.iter().filter_map(|target| tables.clone().find_map(|table| target.verdict(table))).collect()
}

/// For people, and for docs/PERFORMANCE.md.
pub fn markdown(verdicts: &[Verdict]) -> String {
    let mut text = "| What | Beside | Wanted | Read | |\n|---|---|---|---|---|\n".to_owned();
    for Verdict { what, beside, wanted, read, is_met } in verdicts {
        let said = if *is_met { "met" } else { "falls short" };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {what} | {beside} | {wanted} | {read:.2} x | {said} |");
    }
    text
}

impl Target {
    /// `None` where one of the two was not measured.
    fn verdict(&self, table: &Table) -> Option<Verdict> {
        let Self { what, measure, beside, wanted } = *self;
        let medians = table.medians(measure);
        let ours = *medians.get(OURS)?;
        let theirs = || beside.iter().filter_map(|name| Some((*name, *medians.get(*name)?)));
        let higher_is_better = matches!(wanted, Least(_));
        let best = theirs().reduce(|one, two| if (one.1 > two.1) == higher_is_better { one } else { two });
        let (name, theirs) = if beside.is_empty() { ("one edge alone", 1.0) } else { best? };
        let (read, wanted, is_met) = match wanted {
            Least(least) => (ours / theirs, format!("at least {least} x"), ours / theirs >= least),
            Most(most) => (ours / theirs, format!("at most {most} x"), ours / theirs <= most),
            LeastFor(least) => (theirs / ours, format!("at least {least} x"), theirs / ours >= least),
        };
        let beside =
            if beside.len() > 1 { format!("{name}, the best of {}", beside.join(", ")) } else { name.to_owned() };
        Some(Verdict { what, beside, wanted, read, is_met })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Better;

    fn verdict(wanted: Wanted, readings: &[(&str, f64)]) -> Option<Verdict> {
        let mut table = Table::default();
        readings.iter().for_each(|(subject, value)| table.add("it", Better::Less, subject, *value));
        Target { what: "It", measure: "it", beside: &["a", "b"], wanted }.verdict(&table)
    }

    #[test]
    fn the_best_of_those_beside_counts() {
        let readings = [(OURS, 4.0), ("a", 8.0), ("b", 2.0), ("c", 1.0), ("d", 99.0)];
        for (wanted, beside, read, is_met) in [
            (Least(0.5), "a, the best of a, b", 0.5, true),
            (Least(0.6), "a, the best of a, b", 0.5, false),
            (Most(2.0), "b, the best of a, b", 2.0, true),
            (Most(1.9), "b, the best of a, b", 2.0, false),
            (LeastFor(0.5), "b, the best of a, b", 0.5, true),
            (LeastFor(0.6), "b, the best of a, b", 0.5, false),
        ] {
            let verdict = verdict(wanted, &readings).unwrap();
            assert_eq!((&*verdict.beside, verdict.read, verdict.is_met), (beside, read, is_met), "{wanted:?}");
        }
    }

    #[test]
    fn what_was_not_measured_has_no_verdict() {
        assert_eq!(verdict(Least(1.0), &[(OURS, 1.0)]), None);
        assert_eq!(verdict(Least(1.0), &[("a", 1.0)]), None);
        assert_eq!(markdown(&[]).lines().count(), 2);
    }
}
