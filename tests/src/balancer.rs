//! What stands in front of a fleet: one address, behind which each connection meets the edge that the test says.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::VecDeque;
use std::io::copy;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::thread;

use crate::backend;

/// An address whose first connection goes to the first of `targets`, and so on. Clients come one after another; one that
/// comes when no target is left is turned away.
pub fn start(targets: impl IntoIterator<Item = SocketAddr>) -> SocketAddr {
    let targets: Mutex<VecDeque<_>> = Mutex::new(targets.into_iter().collect());
    backend::start(move |client| {
        let target = targets.lock().expect("no test has failed").pop_front();
        let Some(edge) = target.and_then(|target| TcpStream::connect(target).ok()) else { return };
        let (to_edge, to_client) = ((handle(&client), handle(&edge)), (edge, client));
        let sending = thread::spawn(move || pass(to_edge.0, to_edge.1));
        pass(to_client.0, to_client.1);
        // A client that has been told everything may yet have something to say, which nobody needs.
        drop(sending);
    })
}

fn handle(stream: &TcpStream) -> TcpStream {
    stream.try_clone().expect("a second handle")
}

/// A side that breaks off ends the other: what it would say is for the programs at the ends.
fn pass(mut from: TcpStream, mut to: TcpStream) {
    let _ = copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}
