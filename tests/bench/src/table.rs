//! Samples, and what they come to.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

/// One reading.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sample {
    /// What was measured, with its unit.
    pub measure: String,
    /// Of whom.
    pub subject: String,
    /// The reading.
    pub value: f64,
}

/// Which of two readings is the better one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    /// The higher.
    More,
    /// The lower.
    Less,
    /// Neither: it says how the others were read.
    Neither,
}

/// Everything that one run has measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Table {
    /// What each measure is, in the order in which they were first taken.
    pub measures: Vec<(String, Better)>,
    /// All readings.
    pub samples: Vec<Sample>,
    /// What could not be measured here, with the reason.
    pub skipped: Vec<String>,
}

/// The readings of one measure: the median of each subject.
pub type Medians = BTreeMap<String, f64>;

/// Whose figures are set against those of the others.
pub const OURS: &str = "keystead";

impl Table {
    /// One more reading.
    pub fn add(&mut self, measure: &str, better: Better, subject: impl ToString, value: f64) {
        self.know(measure, better);
        self.samples.push(Sample { measure: measure.to_owned(), subject: subject.to_string(), value });
    }

    /// Something cannot be measured here.
    pub fn skip(&mut self, what: String) {
        if !self.skipped.contains(&what) {
            self.skipped.push(what);
        }
    }

    fn know(&mut self, measure: &str, better: Better) {
        if !self.measures.iter().any(|(known, _)| known == measure) {
            self.measures.push((measure.to_owned(), better));
        }
    }

    /// The medians of a measure, by subject.
    pub fn medians(&self, measure: &str) -> Medians {
        let mut values = BTreeMap::<String, Vec<f64>>::new();
        for sample in self.samples.iter().filter(|sample| sample.measure == measure) {
            values.entry(sample.subject.clone()).or_default().push(sample.value);
        }
        values.into_iter().map(|(subject, values)| (subject, median(values))).collect()
    }

    /// Everybody who was measured, in the order of their first readings.
    pub fn subjects(&self) -> Vec<&str> {
        let mut subjects: Vec<&str> = Vec::new();
        for sample in &self.samples {
            if !subjects.contains(&sample.subject.as_str()) {
                subjects.push(&sample.subject);
            }
        }
        subjects
    }

    /// The whole, in Markdown: for people, and for docs/PERFORMANCE.md.
    pub fn markdown(&self) -> String {
        let subjects = self.subjects();
        let mut text = format!("| Measure | {} | Keystead to the best other |\n", subjects.join(" | "));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "|---|{}---|", "---:|".repeat(subjects.len()));
        for (measure, better) in &self.measures {
            let medians = self.medians(measure);
            let cells = subjects.iter().map(|subject| medians.get(*subject).map_or_else(String::new, |it| figure(*it)));
            let ratio = ratio(&medians, *better).map_or_else(String::new, |ratio| format!("{ratio:.2} x"));
            let _ = writeln!(text, "| {measure} | {} | {ratio} |", cells.collect::<Vec<_>>().join(" | "));
        }
        self.skipped.iter().for_each(|line| text += &format!("\nSkipped: {line}\n"));
        text
    }
}

/// Our median over the best one of the others. A subject of ours that has a word more to its name is none of them.
pub fn ratio(medians: &Medians, better: Better) -> Option<f64> {
    let others = medians.iter().filter(|(subject, _)| !subject.starts_with(OURS)).map(|(_, value)| *value);
    let best = others.reduce(match better {
        Better::More => f64::max,
        Better::Less => f64::min,
        Better::Neither => return None,
    })?;
    Some(medians.get(OURS)? / best)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    let half = values.len() / 2;
    if values.len() % 2 == 1 { at(half) } else { (at(half.wrapping_sub(1)) + at(half)) / 2.0 }
}

/// Three digits that count.
pub(crate) fn figure(value: f64) -> String {
    let digits = if value == 0.0 { 0 } else { (2.0 - value.abs().log10().floor()).clamp(0.0, 4.0) as usize };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_set_against_the_best_of_the_others() {
        let mut table = Table::default();
        for (subject, values) in [(OURS, [3.0, 1.0, 2.0]), ("slow", [8.0, 8.0, 8.0]), ("fast", [4.0, 4.0, 5.0])] {
            values.into_iter().for_each(|value| table.add("µs", Better::Less, subject, value));
        }
        let medians = table.medians("µs");
        assert_eq!(medians, Medians::from([(OURS.into(), 2.0), ("slow".into(), 8.0), ("fast".into(), 4.0)]));
        assert_eq!((ratio(&medians, Better::Less), ratio(&medians, Better::More)), (Some(0.5), Some(0.25)));
        assert_eq!(ratio(&medians, Better::Neither), None);
        let row = table.markdown().lines().nth(2).unwrap().to_owned();
        assert_eq!(row, "| µs | 2.00 | 8.00 | 4.00 | 0.50 x |");
    }

    #[test]
    fn figures_have_the_digits_that_count() {
        let figures = [0.0, 0.012_34, 1.234, 56.78, 1234.5].map(figure);
        assert_eq!(figures, ["0", "0.0123", "1.23", "56.8", "1234"].map(String::from));
    }
}
