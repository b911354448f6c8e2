//! What edges are told of ticket keys.

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
    let mut events = running.client(edge).watch(v1::WatchRequest {}).await.unwrap().into_inner();
    let (_, keys) = told(&mut events).await;
    (events, keys)
}

fn material(keys: &[v1::TicketKey]) -> Vec<(u64, &[u8], &[u8])> {
    keys.iter().map(|key| (key.generation, &key.name[..], &key.key[..])).collect()
}

#[tokio::test]
async fn watch_tells_three_generations_the_middle_of_which_seals() {
    let running = running(CONFIG).await;
    let (_events, keys) = watch(&running, EDGE_ONE).await;
    let now = UnixTime::now().0;
    let generation = now.as_secs() / PERIOD;
    let generations: Vec<_> = keys.iter().map(|key| key.generation).collect();
    assert_eq!(generations, [generation - 1, generation, generation + 1]);
    assert!(keys.iter().all(|key| key.name.len() == 16 && key.key.len() == 32));
    let rest = (generation + 1) * PERIOD * 1000 - u64::try_from(now.as_millis()).unwrap();
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
