//! A name that backends have: looked up beside the connections, never on their way once it is known.

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use keystead_program::channel::HostPort;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// How long one lookup may take.
const LOOKUP_LIMIT: Duration = Duration::from_secs(15);
/// Lookups at one time, each of which takes a thread.
const LOOKUPS: usize = 16;
/// From a lookup that failed to the next, at first. It doubles up to the interval.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// The addresses of a name, in their order.
pub type Addresses = Arc<BTreeSet<SocketAddr>>;

/// A name, its addresses, and the task that keeps them up to date.
#[derive(Debug)]
pub struct Name {
    server: HostPort,
    interval: Duration,
    resolver: Resolver,
    resolved: watch::Sender<Resolved>,
    failures: AtomicU64,
    task: OnceLock<JoinSet<()>>,
}

/// What is known of a name.
#[derive(Clone, Debug, Default)]
pub struct Resolved {
    /// Whether it has been looked up, with or without success.
    pub tried: bool,
    /// The addresses last found.
    pub addresses: Addresses,
}

impl Name {
    /// A name that is not looked up yet.
    pub fn new(server: HostPort, interval: Duration, resolver: Resolver) -> Self {
        let (resolved, failures, task) = (watch::Sender::default(), AtomicU64::default(), OnceLock::new());
        Self { server, interval, resolver, resolved, failures, task }
    }

    /// The name, and the port that belongs to it.
    pub fn server(&self) -> &HostPort {
        &self.server
    }

    /// What is known at this moment.
    pub fn resolved(&self) -> Resolved {
        self.resolved.borrow().clone()
    }

    /// Lookups that failed.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Begins to look it up, for as long as anybody holds it, and tells what comes of it.
    pub fn follow(self: &Arc<Self>) -> watch::Receiver<Resolved> {
        self.task.get_or_init(|| {
            let mut task = JoinSet::new();
            task.spawn(keep_resolved(Arc::downgrade(self)));
            task
        });
        self.resolved.subscribe()
    }

    /// Looks it up. Gives the pause before the next time.
    async fn look_up(&self, failed_in_a_row: &mut u32) -> Duration {
        let found = self.resolver.look_up(&self.server).await;
        let cause = match found {
            Ok(addresses) if !addresses.is_empty() => {
                *failed_in_a_row = 0;
                self.found(addresses);
                return self.interval;
            }
            Ok(_) => "it has no addresses".to_owned(),
            Err(cause) => cause.to_string(),
        };
        self.failures.fetch_add(1, Ordering::Relaxed);
        let kept = self.resolved.borrow().addresses.len();
        if *failed_in_a_row == 0 {
            tracing::warn!(backend = %self.server, cause, kept, "backend's name not resolved");
        }
        self.resolved.send_if_modified(|resolved| !std::mem::replace(&mut resolved.tried, true));
        let doubled = FIRST_RETRY.saturating_mul(2_u32.saturating_pow(*failed_in_a_row));
        *failed_in_a_row = failed_in_a_row.saturating_add(1);
        doubled.min(self.interval)
    }

    fn found(&self, addresses: BTreeSet<SocketAddr>) {
        self.resolved.send_if_modified(|resolved| {
            let is_new = *resolved.addresses != addresses;
            if is_new {
                tracing::info!(backend = %self.server, ?addresses, "backend's name resolved");
                resolved.addresses = Arc::new(addresses);
            }
            !std::mem::replace(&mut resolved.tried, true) || is_new
        });
    }
}

async fn keep_resolved(name: Weak<Name>) {
    let mut failed_in_a_row = 0;
    while let Some(name) = name.upgrade() {
        let pause = name.look_up(&mut failed_in_a_row).await;
        drop(name);
        sleep(pause).await;
    }
}

/// How names are looked up: by the system. Clones share the bound on lookups at one time.
#[derive(Clone)]
pub struct Resolver {
    look_up: Arc<dyn Fn(&HostPort) -> Lookup + Send + Sync>,
    permits: Arc<Semaphore>,
}

type Lookup = Pin<Box<dyn Future<Output = io::Result<BTreeSet<SocketAddr>>> + Send>>;

impl Resolver {
    /// That of the system, which knows its hosts file too.
    pub fn system() -> Self {
        Self::by(|server| {
            let server = server.clone();
            Box::pin(async move { Ok(tokio::net::lookup_host((server.host(), server.port())).await?.collect()) })
        })
    }

    fn by(look_up: impl Fn(&HostPort) -> Lookup + Send + Sync + 'static) -> Self {
        Self { look_up: Arc::new(look_up), permits: Arc::new(Semaphore::new(LOOKUPS)) }
    }

    async fn look_up(&self, server: &HostPort) -> io::Result<BTreeSet<SocketAddr>> {
        let _permit = self.permits.acquire().await;
        timeout(LOOKUP_LIMIT, (self.look_up)(server)).await.unwrap_or_else(|elapsed| Err(elapsed.into()))
    }
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use std::sync::Mutex;

    /// Answers that a test chooses; without one, the name is not known.
    #[derive(Clone, Debug, Default)]
    pub(crate) struct Answers(Arc<Mutex<Option<BTreeSet<SocketAddr>>>>);

    impl Answers {
        pub(crate) fn set(&self, addresses: impl IntoIterator<Item = SocketAddr>) {
            *self.0.lock().unwrap() = Some(addresses.into_iter().collect());
        }

        pub(crate) fn fail(&self) {
            *self.0.lock().unwrap() = None;
        }

        pub(crate) fn resolver(&self) -> Resolver {
            let answers = self.clone();
            Resolver::by(move |_| {
                let answer = answers.0.lock().unwrap().clone();
                Box::pin(async { answer.ok_or_else(|| io::ErrorKind::NotFound.into()) })
            })
        }
    }

    fn address(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    fn name(answers: &Answers) -> Arc<Name> {
        Arc::new(Name::new("app.test:80".parse().unwrap(), Duration::from_millis(10), answers.resolver()))
    }

    #[tokio::test]
    async fn a_name_is_looked_up_again_and_again() {
        let answers = Answers::default();
        answers.set([address(1)]);
        let name = name(&answers);
        assert!(!name.resolved().tried);
        let mut resolved = name.follow();
        resolved.wait_for(|it| it.addresses.contains(&address(1))).await.unwrap();
        answers.set([address(2), address(3)]);
        resolved.wait_for(|it| it.addresses.len() == 2).await.unwrap();
        answers.set([address(3)]);
        resolved.wait_for(|it| it.addresses.len() == 1).await.unwrap();
        assert_eq!(name.failures(), 0);
    }

    #[tokio::test]
    async fn the_last_good_addresses_outlive_failures() {
        let answers = Answers::default();
        let name = name(&answers);
        let mut resolved = name.follow();
        assert!(resolved.wait_for(|it| it.tried).await.unwrap().addresses.is_empty());
        answers.set([address(1)]);
        resolved.wait_for(|it| !it.addresses.is_empty()).await.unwrap();
        for gone in [Answers::fail as fn(&Answers), |answers| answers.set([])] {
            gone(&answers);
            let before = name.failures();
            while name.failures() < before + 2 {
                sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(name.resolved().addresses.len(), 1);
        }
    }

    #[tokio::test]
    async fn nobody_looks_up_a_name_that_nobody_holds() {
        let answers = Answers::default();
        let name = name(&answers);
        let mut resolved = name.follow();
        drop(name);
        while resolved.changed().await.is_ok() {}
    }

    #[tokio::test]
    async fn the_system_resolves_names() {
        let found = Resolver::system().look_up(&"localhost:7".parse().unwrap()).await.unwrap();
        assert!(found.iter().all(|address| address.ip().is_loopback() && address.port() == 7) && !found.is_empty());
        assert!(Resolver::system().look_up(&"none.invalid:7".parse().unwrap()).await.is_err());
    }
}
