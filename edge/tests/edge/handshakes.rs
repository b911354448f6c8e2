//! Handshakes, and the key servers they depend on.

use std::time::{Duration, Instant};

use keystead_edge::proxy_protocol::TrustedProxies;
use rustls::{AlertDescription, Error};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tonic::Code;

use super::key_server::Conduct;
use super::stack::{Options, Stack};
use super::traffic::ping_pong;

/// The alert that a handshake ends with.
pub(crate) fn alert(failure: &std::io::Error) -> AlertDescription {
    match failure.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::AlertReceived(alert)) => *alert,
        _ => panic!("no alert: {failure:?}"),
    }
}

async fn echo(stack: &Stack) {
    let (client, backend) = stack.connect().await;
    ping_pong(client, backend).await;
}

#[tokio::test]
async fn a_client_reaches_the_backend() {
    let stack = Stack::start(Options::default()).await;
    echo(&stack).await;
    stack
        .until_metric(
            "handshakes_total{version=\"TLSv1.2\",suite=\"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256\",group=\"x25519\"}",
            1,
        )
        .await;
}

#[tokio::test]
async fn an_unknown_name_is_refused_where_there_is_no_default() {
    let stack = Stack::start(Options::default()).await;
    let failure = stack.try_connect_to("other.test").await.unwrap_err();
    assert_eq!(alert(&failure), AlertDescription::UnrecognisedName);
    stack.until_metric("handshake_failures_total{fault=\"client\",reason=\"unrecognized_name\"}", 1).await;
}

#[tokio::test]
async fn one_wrong_signature_is_asked_again_on_another_connection() {
    let stack = Stack::start(Options::default()).await;
    stack.key_servers[0].conduct(Conduct::SignWrongly(1));
    echo(&stack).await;
    assert_eq!(stack.telemetry.key_server_retries.get(), 1);
    stack.until_metric("key_server_failures_total{reason=\"wrong_signature\"}", 1).await;
}

#[tokio::test]
async fn wrong_signatures_end_the_handshake_and_the_next_works() {
    let stack = Stack::start(Options::default()).await;
    stack.key_servers[0].conduct(Conduct::SignWrongly(2));
    let failure = stack.try_connect().await.unwrap_err();
    assert_eq!(alert(&failure), AlertDescription::InternalError);
    stack.until_metric("handshake_failures_total{fault=\"key_server\",reason=\"wrong_signature\"}", 1).await;
    echo(&stack).await;
}

#[tokio::test]
async fn a_wrong_signature_on_the_only_connection_is_not_asked_again() {
    let stack = Stack::start(Options { connections: 1, ..Options::default() }).await;
    stack.key_servers[0].conduct(Conduct::SignWrongly(1));
    let failure = stack.try_connect().await.unwrap_err();
    assert_eq!(alert(&failure), AlertDescription::InternalError);
    assert_eq!(stack.telemetry.key_server_retries.get(), 0);
}

#[tokio::test]
async fn a_lost_stream_is_no_lost_handshake() {
    let stack = Stack::start(Options::default()).await;
    stack.key_servers[0].conduct(Conduct::HangUpOnce);
    echo(&stack).await;
    stack.until_metric("key_server_failures_total{reason=\"unreachable\"}", 1).await;
    stack.until("reconnected", || stack.telemetry.key_server_connections.get() == 2).await;
}

#[tokio::test]
async fn refusals_have_their_reasons() {
    let stack = Stack::start(Options::default()).await;
    for (code, reason) in [
        (Code::PermissionDenied, "not_authorised"),
        (Code::NotFound, "key_unavailable"),
        (Code::ResourceExhausted, "overloaded"),
        (Code::Internal, "refused"),
    ] {
        stack.key_servers[0].conduct(Conduct::Refuse(code));
        let failure = stack.try_connect().await.unwrap_err();
        assert_eq!(alert(&failure), AlertDescription::InternalError);
        stack.until_metric(&format!("handshake_failures_total{{fault=\"key_server\",reason=\"{reason}\"}}"), 1).await;
    }
    stack.key_servers[0].conduct(Conduct::Sign);
    echo(&stack).await;
}

#[tokio::test]
async fn a_silent_key_server_ends_the_handshake_in_time() {
    let options = Options { key_server_timeout: Duration::from_millis(200), ..Options::default() };
    let stack = Stack::start(options).await;
    stack.key_servers[0].conduct(Conduct::Ignore);
    let began = Instant::now();
    let failure = stack.try_connect().await.unwrap_err();
    assert_eq!(alert(&failure), AlertDescription::InternalError);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    stack.until_metric("handshake_failures_total{fault=\"key_server\",reason=\"no_answer\"}", 1).await;
}

#[tokio::test]
async fn a_silent_key_server_costs_time_and_no_handshake_where_there_is_another() {
    let options = Options {
        key_servers: 2,
        connections: 1,
        key_server_timeout: Duration::from_secs(4),
        key_server_lines: "hedge = false",
        ..Options::default()
    };
    let stack = Stack::start(options).await;
    stack.key_servers[0].conduct(Conduct::Ignore);
    while stack.telemetry.key_server_retries.get() == 0 {
        echo(&stack).await;
    }
}

#[tokio::test]
async fn a_key_server_that_is_gone_fails_handshakes_well_before_their_time_is_over() {
    let mut stack = Stack::start(Options { connections: 1, ..Options::default() }).await;
    let address = stack.kill_key_server(0).await;
    assert_eq!(stack.readiness.reasons(), ["key_server: no connection"]);
    let began = Instant::now();
    let failure = stack.try_connect().await.unwrap_err();
    assert_eq!(alert(&failure), AlertDescription::InternalError);
    // It is given the time that a key server takes to start.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    stack.until_metric("handshake_failures_total{fault=\"key_server\",reason=\"unreachable\"}", 1).await;

    stack.start_key_server(address);
    stack.until("ready", || stack.readiness.is_ready()).await;
    echo(&stack).await;
}

#[tokio::test]
async fn with_two_key_servers_one_may_go() {
    let options = Options { key_servers: 2, connections: 1, ..Options::default() };
    let mut stack = Stack::start(options).await;
    for _ in 0..4 {
        echo(&stack).await;
    }
    stack.kill_key_server(0).await;
    assert!(stack.readiness.is_ready());
    for _ in 0..4 {
        echo(&stack).await;
    }
}

#[tokio::test]
async fn a_key_server_that_stops_costs_no_handshake_where_there_is_another() {
    let options = Options { key_servers: 2, connections: 1, ..Options::default() };
    let mut stack = Stack::start(options).await;
    stack.key_servers[0].announce_drain();
    for _ in 0..4 {
        echo(&stack).await;
    }
    drop(stack.key_servers.remove(0));
    for _ in 0..4 {
        echo(&stack).await;
    }
}

#[tokio::test]
async fn probes_are_counted_apart() {
    let stack = Stack::start(Options::default()).await;
    drop(TcpStream::connect(stack.edge).await.unwrap());
    stack.until("the probe is counted", || stack.telemetry.probes.get() == 1).await;
    assert!(!stack.metrics().contains("handshake_failures_total{"));
}

#[tokio::test]
async fn a_slow_client_is_sent_away_at_the_deadline() {
    let mut options = Options::default();
    options.limits.handshake_timeout = Duration::from_secs(1);
    let stack = Stack::start(options).await;
    let mut client = TcpStream::connect(stack.edge).await.unwrap();
    let began = Instant::now();
    // The front of a record, a byte at a time.
    for byte in [0x16, 0x03, 0x01, 0x02, 0x00] {
        client.write_all(&[byte]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut last = Vec::new();
    client.read_to_end(&mut last).await.unwrap();
    assert_eq!(last, [21, 3, 3, 0, 2, 1, 0], "close_notify");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    stack.until_metric("handshake_failures_total{fault=\"client\",reason=\"timed_out\"}", 1).await;
}

#[tokio::test]
async fn the_alert_arrives_though_the_client_is_still_sending() {
    let stack = Stack::start(Options::default()).await;
    let mut client = TcpStream::connect(stack.edge).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    client.write_all(&[b'x'; 200_000]).await.unwrap();
    let mut last = Vec::new();
    client.read_to_end(&mut last).await.unwrap();
    assert_eq!(last, [21, 3, 3, 0, 2, 2, 10], "unexpected_message");
    stack.until_metric("handshake_failures_total{fault=\"client\",reason=\"plain_http\"}", 1).await;
}

#[tokio::test]
async fn connections_are_bounded_and_wait_for_their_turn() {
    let mut options = Options::default();
    options.limits.max_connections = 1;
    let stack = Stack::start(options).await;
    let first = stack.connect().await;
    let second = tokio::time::timeout(Duration::from_millis(300), stack.try_connect()).await;
    assert!(second.is_err(), "the second waits");
    assert_eq!(stack.telemetry.accepted.get(), 1);
    drop(first);
    stack.until("the first is gone", || stack.telemetry.accepted.get() == 2).await;
    echo(&stack).await;
}

#[tokio::test]
async fn those_that_wait_for_their_turn_at_the_end_are_served_all_the_same() {
    let mut options = Options::default();
    options.limits.max_connections = 1;
    let stack = Stack::start(options).await;
    let _first = stack.connect().await;
    let waiting = async {
        let client = stack.try_connect().await.unwrap();
        (client, stack.backend.accept().await.unwrap())
    };
    let stop = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        stack.stop.cancel();
    };
    let (_second, ()) = tokio::join!(waiting, stop);
    assert_eq!(stack.telemetry.accepted.get(), 2);
}

#[tokio::test]
async fn no_backend_is_an_end_in_order() {
    // Does not listen, and nobody else gets its address.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let backends = format!("[\"{}\"]", socket.local_addr().unwrap());
    let stack = Stack::start(Options { backends, ..Options::default() }).await;
    let mut client = stack.try_connect().await.unwrap();
    // With close_notify: without it rustls gives an error.
    assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
    stack.until_metric("connections_ended_total{fault=\"own\",reason=\"backend_unreachable\"}", 1).await;
}

#[tokio::test]
async fn after_stop_connections_go_on_and_no_other_is_accepted() {
    let stack = Stack::start(Options::default()).await;
    let (mut client, mut backend) = stack.connect().await;
    stack.stop.cancel();
    stack.tracker.close();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(stack.try_connect().await.is_err());
    client.write_all(b"ping").await.unwrap();
    backend.read_exact(&mut [0; 4]).await.unwrap();
    assert!(!stack.tracker.is_empty());
    drop((client, backend));
    tokio::time::timeout(Duration::from_secs(5), stack.tracker.wait()).await.unwrap();
}

#[tokio::test]
async fn the_task_of_a_connection_is_small() {
    let stack = Stack::start(Options::default()).await;
    let client = TcpStream::connect(stack.edge).await.unwrap();
    let proxies = TrustedProxies::default();
    let task = stack.connections.serve(client, stack.edge, &proxies);
    // What only handshakes need is boxed and freed; a connection that idles pays for its relay alone.
    assert!(size_of_val(&task) <= 1376, "{}", size_of_val(&task));
}
