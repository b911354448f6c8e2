//! One connection to a key server: kept up, asked over one stream, and listened to for news.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use keystead_program::channel::{ClientChannel, Connector, InvalidHostPort, Renewals};
use keystead_proto::v1;
use keystead_proto::v1::key_server_client::KeyServerClient;
use keystead_proto::v1::watch_event::Event;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

use super::answer::Fault;
use super::backoff::Backoff;
use super::choice::View;
use super::health;
use super::held::{HeldKeys, Need};
use super::key_state::KeyState;
use super::peer::Server;
use super::resolve::order;
use super::standing::Standing;
use super::stream::RequestStream;
use crate::directory::{Directory, LeaseNeeds};

/// One connection to a key server.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) number: usize,
    pub(super) server: Arc<Server>,
    /// Which of the addresses it begins at.
    turn: usize,
    channel: ClientChannel,
    server_name: String,
    max_in_flight: usize,
    /// The stream of requests, while there is one.
    stream: ArcSwapOption<RequestStream>,
    /// Whether the last connection ended with the key server's word that it knows no such edge.
    refused: AtomicBool,
    standing: Arc<Standing>,
}

/// What a link is made of.
#[derive(Debug)]
pub(super) struct LinkParts {
    /// Its place among all links.
    pub(super) number: usize,
    /// Which of the addresses it begins at, counted around them.
    pub(super) turn: usize,
    pub(super) server: Arc<Server>,
    pub(super) channel: ClientChannel,
    /// The name that the key server's certificate must carry.
    pub(super) server_name: String,
    pub(super) max_in_flight: usize,
    pub(super) standing: Arc<Standing>,
}

impl Link {
    /// A link that is down.
    ///
    /// # Errors
    /// [`InvalidHostPort`] when the key servers' name is none.
    pub(super) fn new(parts: LinkParts) -> Result<Self, InvalidHostPort> {
        let LinkParts { number, turn, server, channel, server_name, max_in_flight, standing } = parts;
        // Checked here, and used once an address is known.
        Connector::new(channel.clone(), server.name.clone(), Some(server_name.clone()))?;
        let (stream, refused) = (ArcSwapOption::empty(), AtomicBool::new(false));
        Ok(Self { number, server, turn, channel, server_name, max_in_flight, stream, refused, standing })
    }

    /// How the link is, for somebody with this need; `None` while it is down.
    pub(super) fn view(&self, need: Need, key: &KeyState, now: Instant) -> Option<View> {
        self.stream.load().as_ref().map(|stream| View::of(stream, need, key, now))
    }

    /// Whether the connection stands.
    pub(super) fn is_up(&self) -> bool {
        self.stream.load().is_some()
    }

    /// Whether it is down because the key server knows no such edge.
    pub(super) fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// The stream of requests.
    ///
    /// # Errors
    /// [`Fault::Unreachable`] while the link is down.
    pub(super) fn stream(&self) -> Result<Arc<RequestStream>, Fault> {
        self.stream.load_full().ok_or(Fault::Unreachable)
    }

    /// Keeps the connection up. Ends only by being dropped.
    pub(super) async fn keep_up(self: Arc<Self>, directory: Arc<Directory>) {
        let mut backoff = Backoff::default();
        let (mut told, mut acquaintance) = (false, Acquaintance::default());
        // Connections to addresses that the name has left, until they are owed nothing.
        let mut leaving = JoinSet::new();
        loop {
            let began = Instant::now();
            let (stood, cause) = match self.connect(&directory).await {
                Ok(connection) => (true, self.stand(connection, &directory, &mut leaving).await),
                Err(cause) => (false, cause),
            };
            told &= !stood;
            self.refused.store(cause.is_stranger(), Ordering::Relaxed);
            if cause.is_stranger() {
                let (into, server) = (directory.clone(), self.server.index);
                // Which may make the whole table anew. A panic there is told of by itself.
                let _ = spawn_blocking(move || into.refuse(server)).await;
            }
            if acquaintance.is_ended(stood, &cause) {
                directory.ticket_keys().forget(&self.server.name);
            }
            // Once for each time that it is gone.
            if told {
                tracing::debug!(key_server = %self.server.name, %cause, "no connection to the key server");
            } else {
                tracing::warn!(key_server = %self.server.name, %cause, "no connection to the key server; trying on");
            }
            told = true;
            self.server.resolve.notify_one();
            backoff.after(began.elapsed());
            self.standing.pause(backoff.pause(rand::random())).await;
        }
    }

    /// Serves a connection until it ends, or that which takes its place when the name leads elsewhere.
    async fn stand(
        self: &Arc<Self>,
        mut connection: Connection,
        directory: &Arc<Directory>,
        leaving: &mut JoinSet<LinkError>,
    ) -> LinkError {
        loop {
            let (stream, renewals) = (connection.upright.stream.clone(), connection.renewals.clone());
            let mut serving = Box::pin(connection.serve(directory.clone()));
            let next = tokio::select! {
                ended = &mut serving => return ended,
                next = self.successor(stream.peer.address, renewals, directory) => next,
            };
            // It is asked no more, since another stream has its place.
            stream.drain();
            leaving.spawn(serving);
            while leaving.try_join_next().is_some() {}
            connection = next;
        }
    }

    /// A connection that shows the channel's renewed certificate, or one to where the name leads now, once it stands: when
    /// `address` is none of the name's any longer, or when all stand there and nobody where this one would.
    async fn successor(
        self: &Arc<Self>,
        address: SocketAddr,
        mut renewals: Renewals,
        directory: &Arc<Directory>,
    ) -> Connection {
        let mut addresses = self.server.addresses.subscribe();
        let mut is_renewed = false;
        loop {
            let now = addresses.borrow_and_update().clone();
            let candidates = match is_renewed && now.contains(&address) {
                true => vec![address],
                false => self.better_addresses(address, &now),
            };
            for candidate in candidates {
                match self.connect_to(candidate, directory).await {
                    Ok(connection) => return connection,
                    Err(cause) => tracing::debug!(address = %candidate, %cause, "the connection stays where it is"),
                }
            }
            tokio::select! {
                changed = addresses.changed() => if changed.is_err() {
                    return std::future::pending().await;
                },
                () = renewals.next() => is_renewed = true,
                // A key server that does not take the certificate may yet come to.
                () = sleep(RENEWAL_PAUSE), if is_renewed => {}
            }
        }
    }

    /// Where a connection that stands at `address` should stand, the name leading to `addresses`.
    fn better_addresses(&self, address: SocketAddr, addresses: &[SocketAddr]) -> Vec<SocketAddr> {
        let mut ordered = order(addresses, self.turn);
        if !addresses.contains(&address) {
            tracing::info!(key_server = %self.server.name, %address, "the name leads elsewhere");
            return ordered.collect();
        }
        let preferred = ordered.next().filter(|preferred| self.server.is_crowded(address, *preferred));
        preferred.into_iter().collect()
    }

    /// Connects to the first of the addresses that lets it.
    async fn connect(self: &Arc<Self>, directory: &Arc<Directory>) -> Result<Connection, LinkError> {
        let mut addresses = self.server.addresses.subscribe();
        let addresses = match addresses.wait_for(|addresses| !addresses.is_empty()).await {
            Ok(addresses) => addresses.clone(),
            Err(_closed) => return Err(LinkError::Ended),
        };
        let mut failure = LinkError::Ended;
        for address in order(&addresses, self.turn) {
            match self.connect_to(address, directory).await {
                Ok(connection) => return Ok(connection),
                // It is the key server's word, which others of the name would repeat.
                Err(cause) if cause.is_stranger() => return Err(cause),
                Err(cause) => failure = cause,
            }
        }
        Err(failure)
    }

    async fn connect_to(
        self: &Arc<Self>,
        address: SocketAddr,
        directory: &Arc<Directory>,
    ) -> Result<Connection, LinkError> {
        // Before the handshake, so that no change is missed.
        let renewals = self.channel.renewals();
        let connector = Connector::new(self.channel.clone(), address.into(), Some(self.server_name.clone()));
        let channel = endpoint().connect_with_connector(connector?).await?;
        let mut client = KeyServerClient::new(channel.clone()).max_decoding_message_size(LONGEST_EVENT);
        let (requests, outgoing) = mpsc::channel(self.max_in_flight);
        let replies = client.exchange(ReceiverStream::new(outgoing)).await?.into_inner();
        let events = client.watch(v1::WatchRequest { takes_changes: true }).await?.into_inner();
        let leases = self.server.telemetry.leases.clone();
        let at = (self.server.peer(address), self.number);
        let stream = Arc::new(RequestStream::new(at, requests, self.max_in_flight, leases));
        let upright = Upright::new(self.clone(), stream, directory.clone());
        tracing::info!(key_server = %self.server.name, %address, "connected to the key server");
        Ok(Connection { upright, channel, replies, events, renewals })
    }
}

/// A connection that stands. Dropped, no request goes out on its stream, and none waits for an answer.
#[derive(Debug)]
struct Upright {
    link: Arc<Link>,
    stream: Arc<RequestStream>,
    directory: Arc<Directory>,
}

impl Upright {
    fn new(link: Arc<Link>, stream: Arc<RequestStream>, directory: Arc<Directory>) -> Self {
        stream.peer.link_up(Instant::now());
        link.stream.store(Some(stream.clone()));
        link.refused.store(false, Ordering::Relaxed);
        link.standing.up();
        directory.link_up(link.server.index);
        Self { link, stream, directory }
    }
}

impl Drop for Upright {
    fn drop(&mut self) {
        let is_this = |current: &Option<Arc<RequestStream>>| {
            current.as_ref().is_some_and(|current| Arc::ptr_eq(current, &self.stream))
        };
        // Another may have its place already.
        self.link.stream.rcu(|current| if is_this(current) { None } else { current.clone() });
        self.stream.close();
        self.stream.peer.link_down();
        self.link.standing.down();
        self.directory.link_down(self.link.server.index);
    }
}

/// A connection that stands, with what comes on it.
#[derive(Debug)]
struct Connection {
    upright: Upright,
    channel: Channel,
    replies: Replies,
    events: Events,
    /// Changes of what this side showed when it was made.
    renewals: Renewals,
}

impl Connection {
    /// Until it ends.
    async fn serve(self, directory: Arc<Directory>) -> LinkError {
        let Self { upright, channel, replies, events, renewals: _ } = self;
        let (link, stream) = (&upright.link, &upright.stream);
        let needs = directory.lease_needs();
        tokio::select! {
            biased;
            ended = take_replies(replies, stream) => ended,
            ended = link.follow_lease_needs(needs, stream) => ended,
            ended = link.take_events(events, stream, &directory) => ended,
            ended = drain(stream) => ended,
            ended = link.keep_leases(stream) => ended,
            never = health::follow(channel, stream) => match never {},
        }
    }
}

impl Link {
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
                tracing::warn!(key_server = %self.server.name, reason = failure.reason(), "no leases; trying on");
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_LEASE_PAUSE);
        }
    }

    /// Keeps a reserve of leases from when another configuration brings RSA key transport, or none.
    async fn follow_lease_needs(&self, mut needs: watch::Receiver<LeaseNeeds>, stream: &RequestStream) -> LinkError {
        while needs.changed().await.is_ok() {
            stream.keep_leases(needs.borrow_and_update().of(self.server.index));
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
                    let (into, server) = (directory.clone(), self.server.index);
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
                    let (into, server) = (directory.clone(), self.server.index);
                    stream.change_held(&changes);
                    if spawn_blocking(move || into.tell_changes(server, changes)).await.is_err() {
                        return LinkError::Ended;
                    }
                    stream.keep_leases(directory.lease_needs().borrow().of(server));
                }
                Some(Event::Drain(_)) => {
                    tracing::info!(key_server = %self.server.name, "the key server is about to stop");
                    stream.drain();
                }
                Some(Event::TicketKeys(keys)) => directory.ticket_keys().tell(keys, Instant::now()),
                // An event of a later version of the protocol.
                None => {}
            }
        }
    }
}

/// Before the renewed certificate is shown again to a key server that did not take it.
const RENEWAL_PAUSE: Duration = Duration::from_secs(5);

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
/// The time of both together.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(10);

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
    #[error(transparent)]
    Name(#[from] InvalidHostPort),
    #[error("{:?}: {}", .0.code(), .0.message())]
    Status(Box<Status>),
    #[error("the key server ended the stream")]
    Ended,
    #[error("the key server is about to stop")]
    Drained,
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
