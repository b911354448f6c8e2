//! Accepts connections for axum once their PROXY header has been read, each in its own time.
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::proxy::{self, Arrival, Expect, Stream};

/// A proxy sends its header at once.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait where the system is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listener whose connections come with what their PROXY header said.
pub(super) struct HeaderListener {
    ready: mpsc::Receiver<(Stream, Arrival)>,
    address: SocketAddr,
    accepting: AbortHandle,
}

impl HeaderListener {
    pub(super) fn new(listener: TcpListener, expect: Expect) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (sender, ready) = mpsc::channel(16);
        let accepting = tokio::spawn(accept(listener, expect, sender)).abort_handle();
        Ok(Self { ready, address, accepting })
    }
}

impl Drop for HeaderListener {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Listener for HeaderListener {
    type Io = Stream;
    type Addr = Arrival;

    async fn accept(&mut self) -> (Stream, Arrival) {
        match self.ready.recv().await {
            Some(connection) => connection,
            // The task that accepts ends only with this listener.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Arrival> {
        Ok(Arrival { addresses: Some((self.address, self.address)), ..Arrival::default() })
    }
}

impl Connected<IncomingStream<'_, HeaderListener>> for Arrival {
    fn connect_info(stream: IncomingStream<'_, HeaderListener>) -> Self {
        stream.remote_addr().clone()
    }
}

async fn accept(listener: TcpListener, expect: Expect, ready: mpsc::Sender<(Stream, Arrival)>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(read_header(stream, expect, ready.clone()));
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn read_header(stream: TcpStream, expect: Expect, ready: mpsc::Sender<(Stream, Arrival)>) {
    // Nagle's algorithm would hold back the end of every small answer.
    let _ = stream.set_nodelay(true);
    if let Ok(Ok(connection)) = tokio::time::timeout(HEADER_TIMEOUT, proxy::accept(stream, expect)).await {
        // With the listener gone nobody serves the connection, and dropping it closes it.
        let _ = ready.send(connection).await;
    }
}
