//! One connection to a key server: kept up, asked over one stream, and listened to for news.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use keystead_program::channel::{Connector, HostPort};
use keystead_proto::pad::Pad;
use keystead_proto::v1;
use keystead_proto::v1::exchange_reply::Outcome;
use keystead_proto::v1::exchange_request::Operation;
use keystead_proto::v1::key_server_client::KeyServerClient;
use keystead_proto::v1::watch_event::Event;
use keystead_tls::KeyServerFailure;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use tonic::{Status, Streaming};

use super::backoff::Backoff;
use super::pending::Pending;
use super::standing::Standing;
use crate::directory::{Directory, ServerIndex};

/// One connection to a key server.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) server: ServerIndex,
    address: HostPort,
    connector: Connector,
    max_in_flight: usize,
    /// The stream of requests, while there is one.
    stream: ArcSwapOption<RequestStream>,
    standing: Arc<Standing>,
}

#[derive(Debug)]
struct RequestStream {
    requests: mpsc::Sender<v1::ExchangeRequest>,
    pending: Pending,
    /// Cancelled when the key server says that it is about to stop.
    draining: CancellationToken,
}

impl RequestStream {
    async fn answered(&self) {
        while self.pending.len() > 0 {
            sleep(DRAIN_STEP).await;
        }
    }
}

/// What a link has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Load {
    /// Whether the key server is about to stop.
    pub(super) draining: bool,
    /// Requests without an answer.
    pub(super) in_flight: usize,
}

impl Link {
    pub(super) fn new(
        server: ServerIndex,
        address: HostPort,
        connector: Connector,
        max_in_flight: usize,
        standing: Arc<Standing>,
    ) -> Self {
        Self { server, address, connector, max_in_flight, stream: ArcSwapOption::empty(), standing }
    }

    /// What the link has to do; `None` while it is down.
    pub(super) fn load(&self) -> Option<Load> {
        let stream = self.stream.load();
        let stream = stream.as_ref()?;
        Some(Load { draining: stream.draining.is_cancelled(), in_flight: stream.pending.len() })
    }

    /// Asks, and waits for the answer until `deadline`.
    pub(super) async fn ask(&self, operation: Operation, deadline: Instant) -> Result<Outcome, KeyServerFailure> {
        let stream = self.stream.load_full().ok_or(KeyServerFailure::Unreachable)?;
        let (waiting, answer) = Waiting::begin(stream)?;
        waiting.send(operation, deadline)?;
        match timeout_at(deadline, answer).await {
            Ok(Ok(outcome)) => Ok(outcome),
            Ok(Err(_lost)) => Err(KeyServerFailure::Unreachable),
            Err(_elapsed) => Err(KeyServerFailure::NoAnswer),
        }
    }

    /// Keeps the connection up. Ends only by being dropped.
    pub(super) async fn keep_up(self: Arc<Self>, directory: Arc<Directory>) {
        let mut backoff = Backoff::default();
        let mut told = false;
        loop {
            let began = Instant::now();
            let cause = self.connect_and_serve(&directory).await;
            told &= !self.take_down();
            // Once for each time that it is gone.
            if told {
                tracing::debug!(key_server = %self.address, %cause, "no connection to the key server");
            } else {
                tracing::warn!(key_server = %self.address, %cause, "no connection to the key server; trying on");
            }
            told = true;
            backoff.after(began.elapsed());
            sleep(backoff.pause(rand::random())).await;
        }
    }

    /// No request goes out on the stream from here on, and none waits for an answer. Whether there was a stream.
    fn take_down(&self) -> bool {
        let Some(stream) = self.stream.swap(None) else { return false };
        stream.pending.close();
        self.standing.down();
        true
    }

    async fn connect_and_serve(&self, directory: &Arc<Directory>) -> LinkError {
        match self.connect().await {
            Ok((replies, events)) => self.serve(replies, events, directory).await,
            Err(cause) => cause,
        }
    }

    async fn connect(&self) -> Result<(Replies, Events), LinkError> {
        let channel = endpoint().connect_with_connector(self.connector.clone()).await?;
        let mut client = KeyServerClient::new(channel).max_decoding_message_size(LONGEST_EVENT);
        let (requests, outgoing) = mpsc::channel(self.max_in_flight);
        let replies = client.exchange(ReceiverStream::new(outgoing)).await?.into_inner();
        let events = client.watch(v1::WatchRequest {}).await?.into_inner();
        let pending = Pending::new(self.max_in_flight);
        self.stream.store(Some(Arc::new(RequestStream { requests, pending, draining: CancellationToken::new() })));
        self.standing.up();
        tracing::info!(key_server = %self.address, "connected to the key server");
        Ok((replies, events))
    }

    async fn serve(&self, replies: Replies, events: Events, directory: &Arc<Directory>) -> LinkError {
        let Some(stream) = self.stream.load_full() else {
            return LinkError::Ended;
        };
        tokio::select! {
            biased;
            ended = take_replies(replies, &stream.pending) => ended,
            ended = self.take_events(events, &stream, directory) => ended,
            ended = drain(&stream) => ended,
        }
    }

    async fn take_events(&self, mut events: Events, stream: &RequestStream, directory: &Arc<Directory>) -> LinkError {
        loop {
            let event = match events.message().await {
                Ok(Some(event)) => event.event,
                Ok(None) => return LinkError::Ended,
                Err(status) => return status.into(),
            };
            match event {
                Some(Event::Identities(identities)) => {
                    let (directory, server) = (directory.clone(), self.server);
                    // Thousands of certificates take longer to read than a reactor may be kept.
                    if spawn_blocking(move || directory.tell(server, identities)).await.is_err() {
                        return LinkError::Ended;
                    }
                }
                Some(Event::Drain(_)) => {
                    tracing::info!(key_server = %self.address, "the key server is about to stop");
                    stream.draining.cancel();
                }
                // An event of a later version of the protocol.
                None => {}
            }
        }
    }
}

type Replies = Streaming<v1::ExchangeReply>;
type Events = Streaming<v1::WatchEvent>;

/// Ten thousand chains and more.
const LONGEST_EVENT: usize = 64 << 20;
/// A key server that has stopped answering, but not closed its connections, is found out after the sum of both.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between two looks at whether a key server that is about to stop owes an answer.
const DRAIN_STEP: Duration = Duration::from_millis(20);

fn endpoint() -> Endpoint {
    // The connector knows where to dial; the URI is a formality.
    Endpoint::from_static("http://key-server")
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
}

/// Leaves a key server that is about to stop as soon as it owes nothing, so that it need not wait. It is asked no more
/// where there is another.
async fn drain(stream: &RequestStream) -> LinkError {
    stream.draining.cancelled().await;
    stream.answered().await;
    LinkError::Drained
}

async fn take_replies(mut replies: Replies, pending: &Pending) -> LinkError {
    loop {
        match replies.message().await {
            // A reply without an outcome is of a later version of the protocol; its request runs out of time.
            Ok(Some(reply)) => {
                if let Some(outcome) = reply.outcome {
                    pending.answer(reply.id, outcome);
                }
            }
            Ok(None) => return LinkError::Ended,
            Err(status) => return status.into(),
        }
    }
}

/// A request that waits for its answer; when dropped, its place is free again.
struct Waiting {
    stream: Arc<RequestStream>,
    id: u64,
}

impl Waiting {
    fn begin(stream: Arc<RequestStream>) -> Result<(Self, oneshot::Receiver<Outcome>), KeyServerFailure> {
        let (id, answer) = stream.pending.insert()?;
        Ok((Self { stream, id }, answer))
    }

    fn send(&self, operation: Operation, deadline: Instant) -> Result<(), KeyServerFailure> {
        let left = deadline.saturating_duration_since(Instant::now()).as_millis();
        // 0 would leave the limit to the key server.
        let timeout_ms = u32::try_from(left).unwrap_or(u32::MAX).max(1);
        let mut request =
            v1::ExchangeRequest { id: self.id, timeout_ms, operation: Some(operation), padding: Vec::new() };
        request.pad();
        self.stream.requests.try_send(request).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => KeyServerFailure::Overloaded,
            mpsc::error::TrySendError::Closed(_) => KeyServerFailure::Unreachable,
        })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.stream.pending.forget(self.id);
    }
}

/// Why a connection to a key server ended.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("{}", with_sources(.0))]
    Connect(#[from] tonic::transport::Error),
    #[error("{:?}: {}", .0.code(), .0.message())]
    Status(Box<Status>),
    #[error("the key server ended the stream")]
    Ended,
    #[error("the key server is about to stop")]
    Drained,
}

impl From<Status> for LinkError {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// tonic's own words are "transport error"; what happened stands in the sources, some of which repeat the one below.
fn with_sources(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |error| error.source());
    let mut words: Vec<_> = sources.map(ToString::to_string).collect();
    words.dedup();
    words.join(": ")
}
