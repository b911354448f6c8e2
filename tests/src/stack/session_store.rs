//! The store of sessions that edges share: a Redis without a disk.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;

use super::{Edge, Process, Stack, connect, programs, wait_until};

/// Starts it and waits until it is ready: an edge that finds none leaves it alone for a while.
pub(super) fn start(address: SocketAddr, directory: &Path) -> Process {
    let mut command = programs::of_this_thread(Path::new("redis-server"));
    command.args(["--bind", &address.ip().to_string(), "--port", &address.port().to_string()]);
    command.args(["--save", "", "--appendonly", "no", "--dir"]).arg(directory);
    let process = Process::start("session-store", command, directory, None).listening_on(address);
    process.wait_ready();
    process
}

impl Stack {
    /// The store of sessions that the edges share.
    ///
    /// # Panics
    /// Where they share none.
    pub fn session_store(&mut self) -> &mut Process {
        self.session_store.as_mut().expect("a shared store of this stack")
    }

    /// Waits until every edge is connected to the store that they share, if they do.
    ///
    /// # Panics
    /// When the store does not answer.
    pub fn wait_for_session_store(&self) {
        let edges = self.edges.len() as i64;
        // Whoever asks is one more.
        self.wait_until_store_says("INFO clients", "connected_clients:", || edges + 1);
    }

    /// Waits until the store that the edges share, if they do, has every session that they have kept by an id.
    ///
    /// # Panics
    /// When the store does not answer.
    pub fn wait_for_shared_sessions(&self) {
        let kept = |edge: &Edge| edge.metric("keystead_edge_sessions_kept_total", &[("by", "id")]);
        self.wait_until_store_says("DBSIZE", ":", || self.edges.iter().map(kept).sum());
    }

    /// Waits until the number behind `prefix` in the answer is so high.
    fn wait_until_store_says(&self, question: &str, prefix: &str, least: impl Fn() -> i64) {
        let Some(address) = self.session_store.as_ref().and_then(Process::address) else { return };
        wait_until(&format!("the shared store's {question} is high enough"), || {
            let mut stream = connect(address).expect("the store accepts");
            write!(stream, "{question}\r\n").expect("it takes a question");
            let number = BufReader::new(stream).lines().find_map(|line| {
                let line = line.expect("an answer");
                line.strip_prefix(prefix).map(|number| number.trim().parse::<i64>().expect("a number"))
            });
            number.expect("an answer") >= least()
        });
    }
}
