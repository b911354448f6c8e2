//! The log as files, written and verified by what writes and verifies it in earnest, and by a stranger.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and one prints what it measured"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use keystead_program::channel::PeerIdentity;
use tempfile::TempDir;

use super::chain::Head;
use super::config::{AuditSettings, WhenUnwritable};
use super::log::{Log, LogError};
use super::metrics::AuditMetrics;
use super::record::{Event, Request, ServerName};
use super::recorder::{Audit, AuditError};
use super::signing_key::{PublicKey, SigningKey};
use super::verify::{Fault, FaultCause, Segment, Verified, Wanted, verify};
use crate::refusal::Refusal;

/// A directory for a log, and its key.
struct Files {
    directory: TempDir,
    settings: AuditSettings,
}

impl Files {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = directory.path().join("audit.key");
        let public = SigningKey::create(&key).unwrap().public();
        fs::write(directory.path().join("audit.pub"), public.to_pem()).unwrap();
        let settings = AuditSettings {
            directory: directory.path().join("log"),
            signing_key: Arc::new(SigningKey::read(&key).unwrap()),
            rotate_bytes: 64 << 20,
            checkpoint_interval: Duration::from_secs(3600),
            queue: 64,
            when_unwritable: WhenUnwritable::Refuse,
        };
        Self { directory, settings }
    }

    fn log(&self) -> &Path {
        &self.settings.directory
    }

    fn public_key(&self) -> PathBuf {
        self.directory.path().join("audit.pub")
    }

    fn start(&self) -> (Audit, AuditMetrics) {
        let metrics = AuditMetrics::default();
        (self.try_start(&metrics).unwrap(), metrics)
    }

    /// Waits while the log is in use: after it was closed, a process forked by another test may still have its lock.
    fn try_start(&self, metrics: &AuditMetrics) -> Result<Audit, AuditError> {
        wait_for(|| match Audit::start(&self.settings, metrics.clone()) {
            Err(AuditError::Log(LogError::InUse { .. })) => None,
            started => Some(started),
        })
    }

    /// A log of some signatures, closed.
    fn written(self, records: usize) -> Self {
        let (audit, _) = self.start();
        audit.tell(Event::Started { version: "1.2.3", keys: 1, edges: 2 });
        sign(&audit, records);
        audit.close();
        self
    }

    fn verify(&self) -> Result<Verified, Fault> {
        self.verify_with(Wanted::default())
    }

    fn verify_with(&self, wanted: Wanted) -> Result<Verified, Fault> {
        verify(self.log(), &PublicKey::read(&self.public_key()).unwrap(), wanted)
    }

    fn segments(&self) -> Vec<PathBuf> {
        Segment::all(self.log()).unwrap().into_iter().map(|segment| segment.path).collect()
    }

    fn lines(&self) -> Vec<String> {
        let texts = self.segments().into_iter().map(|file| fs::read_to_string(file).unwrap());
        texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
    }
}

fn peer(name: &str) -> PeerIdentity {
    format!("spiffe://keystead.test/edge/{name}").parse().unwrap()
}

fn request(outcome: &'static str) -> Request {
    Request {
        peer: peer("one"),
        operation: "sign_server_key_exchange",
        key: Some("ec".into()),
        key_id: None,
        server_name: ServerName::of("a\"\\\n\u{7}ü.example"),
        server_random: Some([0xa5; 32]),
        leased: None,
        outcome,
    }
}

fn sign(audit: &Audit, records: usize) {
    for _ in 0..records {
        let place = wait_for(|| audit.reserve().ok());
        audit.done(request("done"), place).unwrap();
    }
}

fn wait_for<T>(mut what: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match what() {
            Some(found) => return found,
            None if Instant::now() > deadline => panic!("waited in vain"),
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

#[test]
fn what_is_told_is_on_record_in_its_order_and_verifies() {
    let files = Files::new().written(3);
    let verified = files.verify().unwrap();
    assert_eq!((verified.first, verified.files), (1, 1));
    assert_eq!(verified.signed, verified.last.sequence, "signed to its end");
    let lines = files.lines();
    let events: Vec<_> = lines.iter().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()).collect();
    let signed: Vec<_> = events.iter().filter(|event| event["event"] == "request").collect();
    assert_eq!(signed.len(), 3);
    assert_eq!(signed[0]["peer"], "spiffe://keystead.test/edge/one");
    assert_eq!(signed[0]["server_name"], "a\"\\\n\u{7}ü.example");
    assert_eq!(signed[0]["server_random"], "a5".repeat(32));
    assert_eq!(signed[0]["outcome"], "done");
    assert!(events.iter().zip(1..).all(|(event, sequence)| event["seq"] == sequence));
    assert_eq!(events[events.len() - 2]["event"], "stopped");
}

#[test]
fn server_names_are_cut_at_255_bytes_and_not_within_a_character() {
    let long = "ü".repeat(200);
    assert_eq!(serde_json::to_string(&ServerName::of(&long).unwrap()).unwrap().len(), 254 + 2);
    assert_eq!(ServerName::of(""), None);
}

#[test]
fn every_flipped_bit_is_found() {
    let files = Files::new().written(1);
    let [file] = &files.segments()[..] else { panic!("one file") };
    let whole = fs::read(file).unwrap();
    for place in 0..whole.len() {
        for bit in 0..8 {
            let mut altered = whole.clone();
            altered[place] ^= 1 << bit;
            fs::write(file, &altered).unwrap();
            assert!(files.verify().is_err(), "byte {place}, bit {bit}");
        }
    }
    fs::write(file, whole).unwrap();
    files.verify().unwrap();
}

#[test]
fn removed_swapped_repeated_and_cut_lines_are_found() {
    let files = Files::new().written(4);
    let last = files.verify().unwrap().last;
    let [file] = &files.segments()[..] else { panic!("one file") };
    let text = fs::read_to_string(file).unwrap();
    let lines: Vec<_> = text.split_inclusive('\n').collect();
    let expect = Wanted { last: Some(last), ..Wanted::default() };
    let found = |altered: Vec<&str>, what: &str| {
        fs::write(file, altered.concat()).unwrap();
        assert!(files.verify_with(expect).is_err(), "{what}");
    };
    for place in 0..lines.len() {
        let mut removed = lines.clone();
        removed.remove(place);
        found(removed, &format!("{place} removed"));
        let mut repeated = lines.clone();
        repeated.insert(place, lines[place]);
        found(repeated, &format!("{place} repeated"));
        found(lines[..place].to_vec(), &format!("cut at {place}"));
        for other in 0..place {
            let mut swapped = lines.clone();
            swapped.swap(place, other);
            found(swapped, &format!("{other} and {place} swapped"));
        }
    }
    fs::write(file, &text).unwrap();
    files.verify_with(expect).unwrap();
    let other = Head { hash: super::chain::Hash([7; 32]), ..last };
    let fault = files.verify_with(Wanted { last: Some(other), ..Wanted::default() }).unwrap_err();
    assert!(matches!(fault.cause, FaultCause::OtherRecord), "{fault}");
}

/// Whoever can write the files can make every hash anew; what they cannot make is a signature.
#[test]
fn a_chain_that_was_made_anew_fits_no_signature() {
    let files = Files::new().written(3);
    let [file] = &files.segments()[..] else { panic!("one file") };
    let lines = files.lines();
    let rechained = |contents: &mut dyn Iterator<Item = String>| {
        let mut hash = super::chain::Hash::default();
        let mut text = String::new();
        for content in contents {
            hash = hash.followed_by(content.as_bytes());
            text += &format!("{content},\"hash\":\"{hash}\"}}\n");
        }
        fs::write(file, text).unwrap();
        files.verify()
    };
    let content = |line: &String| line.split(",\"hash\":").next().unwrap().to_owned();
    rechained(&mut lines.iter().map(content)).unwrap();
    let altered = rechained(&mut lines.iter().map(content).map(|line| line.replace("edge/one", "edge/two")));
    assert!(matches!(altered.unwrap_err().cause, FaultCause::BadSignature));
    let unsigned = lines.iter().map(content).filter(|line| !line.contains("\"checkpoint\""));
    let numbered = unsigned.zip(1..).map(|(line, sequence)| {
        let (_, rest) = line.split_once(",\"time\"").unwrap();
        format!("{{\"seq\":{sequence},\"time\"{rest}")
    });
    let nothing_signed = rechained(&mut numbered.collect::<Vec<_>>().into_iter());
    assert!(matches!(nothing_signed.unwrap_err().cause, FaultCause::NothingSigned));
}

#[test]
fn another_key_and_another_log_are_found() {
    let (files, other) = (Files::new().written(1), Files::new().written(1));
    fs::copy(other.public_key(), files.public_key()).unwrap();
    assert!(matches!(files.verify().unwrap_err().cause, FaultCause::OtherKey));
}

#[test]
fn files_follow_each_other_and_a_missing_one_is_found() {
    let mut files = Files::new();
    files.settings.rotate_bytes = 4096;
    let files = files.written(60);
    let segments = files.segments();
    assert!(segments.len() > 3, "{segments:?}");
    let verified = files.verify().unwrap();
    assert_eq!((verified.first, verified.files), (1, segments.len()));
    let second: u64 = Segment::all(files.log()).unwrap()[1].first;
    assert_eq!(files.verify_with(Wanted { from: Some(second), last: None }).unwrap().first, second);

    let kept = fs::read(&segments[1]).unwrap();
    fs::remove_file(&segments[1]).unwrap();
    let fault = files.verify().unwrap_err();
    assert!(matches!(fault.cause, FaultCause::Missing(missing) if missing == second), "{fault}");
    fs::write(&segments[1], kept).unwrap();
    // The oldest are the operator's to remove, which the verifier tells.
    fs::remove_file(&segments[0]).unwrap();
    assert_eq!(files.verify().unwrap().first, second);
    assert!(files.verify_with(Wanted { from: Some(1), last: None }).is_err());
}

#[test]
fn a_restart_goes_on_with_the_chain_and_cuts_what_a_kill_has_torn() {
    let files = Files::new().written(2);
    let before = files.verify().unwrap();
    let [file] = &files.segments()[..] else { panic!("one file") };
    let torn = [fs::read(file).unwrap(), b"{\"seq\":7,\"ti".to_vec()].concat();
    fs::write(file, torn).unwrap();
    assert!(matches!(files.verify().unwrap_err().cause, FaultCause::Torn));
    let files = files.written(1);
    let verified = files.verify_with(Wanted { last: Some(before.last), from: Some(1) }).unwrap();
    assert!(verified.last.sequence > before.last.sequence);
    assert!(files.lines().iter().any(|line| line.contains(r#""event":"torn","bytes":12"#)));

    // In the middle of a rotation.
    fs::write(Segment::new(files.log(), verified.last.sequence + 1).path, "{\"seq").unwrap();
    let files = files.written(1);
    assert_eq!(files.segments().len(), 1);
    files.verify_with(Wanted { last: Some(verified.last), from: Some(1) }).unwrap();
}

#[test]
fn a_rotation_that_half_failed_is_made_good_by_the_next() {
    let mut files = Files::new();
    files.settings.rotate_bytes = 1;
    let (mut log, _) = Log::open(&files.settings).unwrap();
    log.append(SystemTime::now(), &Event::Started { version: "1.2.3", keys: 1, edges: 2 });
    // Signed, so that the rotation adds nothing.
    log.checkpoint(SystemTime::now());
    let next = Segment::new(files.log(), log.head().sequence + 1).path;
    fs::write(&next, "somebody's").unwrap();
    assert_eq!(log.rotate().unwrap_err().kind(), std::io::ErrorKind::AlreadyExists, "what is not empty is let be");
    fs::write(&next, "").unwrap();
    assert!(log.rotate().unwrap());
    log.append(SystemTime::now(), &Event::Stopped {});
    log.checkpoint(SystemTime::now());
    log.sync().unwrap();
    drop(log);
    assert_eq!(files.segments().len(), 2);
    files.verify().unwrap();
}

#[test]
fn an_altered_log_and_one_in_use_are_not_gone_on_with() {
    let files = Files::new().written(2);
    let (audit, _) = files.start();
    let second = Audit::start(&files.settings, AuditMetrics::default());
    assert!(matches!(second.unwrap_err(), AuditError::Log(LogError::InUse { .. })));
    audit.close();
    drop(audit);
    let [file] = &files.segments()[..] else { panic!("one file") };
    let text = fs::read_to_string(file).unwrap();
    fs::write(file, text.replacen("edge/one", "edge/two", 1)).unwrap();
    let altered = files.try_start(&AuditMetrics::default()).unwrap_err();
    assert!(altered.to_string().contains("move it away"), "{altered}");
}

#[test]
fn many_records_are_signed_before_their_time() {
    let files = Files::new();
    let (audit, metrics) = files.start();
    sign(&audit, 20_000);
    wait_for(|| (metrics.last_sequence() > 20_000).then_some(()));
    let verified = files.verify().unwrap();
    assert!(verified.last.sequence - verified.signed <= super::verify::CHECKPOINT_RECORDS);
    assert!(verified.signed > 16_000, "{verified:?}");
    audit.close();
    files.verify().unwrap();
}

#[test]
fn a_flood_of_refusals_is_summed_up_and_none_is_lost() {
    let mut files = Files::new();
    files.settings.queue = 1024;
    let (audit, _) = files.start();
    for _ in 0..10_000 {
        audit.note(request("key_not_allowed"), None);
    }
    // Another peer has its own records still.
    audit.note(Request { peer: peer("two"), ..request("unknown_group") }, None);
    audit.close();
    let lines = files.lines();
    let single =
        lines.iter().filter(|line| line.contains(r#""event":"request","peer":"spiffe://keystead.test/edge/one""#));
    let single = single.count() as u64;
    assert!((64..200).contains(&single), "{single}");
    let sums = lines.iter().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let summed: u64 = sums.filter(|line| line["event"] == "requests").map(|sum| sum["count"].as_u64().unwrap()).sum();
    assert_eq!(single + summed, 10_000);
    assert!(lines.iter().any(|line| line.contains("edge/two") && line.contains("unknown_group")));
    files.verify().unwrap();
}

#[test]
fn no_place_is_a_refusal_and_a_place_comes_back() {
    let files = Files::new();
    let (audit, metrics) = files.start();
    let places: Vec<_> = (0..64).map(|_| audit.reserve().unwrap()).collect();
    assert_eq!(audit.reserve().err(), Some(Refusal::AuditUnavailable));
    assert_eq!(metrics.refused(), 1);
    // What was refused for that is on record all the same.
    audit.note(request("audit_unavailable"), None);
    drop(places);
    assert!(audit.reserve().is_ok());
    audit.close();
    assert_eq!(audit.reserve().err(), Some(Refusal::AuditUnavailable), "after the end");
    assert!(files.lines().iter().any(|line| line.contains("audit_unavailable")));
}

#[test]
fn going_on_without_a_place_is_summed_up() {
    let mut files = Files::new();
    files.settings.when_unwritable = WhenUnwritable::DangerGoOn;
    let (audit, _) = files.start();
    let places: Vec<_> = (0..64).map(|_| audit.reserve().unwrap()).collect();
    let none = audit.reserve().unwrap();
    assert!(none.is_none());
    audit.done(request("done"), none).unwrap();
    drop(places);
    audit.close();
    assert!(files.lines().iter().any(|line| line.contains(r#""outcome":"done","count":1"#)));
}

/// A stranger's verifier, of what `docs/AUDIT.md` says: Python's standard library and `openssl`.
const STRANGER: &str = include_str!("tests/verify.py");

fn stranger(files: &Files) -> bool {
    let mut python = Command::new("python3");
    python.arg("-c").arg(STRANGER).arg(files.log()).arg(files.public_key());
    python.output().unwrap().status.success()
}

#[test]
fn a_stranger_verifies_it_too() {
    let mut files = Files::new();
    files.settings.rotate_bytes = 4096;
    let files = files.written(30);
    assert!(stranger(&files));
    files.verify().unwrap();
    let file = files.segments()[1].clone();
    let whole = fs::read(&file).unwrap();
    for place in (0..whole.len()).step_by(whole.len() / 12) {
        let mut altered = whole.clone();
        altered[place] ^= 1;
        fs::write(&file, altered).unwrap();
        assert!(!stranger(&files) && files.verify().is_err(), "byte {place}");
    }
}

/// `cargo test -p keystead-keyserver --lib hot_path -- --nocapture` prints what a record costs the operation's thread.
#[test]
fn the_hot_path_costs_little() {
    const RECORDS: u32 = 20_000;
    let mut files = Files::new();
    files.settings.queue = 2 * RECORDS as usize;
    let (audit, metrics) = files.start();
    let began = Instant::now();
    for _ in 0..RECORDS {
        let server_name = ServerName::of("www.example.org");
        let place = audit.reserve().unwrap();
        audit.done(Request { peer: peer_of_all(), server_name, ..request_of_all() }, place).unwrap();
    }
    let each = began.elapsed() / RECORDS;
    wait_for(|| (metrics.last_sequence() > RECORDS.into()).then_some(()));
    let written = began.elapsed() / RECORDS;
    println!(
        "audit: {each:?} a record on the operation's thread, {:.1} % of a P-256 signature of 20 µs",
        each.as_nanos() as f64 / 200.0
    );
    println!("audit: {written:?} a record until written");
    // Generous, for a busy machine and code that is not optimised.
    assert!(each < Duration::from_micros(200), "{each:?}");
    audit.close();
    drop(files);
}

fn peer_of_all() -> PeerIdentity {
    static PEER: std::sync::OnceLock<PeerIdentity> = std::sync::OnceLock::new();
    PEER.get_or_init(|| peer("one")).clone()
}

fn request_of_all() -> Request {
    Request {
        peer: peer_of_all(),
        operation: "sign_server_key_exchange",
        key: None,
        key_id: Some(keystead_tls::KeyId([1; 32])),
        server_name: None,
        server_random: Some([0xa5; 32]),
        leased: None,
        outcome: "done",
    }
}
