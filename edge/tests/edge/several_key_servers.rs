//! An edge with several key servers, some of which fail it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use keystead_edge::directory::ServerIndex;
use tokio::time::sleep;
use tonic::Code;

use super::key_server::{Conduct, TestKeyServer};
use super::stack::{Options, SECOND_NAME, SERVER_NAME, Stack};

/// The second name has a key of its own, by the name `slow`.
const SLOW_HOST: &str = "[[virtual_host]]\nnames = [\"second.test\"]\nkeys = [\"slow\"]\nbackends = [\"BACKEND\"]\n";

/// Between handshakes of which it is not known how many there will be: their connections stay, and one address may have
/// 1024.
const PACE: Duration = Duration::from_millis(100);

/// Requests that were asked of another too, for nothing.
const OVERTAKEN: &str = "keystead_edge_key_server_hedges_total{outcome=\"lost\"}";

fn options(key_servers: usize) -> Options {
    let mut options = Options { key_servers, key_server_timeout: Duration::from_secs(20), ..Options::default() };
    // The machine may be busy with other work.
    options.limits.handshake_timeout = Duration::from_secs(30);
    options.host_lines = SLOW_HOST.to_owned();
    options
}

fn asked(key_server: &TestKeyServer) -> usize {
    key_server.asked.load(Ordering::SeqCst)
}

#[tokio::test]
async fn a_key_server_that_hangs_is_left_after_a_few_requests() {
    let stack = Stack::start(options(3)).await;
    for _ in 0..40 {
        stack.try_connect().await.unwrap();
    }
    let (before, began) = (asked(&stack.key_servers[0]), Instant::now());
    stack.key_servers[0].conduct(Conduct::Ignore);
    for _ in 0..60 {
        stack.try_connect().await.unwrap();
    }
    // Three fail. From then on it is asked by a probe at a time, at least half a second apart, which others answer too. Who
    // is asked because another was late, and is still overtaken by that, has not failed.
    let metrics = stack.metrics();
    let overtaken = metrics.lines().find_map(|line| line.strip_prefix(OVERTAKEN)?.trim().parse().ok()).unwrap_or(0);
    let probes = usize::try_from(began.elapsed().as_millis() / 500).unwrap();
    let asked_in_vain = asked(&stack.key_servers[0]) - before;
    assert!(asked_in_vain <= 3 + 1 + probes + overtaken, "{asked_in_vain} in {:?}: {metrics}", began.elapsed());
    assert!(asked_in_vain <= overtaken || metrics.contains("key_server_hedges_total{outcome=\"won\"}"));
    if asked_in_vain >= 3 + overtaken {
        assert!(stack.telemetry.tries.ejections.get() > 0 && stack.telemetry.tries.ejected.get() > 0);
    }
    assert_eq!(stack.telemetry.tries.retries_denied.get(), 0);
    // It is found to be well again, and is asked as before.
    stack.key_servers[0].conduct(Conduct::Sign);
    let until = Instant::now() + Duration::from_secs(60);
    while stack.telemetry.tries.ejected.get() > 0 || stack.telemetry.tries.breakers_open.get() > 0 {
        assert!(Instant::now() < until, "{}", stack.metrics());
        stack.try_connect().await.unwrap();
        sleep(PACE).await;
    }
}

#[tokio::test]
async fn handshakes_on_a_key_server_that_dies_go_on_with_another() {
    let stack = Stack::start(Options { key_server_lines: "hedge = false", ..options(3) }).await;
    stack.key_servers.iter().for_each(|key_server| key_server.conduct(Conduct::HoldSlow));
    let clients = join_all((0..24).map(|_| stack.try_connect_to(SECOND_NAME)));
    let [dying, others @ ..] = stack.key_servers.as_slice() else { panic!("there are three") };
    let death = async {
        let held = |key_servers: &[TestKeyServer]| key_servers.iter().map(TestKeyServer::held).sum::<usize>();
        stack.until("all are asked for", || held(&stack.key_servers) == 24).await;
        assert!(dying.held() > 0);
        dying.die();
        stack.until("all are asked for elsewhere", || held(others) == 24).await;
        others.iter().for_each(TestKeyServer::release);
    };
    let (clients, ()) = tokio::join!(clients, death);
    assert_eq!(clients.iter().filter(|client| client.is_ok()).count(), 24);
    let retries = stack.telemetry.key_server_retries.get();
    assert_eq!(retries, u64::try_from(dying.held()).unwrap());
    stack.until_metric("key_server_failures_total{reason=\"unreachable\"}", retries).await;
}

#[tokio::test]
async fn a_slow_key_takes_its_share_of_each_connection_and_delays_no_other() {
    let key_server_lines = "hedge = false\nmax_in_flight = 16\nmax_in_flight_per_key = 4";
    let stack = Arc::new(Stack::start(Options { key_server_lines, ..options(2) }).await);
    stack.key_servers.iter().for_each(|key_server| key_server.conduct(Conduct::HoldSlow));
    let slow = |_| {
        let stack = stack.clone();
        tokio::spawn(async move { stack.try_connect_to(SECOND_NAME).await })
    };
    let slow: Vec<_> = (0..40).map(slow).collect();
    let held = || stack.key_servers.iter().map(TestKeyServer::held).sum::<usize>();
    // Four connections.
    stack.until("the slow key has all it may have", || held() == 16).await;
    stack.until_metric("handshake_failures_total{fault=\"key_server\",reason=\"overloaded\"}", 24).await;
    for _ in 0..20 {
        stack.try_connect_to(SERVER_NAME).await.unwrap();
    }
    assert_eq!(held(), 16, "none of them was answered meanwhile");
    stack.key_servers.iter().for_each(TestKeyServer::release);
    let mut done = 0;
    for client in slow {
        done += usize::from(client.await.unwrap().is_ok());
    }
    assert_eq!(done, 16);
}

#[tokio::test]
async fn key_servers_that_are_all_slow_are_not_asked_twice_as_much() {
    let key_server_lines = "max_in_flight_per_key = 4\nretry_budget = 0.2";
    let key_server_timeout = Duration::from_millis(400);
    let stack = Stack::start(Options { key_server_lines, key_server_timeout, ..options(3) }).await;
    stack.key_servers.iter().for_each(|key_server| key_server.conduct(Conduct::Ignore));
    for _ in 0..10 {
        let clients = join_all((0..4).map(|_| stack.try_connect())).await;
        assert!(clients.iter().all(Result::is_err));
    }
    // 8 further tries are had at once, and one more for each five requests.
    let total: usize = stack.key_servers.iter().map(asked).sum();
    assert!((40 + 8..=40 + 8 + 40 / 5).contains(&total), "{total}");
    assert!(stack.telemetry.tries.retries_denied.get() > 0);
    stack.until_metric("handshake_failures_total{fault=\"key_server\",reason=\"no_answer\"}", 40).await;
}

#[tokio::test]
async fn a_key_that_fails_at_one_key_server_is_asked_for_elsewhere_and_other_keys_are_not() {
    let stack = Stack::start(options(2)).await;
    stack.key_servers[0].conduct(Conduct::RefuseSlow(Code::ResourceExhausted));
    while stack.telemetry.tries.breaker_trips.get() == 0 {
        stack.try_connect_to(SECOND_NAME).await.unwrap();
        sleep(PACE).await;
    }
    let (began, before) = (Instant::now(), stack.key_servers[0].asked_for_slow.load(Ordering::SeqCst));
    for _ in 0..20 {
        stack.try_connect_to(SECOND_NAME).await.unwrap();
    }
    let probes = usize::try_from(began.elapsed().as_millis() / 500).unwrap();
    assert!(stack.key_servers[0].asked_for_slow.load(Ordering::SeqCst) - before <= probes + 1);
    // If it was slow at first, because this machine is, it is asked again some time later.
    let (before, until) = (asked(&stack.key_servers[0]), Instant::now() + Duration::from_secs(60));
    while asked(&stack.key_servers[0]) - before < 6 {
        assert!(Instant::now() < until, "its other key does not go on");
        stack.try_connect_to(SERVER_NAME).await.unwrap();
        sleep(PACE).await;
    }
    assert!(stack.metrics().contains("key_server_try_failures_total{server=\"127.0.0.1:"));
}

#[tokio::test]
async fn a_request_that_is_refused_for_what_it_is_is_asked_once() {
    let stack = Stack::start(Options { key_server_lines: "hedge = false", ..options(3) }).await;
    for code in [Code::InvalidArgument, Code::OutOfRange] {
        stack.key_servers.iter().for_each(|key_server| key_server.conduct(Conduct::Refuse(code)));
        let before = stack.key_servers.iter().map(asked).sum::<usize>();
        for _ in 0..5 {
            stack.try_connect().await.unwrap_err();
        }
        assert_eq!(stack.key_servers.iter().map(asked).sum::<usize>(), before + 5, "{code}");
    }
    assert!(stack.metrics().contains("handshake_failures_total{fault=\"client\",reason=\"name_not_allowed\"} 5"));
    assert_eq!(stack.telemetry.tries.ejections.get() + stack.telemetry.tries.breaker_trips.get(), 0);
}

#[tokio::test]
async fn key_servers_are_not_blamed_for_clients_that_leave_them_no_time() {
    let mut options = Options { key_server_lines: "hedge = false", ..options(2) };
    options.limits.handshake_timeout = Duration::from_secs(2);
    let stack = Stack::start(options).await;
    stack.key_servers.iter().for_each(|key_server| key_server.conduct(Conduct::Ignore));
    for client in join_all((0..12).map(|_| stack.try_connect())).await {
        client.unwrap_err();
    }
    assert!(stack.metrics().contains("key_server_failures_total{reason=\"no_answer\"}"));
    assert_eq!(stack.telemetry.tries.ejections.get() + stack.telemetry.tries.breaker_trips.get(), 0);
}

#[tokio::test]
async fn wrong_signatures_of_one_key_server_eject_it_and_fail_no_handshake() {
    let stack = Stack::start(options(2)).await;
    stack.key_servers[0].conduct(Conduct::SignWrongly(usize::MAX));
    while stack.telemetry.tries.ejections.get() == 0 {
        stack.try_connect().await.unwrap();
        sleep(PACE).await;
    }
    assert!(asked(&stack.key_servers[0]) >= 3);
    stack.try_connect().await.unwrap();
}

#[tokio::test]
async fn a_key_server_that_says_it_does_not_serve_is_asked_no_more_until_it_says_it_does() {
    let stack = Stack::start(options(2)).await;
    stack.key_servers[0].tell_health(false).await;
    // By chance it would be left out 16 times in a row in one of 65,536 cases.
    let mut left_out = 0;
    for _ in 0..500 {
        let before = asked(&stack.key_servers[0]);
        stack.try_connect().await.unwrap();
        left_out = if asked(&stack.key_servers[0]) == before { left_out + 1 } else { 0 };
        if left_out == 16 {
            break;
        }
    }
    assert_eq!(left_out, 16);
    assert_eq!(stack.telemetry.key_server_connections.get(), 4, "its connections stand");
    let before = asked(&stack.key_servers[0]);
    stack.key_servers[0].tell_health(true).await;
    let until = Instant::now() + Duration::from_secs(60);
    while asked(&stack.key_servers[0]) == before {
        assert!(Instant::now() < until);
        stack.try_connect().await.unwrap();
        sleep(PACE).await;
    }
}

#[tokio::test]
async fn connections_follow_the_name_to_its_other_addresses() {
    let stack = Stack::start(Options { unknown: 1, ..options(2) }).await;
    let [old, new] = [&stack.key_servers[0], &stack.key_servers[1]];
    stack.try_connect().await.unwrap();
    assert_eq!((asked(old), asked(new)), (1, 0));
    let client = &stack.connections.handshakes.key_client;
    let lead_to = |addresses: &[_]| client.lead_to(ServerIndex(0), addresses.to_vec());
    lead_to(&[new.address]);
    let until = Instant::now() + Duration::from_secs(60);
    let mut in_a_row = 0;
    while in_a_row < 16 {
        assert!(Instant::now() < until, "{}", stack.metrics());
        let before = asked(old);
        stack.try_connect().await.unwrap();
        in_a_row = if asked(old) == before { in_a_row + 1 } else { 0 };
        sleep(PACE).await;
    }
    stack.until("the old connections are left", || stack.telemetry.key_server_connections.get() == 2).await;
    // Both addresses have one of the two connections.
    lead_to(&[old.address, new.address]);
    let (before_old, before_new) = (asked(old), asked(new));
    while asked(old) == before_old || asked(new) == before_new {
        assert!(Instant::now() < until, "{}", stack.metrics());
        stack.try_connect().await.unwrap();
        sleep(PACE).await;
    }
    stack.until("there are as many as before", || stack.telemetry.key_server_connections.get() == 2).await;
    assert!(!stack.metrics().contains("key_server_failures_total{"));
}
