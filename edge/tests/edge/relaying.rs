//! Bytes both ways, and the ways in which they end.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use super::stack::{Options, Stack};
use super::traffic::{megabytes_both_ways, pattern, receive, receive_slowly, send};

/// How a connection ends that both sides ended.
pub(crate) const ORDERLY: &str = "connections_ended_total{fault=\"none\",reason=\"orderly\"}";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn megabytes_both_ways_at_once_arrive_intact() {
    let stack = Stack::start(Options::default()).await;
    for chunk in [1 << 20, 16_384, 1000] {
        let (client, backend) = stack.connect().await;
        megabytes_both_ways(client, backend, chunk).await;
    }
    stack.until_metric(ORDERLY, 3).await;
    assert_eq!(stack.telemetry.bytes_to_backend.get(), 3 * (8 << 20));
    assert_eq!(stack.telemetry.bytes_to_client.get(), 3 * (8 << 20));
}

#[tokio::test]
async fn a_slow_reader_slows_the_sender_and_loses_nothing() {
    let stack = Stack::start(Options::default()).await;
    let (mut client, backend) = stack.connect().await;
    let down = pattern(16 << 20, 3);
    let sending = tokio::spawn(send(backend, down.clone(), 1 << 20));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!sending.is_finished(), "16 MiB fit in no socket");
    assert!(receive_slowly(&mut client, down.len(), 700_000).await == down);
    sending.await.unwrap();
}

#[tokio::test]
async fn records_are_short_where_a_client_waits_and_long_in_bulk() {
    let stack = Stack::start(Options::default()).await;
    let socket = Overheard { socket: TcpStream::connect(stack.edge).await.unwrap(), heard: Vec::new() };
    let (client, backend) = tokio::join!(stack.try_connect_over(socket), stack.backend.accept());
    let (mut client, (mut backend, _)) = (client.unwrap(), backend.unwrap());
    for _ in 0..2 {
        client.get_mut().0.heard.clear();
        let bulk = pattern(4 << 20, 5);
        let mut received = vec![0; bulk.len()];
        let (sent, read) = tokio::join!(backend.write_all(&bulk), client.read_exact(&mut received));
        assert!(sent.is_ok() && read.is_ok() && received == bulk);
        let mut lengths = data_records(&client.get_ref().0.heard);
        let long = lengths.split_off(30);
        // Each with its nonce and tag, in one segment of an Ethernet.
        assert!(lengths.iter().all(|length| *length <= 1370 + 24), "{lengths:?}");
        assert!(long.iter().filter(|length| **length == 16_384 + 24).count() > 100, "{long:?}");
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
}

/// A socket, and all that was read from it.
struct Overheard {
    socket: TcpStream,
    heard: Vec<u8>,
}

impl AsyncRead for Overheard {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let polled = Pin::new(&mut self.socket).poll_read(cx, into);
        self.heard.extend_from_slice(&into.filled()[before..]);
        polled
    }
}

impl AsyncWrite for Overheard {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// The lengths of the records of application data among these.
fn data_records(mut records: &[u8]) -> Vec<usize> {
    let mut lengths = Vec::new();
    while let [content_type, _, _, l0, l1, rest @ ..] = records {
        let length = usize::from(u16::from_be_bytes([*l0, *l1]));
        if *content_type == 23 {
            lengths.push(length);
        }
        records = &rest[length..];
    }
    lengths
}

#[tokio::test]
async fn a_client_may_end_first_and_hear_the_rest() {
    let stack = Stack::start(Options::default()).await;
    let (mut client, mut backend) = stack.connect().await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(receive(&mut backend).await, b"question");
    backend.write_all(b"answer").await.unwrap();
    drop(backend);
    assert_eq!(receive(&mut client).await, b"answer");
    stack.until_metric(ORDERLY, 1).await;
}

#[tokio::test]
async fn a_backend_may_end_first_and_hear_the_rest() {
    let stack = Stack::start(Options::default()).await;
    let (mut client, mut backend) = stack.connect().await;
    backend.write_all(b"greeting").await.unwrap();
    backend.shutdown().await.unwrap();
    // Only a close_notify makes this an end without error.
    assert_eq!(receive(&mut client).await, b"greeting");
    client.write_all(b"answer").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(receive(&mut backend).await, b"answer");
    stack.until_metric(ORDERLY, 1).await;
}

#[tokio::test]
async fn a_client_that_leaves_without_close_notify_is_told_apart() {
    let stack = Stack::start(Options::default()).await;
    let (mut client, mut backend) = stack.connect().await;
    client.write_all(b"cut").await.unwrap();
    client.get_mut().0.shutdown().await.unwrap();
    assert_eq!(receive(&mut backend).await, b"cut");
    drop(backend);
    stack.until_metric("connections_ended_total{fault=\"client\",reason=\"connection_truncated\"}", 1).await;
}

#[tokio::test]
async fn a_backend_that_breaks_off_leaves_the_client_without_close_notify() {
    let stack = Stack::start(Options::default()).await;
    let (mut client, mut backend) = stack.connect().await;
    backend.write_all(b"half of").await.unwrap();
    let mut half = [0; 7];
    client.read_exact(&mut half).await.unwrap();
    backend.set_zero_linger().unwrap();
    drop(backend);
    let failure = client.read(&mut half).await.unwrap_err();
    assert_eq!(failure.kind(), ErrorKind::UnexpectedEof);
    drop(client);
    stack.until_metric("connections_ended_total{fault=\"backend\",reason=\"backend_reset\"}", 1).await;
}

#[tokio::test]
async fn a_client_that_breaks_off_ends_the_backends_connection() {
    let stack = Stack::start(Options::default()).await;
    let (client, mut backend) = stack.connect().await;
    client.get_ref().0.set_zero_linger().unwrap();
    drop(client);
    assert_eq!(backend.read(&mut [0; 1]).await.unwrap_or(0), 0);
    stack.until_metric("connections_ended_total{fault=\"client\",reason=\"client_reset\"}", 1).await;
}

#[tokio::test]
async fn an_answer_given_before_all_was_asked_arrives() {
    let stack = Stack::start(Options::default()).await;
    let (client, mut backend) = stack.connect().await;
    backend.write_all(b"enough").await.unwrap();
    // With unread bytes in its socket, closing it sends a reset.
    let (mut reads, mut writes) = tokio::io::split(client);
    let asking = tokio::spawn(async move {
        // Ends with an error when the edge has closed the connection.
        while writes.write_all(&[0; 65_536]).await.is_ok() {}
    });
    let mut answer = [0; 6];
    reads.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"enough");
    drop(backend);
    let _ = reads.read(&mut [0; 1]).await;
    tokio::time::timeout(Duration::from_secs(10), asking).await.unwrap().unwrap();
}

#[tokio::test]
async fn silence_ends_a_connection() {
    let mut options = Options::default();
    options.limits.idle_timeout = Duration::from_secs(3);
    let stack = Stack::start(options).await;
    let (mut client, mut backend) = stack.connect().await;
    // Longer than the timeout altogether, with no silence as long.
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        client.write_all(b"x").await.unwrap();
        backend.read_exact(&mut [0; 1]).await.unwrap();
    }
    // Without close_notify: more might have come.
    let failure = client.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(failure.kind(), ErrorKind::UnexpectedEof);
    drop(client);
    assert!(receive(&mut backend).await.is_empty());
    stack.until_metric("connections_ended_total{fault=\"client\",reason=\"idle_timeout\"}", 1).await;
}

#[tokio::test]
async fn a_damaged_record_ends_the_connection_with_its_alert() {
    let stack = Stack::start(Options::default()).await;
    let (mut client, _backend) = stack.connect().await;
    let forged = [&[23, 3, 3, 0, 32][..], &[0; 32]].concat();
    client.get_mut().0.write_all(&forged).await.unwrap();
    let failure = client.read(&mut [0; 1]).await.unwrap_err();
    assert!(failure.to_string().contains("BadRecordMac"), "{failure}");
    stack.until_metric("connections_ended_total{fault=\"client\",reason=\"bad_record_mac\"}", 1).await;
}
