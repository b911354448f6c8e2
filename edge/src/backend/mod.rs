//! Where a virtual host's plain bytes go.
//!
//! A host has [`Backends`]: addresses, unix sockets, and names, each of which stands for all addresses it has. Of each
//! it has a [`Member`], in which an [`Endpoint`](endpoint::Endpoint) and its
//! [`Check`](check::Check) come together, that it may share with other hosts by way of the [`Pool`]. A connection tries
//! the members in the order that [`Balance`](balance::Balance) gives them.

pub mod address;
pub mod balance;
pub mod check;
pub mod config;
pub mod ejection;
pub mod endpoint;
pub mod member;
pub mod name;
pub mod pool;
pub mod target;
mod telemetry;

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::config::Limits;
use balance::Arrival;
use check::CheckSettings;
use config::BackendsConfig;
use member::Member;
use name::{Name, Resolved};
use target::Target;

pub use endpoint::Connected;
pub use pool::Pool;

/// The backends of a virtual host.
#[derive(Debug)]
pub struct Backends {
    host: String,
    config: BackendsConfig,
    pool: Arc<Pool>,
    sources: Vec<Source>,
    members: watch::Sender<Members>,
    /// Held while members are made anew.
    rebuilding: Mutex<()>,
    arrivals: AtomicUsize,
    /// The tasks that take over what becomes of names, once they are wanted.
    following: OnceLock<JoinSet<()>>,
}

/// The members there are at a moment.
#[derive(Clone, Debug, Default)]
struct Members {
    list: Arc<Vec<Arc<Member>>>,
    /// Whether each name has been looked up, with or without success.
    complete: bool,
}

/// Where members come from, and how they are checked.
#[derive(Debug)]
struct Source {
    origin: Origin,
    check: Option<CheckSettings>,
}

#[derive(Debug)]
enum Origin {
    Fixed(Target),
    Name(Arc<Name>),
}

impl Origin {
    fn targets(&self) -> (Vec<Target>, bool) {
        match self {
            Self::Fixed(target) => (vec![target.clone()], true),
            Self::Name(name) => {
                let Resolved { tried, addresses } = name.resolved();
                (addresses.iter().copied().map(Target::Tcp).collect(), tried)
            }
        }
    }
}

impl Backends {
    /// The backends of `host`, which are in force from here on. What `pool` knows of any of them is taken over. Checks
    /// begin at once, and need a runtime; names are looked up when the first client comes, or for the checks.
    pub fn new(host: String, config: BackendsConfig, pool: &Arc<Pool>) -> Arc<Self> {
        let source = |address| {
            let check = config.check_of(address);
            let origin = match address.target() {
                Ok(target) => Origin::Fixed(target),
                Err(server) => Origin::Name(pool.name(server, config.resolve_interval)),
            };
            Source { origin, check }
        };
        let backends = Arc::new(Self {
            sources: config.addresses.iter().map(source).collect(),
            host,
            config,
            pool: pool.clone(),
            members: watch::Sender::default(),
            rebuilding: Mutex::default(),
            arrivals: AtomicUsize::new(0),
            following: OnceLock::new(),
        });
        backends.rebuild();
        if backends.config.health_check.is_some() {
            backends.follow_names();
        }
        pool.put_in_force(&backends.host, &backends);
        backends
    }

    /// Connects for the client at this address: to the backend whose turn it is, or to the first behind it that can be
    /// reached and be sent `header`, before which no byte of the client's leaves. `None` when none can in time.
    pub async fn connect(self: &Arc<Self>, client: IpAddr, header: &[u8], limits: &Limits) -> Option<Connected> {
        let deadline = Instant::now() + limits.backend_timeout;
        let members = self.members_by(deadline).await;
        let arrival = Arrival { client, number: self.arrivals.fetch_add(1, Ordering::Relaxed) };
        for member in self.config.balance.order(&members, arrival) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                break;
            }
            if let Ok(connected) = member.connect(header, limits.connect_timeout.min(left)).await {
                return Some(connected);
            }
        }
        tracing::warn!(host = self.host, backends = members.len(), "no backend reached");
        None
    }

    /// Those there are. While there are none because names are being looked up for the first time, that is waited for.
    async fn members_by(self: &Arc<Self>, deadline: Instant) -> Arc<Vec<Arc<Member>>> {
        self.follow_names();
        let known = self.members();
        if !known.is_empty() {
            return known;
        }
        let mut members = self.members.subscribe();
        let known = members.wait_for(|members| !members.list.is_empty() || members.complete);
        // At the deadline there are none, nor are there when nobody is left to find any.
        timeout_at(deadline, known)
            .await
            .ok()
            .and_then(Result::ok)
            .map(|members| members.list.clone())
            .unwrap_or_default()
    }

    /// The members at this moment.
    fn members(&self) -> Arc<Vec<Arc<Member>>> {
        self.members.borrow().list.clone()
    }

    fn names(&self) -> impl Iterator<Item = &Arc<Name>> {
        self.sources.iter().filter_map(|source| match &source.origin {
            Origin::Fixed(_) => None,
            Origin::Name(name) => Some(name),
        })
    }

    /// Has names looked up from here on, and takes over what comes of it.
    fn follow_names(self: &Arc<Self>) {
        self.following.get_or_init(|| {
            let mut following = JoinSet::new();
            for name in self.names() {
                following.spawn(follow(Arc::downgrade(self), name.follow()));
            }
            following
        });
    }

    /// Makes the members anew from what names stand for. Those that were there before stay what they are.
    fn rebuild(&self) {
        let _alone = self.rebuilding.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.members();
        let (mut seen, mut list, mut complete) = (HashSet::new(), Vec::new(), true);
        for Source { origin, check } in &self.sources {
            let (targets, is_known) = origin.targets();
            complete &= is_known;
            for target in targets.into_iter().filter(|target| seen.insert(target.clone())) {
                let was_there = before.iter().find(|member| *member.endpoint().target() == target).cloned();
                list.push(was_there.unwrap_or_else(|| self.pool.member(&self.host, &target, check.as_ref())));
            }
        }
        self.members.send_replace(Members { list: Arc::new(list), complete });
    }
}

async fn follow(backends: Weak<Backends>, mut resolved: watch::Receiver<Resolved>) {
    loop {
        // Marked before it is read: what changes behind that is seen in the next turn.
        resolved.mark_unchanged();
        let Some(backends) = backends.upgrade() else { return };
        backends.rebuild();
        drop(backends);
        if resolved.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
