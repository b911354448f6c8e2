//! What stands in front of a fleet: one address, behind which each connection meets the edge that the test says.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::io::copy;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc::{self, Sender};
use std::thread;

use crate::backend;

/// An address for clients. Each connection waits for the target that it is told, and is turned away where none comes any
/// more. Clients come one after another.
pub fn start() -> (SocketAddr, Sender<SocketAddr>) {
    let (sender, targets) = mpsc::channel();
    let targets = Mutex::new(targets);
    let address = backend::start(move |client| {
        let target = targets.lock().expect("no connection has failed").recv();
        let Some(edge) = target.ok().and_then(|target| TcpStream::connect(target).ok()) else { return };
        let (to_edge, to_client) = ((handle(&client), handle(&edge)), (edge, client));
        let sending = thread::spawn(move || pass(to_edge.0, to_edge.1));
        pass(to_client.0, to_client.1);
        // A client that has been told everything may yet have something to say, which nobody needs.
        drop(sending);
    });
    (address, sender)
}

fn handle(stream: &TcpStream) -> TcpStream {
    stream.try_clone().expect("a second handle")
}

/// A side that breaks off ends the other: what it would say is for the programs at the ends.
fn pass(mut from: TcpStream, mut to: TcpStream) {
    let _ = copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}
