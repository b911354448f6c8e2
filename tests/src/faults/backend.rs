//! The backend: what it receives it sends back, and it ends when the other side does.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Serves on `address` until the runtime ends; returns where.
///
/// # Errors
/// When the address is not to be had.
pub async fn echo(address: SocketAddr) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    tokio::spawn(async move {
        loop {
            // Without file descriptors the next attempt fails too, until connections have ended.
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(send_back(stream))),
                Err(_) => tokio::task::yield_now().await,
            }
        }
    });
    Ok(bound)
}

async fn send_back(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 16 << 10];
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(buffer.get(..length).unwrap_or_default()).await?;
    }
}
