//! Backends that do what a test tells them to.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use tokio::net::TcpSocket;

/// Serves every connection with `serve`, each on a thread of its own, until the process ends.
pub fn start(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = serve.clone();
            thread::spawn(move || serve(stream));
        }
    });
    address
}

/// Nobody's address for as long as the socket is held: it takes no connection, and nobody else can take its place.
pub fn down() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
    let address = socket.local_addr().expect("an address");
    (socket, address)
}

/// Sends back what it receives, and ends when the client's side does.
pub fn echo() -> SocketAddr {
    start(|mut stream| {
        let mut buffer = vec![0; 64 << 10];
        // A connection that breaks is what some tests want.
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(buffer.get(..length).unwrap_or_default()).is_err() {
                return;
            }
        }
        let _ = stream.shutdown(Shutdown::Write);
    })
}

/// Hands every connection to the test.
pub fn manual() -> (SocketAddr, Receiver<TcpStream>) {
    let (sender, receiver) = mpsc::channel();
    let address = start(move |stream| {
        stream.set_read_timeout(Some(crate::stack::PATIENCE)).expect("a timeout");
        stream.set_write_timeout(Some(crate::stack::PATIENCE)).expect("a timeout");
        // Fails once the test has ended.
        let _ = sender.send(stream);
    });
    (address, receiver)
}
