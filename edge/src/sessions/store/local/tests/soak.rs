//! Churn: many times more sessions than the store may hold. `KEYSTEAD_SOAK_SESSIONS` says how many; a million takes
//! a minute.

use super::*;
use std::fs;

const SESSIONS: &str = "KEYSTEAD_SOAK_SESSIONS";
const REPORT: &str = "report";
/// The store holds a fourth of what is kept.
const ROUNDS: u64 = 4;
const MEMORY: u64 = 16 << 20;

fn sessions() -> u64 {
    std::env::var(SESSIONS).map_or(1 << 18, |sessions| sessions.parse().unwrap())
}

fn config() -> LocalConfig {
    LocalConfig { max_entries: sessions() / ROUNDS, memory_bytes: MEMORY, ..patient() }
}

fn keep(store: &LocalStore) -> SessionId {
    while store.writes.is_full() {
        std::thread::sleep(Duration::from_micros(200));
    }
    keep_one(store)
}

/// Bytes of this process in memory, at most until now.
fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

fn disk(directory: &Path) -> u64 {
    files(directory).iter().map(|file| fs::metadata(file).map_or(0, |metadata| metadata.len())).sum()
}

#[test]
#[ignore = "the child of another test"]
fn keeps_many_sessions() {
    let Some(directory) = child::directory() else { return };
    let before = peak_memory();
    let store = start_with(&directory, config());
    wait_until("the database is open", || store.notices.standing() == Standing::Open);
    let begun = Instant::now();
    let mut most_on_disk = 0;
    for number in 0..sessions() {
        keep(&store);
        if number % 10_000 == 0 {
            most_on_disk = most_on_disk.max(disk(&directory));
        }
    }
    wait_until("all is written", || store.writes.is_empty());
    let elapsed = begun.elapsed();
    wait_until("it is counted", || store.telemetry.entries.get() > 0);
    let telemetry = &store.telemetry;
    let (entries, live) = (telemetry.entries.get(), u64::try_from(telemetry.bytes.get()).unwrap());
    let most_on_disk = most_on_disk.max(disk(&directory));
    let memory = peak_memory() - before;
    let report = format!(
        "{} sessions in {elapsed:?}, {:.0}/s; {entries} live with {live} bytes; at most {most_on_disk} on disk and {memory} \
         in memory",
        sessions(),
        sessions() as f64 / elapsed.as_secs_f64(),
    );
    let dropped =
        telemetry.drops(Store::Local, Dropped::QueueFull) + telemetry.drops(Store::Local, Dropped::BucketGone);
    assert_eq!(dropped, 0, "{report}");
    assert!(entries >= i64::try_from(config().max_entries / 2).unwrap(), "{report}");
    assert!(entries <= i64::try_from(config().max_entries).unwrap(), "{report}");
    // sled's segments and snapshot beside the sessions.
    assert!(most_on_disk < 4 * live + (32 << 20), "{report}");
    assert!(memory < MEMORY + CACHE + MOST_QUEUED_BYTES + live + (64 << 20), "{report}");
    fs::write(directory.join("partial"), report).unwrap();
    fs::rename(directory.join("partial"), directory.join(REPORT)).unwrap();
    // Slowly enough that most of what is there has been flushed.
    loop {
        keep(&store);
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn churn_leaves_disk_and_memory_bounded_and_a_kill_the_sessions() {
    let directory = tempfile::tempdir().unwrap();
    let mut keeper = child::Running::start(child::command("soak::keeps_many_sessions", directory.path()));
    let report = directory.path().join(REPORT);
    let begun = Instant::now();
    while !report.exists() {
        assert!(keeper.runs(), "see what it said");
        assert!(begun.elapsed() < Duration::from_secs(120 + sessions() / 1000));
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(FLUSH * 3);
    keeper.kill();

    let begun = Instant::now();
    let store = start_with(directory.path(), config());
    wait_until("the database is open", || store.notices.standing() == Standing::Open);
    let opened = begun.elapsed();
    let least = i64::try_from(config().max_entries / 2).unwrap();
    wait_at_most(Duration::from_secs(120), "the sessions are counted", || store.telemetry.entries.get() >= least);
    let counted = begun.elapsed();
    assert_eq!(store.telemetry.rebuilt.get(), 0);
    let report = fs::read_to_string(report).unwrap();
    assert!(opened < Duration::from_secs(30), "{report}; opened in {opened:?}");
    if let Some(file) = std::env::var_os("KEYSTEAD_SOAK_REPORT") {
        fs::write(file, format!("{report}; killed, opened in {opened:?}, counted in {counted:?}\n")).unwrap();
    }
}
