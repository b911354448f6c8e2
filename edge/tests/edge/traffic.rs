//! Bytes between the two ends of a connection.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes that tell where they belong.
pub(crate) fn pattern(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// Sends these bytes, so many at once, and ends.
pub(crate) async fn send(mut to: impl AsyncWrite + Unpin, bytes: Vec<u8>, chunk: usize) {
    for chunk in bytes.chunks(chunk) {
        to.write_all(chunk).await.unwrap();
    }
    to.shutdown().await.unwrap();
}

/// All that comes before the end.
pub(crate) async fn receive(mut from: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).await.unwrap();
    bytes
}

/// So many bytes, of which no more than `piece` are taken at once, the first of them with pauses.
pub(crate) async fn receive_slowly(mut from: impl AsyncRead + Unpin, length: usize, piece: usize) -> Vec<u8> {
    let mut received = Vec::new();
    let mut piece = vec![0; piece];
    while received.len() < length {
        let length = from.read(&mut piece).await.unwrap();
        assert_ne!(length, 0, "it ended");
        received.extend_from_slice(&piece[..length]);
        if received.len() < 1 << 20 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    received
}

/// 8 MiB each way at the same time, sent so many bytes at once.
pub(crate) async fn megabytes_both_ways(
    client: impl AsyncRead + AsyncWrite,
    backend: impl AsyncRead + AsyncWrite,
    chunk: usize,
) {
    let (up, down) = (pattern(8 << 20, 1), pattern(8 << 20, 2));
    let (client_reads, client_writes) = tokio::io::split(client);
    let (backend_reads, backend_writes) = tokio::io::split(backend);
    let ((), (), at_backend, at_client) = tokio::join!(
        send(client_writes, up.clone(), chunk),
        send(backend_writes, down.clone(), chunk),
        receive(backend_reads),
        receive(client_reads),
    );
    assert!(at_backend == up && at_client == down, "in chunks of {chunk}");
}

/// A word each way.
pub(crate) async fn ping_pong(
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    mut backend: impl AsyncRead + AsyncWrite + Unpin,
) {
    let mut bytes = [0; 4];
    client.write_all(b"ping").await.unwrap();
    backend.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"ping");
    backend.write_all(b"pong").await.unwrap();
    client.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"pong");
}
