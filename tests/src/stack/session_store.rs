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

/// How often edges have looked something up in it.
const LOOKUPS: (&str, &str) = ("INFO commandstats", "cmdstat_get:calls=");
/// Lookups of an edge before it uses the store.
const PROBES: i64 = 2;

impl Stack {
    /// The store of sessions that the edges share.
    ///
    /// # Panics
    /// Where they share none.
    pub fn session_store(&mut self) -> &mut Process {
        self.session_store.as_mut().expect("a shared store of this stack")
    }

    /// Waits until every edge, each just started, uses the store that they share, if they do.
    ///
    /// # Panics
    /// When the store does not answer.
    pub(super) fn wait_for_session_store(&self) {
        self.wait_for_lookups(self.edges.len() as i64 * PROBES);
    }

    /// Starts one of the edges again, and waits until it uses the store that they share. Nobody else may use it meanwhile.
    ///
    /// # Panics
    /// When the store does not answer.
    pub fn restart_with_session_store(&mut self, edge: usize) {
        let before = self.store_says(LOOKUPS).expect("a shared store of this stack");
        self.edges_mut()[edge].process.restart();
        self.wait_for_lookups(before + PROBES);
    }

    fn wait_for_lookups(&self, least: i64) {
        self.wait_until_store_says(LOOKUPS, || least);
    }

    /// Waits until the store that the edges share, if they do, has every session that they have kept by an id.
    ///
    /// # Panics
    /// When the store does not answer.
    pub fn wait_for_shared_sessions(&self) {
        let kept = |edge: &Edge| edge.metric("keystead_edge_sessions_kept_total", &[("by", "id")]);
        self.wait_until_store_says(("DBSIZE", ":"), || self.edges.iter().map(kept).sum());
    }

    /// Waits until the number behind a prefix in the answer to a question is so high, if there is a store.
    fn wait_until_store_says(&self, asked: (&str, &str), least: impl Fn() -> i64) {
        wait_until(&format!("the shared store's {} is high enough", asked.0), || {
            self.store_says(asked).is_none_or(|number| number >= least())
        });
    }

    /// The number behind a prefix in the store's answer to a question, 0 where it is not in it; `None` without a store.
    fn store_says(&self, (question, prefix): (&str, &str)) -> Option<i64> {
        let mut stream = connect(self.session_store.as_ref()?.address()?).expect("the store accepts");
        write!(stream, "{question}\r\nQUIT\r\n").expect("it takes a question");
        let number = BufReader::new(stream).lines().find_map(|line| {
            let line = line.expect("an answer");
            let number = line.strip_prefix(prefix)?.split(',').next()?.trim();
            Some(number.parse().expect("a number"))
        });
        Some(number.unwrap_or(0))
    }
}
