//! `keystead-count`: how many instructions the engine takes, by callgrind, beside the counts that are kept in the
//! repository. Instructions are no time, but they are the same on a machine that is busy: what grows is seen.
//!
//! `tests/bench/count` builds what it needs and runs it.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Write, stdout};
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use keystead_bench::engine::{self, Coming, Pair, Subject};
use keystead_bench::machine;
use keystead_tests::signer::{self, Signer};
use rustls::CipherSuite;
use serde::{Deserialize, Serialize};

/// Counts the engine's instructions, and compares them with those that are kept
#[derive(Parser)]
struct Arguments {
    /// The counts that are kept
    #[arg(long, value_name = "FILE", required_unless_present = "scenario")]
    kept: Option<PathBuf>,
    /// Keeps what is counted
    #[arg(long)]
    save: bool,
    /// Does what is counted, once
    #[arg(long, hide = true)]
    scenario: Option<Scenario>,
}

/// What is counted, for each connection or record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scenario {
    FullRsa,
    FullP256,
    ResumedById,
    ResumedByTicket,
    Seal64,
    Seal1400,
    Seal16384,
    Open64,
    Open1400,
    Open16384,
}

/// What is kept.
#[derive(Default, Serialize, Deserialize)]
struct Counts {
    /// What they were counted with.
    with: Vec<String>,
    /// By the names of scenarios.
    instructions: BTreeMap<String, u64>,
}

/// How much a count may differ, in hundredths: keys and signatures differ, and so does the work of some.
const TOLERANCE: f64 = 2.0;

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if let Some(scenario) = arguments.scenario {
        scenario.run();
        return Ok(ExitCode::SUCCESS);
    }
    let file = arguments.kept.context("--kept")?;
    let kept: Counts = match fs::read(&file) {
        Ok(text) => serde_json::from_slice(&text).with_context(|| file.display().to_string())?,
        Err(_) if arguments.save => Counts::default(),
        Err(cause) => return Err(cause).with_context(|| file.display().to_string()),
    };
    let with = ["rustc", "valgrind"].into_iter().filter_map(machine::version).collect();
    let mut counted = Counts { with, instructions: BTreeMap::new() };
    let mut differs = false;
    for scenario in Scenario::value_variants() {
        let name = scenario.to_possible_value().context("every scenario has a name")?.get_name().to_owned();
        let count = count(&name, scenario.counted())? / scenario.times();
        let kept = kept.instructions.get(&name).copied();
        let percent = kept.map(|kept| (count as f64 / kept as f64 - 1.0) * 100.0);
        let verdict = percent.map_or_else(|| "not kept".to_owned(), |percent| format!("{percent:+.1} %"));
        writeln!(stdout(), "{name:<17} {count:>9}  {verdict}")?;
        differs |= percent.is_none_or(|percent| percent.abs() > TOLERANCE);
        counted.instructions.insert(name, count);
    }
    if arguments.save {
        fs::write(&file, serde_json::to_string_pretty(&counted)? + "\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    if differs {
        writeln!(stdout(), "Counts differ by more than {TOLERANCE} %. If that is meant: tests/bench/count --save")?;
        writeln!(stdout(), "Kept with: {}\nHere: {}", kept.with.join(", "), counted.with.join(", "))?;
    }
    Ok(if differs { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Instructions of the server's part of a scenario; those of signers are another's.
fn count(scenario: &str, counted: &[&str]) -> Result<u64> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"]);
    // Collecting begins or ends where one of these is entered or left: what is counted, and signing within it.
    command.args(counted.iter().map(|name| format!("--toggle-collect=*{name}*")));
    let output = command.arg(std::env::current_exe()?).args(["--scenario", scenario]).output().context("valgrind")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}");
    let collected = said.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
    collected.with_context(|| format!("callgrind has counted nothing: {said}"))
}

type LazySigner = std::sync::LazyLock<Signer>;

const RSA: (&LazySigner, CipherSuite) = (&signer::RSA, CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256);
const P256: (&LazySigner, CipherSuite) = (&signer::P256, CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256);

impl Scenario {
    /// How often what is counted is done.
    fn times(self) -> u64 {
        match self {
            Self::FullRsa | Self::FullP256 => 20,
            // The first is a full one, and is among those that are counted.
            Self::ResumedById | Self::ResumedByTicket => 400,
            _ => 200,
        }
    }

    /// The function that is counted, of [`engine`], and one within it that is not.
    fn counted(self) -> &'static [&'static str] {
        match self {
            Self::FullRsa | Self::FullP256 | Self::ResumedById | Self::ResumedByTicket => {
                &["shake_hands", "sign_elsewhere"]
            }
            Self::Seal64 | Self::Seal1400 | Self::Seal16384 => &["send_data"],
            Self::Open64 | Self::Open1400 | Self::Open16384 => &["receive_data"],
        }
    }

    fn run(self) {
        let times = self.times();
        let connect = |(signer, suite): (&'static LazySigner, CipherSuite), coming| {
            let service = Subject::Fast.service(signer, coming);
            (engine::clients(signer, suite, coming), service)
        };
        let handshakes = |of, coming| {
            let (clients, service) = connect(of, coming);
            for index in 0..times {
                let is_resumed = Pair::new(&clients, &*service).is_resumed();
                assert_eq!(is_resumed, coming != Coming::Full && index > 0, "{self:?}");
            }
        };
        let pair = || {
            let (clients, service) = connect(RSA, Coming::Full);
            Pair::new(&clients, &*service)
        };
        match self {
            Self::FullRsa => handshakes(RSA, Coming::Full),
            Self::FullP256 => handshakes(P256, Coming::Full),
            Self::ResumedById => handshakes(P256, Coming::ById),
            Self::ResumedByTicket => handshakes(P256, Coming::ByTicket),
            Self::Seal64 | Self::Seal1400 | Self::Seal16384 => {
                let (mut pair, data) = (pair(), vec![0x5a; self.size()]);
                for _ in 0..times {
                    pair.send(&data);
                }
            }
            Self::Open64 | Self::Open1400 | Self::Open16384 => {
                let (mut pair, data) = (pair(), vec![0x5a; self.size()]);
                pair.receive(&data, times);
            }
        }
    }

    fn size(self) -> usize {
        match self {
            Self::Seal64 | Self::Open64 => 64,
            Self::Seal1400 | Self::Open1400 => 1400,
            _ => 16_384,
        }
    }
}
