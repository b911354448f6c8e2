//! The engine's benchmarks, which criterion runs: in rounds, so that all subjects have their turn in each.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::effort::Effort;
use crate::standing;
use crate::table::{Better, Table};

/// Where the benchmark's program is.
const PROGRAM: &str = "KEYSTEAD_ENGINE_BENCH";

/// What criterion knows of a benchmark.
#[derive(Deserialize)]
struct Benchmark {
    group_id: String,
    function_id: String,
    value_str: Option<String>,
}

/// What it found out, in nanoseconds.
#[derive(Deserialize)]
struct Estimates {
    median: Estimate,
}

#[derive(Deserialize)]
struct Estimate {
    point_estimate: f64,
}

/// Measures the engine, and what does the same.
///
/// # Errors
/// When the benchmark's program is missing, or fails.
pub fn part(effort: &Effort, directory: &Path) -> Result<Table> {
    let program =
        env::var_os(PROGRAM).with_context(|| format!("{PROGRAM} names no program: tests/bench/run sets it"))?;
    let mut table = Table::default();
    let seconds = (effort.length / 4).as_secs_f64();
    for round in 0..effort.rounds {
        effort.say(&format!("engine, round {}", round + 1));
        let baseline = format!("round-{round}");
        let mut command = Command::new(&program);
        command.arg("--bench").args(["--save-baseline", &baseline, "--sample-size", "10", "--noplot"]);
        command.args(["--warm-up-time", &(seconds / 2.0).to_string(), "--measurement-time", &seconds.to_string()]);
        let status = command.env("CRITERION_HOME", directory).stdout(Stdio::null()).status();
        ensure!(status.context("the engine's benchmark")?.success(), "the engine's benchmark failed");
        let mut found = Vec::new();
        results(directory, &baseline, &mut found)?;
        // In the order of their names, which puts what belongs together together.
        found.sort();
        for result in found {
            let benchmark: Benchmark = read(&result.join("benchmark.json"))?;
            let Estimates { median } = read(&result.join("estimates.json"))?;
            let Benchmark { group_id, function_id, value_str } = benchmark;
            match value_str.as_ref().and_then(|size| size.parse::<f64>().ok()) {
                Some(size) => {
                    let megabytes = size / median.point_estimate * 1e3;
                    table.add(&format!("{group_id}, {size} B: MB/s"), Better::More, function_id, megabytes);
                }
                None => table.add(&format!("{group_id}: µs"), Better::Less, function_id, median.point_estimate / 1e3),
            }
        }
        standing::measure(&mut table)?;
    }
    Ok(table)
}

/// The directories below `directory` that have this round's results.
fn results(directory: &Path, baseline: &str, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() && path.ends_with(baseline) {
            found.push(path);
        } else if path.is_dir() {
            results(&path, baseline, found)?;
        }
    }
    Ok(())
}

fn read<T: for<'de> Deserialize<'de>>(file: &Path) -> Result<T> {
    let text = fs::read(file).with_context(|| file.display().to_string())?;
    serde_json::from_slice(&text).with_context(|| file.display().to_string())
}
