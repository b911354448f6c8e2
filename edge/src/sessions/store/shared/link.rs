//! The connection that is used, and the task that replaces it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use redis::{Cmd, FromRedisValue, RedisError, RedisResult, ServerErrorKind};
use strum::IntoStaticStr;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::super::StoreTelemetry;
use super::breaker::{Breaker, Pauses, State};
use super::servers::{Connection, Servers};

/// For connecting and the answer to a first question.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that stood for this long was a good one.
const GOOD: Duration = Duration::from_secs(10);
/// Before a good connection that was lost is replaced.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

/// The connection, while there is one, and whether it may be used.
pub(super) struct Link {
    connection: ArcSwapOption<Connection>,
    pub(super) breaker: Breaker,
    /// The connection is lost, or fails too often.
    trouble: Notify,
    budget: Duration,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("breaker", &self.breaker).finish_non_exhaustive()
    }
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub(super) enum NoAnswer {
    /// The breaker is open.
    NotAsked,
    /// There is no connection, or the server refuses.
    Down,
    /// It took too long.
    Slow,
}

impl Link {
    /// Without a connection. `budget` is for one question.
    pub(super) fn new(most_failures: u32, budget: Duration, telemetry: &StoreTelemetry) -> Self {
        let breaker = Breaker::new(most_failures, telemetry.breaker.clone());
        Self { connection: ArcSwapOption::empty(), breaker, trouble: Notify::new(), budget }
    }

    /// Asks, in at most `within`.
    pub(super) async fn ask<T: FromRedisValue>(&self, command: Cmd, within: Duration) -> Result<T, NoAnswer> {
        if !self.breaker.is_closed() {
            return Err(NoAnswer::NotAsked);
        }
        let Some(connection) = self.connection.load_full() else {
            // No failure: whoever tends the link knows, and opens the breaker if there is no other connection.
            return Err(NoAnswer::Down);
        };
        match timeout(within, connection.ask(command)).await {
            Ok(Ok(answer)) => {
                self.breaker.succeeded();
                Ok(answer)
            }
            Ok(Err(cause)) => {
                tracing::debug!(%cause, "shared session store refused");
                self.failed(&connection);
                if wants_another_connection(&cause) {
                    self.lost(&connection);
                }
                Err(if cause.is_timeout() { NoAnswer::Slow } else { NoAnswer::Down })
            }
            Err(_) => {
                self.failed(&connection);
                Err(NoAnswer::Slow)
            }
        }
    }

    /// What a connection failed that was replaced meanwhile says nothing about the one that is used.
    fn failed(&self, connection: &Arc<Connection>) {
        if self.is_used(connection) && self.breaker.failed() && self.breaker.is(State::Open) {
            tracing::warn!(breaker = <&str>::from(State::Open), "shared session store failed too often");
            self.trouble.notify_one();
        }
    }

    fn is_used(&self, connection: &Arc<Connection>) -> bool {
        self.connection.load().as_ref().is_some_and(|used| Arc::ptr_eq(used, connection))
    }

    /// Another may have replaced the connection before.
    fn lost(&self, connection: &Arc<Connection>) {
        let before = self.connection.compare_and_swap(connection, None);
        if before.as_ref().is_some_and(|before| Arc::ptr_eq(before, connection)) {
            self.trouble.notify_one();
        }
    }

    /// Keeps a connection up, and opens and closes the breaker. Never returns.
    pub(super) async fn tend(&self, mut servers: Servers, probe: &Cmd) {
        let mut pauses = Pauses::default();
        loop {
            match self.probe(&mut servers, probe).await {
                Ok(connection) => {
                    let stood = self.stand(Arc::new(connection)).await;
                    if stood >= GOOD {
                        pauses.reset();
                        if self.breaker.is_closed() {
                            // Only the connection was lost.
                            sleep(RECONNECT_PAUSE).await;
                            continue;
                        }
                    }
                }
                Err(cause) => {
                    if self.breaker.is(State::Open) {
                        tracing::warn!(breaker = <&str>::from(State::Open), cause, "shared session store not reached");
                    }
                }
            }
            let pause = pauses.next(rand::random());
            tracing::debug!(?pause, "shared session store is left alone");
            sleep(pause).await;
            if !self.breaker.is_closed() {
                self.breaker.is(State::HalfOpen);
            }
        }
    }

    /// Has a connection used until it is lost or fails too often. Returns for how long that was.
    async fn stand(&self, connection: Arc<Connection>) -> Duration {
        let since = Instant::now();
        self.connection.store(Some(connection.clone()));
        if self.breaker.is(State::Closed) {
            tracing::info!(breaker = <&str>::from(State::Closed), "shared session store answers");
        }
        // A permit may be about a connection before this one.
        while self.breaker.is_closed() && self.is_used(&connection) {
            self.trouble.notified().await;
        }
        self.connection.store(None);
        since.elapsed()
    }

    /// A connection on which a question was answered within the time that those have who ask.
    async fn probe(&self, servers: &mut Servers, probe: &Cmd) -> Result<Connection, String> {
        let connect = async {
            let connection = servers.connect().await?;
            // The first question may wait for what only the first one waits for.
            connection.ask::<redis::Value>(probe.clone()).await?;
            let answered: RedisResult<redis::Value> = timeout(self.budget, connection.ask(probe.clone()))
                .await
                .unwrap_or_else(|_| Err((redis::ErrorKind::Io, "slower than allowed").into()));
            answered.map(|_| connection)
        };
        let probed = timeout(PROBE_TIMEOUT, connect).await.map_err(|_| "no answer in time".to_owned())?;
        probed.map_err(|cause| cause.to_string())
    }
}

/// Whether the server is gone, or is not the one to write to any more: sentinels may name another.
fn wants_another_connection(cause: &RedisError) -> bool {
    let is_demoted = matches!(
        cause.kind(),
        redis::ErrorKind::Server(
            ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown | ServerErrorKind::BusyLoading
        )
    );
    is_demoted || cause.is_unrecoverable_error() || cause.is_connection_dropped()
}
