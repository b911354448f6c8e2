//! The limit of open files, which bounds connections whatever the configuration says.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// For listeners, connections to key servers, the state, and what the runtime needs.
const BESIDE_CONNECTIONS: u64 = 128;

/// Raises this process's limit as far as it may, and warns when that is too little for so many connections.
pub fn allow(connections: usize) {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if limit.current != limit.maximum
        && let Err(cause) = setrlimit(Resource::Nofile, raised)
    {
        tracing::warn!(%cause, "the limit of open files was not raised");
    }
    let needed = needed(connections);
    // `None` is without limit.
    if let Some(allowed) = getrlimit(Resource::Nofile).current.filter(|allowed| *allowed < needed) {
        tracing::warn!(allowed, needed, connections, "fewer open files allowed than max_connections needs");
    }
}

/// Each connection has a socket to the client and one to the backend.
fn needed(connections: usize) -> u64 {
    (connections as u64).saturating_mul(2).saturating_add(BESIDE_CONNECTIONS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_to_what_is_allowed() {
        allow(10);
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
        assert_eq!(needed(10), 148);
        assert_eq!(needed(usize::MAX), u64::MAX);
    }
}
