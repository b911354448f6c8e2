//! A running edge, and what it tells of itself.

use std::io;
use std::net::{SocketAddr, TcpStream};

use super::{PATIENCE, Process, wait_until};

/// One running edge.
pub struct Edge {
    /// The process.
    pub process: Process,
    /// Where clients connect.
    pub address: SocketAddr,
}

impl Edge {
    /// The sum of the samples of the metric `name` that carry all of `labels`; 0 where there is none.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> i64 {
        self.process.metric(name, labels)
    }

    /// Failed handshakes with this reason.
    pub fn failures(&self, reason: &str) -> i64 {
        self.metric("keystead_edge_handshake_failures_total", &[("reason", reason)])
    }

    /// Connections that ended after their handshake for this reason.
    pub fn ended(&self, reason: &str) -> i64 {
        self.metric("keystead_edge_connections_ended_total", &[("reason", reason)])
    }

    /// Completed handshakes.
    pub fn handshakes(&self) -> i64 {
        self.metric("keystead_edge_handshakes_total", &[])
    }

    /// Handshakes that went on from a session in a ticket.
    pub fn resumed(&self) -> i64 {
        self.resumed_by("ticket")
    }

    /// Handshakes that went on from a session by `ticket`, by an `id` that the edge knew, or one that the `shared` store knew.
    pub fn resumed_by(&self, by: &str) -> i64 {
        self.metric("keystead_edge_resumed_total", &[("by", by)])
    }

    /// Full handshakes of clients that offered a session, for this reason.
    pub fn misses(&self, reason: &str) -> i64 {
        self.metric("keystead_edge_session_misses_total", &[("reason", reason)])
    }

    /// The number of the ticket keys that seal; 0 while there are none.
    pub fn generation(&self) -> i64 {
        self.metric("keystead_edge_ticket_generation", &[("role", "current")])
    }

    /// Waits until there are ticket keys, of which readiness says nothing.
    pub fn wait_for_ticket_keys(&self) {
        wait_until("the edge has ticket keys", || self.generation() != 0);
    }

    /// Does `visit` anew until the ticket keys have not changed meanwhile. The number of their generation.
    pub fn within_a_generation(&self, mut visit: impl FnMut()) -> i64 {
        loop {
            let before = self.generation();
            visit();
            if before != 0 && self.generation() == before {
                return before;
            }
        }
    }

    /// Waits until the database of its own sessions is open, of which readiness says nothing either.
    pub fn wait_for_local_sessions(&self) {
        wait_until("the edge's sessions are open", || self.metric("keystead_edge_session_store_disk_bytes", &[]) > 0);
    }

    /// Connections of clients that stand.
    pub fn connections(&self) -> i64 {
        self.metric("keystead_edge_connections", &[])
    }

    /// Connections to key servers that stand.
    pub fn key_server_connections(&self) -> i64 {
        self.metric("keystead_edge_key_server_connections", &[])
    }

    /// Open descriptors when both connections to the key server stand, and the database of its own sessions is open.
    pub fn settled_descriptors(&self) -> usize {
        self.wait_for_local_sessions();
        wait_until("both connections to the key server stand", || self.key_server_connections() == 2);
        self.process.descriptors()
    }

    /// A TCP connection to the edge, as [`connect`] makes them.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn connect(&self) -> TcpStream {
        connect(self.address).expect("the edge accepts")
    }
}

/// A TCP connection whose reads and writes end after [`PATIENCE`].
///
/// # Errors
/// Why it cannot be made.
pub fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
