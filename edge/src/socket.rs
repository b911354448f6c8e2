//! Single reads and writes on sockets that are ready, and the end of a connection that leaves no byte behind.

use std::future::poll_fn;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, Socket};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::buffer::Lent;

/// A connected stream socket whose readiness tokio watches, whatever its kind.
pub trait Stream: AsFd {
    /// Calls `operation` if the socket is known to be ready; when that says `WouldBlock`, it is known not to be.
    fn try_io<R>(&self, interest: Interest, operation: impl FnOnce() -> io::Result<R>) -> io::Result<R>;

    /// Whether there may be something to read.
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Whether there may be room to write.
    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

impl Stream for TcpStream {
    fn try_io<R>(&self, interest: Interest, operation: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
        self.try_io(interest, operation)
    }

    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_read_ready(cx)
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_write_ready(cx)
    }
}

/// Reads once into `slices`, which have room for `capacity` bytes. `None` when there is nothing to read at the moment;
/// 0 at the end of the stream.
pub fn read(stream: &impl Stream, slices: &mut [IoSliceMut<'_>], capacity: usize) -> io::Result<Option<usize>> {
    once(stream, Interest::READABLE, capacity, |mut socket| socket.read_vectored(slices))
}

/// Writes once from `slices`, which hold `length` bytes. `None` when there is no room at the moment.
pub fn write(stream: &impl Stream, slices: &[IoSlice<'_>], length: usize) -> io::Result<Option<usize>> {
    once(stream, Interest::WRITABLE, length, |mut socket| socket.write_vectored(slices))
}

/// Calls `operation`, which moves up to `most` bytes, if the socket is known to be ready.
///
/// Fewer bytes than that mean that the kernel has no more, or no more room, so the socket is not ready until epoll says
/// so again (epoll(7), question 9). Telling tokio spares the call that would find it out.
fn once(
    stream: &impl Stream,
    interest: Interest,
    most: usize,
    mut operation: impl FnMut(&Socket) -> io::Result<usize>,
) -> io::Result<Option<usize>> {
    let socket = SockRef::from(stream);
    let mut moved = None;
    let ready = stream.try_io(interest, || {
        let bytes = uninterrupted(|| operation(&socket))?;
        moved = Some(bytes);
        if bytes != 0 && bytes < most { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    match ready {
        Err(cause) if moved.is_none() && cause.kind() != io::ErrorKind::WouldBlock => Err(cause),
        Ok(()) | Err(_) => Ok(moved),
    }
}

fn uninterrupted(mut operation: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match operation() {
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Says that no more bytes follow.
pub fn shutdown_write(stream: &impl Stream) -> io::Result<()> {
    SockRef::from(stream).shutdown(Shutdown::Write)
}

/// Has the connection end with a reset instead of an orderly end when the socket is dropped.
pub fn reset_when_dropped(stream: &TcpStream) {
    // Fails only for a socket that is broken anyway.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Writes all of `bytes` before `deadline`.
///
/// # Errors
/// `TimedOut`, or the system's.
pub async fn write_all(stream: &impl Stream, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        match write(stream, &[IoSlice::new(bytes)], bytes.len())? {
            Some(written) => bytes = bytes.get(written..).unwrap_or_default(),
            None => timeout_at(deadline, poll_fn(|cx| stream.poll_write_ready(cx))).await??,
        }
    }
    Ok(())
}

/// How long a peer that is being left may take to read what was sent last, and to leave.
pub const FAREWELL: Duration = Duration::from_secs(2);

/// Sends `last`, and ends the connection so that the peer gets to read it: a socket closed with unread bytes sends a
/// reset, and a reset overtakes what was sent. Takes at most [`FAREWELL`].
pub async fn farewell(stream: &TcpStream, last: &[u8]) {
    let deadline = Instant::now() + FAREWELL;
    // The peer may be gone, which is as good an end as any.
    let sent = write_all(stream, last, deadline).await.and_then(|()| shutdown_write(stream));
    if sent.is_ok() {
        let _ = timeout_at(deadline, discard(stream)).await;
    }
}

/// Reads until the peer has left. Only time bounds it: to stop before would be the reset.
async fn discard(stream: &TcpStream) -> io::Result<()> {
    loop {
        let read = {
            let mut lent = Lent::small();
            let bytes = &mut lent.buffer().bytes;
            let capacity = bytes.len();
            read(stream, &mut [IoSliceMut::new(bytes)], capacity)?
        };
        match read {
            Some(0) => return Ok(()),
            Some(_) => tokio::task::consume_budget().await,
            None => stream.readable().await?,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Two ends of a TCP connection on loopback.
    pub(crate) async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connecting = TcpStream::connect(listener.local_addr().unwrap());
        let (accepted, connected) = tokio::join!(listener.accept(), connecting);
        (connected.unwrap(), accepted.unwrap().0)
    }

    #[tokio::test]
    async fn a_read_says_what_is_there() {
        let (mut far, near) = pair().await;
        let mut bytes = [0; 4];
        assert_eq!(read(&near, &mut [IoSliceMut::new(&mut bytes)], 4).unwrap(), None);
        far.write_all(b"hello").await.unwrap();
        near.readable().await.unwrap();
        let (front, back) = bytes.split_at_mut(1);
        assert_eq!(read(&near, &mut [IoSliceMut::new(front), IoSliceMut::new(back)], 4).unwrap(), Some(4));
        assert_eq!(&bytes, b"hell");
        // The socket still counts as ready after a full read, and as not ready after a short one.
        assert_eq!(read(&near, &mut [IoSliceMut::new(&mut bytes)], 4).unwrap(), Some(1));
        assert_eq!(read(&near, &mut [IoSliceMut::new(&mut bytes)], 4).unwrap(), None);
        far.write_all(b"!").await.unwrap();
        near.readable().await.unwrap();
        assert_eq!(read(&near, &mut [IoSliceMut::new(&mut bytes)], 4).unwrap(), Some(1));
        drop(far);
        near.readable().await.unwrap();
        assert_eq!(read(&near, &mut [IoSliceMut::new(&mut bytes)], 4).unwrap(), Some(0));
    }

    #[tokio::test]
    async fn writing_to_a_peer_that_does_not_read_ends_at_the_deadline() {
        let (_far, near) = pair().await;
        let bytes = vec![0; 32 << 20];
        let failure = write_all(&near, &bytes, Instant::now() + Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(failure.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn the_last_bytes_arrive_though_the_peer_was_still_sending() {
        let (mut far, near) = pair().await;
        far.write_all(&[0; 100_000]).await.unwrap();
        tokio::join!(
            async {
                farewell(&near, b"alert").await;
                drop(near);
            },
            async {
                let mut last = Vec::new();
                far.read_to_end(&mut last).await.unwrap();
                assert_eq!(last, b"alert");
                far.shutdown().await.unwrap();
            }
        );
    }
}
