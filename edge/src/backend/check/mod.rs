//! Checks of an endpoint that do not wait for clients.

mod probe;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use strum::{EnumCount, IntoEnumIterator};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::endpoint::Endpoint;

pub use probe::CheckFailure;

/// How an endpoint is checked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CheckSettings {
    /// From one check to the next, give or take a tenth.
    pub interval: Duration,
    /// For one check.
    pub timeout: Duration,
    /// Good results in a row that bring it up,
    pub rise: u32,
    /// and bad ones that take it down.
    pub fall: u32,
    /// What is sent.
    pub question: Vec<u8>,
    /// What must come of it.
    pub answer: Answer,
}

/// What a good check finds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// A connection.
    Connection,
    /// One of these statuses of HTTP; without any named, 200 to 299.
    Status(Option<Vec<u16>>),
}

/// The checks of one endpoint by one kind of question, shared by all hosts that want the same.
#[derive(Debug)]
pub struct Check {
    endpoint: Arc<Endpoint>,
    settings: CheckSettings,
    is_up: AtomicBool,
    failures: [AtomicU64; CheckFailure::COUNT],
    task: OnceLock<JoinSet<()>>,
}

impl Check {
    /// Begins to check, for as long as anybody holds it. It counts as up until the first result. Within a runtime.
    pub fn start(endpoint: Arc<Endpoint>, settings: CheckSettings) -> Arc<Self> {
        let (is_up, failures, task) = (AtomicBool::new(true), Default::default(), OnceLock::new());
        let check = Arc::new(Self { endpoint, settings, is_up, failures, task });
        check.task.get_or_init(|| {
            let mut task = JoinSet::new();
            task.spawn(keep_checked(Arc::downgrade(&check)));
            task
        });
        check
    }

    /// Whether the endpoint is up, as far as this is known.
    pub fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Relaxed)
    }

    /// Checks that failed, by cause.
    pub fn failures(&self) -> impl Iterator<Item = (CheckFailure, u64)> {
        CheckFailure::iter().zip(&self.failures).map(|(failure, count)| (failure, count.load(Ordering::Relaxed)))
    }

    async fn check(&self, judge: &mut Judge) {
        let result = probe::probe(self.endpoint.target(), &self.settings).await;
        let is_up = judge.hear(result.is_ok(), &self.settings);
        let was_up = self.is_up.swap(is_up, Ordering::Relaxed);
        let backend = self.endpoint.target();
        match result {
            Ok(()) if is_up => {
                self.endpoint.checked_well();
                if !was_up {
                    tracing::info!(%backend, "backend up by its check");
                }
            }
            Ok(()) => {}
            Err((failure, cause)) => {
                if let Some(count) = self.failures.get(failure as usize) {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                if was_up && !is_up {
                    let reason: &'static str = failure.into();
                    tracing::warn!(%backend, reason, cause, "backend down by its check");
                }
            }
        }
    }

    /// The interval, give or take a tenth, so that the checks of an edge and of a fleet spread.
    fn pause(&self) -> Duration {
        self.settings.interval.mul_f64(rand::random_range(0.9..=1.1))
    }
}

async fn keep_checked(check: Weak<Check>) {
    let mut judge = Judge::default();
    while let Some(check) = check.upgrade() {
        check.check(&mut judge).await;
        let pause = check.pause();
        drop(check);
        sleep(pause).await;
    }
}

/// From results to a verdict.
#[derive(Debug, Default)]
struct Judge {
    /// `None` before the first result, which decides at once.
    verdict: Option<bool>,
    /// Results in a row that contradict it.
    against: u32,
}

impl Judge {
    fn hear(&mut self, is_good: bool, settings: &CheckSettings) -> bool {
        let verdict = self.verdict.unwrap_or(is_good);
        self.against = if verdict == is_good { 0 } else { self.against + 1 };
        let enough = if verdict { settings.fall } else { settings.rise };
        let is_up = verdict ^ (self.against >= enough);
        if is_up != verdict {
            self.against = 0;
        }
        self.verdict = Some(is_up);
        is_up
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::backend::target::Target;
    use crate::backend::tests::refusing;
    use std::time::Instant;
    use tokio::net::TcpListener;

    fn settings(rise: u32, fall: u32) -> CheckSettings {
        CheckSettings {
            interval: Duration::from_millis(10),
            timeout: Duration::from_secs(20),
            rise,
            fall,
            question: Vec::new(),
            answer: Answer::Connection,
        }
    }

    #[test]
    fn results_in_a_row_change_the_verdict() {
        let verdicts = |results: &str, (rise, fall)| -> String {
            let mut judge = Judge::default();
            let hear = |result| if judge.hear(result == '+', &settings(rise, fall)) { '+' } else { '-' };
            results.chars().map(hear).collect()
        };
        assert_eq!(verdicts("+--+---++", (2, 3)), "++++++--+");
        assert_eq!(verdicts("-+-++-", (2, 3)), "----++");
        assert_eq!(verdicts("+-+-", (1, 1)), "+-+-");
        assert_eq!(verdicts("-++", (3, 1)), "---");
    }

    #[tokio::test]
    async fn a_check_follows_its_endpoint_down_and_up() {
        let (socket, address) = refusing();
        let endpoint = Arc::new(Endpoint::new(Target::Tcp(address)));
        let check = Check::start(endpoint.clone(), settings(2, 2));
        assert!(check.is_up());
        while check.is_up() {
            sleep(Duration::from_millis(1)).await;
        }
        let refused = check.failures().find(|(failure, _)| *failure == CheckFailure::Unreachable);
        assert!(refused.unwrap().1 >= 1);
        // What clients' connections say is overruled once the check says otherwise.
        for _ in 0..3 {
            endpoint.connect(b"", Duration::from_secs(20)).await.unwrap_err();
        }
        assert!(endpoint.is_ejected(Instant::now()));
        let _listener = socket.listen(16).unwrap();
        while !check.is_up() || endpoint.is_distrusted() {
            sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn nobody_checks_for_nobody() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Arc::new(Endpoint::new(Target::Tcp(listener.local_addr().unwrap())));
        let check = Check::start(endpoint.clone(), settings(1, 1));
        listener.accept().await.unwrap();
        drop(check);
        while Arc::strong_count(&endpoint) > 1 {
            sleep(Duration::from_millis(1)).await;
        }
    }
}
