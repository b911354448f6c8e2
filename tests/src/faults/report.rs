//! The table: for a terminal, for a program, and for the documentation.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};

use serde::{Deserialize, Serialize};

use super::audited::Audited;
use super::row::Row;
use super::soak::Taken;

/// Everything that was found out.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// A row for each fault.
    pub rows: Vec<Row>,
    /// What the processes took over the soak.
    pub soak: Vec<Taken>,
    /// What became of the audit logs.
    pub audits: Vec<Audited>,
    /// What could not be done here, with the reason.
    pub skipped: Vec<String>,
}

impl Report {
    /// Adds what another part of the campaign found out.
    pub fn extend(&mut self, other: Self) {
        self.rows.extend(other.rows);
        self.soak.extend(other.soak);
        self.audits.extend(other.audits);
        self.skipped.extend(other.skipped);
    }

    /// Whether everything holds that must; latency need not where it is tolerated.
    pub fn holds(&self, tolerates_latency: bool) -> bool {
        let is_met = |row: &Row| row.unmet.is_empty() && (tolerates_latency || row.late.is_empty());
        self.rows.iter().all(is_met) && self.soak.iter().all(Taken::is_flat) && self.audits.iter().all(Audited::holds)
    }

    /// For people.
    pub fn text(&self) -> String {
        let rows: Vec<_> = self.rows.iter().map(cells).collect();
        let width = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(String::len);
            cells.chain(HEADINGS.get(column).map(|heading| heading.len())).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..HEADINGS.len()).map(width).collect();
        let mut text = String::new();
        for row in [HEADINGS.map(String::from)].iter().chain(&rows) {
            let padded = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}", padded.collect::<Vec<_>>().join("  ").trim_end());
        }
        text.push('\n');
        self.rows.iter().flat_map(details).for_each(|line| text += &line);
        for taken in &self.soak {
            let Taken { process, what, first, last, rise, allowed } = taken;
            let verdict = if taken.is_flat() { "flat" } else { "NOT FLAT" };
            let _ =
                writeln!(text, "{process} {what}: {first:.0} to {last:.0}, rise {rise:.1} of {allowed:.0}: {verdict}");
        }
        for Audited { log, as_it_is, altered } in &self.audits {
            let [as_it_is, altered] = [as_it_is, altered].map(verdict);
            let _ = writeln!(text, "audit of {log}: {as_it_is}; with one bit changed: {altered}");
        }
        self.skipped.iter().for_each(|line| text += &format!("Skipped: {line}\n"));
        text
    }

    /// For docs/OPERATING.md.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        let rule = HEADINGS.map(|_| "---".to_owned());
        for row in [HEADINGS.map(String::from), rule].iter().chain(&self.rows.iter().map(cells).collect::<Vec<_>>()) {
            let _ = writeln!(text, "| {} |", row.join(" | "));
        }
        if !self.soak.is_empty() {
            text += "\n| Soak | What | First | Last | Rise of the fitted line | Allowed | Held |\n|---|---|---|---|---|---|---|\n";
        }
        for taken in &self.soak {
            let Taken { process, what, first, last, rise, allowed } = taken;
            let held = if taken.is_flat() { "yes" } else { "no" };
            let _ =
                writeln!(text, "| {process} | {what} | {first:.0} | {last:.0} | {rise:.1} | {allowed:.0} | {held} |");
        }
        if !self.audits.is_empty() {
            text += "\n| Audit log | As it is | With one bit changed |\n|---|---|---|\n";
        }
        for Audited { log, as_it_is, altered } in &self.audits {
            let [as_it_is, altered] = [as_it_is, altered].map(verdict);
            let _ = writeln!(text, "| {log} | {as_it_is} | {altered} |");
        }
        text
    }
}

fn verdict(said: &Result<String, String>) -> String {
    said.clone().unwrap_or_else(|complaint| format!("NOT HELD: {complaint}"))
}

const HEADINGS: [&str; 12] = [
    "Fault",
    "Attempted",
    "Failed",
    "In flight",
    "Elsewhere",
    "Resumed",
    "Bytes",
    "Lost",
    "p50 ms",
    "p99 ms",
    "Back s",
    "Held",
];

fn cells(row: &Row) -> [String; 12] {
    let failed: usize = row.failed.values().sum();
    let (before, during, after) = (row.before, row.during, row.after);
    [
        row.fault.clone(),
        row.attempted.to_string(),
        failed.to_string(),
        row.killed.to_string(),
        row.elsewhere.to_string(),
        row.resumed.to_string(),
        row.echoed.to_string(),
        row.lost.to_string(),
        format!("{:.1} / {:.1} / {:.1}", before.p50, during.p50, after.p50),
        format!("{:.0} / {:.0} / {:.0}", before.p99, during.p99, after.p99),
        row.back.map_or_else(|| "-".to_owned(), |seconds| seconds.to_string()),
        if row.holds() { "yes" } else { "no" }.to_owned(),
    ]
}

/// What does not fit into a row.
fn details(row: &Row) -> Vec<String> {
    let name = &row.fault;
    let mut lines: Vec<String> = row.complaints().map(|unmet| format!("{name}: NOT HELD: {unmet}\n")).collect();
    lines.extend(list(&row.failed).map(|list| format!("{name}: clients saw {list}\n")));
    lines.extend(list(&row.edges_say).map(|list| format!("{name}: edges counted {list}\n")));
    lines.extend(list(&row.broken).map(|list| format!("{name}: connections broke: {list}\n")));
    lines.extend(row.notes.iter().map(|note| format!("{name}: {note}\n")));
    lines
}

fn list<C: Display>(counts: &BTreeMap<String, C>) -> Option<String> {
    let words: Vec<_> = counts.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    (!words.is_empty()).then(|| words.join(", "))
}
