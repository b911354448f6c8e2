//! One connection to a key server: kept up, asked over one stream, and listened to for news.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use keystead_program::channel::{Connector, HostPort};
use keystead_proto::v1;
use keystead_proto::v1::key_server_client::KeyServerClient;
use keystead_proto::v1::watch_event::Event;
use keystead_tls::KeyServerFailure;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tonic::{Code, Status, Streaming};

use super::backoff::Backoff;
use super::held::{HeldKeys, Holding, Need};
use super::renewal::Renewal;
use super::standing::Standing;
use super::stream::RequestStream;
use crate::directory::{Directory, LeaseNeeds, ServerIndex};
use crate::telemetry::LeaseTelemetry;

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
    lease_telemetry: LeaseTelemetry,
    /// `None` for a connection that goes on with the certificate that it showed.
    renewal: Option<Renewal>,
}

/// What a link has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Load {
    /// Whether the key server has what is needed.
    pub(super) holding: Holding,
    /// Whether the key server is about to stop.
    pub(super) draining: bool,
    /// Requests without an answer.
    pub(super) in_flight: usize,
    /// Leases at hand.
    pub(super) leases: usize,
}

impl Link {
    pub(super) fn new(
        server: ServerIndex,
        address: HostPort,
        connector: Connector,
        max_in_flight: usize,
        standing: Arc<Standing>,
        lease_telemetry: LeaseTelemetry,
    ) -> Self {
        let stream = ArcSwapOption::empty();
        Self { server, address, connector, max_in_flight, stream, standing, lease_telemetry, renewal: None }
    }

    /// The same link, which moves over to a renewed certificate.
    pub(super) fn renewed_by(self, renewal: Renewal) -> Self {
        Self { renewal: Some(renewal), ..self }
    }

    /// What the link has to do, for somebody with this need; `None` while it is down.
    pub(super) fn load(&self, need: Need) -> Option<Load> {
        let stream = self.stream.load();
        let stream = stream.as_ref()?;
        Some(Load {
            holding: stream.holding(need),
            draining: stream.is_draining(),
            in_flight: stream.in_flight(),
            leases: stream.leases(),
        })
    }

    /// Whether the connection stands.
    pub(super) fn is_up(&self) -> bool {
        self.stream.load().is_some()
    }

    /// The stream of requests.
    ///
    /// # Errors
    /// [`KeyServerFailure::Unreachable`] while the link is down.
    pub(super) fn stream(&self) -> Result<Arc<RequestStream>, KeyServerFailure> {
        self.stream.load_full().ok_or(KeyServerFailure::Unreachable)
    }

    /// Keeps the connection up. Ends only by being dropped.
    pub(super) async fn keep_up(self: Arc<Self>, directory: Arc<Directory>) {
        let mut backoff = Backoff::default();
        let (mut told, mut acquaintance) = (false, Acquaintance::default());
        loop {
            let began = Instant::now();
            let cause = self.connect_and_serve(&directory).await;
            let stood = self.take_down(&directory);
            told = (told && !stood) || matches!(cause, LinkError::Renewed);
            if acquaintance.is_ended(stood, &cause) {
                directory.ticket_keys().forget(&self.address);
            }
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
    fn take_down(&self, directory: &Directory) -> bool {
        let Some(stream) = self.stream.swap(None) else { return false };
        stream.close();
        self.standing.down();
        directory.link_down(self.server);
        true
    }

    async fn connect_and_serve(&self, directory: &Arc<Directory>) -> LinkError {
        match self.connect(directory).await {
            Ok((replies, events)) => self.serve(replies, events, directory).await,
            Err(cause) => cause,
        }
    }

    async fn connect(&self, directory: &Directory) -> Result<(Replies, Events), LinkError> {
        self.renewal.iter().for_each(Renewal::begin);
        let channel = endpoint().connect_with_connector(self.connector.clone()).await?;
        let mut client = KeyServerClient::new(channel).max_decoding_message_size(LONGEST_EVENT);
        let (requests, outgoing) = mpsc::channel(self.max_in_flight);
        let replies = client.exchange(ReceiverStream::new(outgoing)).await?.into_inner();
        let events = client.watch(v1::WatchRequest { takes_changes: true }).await?.into_inner();
        let stream = RequestStream::new(requests, self.max_in_flight, self.lease_telemetry.clone());
        self.stream.store(Some(Arc::new(stream)));
        self.standing.up();
        directory.link_up(self.server);
        self.renewal.iter().for_each(Renewal::done);
        tracing::info!(key_server = %self.address, "connected to the key server");
        Ok((replies, events))
    }

    async fn serve(&self, replies: Replies, events: Events, directory: &Arc<Directory>) -> LinkError {
        let Some(stream) = self.stream.load_full() else {
            return LinkError::Ended;
        };
        let needs = directory.lease_needs();
        tokio::select! {
            biased;
            ended = take_replies(replies, &stream) => ended,
            ended = self.follow_lease_needs(needs, &stream) => ended,
            ended = self.take_events(events, &stream, directory) => ended,
            ended = self.renewed(&stream, directory) => ended,
            ended = drain(&stream) => ended,
            ended = self.keep_leases(&stream) => ended,
        }
    }

    /// Leaves for a renewed certificate.
    async fn renewed(&self, stream: &RequestStream, directory: &Directory) -> LinkError {
        match &self.renewal {
            Some(renewal) => renewal.left(stream, self.server, directory).await,
            None => std::future::pending().await,
        }
        LinkError::Renewed
    }

    /// Asks for leases as they are wanted, for one batch at a time.
    async fn keep_leases(&self, stream: &Arc<RequestStream>) -> LinkError {
        let mut pause = SHORTEST_LEASE_PAUSE;
        loop {
            let Err(failure) = stream.lease_batch().await else {
                pause = SHORTEST_LEASE_PAUSE;
                continue;
            };
            // Once for each time that there are none.
            if pause == SHORTEST_LEASE_PAUSE {
                tracing::warn!(key_server = %self.address, reason = failure.reason(), "no leases; trying on");
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_LEASE_PAUSE);
        }
    }

    /// Keeps a reserve of leases from when another configuration brings RSA key transport, or none.
    async fn follow_lease_needs(&self, mut needs: watch::Receiver<LeaseNeeds>, stream: &RequestStream) -> LinkError {
        while needs.changed().await.is_ok() {
            stream.keep_leases(needs.borrow_and_update().of(self.server));
        }
        LinkError::Ended
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
                    let (into, server) = (directory.clone(), self.server);
                    // First, so that a key is known to be held here when the first handshake needs it.
                    stream.hold(HeldKeys::read(&identities));
                    // Thousands of certificates take longer to read than a reactor may be kept.
                    if spawn_blocking(move || into.tell(server, identities)).await.is_err() {
                        return LinkError::Ended;
                    }
                    // Also where the same was told on another connection before, which is no change.
                    stream.keep_leases(directory.lease_needs().borrow().of(server));
                }
                Some(Event::IdentityChanges(changes)) => {
                    let (into, server) = (directory.clone(), self.server);
                    stream.change_held(&changes);
                    if spawn_blocking(move || into.tell_changes(server, changes)).await.is_err() {
                        return LinkError::Ended;
                    }
                }
                Some(Event::Drain(_)) => {
                    tracing::info!(key_server = %self.address, "the key server is about to stop");
                    stream.drain();
                }
                Some(Event::TicketKeys(keys)) => directory.ticket_keys().tell(keys, Instant::now()),
                // An event of a later version of the protocol.
                None => {}
            }
        }
    }
}

/// Before a batch is asked for again that did not come. Doubles each time: handshakes wait for it.
const SHORTEST_LEASE_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_LEASE_PAUSE: Duration = Duration::from_millis(500);

type Replies = Streaming<v1::ExchangeReply>;
type Events = Streaming<v1::WatchEvent>;

/// Ten thousand chains and more.
const LONGEST_EVENT: usize = 64 << 20;
/// A key server that has stopped answering, but not closed its connections, is found out after the sum of both.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

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
    stream.drained().await;
    LinkError::Drained
}

async fn take_replies(mut replies: Replies, stream: &RequestStream) -> LinkError {
    loop {
        match replies.message().await {
            // A reply without an outcome is of a later version of the protocol; its request runs out of time.
            Ok(Some(reply)) => {
                if let Some(outcome) = reply.outcome {
                    stream.answer(reply.id, outcome);
                }
            }
            Ok(None) => return LinkError::Ended,
            Err(status) => return status.into(),
        }
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
    #[error("moving over to the renewed certificate of the channel")]
    Renewed,
}

impl LinkError {
    /// Whether the key server knows no such edge, as when it was revoked.
    fn is_stranger(&self) -> bool {
        matches!(self, Self::Status(status) if status.code() == Code::PermissionDenied)
    }
}

/// Whether a key server has known this edge since it last refused to.
#[derive(Debug, Default)]
struct Acquaintance {
    known: bool,
}

impl Acquaintance {
    /// An attempt at a connection has ended, which stood or not. Whether it ended an acquaintance. A key server that goes
    /// on refusing, or has from the start, ends none: the ticket keys there are came from others.
    fn is_ended(&mut self, stood: bool, cause: &LinkError) -> bool {
        self.known |= stood;
        cause.is_stranger() && std::mem::take(&mut self.known)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acquaintance_ends_at_the_first_refusal_after_a_connection() {
        let refused = LinkError::from(Status::permission_denied("who is this"));
        let mut acquaintance = Acquaintance::default();
        let attempts = [
            (false, &refused, false),
            (true, &refused, true),
            (false, &refused, false),
            (true, &LinkError::Ended, false),
            (false, &LinkError::Ended, false),
            (false, &refused, true),
            (false, &refused, false),
        ];
        for (number, (stood, cause, ends)) in attempts.into_iter().enumerate() {
            assert_eq!(acquaintance.is_ended(stood, cause), ends, "attempt {number}");
        }
    }
}
