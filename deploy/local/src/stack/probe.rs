//! Looks at the stack from outside: free ports before the start, readiness after it.
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use super::layout::Layout;

const INTERVAL: Duration = Duration::from_millis(50);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Checks that every port of the stack can be taken.
pub(super) async fn ports_are_free(layout: &Layout) -> Result<()> {
    let mut seen = BTreeMap::new();
    for port in layout.ports() {
        if let Some(other) = seen.insert(port.address, port.what.clone()) {
            bail!("{} and {} both want {}: set {}", other, port.what, port.address, port.option);
        }
        let advice = || format!("{} cannot have {}: choose another with {}", port.what, port.address, port.option);
        TcpListener::bind(port.address).await.with_context(advice)?;
    }
    Ok(())
}

/// Waits until the program with these metrics says that it is ready.
pub(super) async fn ready(metrics: SocketAddr) {
    while !is_ready(metrics).await {
        sleep(INTERVAL).await;
    }
}

/// Waits until the Redis or Valkey at this address answers.
pub(super) async fn store(address: SocketAddr) {
    while !matches!(timeout(ANSWER_TIMEOUT, pong(address)).await, Ok(Ok(true))) {
        sleep(INTERVAL).await;
    }
}

async fn pong(address: SocketAddr) -> io::Result<bool> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"PING\r\n").await?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).await?;
    Ok(&answer == b"+PONG")
}

async fn is_ready(address: SocketAddr) -> bool {
    matches!(timeout(ANSWER_TIMEOUT, status_line(address)).await, Ok(Ok(line)) if line.contains(" 200 "))
}

async fn status_line(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
    let mut answer = [0; 16];
    stream.read_exact(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
