#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keystead_program::channel::PeerIdentity;
use tempfile::TempDir;

use super::group::{GroupName, InvalidGroupName, TicketGroup};
use super::ratchet::{ClockFault, LONGEST_JUMP, Ratchet, RotationPeriod, TicketKey, UnixTime};
use super::state::{self, MalformedState, StateError};
use crate::metrics::Metrics;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
/// Half past an hour.
const START: u64 = 490_000 * HOUR + HOUR / 2;

fn at(seconds: u64) -> UnixTime {
    UnixTime(Duration::from_secs(seconds))
}

fn group(name: &str) -> TicketGroup {
    TicketGroup::new(name.to_owned().try_into().unwrap(), [])
}

/// A directory with the secret of a cluster that was made at a given time.
struct Secret {
    _directory: TempDir,
    file: PathBuf,
}

impl Secret {
    fn made(seconds: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("ticket-keys.toml");
        state::create(&file, RotationPeriod::HOUR, at(seconds), &mut rand::rng()).unwrap();
        Self { _directory: directory, file }
    }

    fn resumed(&self, seconds: u64) -> Ratchet {
        self.resume(seconds).unwrap()
    }

    fn resume(&self, seconds: u64) -> Result<Ratchet, ClockFault> {
        Ratchet::resume(state::read(&self.file).unwrap(), at(seconds))
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.file).unwrap()
    }
}

type Material = (u64, [u8; 16], [u8; 32]);

fn material(key: &TicketKey) -> Material {
    (key.generation, *key.key.name(), *key.key.expose())
}

fn keys(ratchet: &Ratchet, name: &str) -> [Material; 3] {
    ratchet.keys(&group(name), at(START)).each_ref().map(material)
}

fn advanced(ratchet: &Ratchet, seconds: u64) -> Ratchet {
    ratchet.advance(at(seconds)).unwrap().unwrap()
}

#[test]
fn one_step_moves_every_generation_by_one_place() {
    let ratchet = Secret::made(START).resumed(START);
    assert_eq!(ratchet.generation(), START / HOUR);
    assert!(ratchet.advance(at(START + HOUR / 2 - 1)).unwrap().is_none());
    let next = advanced(&ratchet, START + HOUR / 2);
    assert_eq!(next.generation(), START / HOUR + 1);
    assert_eq!(keys(&ratchet, "default")[1..], keys(&next, "default")[..2]);
}

#[test]
fn many_steps_at_once_lead_where_single_ones_do() {
    let ratchet = Secret::made(START).resumed(START);
    let mut stepped = advanced(&ratchet, START + HOUR);
    for hours in 2..200 {
        stepped = advanced(&stepped, START + hours * HOUR);
    }
    assert_eq!(keys(&stepped, "default"), keys(&advanced(&ratchet, START + 199 * HOUR), "default"));
}

#[test]
fn clocks_a_minute_apart_make_keys_that_open_each_others_tickets() {
    let secret = Secret::made(START);
    let boundary = (START / HOUR + 5) * HOUR;
    for seconds in
        [boundary - 61, boundary - 60, boundary - 1, boundary, boundary + 59, boundary + 60, boundary + HOUR / 2]
    {
        let (slow, fast) = (secret.resumed(seconds), secret.resumed(seconds + 60));
        let (slow, fast) = (keys(&slow, "default"), keys(&fast, "default"));
        assert!(slow.contains(&fast[1]), "at {seconds} the slow one cannot open");
        assert!(fast.contains(&slow[1]), "at {seconds} the fast one cannot open");
    }
}

#[test]
fn a_key_is_told_before_it_seals_and_opens_until_the_end_of_the_generation_after() {
    let ratchet = Secret::made(START).resumed(START);
    let seconds = |spans: [Duration; 3]| spans.map(|span| span.as_secs());
    let keys = ratchet.keys(&group("default"), at(START));
    let (half, grace) = (HOUR / 2, HOUR / 10);
    assert_eq!(seconds(keys.each_ref().map(|key| key.seal_for)), [0, half + grace, 0]);
    assert_eq!(
        seconds(keys.each_ref().map(|key| key.open_for)),
        [half + grace, half + HOUR + grace, half + 2 * HOUR + grace]
    );
}

#[test]
fn groups_and_revocations_have_keys_of_their_own() {
    let ratchet = Secret::made(START).resumed(START);
    let edge = |name: &str| -> PeerIdentity { format!("spiffe://keystead.test/edge/{name}").parse().unwrap() };
    let (one, two) = (edge("one"), edge("two"));
    let name = GroupName::default;
    let groups = [
        group("other"),
        TicketGroup::new(name(), []),
        TicketGroup::new(name(), [&one]),
        TicketGroup::new(name(), [&two]),
        TicketGroup::new(name(), [&one, &two]),
    ];
    let mut all: Vec<_> = groups.iter().flat_map(|group| ratchet.keys(group, at(START))).collect();
    all.sort_by_key(|key| *key.key.expose());
    all.dedup_by_key(|key| *key.key.expose());
    assert_eq!(all.len(), 3 * groups.len());
    all.dedup_by_key(|key| *key.key.name());
    assert_eq!(all.len(), 3 * groups.len());
    // The order of a configuration's entries is of no matter.
    assert_eq!(TicketGroup::new(name(), [&two, &one]), groups[4]);
}

#[test]
fn the_keys_are_what_they_always_were() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("known.toml");
    let secret = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    std::fs::write(&file, format!("version = 1\nrotation_period_s = 3600\ngeneration = 7\nsecret = \"{secret}\"\n"))
        .unwrap();
    let ratchet = Ratchet::resume(state::read(&file).unwrap(), at(8 * HOUR)).unwrap();
    let told = keys(&ratchet, "default");
    let hexadecimal = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let told = told.map(|(generation, name, key)| format!("{generation} {} {}", hexadecimal(&name), hexadecimal(&key)));
    assert_eq!(told, KNOWN);
}

/// By Python's hmac and hashlib, from the formulas at the head of the module.
const KNOWN: [&str; 3] = [
    "7 ab82795f22a4a8b21352a645185d8027 914686d9cf48616f6b63e2c530e0cc7ef17528184cc42d86b0a0e683d63eec3c",
    "8 8633eefb4c02baa619f67291effea021 1c065a4e5d93c161473aef05adcc1df89110b8121cfc3b93b895e16eb2263554",
    "9 0f90a91f184a0ca94c2dcb6e1029fe26 b091baf33fe1f9f1d5d72ac78fdb706c46a3bbbab93d9cf6b4e44c6e87087652",
];

#[test]
fn the_file_after_a_rotation_cannot_make_the_key_of_two_generations_ago() {
    let secret = Secret::made(START);
    let ratchet = secret.resumed(START);
    let forgotten = keys(&ratchet, "default")[0];
    state::replace(&secret.file, &advanced(&ratchet, START + HOUR)).unwrap();
    // Whatever time whoever has the file claims, and however far it is turned.
    for hours in (0..200).map(|hours| (START - 100 * HOUR) + hours * HOUR) {
        let stolen = keys(&secret.resumed(hours), "default");
        assert!(stolen.iter().all(|key| key.1 != forgotten.1 && key.2 != forgotten.2 && key.0 != forgotten.0));
    }
    // The generation before the one in use is there, so that a restart loses no ticket.
    assert_eq!(keys(&secret.resumed(START + HOUR), "default")[0], keys(&ratchet, "default")[1]);
}

#[test]
fn a_week_of_downtime_ends_where_a_running_ratchet_is() {
    let secret = Secret::made(START);
    let mut running = secret.resumed(START);
    for hours in 1..=7 * 24 {
        running = advanced(&running, START + hours * HOUR);
    }
    assert_eq!(keys(&secret.resumed(START + 7 * DAY), "default"), keys(&running, "default"));
}

#[test]
fn a_clock_that_is_behind_never_turns_the_ratchet_back() {
    let secret = Secret::made(START);
    let ratchet = secret.resumed(START);
    let behind = secret.resumed(START - 5 * HOUR);
    assert_eq!(keys(&behind, "default"), keys(&ratchet, "default"));
    let fault = behind.advance(at(START - 5 * HOUR)).unwrap_err();
    assert_eq!(fault, ClockFault::ClockBehind { by: Duration::from_secs(5 * HOUR - HOUR / 2) });
    assert_eq!(fault.reason(), "clock_behind");
    // Spans are those of the begin of the generation, not five hours longer.
    assert_eq!(behind.keys(&group("default"), at(START - 5 * HOUR))[1].seal_for.as_secs(), HOUR + HOUR / 10);
    assert!(behind.advance(at(START)).unwrap().is_none());
}

#[test]
fn a_jump_of_more_than_a_year_is_refused_at_start_and_later() {
    let secret = Secret::made(START);
    let ratchet = secret.resumed(START);
    let last = (START / HOUR + 1) * HOUR + LONGEST_JUMP.as_secs();
    assert_eq!(advanced(&ratchet, last).generation(), last / HOUR);
    for fault in [ratchet.advance(at(last + 1)).unwrap_err(), secret.resume(last + HOUR).unwrap_err()] {
        assert_eq!(fault.reason(), "clock_ahead");
        assert!(fault.to_string().contains("check the clock"), "{fault}");
    }
    assert_eq!(ratchet.keys(&group("default"), at(last + 1))[1].seal_for.as_secs(), HOUR / 10);
}

#[test]
fn a_secret_is_made_once_and_for_its_owner_alone() {
    let secret = Secret::made(START);
    let mode = |file: &Path| std::fs::metadata(file).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&secret.file), 0o600);
    let text = secret.text();
    let again = state::create(&secret.file, RotationPeriod::HOUR, at(START), &mut rand::rng()).unwrap_err();
    assert!(matches!(again, StateError::Exists { .. }), "{again}");
    assert_eq!(secret.text(), text);
    // What a process that was killed has left is in nobody's way, and its mode not taken over.
    let beside = secret.file.with_extension("toml.tmp");
    std::fs::write(&beside, "half").unwrap();
    state::replace(&secret.file, &advanced(&secret.resumed(START), START + HOUR)).unwrap();
    assert_eq!(mode(&secret.file), 0o600);
    assert!(!beside.exists());
    assert_ne!(secret.text(), text);
    assert_ne!(Secret::made(START).text(), Secret::made(START).text());
}

#[test]
fn a_file_that_cannot_be_replaced_stays_what_it_was() {
    let secret = Secret::made(START);
    let text = secret.text();
    // Where a directory lies, no file can be put: also for root, whom permissions do not stop.
    std::fs::create_dir(secret.file.with_extension("toml.tmp")).unwrap();
    let failed = state::replace(&secret.file, &advanced(&secret.resumed(START), START + HOUR)).unwrap_err();
    assert!(matches!(failed, StateError::Unwritable { .. }), "{failed}");
    assert_eq!(secret.text(), text);
}

#[test]
fn a_file_is_read_strictly_and_no_error_repeats_it() {
    let secret = Secret::made(START);
    let good = secret.text();
    let line = |name: &str| good.lines().find(|line| line.starts_with(name)).unwrap();
    let digits = &line("secret")[10..74];
    let wrong = [
        (line("version"), "version = 2", MalformedState::Version),
        (line("version"), "", MalformedState::Missing("version")),
        (line("secret"), "", MalformedState::Missing("secret")),
        (line("generation"), "", MalformedState::Missing("generation")),
        (line("rotation"), "rotation_period_s = 0", MalformedState::Invalid("rotation_period_s")),
        (line("rotation"), "rotation_period_s = 604801", MalformedState::Invalid("rotation_period_s")),
        (line("rotation"), "rotation_period_s = +60", MalformedState::Invalid("rotation_period_s")),
        (line("generation"), "generation = -1", MalformedState::Invalid("generation")),
        (line("generation"), "generation = 4294967296", MalformedState::Invalid("generation")),
        (line("generation"), line("version"), MalformedState::Twice(5)),
        (line("generation"), "generations = 1", MalformedState::Line(5)),
        (line("generation"), "generation=1", MalformedState::Line(5)),
        (&digits[..1], "g", MalformedState::Invalid("secret")),
        (&digits[..2], "", MalformedState::Invalid("secret")),
        (&digits[..1], "", MalformedState::Invalid("secret")),
        (
            digits,
            &digits.to_uppercase().replace(|digit: char| digit.is_ascii_digit(), "A"),
            MalformedState::Invalid("secret"),
        ),
    ];
    for (from, to, expected) in wrong {
        // Digits are looked for behind the quotation mark, where the secret begins.
        let place = if digits.starts_with(from) { good.find(digits).unwrap() } else { good.find(from).unwrap() };
        let text = format!("{}{to}{}", &good[..place], &good[place + from.len()..]);
        std::fs::write(&secret.file, text).unwrap();
        let error = state::read(&secret.file).unwrap_err();
        assert!(matches!(&error, StateError::Malformed { cause, .. } if *cause == expected), "{to:?}: {error}");
        assert!(!format!("{error} {error:?}").contains(&digits[4..12]), "{error}");
    }
    std::fs::write(&secret.file, &good[..good.len() / 2]).unwrap();
    assert!(matches!(state::read(&secret.file), Err(StateError::Malformed { .. })));
    std::fs::remove_file(&secret.file).unwrap();
    assert!(state::read(&secret.file).unwrap_err().to_string().contains("keystead-keyserver init"));
}

#[test]
fn secrets_are_not_printed() {
    let secret = Secret::made(START);
    let (stored, ratchet) = (state::read(&secret.file).unwrap(), secret.resumed(START));
    let keys = ratchet.keys(&group("default"), at(START));
    for printed in [format!("{stored:?}"), format!("{ratchet:?}"), format!("{keys:?}")] {
        assert!(printed.contains("[redacted]"), "{printed}");
        let bytes = format!("{:?}", &keys[1].key.expose()[..4]);
        assert!(!printed.contains(bytes.trim_matches(['[', ']'])), "{printed}");
    }
}

#[test]
fn names_of_groups_are_short_and_printable() {
    let name = |name: &str| GroupName::try_from(name.to_owned());
    assert_eq!(GroupName::default(), name("default").unwrap());
    for good in ["a", "Paris 1", &"x".repeat(64)] {
        assert_eq!(name(good).unwrap().as_str(), good);
    }
    for bad in ["", "a\0b", "a\nb", "ä", &"x".repeat(65)] {
        assert_eq!(name(bad), Err(InvalidGroupName));
    }
}

#[tokio::test]
async fn a_keeper_that_cannot_write_goes_on_and_writes_as_soon_as_it_can() {
    let made = UnixTime::now().0.as_secs() - DAY;
    let secret = Secret::made(made);
    let text = secret.text();
    let hindrance = secret.file.with_extension("toml.tmp");
    std::fs::create_dir(&hindrance).unwrap();
    let metrics = Metrics::default().tickets;
    // The ratchet is a day behind, so there is something to do.
    let keeper = super::keeper::Keeper::new(secret.file.clone(), secret.resumed(made), metrics.clone());
    let mut ratchets = keeper.subscribe();
    let keeping = tokio::spawn(keeper.keep());
    let now = UnixTime::now().0.as_secs() / HOUR;
    let is_now = |ratchet: &std::sync::Arc<Ratchet>| ratchet.generation() >= now;
    tokio::time::timeout(Duration::from_secs(20), ratchets.wait_for(is_now)).await.unwrap().unwrap();
    let until = async |done: &dyn Fn() -> bool| {
        while !done() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), until(&|| metrics.write_failures.get() > 0)).await.unwrap();
    assert_eq!(secret.text(), text);
    std::fs::remove_dir(&hindrance).unwrap();
    tokio::time::timeout(Duration::from_secs(20), until(&|| secret.text() != text)).await.unwrap();
    keeping.abort();
}
