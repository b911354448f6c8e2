//! Load for long, while what each process takes is watched.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::statistics::rise;

/// What one process took over the soak.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Taken {
    /// The process.
    pub process: String,
    /// `memory` (KiB resident), `descriptors` or `tasks`.
    pub what: String,
    /// At the first sample that counts.
    pub first: f64,
    /// At the last.
    pub last: f64,
    /// How much the straight line through all of them rises.
    pub rise: f64,
    /// How much it may.
    pub allowed: f64,
}

impl Taken {
    /// Whether it stayed flat.
    pub fn is_flat(&self) -> bool {
        self.rise <= self.allowed
    }
}

/// A process that is watched.
pub(super) struct Watched {
    name: String,
    process: u32,
    samples: Vec<(f64, [f64; 3])>,
}

const KINDS: [&str; 3] = ["memory", "descriptors", "tasks"];
/// How many samples a soak has, as far as there are seconds.
const SAMPLES: u32 = 600;

impl Watched {
    pub(super) fn new(name: &str, process: u32) -> Self {
        Self { name: name.to_owned(), process, samples: Vec::new() }
    }

    fn sample(&mut self, at: Duration) -> Result<()> {
        let root = format!("/proc/{}", self.process);
        let count = |part: &str| Ok::<_, std::io::Error>(fs::read_dir(format!("{root}/{part}"))?.count() as f64);
        let status = fs::read_to_string(format!("{root}/status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next());
        let resident: f64 = resident.context("no VmRSS")?.parse()?;
        self.samples.push((at.as_secs_f64(), [resident, count("fd")?, count("task")?]));
        Ok(())
    }

    /// What the samples say. The first third is the warm-up.
    fn judge(&self) -> Vec<Taken> {
        let counted = self.samples.get(self.samples.len() / 3..).unwrap_or_default();
        let taken = |(kind, what): (usize, &&str)| {
            let of = |values: &[f64; 3]| values.get(kind).copied().unwrap_or_default();
            let points: Vec<_> = counted.iter().map(|(at, values)| (*at, of(values))).collect();
            let mean = points.iter().map(|(_, value)| value).sum::<f64>() / points.len().max(1) as f64;
            let (first, last) = (points.first().map_or(0.0, |it| it.1), points.last().map_or(0.0, |it| it.1));
            Taken {
                process: self.name.clone(),
                what: (*what).to_owned(),
                first,
                last,
                rise: rise(&points),
                allowed: allowed(kind, mean),
            }
        };
        KINDS.iter().enumerate().map(taken).collect()
    }
}

/// What noise and caches that are not full yet may add: a tenth, and of memory 3 MiB, of descriptors and tasks four.
fn allowed(kind: usize, mean: f64) -> f64 {
    let least = if kind == 0 { 3072.0 } else { 4.0 };
    f64::max(mean / 10.0, least)
}

/// Watches for `length`.
///
/// # Errors
/// When a process has ended.
pub(super) fn watch(processes: &mut [Watched], length: Duration) -> Result<Vec<Taken>> {
    let period = (length / SAMPLES).max(Duration::from_secs(1));
    let began = Instant::now();
    while began.elapsed() < length {
        for process in processes.iter_mut() {
            process.sample(began.elapsed()).with_context(|| format!("{} has ended", process.name))?;
        }
        sleep(period);
    }
    Ok(processes.iter().flat_map(Watched::judge).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(grows: impl Fn(f64) -> f64) -> Vec<Taken> {
        let samples = (0..120).map(f64::from).map(|at| (at, [grows(at), 40.0 + at % 3.0, 9.0])).collect();
        Watched { name: "it".to_owned(), process: 0, samples }.judge()
    }

    #[test]
    fn growth_behind_the_warm_up_is_found_and_noise_is_not() {
        let leaking = watched(|at| 30_000.0 + 100.0 * at);
        assert_eq!(leaking.iter().map(Taken::is_flat).collect::<Vec<_>>(), [false, true, true], "{leaking:?}");
        let warming = watched(|at| if at < 40.0 { 1000.0 * at } else { 40_000.0 });
        assert!(warming.iter().all(Taken::is_flat), "{warming:?}");
    }
}
