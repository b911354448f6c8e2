//! What edges are told of ticket keys.

use keystead_program::reload::ReloadOutcome;

use super::*;
use crate::ticket_keys::ratchet::{RotationPeriod, UnixTime};
use crate::ticket_keys::state;

const TICKETS: &str = "[tickets]\nstate = \"tickets.toml\"\n";
const PERIOD: u64 = 3600;

fn make_secret(files: &Files, period: u64) {
    let period = RotationPeriod::of_seconds(period).unwrap();
    state::create(&files.path().join("tickets.toml"), period, UnixTime::now(), &mut rand::rng()).unwrap();
}

async fn running(config: &str) -> Running {
    Running::with(&format!("{TICKETS}{config}"), |files| make_secret(files, PERIOD)).await
}

/// The stream of what an edge is told, and the ticket keys that it is told at once.
async fn watch(running: &Running, edge: &str) -> (Streaming<v1::WatchEvent>, Vec<v1::TicketKey>) {
    let mut events = running.client(edge).watch(v1::WatchRequest::default()).await.unwrap().into_inner();
    let (_, keys) = told(&mut events).await;
    (events, keys)
}

fn material(keys: &[v1::TicketKey]) -> Vec<(u64, &[u8], &[u8])> {
    keys.iter().map(|key| (key.generation, &key.name[..], &key.key[..])).collect()
}

#[tokio::test]
async fn watch_tells_three_generations_the_middle_of_which_seals() {
    let before = UnixTime::now().0;
    let running = running(CONFIG).await;
    let (_events, keys) = watch(&running, EDGE_ONE).await;
    let now = UnixTime::now().0;
    let generation = keys[1].generation;
    // An hour may have begun meanwhile.
    assert!([before, now].map(|time| time.as_secs() / PERIOD).contains(&generation), "{generation}");
    let generations: Vec<_> = keys.iter().map(|key| key.generation).collect();
    assert_eq!(generations, [generation - 1, generation, generation + 1]);
    assert!(keys.iter().all(|key| key.name.len() == 16 && key.key.len() == 32));
    let rest = ((generation + 1) * PERIOD * 1000).saturating_sub(u64::try_from(now.as_millis()).unwrap());
    let grace = PERIOD * 100;
    let near = |told: u64, expected: u64| assert!(told.abs_diff(expected) < 5000, "{told} is not {expected}");
    assert_eq!([keys[0].seal_for_ms, keys[2].seal_for_ms], [0, 0]);
    near(keys[1].seal_for_ms, rest + grace);
    for (key, periods) in keys.iter().zip(0..) {
        near(key.open_for_ms, rest + periods * PERIOD * 1000 + grace);
    }
}

#[tokio::test]
async fn edges_of_one_group_are_told_the_same_keys_and_others_other_ones() {
    let apart = CONFIG.replace("keys = [\"rsa\"]", "keys = [\"rsa\"]\nticket_group = \"apart\"");
    for (config, same) in [(CONFIG, true), (apart.as_str(), false)] {
        let running = running(config).await;
        let (one, two) = (watch(&running, EDGE_ONE).await.1, watch(&running, EDGE_TWO).await.1);
        for (one, two) in material(&one).into_iter().zip(material(&two)) {
            assert_eq!(one.0, two.0);
            assert_eq!((one.1 == two.1, one.2 == two.2), (same, same));
        }
    }
}

/// Waits for the next ticket keys, which a change of the configuration brings behind the identities.
async fn told_again(events: &mut Streaming<v1::WatchEvent>) -> Vec<v1::TicketKey> {
    tokio::time::timeout(Duration::from_secs(20), told(events)).await.unwrap().1
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < Duration::from_secs(20), "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Edge three shares the tickets of edge one; edge two has its own.
const THREE: &str = "spiffe://keystead.test/edge/three";

fn three_edges() -> String {
    let apart = CONFIG.replace("keys = [\"rsa\"]", "keys = [\"rsa\"]\nticket_group = \"apart\"");
    format!("{TICKETS}{apart}[[edge]]\nid = \"{THREE}\"\nkeys = [\"ec\"]\n")
}

#[tokio::test]
async fn a_revoked_edge_is_sent_away_and_its_groups_keys_change() {
    let config = three_edges();
    let running = Running::with(&config, |files| make_secret(files, PERIOD)).await;
    let (mut one, one_before) = watch(&running, EDGE_ONE).await;
    let (mut two, two_before) = watch(&running, EDGE_TWO).await;
    let (mut three, three_before) = watch(&running, THREE).await;
    assert_eq!(material(&one_before), material(&three_before));
    let mut stream = running.exchange(THREE).await;
    stream.send(1, running.ec()).await;
    assert!(matches!(stream.receive().await, (1, Reply::SignServerKeyExchange(_))));

    running.files.write_configuration(&format!("{config}revoked = true\n"));
    let one_after = told_again(&mut one).await;
    for (before, after) in material(&one_before).into_iter().zip(material(&one_after)) {
        assert_eq!(before.0, after.0);
        assert!(before.1 != after.1 && before.2 != after.2, "the group's key is what it was");
    }
    assert_eq!(material(&two_before), material(&told_again(&mut two).await), "another group's keys changed");
    let patience = Duration::from_secs(20);
    let watch_end = tokio::time::timeout(patience, three.message()).await.unwrap();
    assert_eq!(watch_end.unwrap_err().code(), Code::PermissionDenied);
    let stream_end = tokio::time::timeout(patience, stream.replies.message()).await.unwrap();
    assert_eq!(stream_end.unwrap_err().code(), Code::PermissionDenied);
    let again = running.client(THREE).watch(v1::WatchRequest::default()).await;
    assert_eq!(again.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(running.metrics.reloads(ReloadOutcome::Applied), 1);

    // Without the entry the edge remains unknown, and the keys are again those that it knows.
    running.files.write_configuration(&config.replace(&format!("[[edge]]\nid = \"{THREE}\"\nkeys = [\"ec\"]\n"), ""));
    assert_eq!(material(&told_again(&mut one).await), material(&one_before));
}

#[tokio::test]
async fn a_configuration_that_is_wrong_changes_nothing() {
    let config = three_edges();
    let running = Running::with(&config, |files| make_secret(files, PERIOD)).await;
    let (mut one, before) = watch(&running, EDGE_ONE).await;
    running.files.write_configuration(&format!("{config}revokd = true\n"));
    until("the change is noticed", || running.metrics.reloads(ReloadOutcome::Refused) > 0).await;
    running.still_answers().await;
    assert_eq!(material(&watch(&running, THREE).await.1), material(&before));
    // What is fixed at start is left as it is, what can change does: also when the secret's file has gone.
    std::fs::remove_file(running.files.path().join("tickets.toml")).unwrap();
    let limits = config.replace("in_flight_per_stream = 8", "in_flight_per_stream = 9");
    running.files.write_configuration(&format!("{limits}revoked = true\n"));
    assert_ne!(material(&told_again(&mut one).await), material(&before));
}

#[tokio::test]
async fn a_rotation_is_told_and_brings_the_next_generation_to_the_middle() {
    let running = Running::with(&format!("{TICKETS}{CONFIG}"), |files| make_secret(files, 4)).await;
    let (mut events, before) = watch(&running, EDGE_ONE).await;
    let after = ticket_keys(&mut events).await;
    assert_eq!(material(&before)[1..], material(&after)[..2]);
    assert!(after[1].seal_for_ms > 0 && after[2].seal_for_ms == 0);
}

#[tokio::test]
async fn a_restart_tells_the_same_keys_and_the_file_forgets_the_past() {
    let config = format!("{TICKETS}{CONFIG}");
    let running = Running::with(&config, |files| make_secret(files, 4)).await;
    let secret = running.files.path().join("tickets.toml");
    let first = std::fs::read(&secret).unwrap();
    let (mut events, _) = watch(&running, EDGE_ONE).await;
    let told = ticket_keys(&mut events).await;
    until("the file is replaced", || std::fs::read(&secret).unwrap() != first).await;
    let again = running.restart(&config).await;
    let (_events, after) = watch(&again, EDGE_ONE).await;
    let (told, after) = (material(&told), material(&after));
    let both: Vec<_> = told.iter().filter(|key| after.iter().any(|other| other.0 == key.0)).collect();
    assert!(!both.is_empty(), "{told:?} and {after:?} have nothing in common");
    assert!(both.iter().all(|key| after.contains(key)));
}

#[tokio::test]
async fn a_secret_of_last_week_is_turned_forward_at_start() {
    let week = UnixTime(UnixTime::now().0 - Duration::from_secs(7 * 24 * 3600));
    let make = |files: &Files| {
        state::create(&files.path().join("tickets.toml"), RotationPeriod::HOUR, week, &mut rand::rng()).unwrap();
    };
    let generation = || UnixTime::now().0.as_secs() / PERIOD;
    let before = generation();
    let running = Running::with(&format!("{TICKETS}{CONFIG}"), make).await;
    let (_events, keys) = watch(&running, EDGE_ONE).await;
    assert!([before, generation()].contains(&keys[1].generation));
}
