//! Clients that come back.

use std::sync::Arc;
use std::time::Duration;

use keystead_tls::message::client_hello::{ClientExtensions, ClientHello};
use keystead_tls::{CipherSuite, ProtocolVersion};
use rustls::{ClientConfig, HandshakeKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::stack::{Options, SERVER_NAME, Stack};

const HOUR: u64 = 3_600_000;

async fn stack_with_keys(current: u8) -> Stack {
    let stack = Stack::start(Options::default()).await;
    tell(&stack, current, HOUR).await;
    stack
}

async fn tell(stack: &Stack, current: u8, period: u64) {
    stack.key_servers[0].tell_ticket_keys(current, period);
    stack.until_metric("ticket_generation{role=\"current\"}", current.into()).await;
}

/// Connects, passes a byte each way, and says how the handshake went.
async fn come(stack: &Stack, client: &Arc<ClientConfig>) -> HandshakeKind {
    let (mut client, mut backend) = connect(stack, client).await;
    client.write_all(b"?").await.unwrap();
    assert_eq!(backend.read_u8().await.unwrap(), b'?');
    backend.write_all(b"!").await.unwrap();
    assert_eq!(client.read_u8().await.unwrap(), b'!');
    let kind = client.get_ref().1.handshake_kind().unwrap();
    client.shutdown().await.unwrap();
    kind
}

async fn connect(stack: &Stack, client: &Arc<ClientConfig>) -> (TlsStream<TcpStream>, TcpStream) {
    let connecting = stack.try_connect_with(SERVER_NAME, client.clone());
    let (client, accepted) = tokio::try_join!(connecting, stack.backend.accept()).unwrap();
    (client, accepted.0)
}

#[tokio::test]
async fn a_ticket_resumes_without_any_key_server() {
    let mut stack = stack_with_keys(5).await;
    let client = stack.returning_client(None);
    assert_eq!(come(&stack, &client).await, HandshakeKind::Full);
    assert_eq!(come(&stack, &client).await, HandshakeKind::Resumed);
    stack.kill_key_server(0).await;
    stack.until("no connection", || stack.telemetry.key_server_connections.get() == 0).await;
    for _ in 0..10 {
        assert_eq!(come(&stack, &client).await, HandshakeKind::Resumed);
    }
    stack.until_metric("resumed_total{by=\"ticket\"}", 11).await;
    stack.until_metric("sessions_kept_total{by=\"ticket\"}", 1).await;
    assert!(stack.try_connect().await.is_err(), "a full handshake needs one");
}

#[tokio::test]
async fn without_ticket_keys_there_are_no_tickets() {
    let stack = Stack::start(Options { connections: 1, ..Options::default() }).await;
    let client = stack.returning_client(None);
    for _ in 0..2 {
        assert_eq!(come(&stack, &client).await, HandshakeKind::Full);
    }
    // An edge whose keys have run out gives none either, and opens what it has given for as long as it may.
    tell(&stack, 5, 5000).await;
    assert_eq!(come(&stack, &client).await, HandshakeKind::Full);
    tokio::time::sleep(Duration::from_millis(5050)).await;
    assert_eq!(come(&stack, &client).await, HandshakeKind::Resumed);
    assert_eq!(come(&stack, &stack.returning_client(None)).await, HandshakeKind::Full);
    stack.until_metric("sessions_kept_total{by=\"ticket\"}", 1).await;
}

#[tokio::test]
async fn rotations_lose_no_client_that_comes_now_and_then() {
    let stack = Stack::start(Options { connections: 1, ..Options::default() }).await;
    tell(&stack, 5, HOUR).await;
    let client = stack.returning_client(None);
    assert_eq!(come(&stack, &client).await, HandshakeKind::Full);
    for current in 6..16 {
        tell(&stack, current, HOUR).await;
        // The ticket is of the generation before, and makes way for one of this.
        assert_eq!(come(&stack, &client).await, HandshakeKind::Resumed);
    }
    stack.until_metric("sessions_kept_total{by=\"ticket\"}", 11).await;
    tell(&stack, 18, HOUR).await;
    assert_eq!(come(&stack, &client).await, HandshakeKind::Full);
    stack.until_metric("session_misses_total{reason=\"unknown_generation\"}", 1).await;
}

#[tokio::test]
async fn an_id_resumes_without_any_key_server() {
    let mut stack = stack_with_keys(5).await;
    let client = stack.returning_client_without_tickets();
    assert_eq!(come(&stack, &client).await, HandshakeKind::Full);
    stack.kill_key_server(0).await;
    stack.until("no connection", || stack.telemetry.key_server_connections.get() == 0).await;
    for _ in 0..3 {
        assert_eq!(come(&stack, &client).await, HandshakeKind::Resumed);
    }
    stack.until_metric("resumed_total{by=\"id\"}", 3).await;
    stack.until_metric("sessions_kept_total{by=\"id\"}", 1).await;
}

#[tokio::test]
async fn a_session_that_a_fatal_alert_ended_is_not_resumed() {
    let stack = stack_with_keys(5).await;
    for (client, misses) in [(stack.returning_client(None), 1), (stack.returning_client_without_tickets(), 2)] {
        assert_eq!(come(&stack, &client).await, HandshakeKind::Full);
        let (mut broken, _backend) = connect(&stack, &client).await;
        assert_eq!(broken.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
        // A record that does not open.
        broken.get_mut().0.write_all(&[&[23, 3, 3, 0, 30][..], &[0; 30]].concat()).await.unwrap();
        assert!(broken.read_u8().await.is_err());
        stack.until_metric("connections_ended_total{fault=\"client\",reason=\"bad_record_mac\"}", misses).await;
        assert_eq!(come(&stack, &client).await, HandshakeKind::Full);
        stack.until_metric("session_misses_total{reason=\"ended\"}", misses).await;
    }
}

/// Clients of TLS 1.3 send an id of their own making (RFC 8446 §4.1.2).
#[tokio::test]
async fn an_id_that_no_edge_gave_is_looked_up_nowhere() {
    let stack = stack_with_keys(5).await;
    let mut hello = Vec::new();
    ClientHello {
        version: ProtocolVersion::TLS_1_2,
        random: [1; 32],
        session_id: vec![0xee; 32],
        cipher_suites: vec![CipherSuite::ECDHE_ECDSA_WITH_AES_128_GCM_SHA256],
        extensions: ClientExtensions { server_name: Some(SERVER_NAME.to_owned()), ..ClientExtensions::default() },
    }
    .write(&mut hello);
    let length = u16::try_from(hello.len()).unwrap().to_be_bytes();
    let mut socket = TcpStream::connect(stack.edge).await.unwrap();
    socket.write_all(&[&[22, 3, 1][..], &length, &hello].concat()).await.unwrap();
    stack.until_metric("session_misses_total{reason=\"foreign_id\"}", 1).await;
}
