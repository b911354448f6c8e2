//! The edge's way to its key servers: a few long-lived connections to each, on which requests are pipelined.
//!
//! `choice` says where a request goes, `asking` how often and when elsewhere too, `verdict` what that says of those who were
//! asked: it opens and closes the `breaker` of a `peer`, or of a key there (`key_state`).

mod answer;
mod asking;
mod backoff;
mod breaker;
mod budget;
mod choice;
mod health;
mod held;
mod key_state;
mod latency;
mod leases;
mod link;
mod peer;
mod pending;
mod recover;
mod resolve;
mod standing;
mod stream;
mod telemetry;
mod verdict;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use keystead_program::channel::{ClientChannel, InvalidHostPort};
use keystead_program::observe::Condition;
use keystead_tls::handshake::SignatureRequest;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::config::KeyServerConfig;
use crate::directory::{Directory, ServerIndex};
use crate::telemetry::Telemetry;
use answer::Fault;
use asking::Hedging;
use breaker::Tolerance;
use budget::Budget;
use key_state::{KeyStates, Shape};
use link::{Link, LinkParts};
use peer::Server;
use standing::Standing;
use verdict::Key;

pub use answer::Recovery;
pub use asking::Asking;
pub use stream::Lessor;
pub use telemetry::{Hedge, TryTelemetry};

/// Asks key servers for signatures, and for the randoms and master secrets of RSA key transport.
#[derive(Debug)]
pub struct KeyClient {
    servers: Vec<Arc<Server>>,
    /// Those of one key server follow one another.
    links: Vec<Arc<Link>>,
    standing: Arc<Standing>,
    keys: Arc<KeyStates>,
    /// Of all keys together.
    budget: Budget,
    /// `None` where nobody is asked a second time for being late.
    hedging: Option<Hedging>,
    /// The same for requests that tell whether a key server is well again.
    probing: Hedging,
    /// Where the search for a lessor begins, so that links with the same load take turns.
    turn: AtomicUsize,
    timeout: Duration,
    /// Whoever had less time to answer is not blamed for not having.
    fair_time: Duration,
    resolve_interval: Duration,
    telemetry: Arc<Telemetry>,
}

/// Peers of one key server at one time, for each connection: it may lead to another while it leaves the one before.
const SLOTS_PER_CONNECTION: usize = 2;

/// The part of the timeout that is time enough for an answer.
const FAIR_PART: u32 = 4;

impl KeyClient {
    /// A client without connections, until [`Self::keep_up`]. `ready` holds while there is a connection.
    ///
    /// # Errors
    /// [`InvalidHostPort`] when the key servers' name is none.
    pub fn new(
        config: &KeyServerConfig,
        channel: &ClientChannel,
        ready: Condition,
        telemetry: Arc<Telemetry>,
    ) -> Result<Self, InvalidHostPort> {
        let standing = Arc::new(Standing::new(ready, telemetry.clone()));
        let tolerance = Tolerance {
            failures: config.ejection_failures,
            shortest: config.ejection_time,
            longest: config.longest_ejection_time,
        };
        let slots = config.connections * SLOTS_PER_CONNECTION;
        let shape = Shape {
            slots: config.addresses.len() * slots,
            links: config.addresses.len() * config.connections,
            max_in_flight: config.max_in_flight_per_key(),
            tolerance,
            retry_share: config.retry_budget,
            retry_reserve: config.max_in_flight_per_key() * config.connections,
        };
        let keys = Arc::new(KeyStates::new(shape, telemetry.tries.breakers_open.clone()));
        let (mut servers, mut links) = (Vec::new(), Vec::new());
        // So that not every edge begins at the same address of a name.
        let offset = usize::from(rand::random::<u8>());
        for (index, name) in config.addresses.iter().enumerate() {
            let of_server = index * slots..(index + 1) * slots;
            let server = Server::new(ServerIndex(index), name.clone(), of_server, keys.clone(), telemetry.clone());
            let server = Arc::new(server);
            for number in 0..config.connections {
                let parts = LinkParts {
                    number: links.len(),
                    turn: offset + number,
                    server: server.clone(),
                    channel: channel.clone(),
                    server_name: config.server_name.clone(),
                    max_in_flight: config.max_in_flight,
                    standing: standing.clone(),
                };
                links.push(Arc::new(Link::new(parts)?));
            }
            servers.push(server);
        }
        let probing =
            Hedging { shortest: config.hedge_after, longest: config.timeout.max(config.hedge_after * 4) / FAIR_PART };
        Ok(Self {
            servers,
            links,
            standing,
            keys,
            // As many as one key server can owe when it is lost.
            budget: Budget::new(config.retry_budget, config.max_in_flight * config.connections),
            hedging: config.hedge.then_some(probing),
            probing,
            turn: AtomicUsize::new(0),
            timeout: config.timeout,
            fair_time: config.timeout / FAIR_PART,
            resolve_interval: config.resolve_interval,
            telemetry,
        })
    }

    /// Keeps all connections up, and tells `directory` what the key servers tell, until the set is dropped.
    pub fn keep_up(&self, directory: &Arc<Directory>) -> JoinSet<()> {
        let mut tasks: JoinSet<()> = self.links.iter().map(|link| link.clone().keep_up(directory.clone())).collect();
        for server in &self.servers {
            let resolving = resolve::keep_resolved(server.clone(), self.resolve_interval);
            tasks.spawn(async { match resolving.await {} });
        }
        tasks.spawn(self.keys.clone().follow(directory.clone()));
        tasks
    }

    /// The name of this key server leads to these addresses, until it is looked up again. An address in place of a name is
    /// looked up once.
    pub fn lead_to(&self, server: ServerIndex, addresses: Vec<SocketAddr>) {
        if let Some(server) = self.servers.get(server.0) {
            server.addresses.send_replace(addresses);
        }
    }

    /// Begins to ask for a signature, which must be there by `deadline` and in no more than the configured time.
    pub fn ask(&self, request: &SignatureRequest<'_>, deadline: Instant) -> Asking<'_> {
        Asking::new(self, request, deadline)
    }

    /// A request begins, which adds its share to the budgets.
    fn deposit(&self, key: &Key) {
        self.budget.deposit();
        key.state.budget.deposit();
    }

    /// Whether a request may be tried once more: the budgets of its key, and of all keys, have one left. So a key that is slow
    /// everywhere does not use up what others may need.
    fn may_try_again(&self, key: &Key) -> bool {
        let of_key = &key.state.budget;
        if of_key.withdraw() {
            if self.budget.withdraw() {
                return true;
            }
            of_key.give_back();
        }
        self.telemetry.tries.retries_denied.inc();
        false
    }

    /// Whether [`Self::may_try_again`] would hold at this moment.
    fn could_try_again(&self, key: &Key) -> bool {
        key.state.budget.has_one() && self.budget.has_one()
    }

    /// There was nobody left to try.
    fn unmade_try(&self, key: &Key) {
        key.state.budget.give_back();
        self.budget.give_back();
    }

    /// Why no connection stands: each key server knows no such edge, or else they are not all to be reached.
    fn none_stands(&self) -> Fault {
        let all_refuse = self.links.iter().all(|link| link.is_refused());
        if all_refuse { Fault::NotAuthorised } else { Fault::Unreachable }
    }

    /// The key server that a link leads to.
    fn server_of(&self, link: usize) -> Option<&Arc<Server>> {
        self.links.get(link).map(|link| &link.server)
    }

    /// Every link once, each time another one first.
    fn in_turn(&self) -> impl Iterator<Item = &Arc<Link>> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed).checked_rem(self.links.len()).unwrap_or(0);
        self.links.iter().cycle().skip(turn).take(self.links.len())
    }
}

/// The deadline of a try that leaves another one possible: it gets half of the time that is left, so that a key server that
/// does not answer leaves the other half to one that does.
fn half_way_to(deadline: Instant) -> Instant {
    let now = Instant::now();
    now + deadline.saturating_duration_since(now) / 2
}
