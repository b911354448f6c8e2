//! The addresses of key servers' names, looked up again and again.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::{sleep, timeout};

use super::peer::Server;

/// Between two lookups at the least.
const SHORTEST: Duration = Duration::from_secs(1);

/// Keeps the addresses of `server` as its name has them, looked up every `interval` and when nobody can be connected to. A
/// name that does not resolve keeps the addresses it had.
pub(super) async fn keep_resolved(server: Arc<Server>, interval: Duration) -> Infallible {
    let mut told = false;
    loop {
        match lookup_host((server.name.host(), server.name.port())).await {
            Ok(found) => {
                told = false;
                publish(&server, in_turn(found.collect()));
            }
            Err(cause) => {
                server.telemetry.tries.resolve_failures.inc();
                // Once for each time that it does not.
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(key_server = %server.name, %cause, "the key server's name does not resolve; trying on");
                }
            }
        }
        sleep(SHORTEST.min(interval)).await;
        let rest = interval.saturating_sub(SHORTEST);
        // An address needs no further lookup.
        match server.name.host().parse::<IpAddr>() {
            Ok(_) if !server.addresses.borrow().is_empty() => std::future::pending().await,
            Ok(_) | Err(_) => {
                let _ = timeout(rest, server.resolve.notified()).await;
            }
        }
    }
}

/// Connections look at the addresses each time, also where they are the same: what they prefer may be up again.
fn publish(server: &Server, addresses: Vec<SocketAddr>) {
    if addresses.is_empty() {
        return;
    }
    if *server.addresses.borrow() != addresses && !server.addresses.borrow().is_empty() {
        tracing::info!(key_server = %server.name, ?addresses, "the key server's name has other addresses");
    }
    server.addresses.send_replace(addresses);
}

/// The addresses, each once, families by turns, in an order that does not hang on that of the answer.
fn in_turn(mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    addresses.sort_unstable();
    addresses.dedup();
    let (v6, v4): (Vec<_>, Vec<_>) = addresses.into_iter().partition(SocketAddr::is_ipv6);
    let (mut v6, mut v4) = (v6.into_iter(), v4.into_iter());
    let mut ordered = Vec::new();
    loop {
        let pair = [v6.next(), v4.next()];
        if pair == [None, None] {
            return ordered;
        }
        ordered.extend(pair.into_iter().flatten());
    }
}

/// The addresses in the order that the connection with this number tries them in. Numbers that follow one another begin at
/// addresses that do, so that connections are spread over all.
pub(super) fn order(addresses: &[SocketAddr], number: usize) -> impl Iterator<Item = SocketAddr> {
    let first = number.checked_rem(addresses.len()).unwrap_or(0);
    addresses.iter().cycle().skip(first).take(addresses.len()).copied()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn families_come_by_turns_and_the_answers_order_does_not_matter() {
        let expected = addresses(&["[::1]:1", "10.0.0.1:1", "[::2]:1", "10.0.0.2:1", "10.0.0.3:1"]);
        for answer in [
            ["10.0.0.2:1", "10.0.0.1:1", "[::2]:1", "10.0.0.3:1", "[::1]:1", "10.0.0.1:1"],
            ["[::1]:1", "[::2]:1", "10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1", "[::2]:1"],
        ] {
            assert_eq!(in_turn(addresses(&answer)), expected);
        }
    }

    #[test]
    fn connections_begin_at_different_addresses_and_try_all() {
        let all = addresses(&["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"]);
        let tried = |number| order(&all, number).map(|address| address.ip().to_string()).collect::<Vec<_>>();
        assert_eq!(tried(0), ["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        assert_eq!(tried(1), ["10.0.0.2", "10.0.0.3", "10.0.0.1"]);
        assert_eq!(tried(5), ["10.0.0.3", "10.0.0.1", "10.0.0.2"]);
        assert_eq!(order(&[], 3).count(), 0);
    }
}
