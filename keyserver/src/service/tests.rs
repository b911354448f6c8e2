//! A key server on loopback and edges that talk to it over the channel.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod isolation;
mod key_transport;
mod policy;
mod record;
mod tickets;

use std::task::{Context, Poll, Waker};

use keystead_program::channel::{ClientChannel, Connector};
use keystead_proto::pad::SIZE_CLASS;
use keystead_proto::v1::exchange_reply::Outcome as Reply;
use keystead_proto::v1::key_server_client::KeyServerClient;
use keystead_proto::v1::watch_event::Event;
use keystead_tls::crypto::FAST;
use keystead_tls::{KeyId, NamedGroup, SignatureScheme};
use prost::Message;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::answers::Answers;
use super::*;
use crate::fixture::{EDGE_ONE, EDGE_TWO, Files, Kind, rsa};
use crate::key::Key;
use crate::operation::Call;
use crate::policy::Grant;
use crate::schedule::{CostClass, LaneConfig};
use crate::server::Server;
use crate::settings::Settings;
use crate::ticket_keys::group::{GroupName, TicketGroup};

const CONFIG: &str = r#"
[limits]
in_flight_per_stream = 8
drain_timeout = "300ms"
[[key]]
name = "ec"
private_key = "ec.key"
certificate_chain = "ec.pem"
[[key]]
name = "rsa"
private_key = "rsa.key"
certificate_chain = "rsa.pem"
[[edge]]
id = "spiffe://keystead.test/edge/one"
keys = ["ec", "rsa"]
[[edge]]
id = "spiffe://keystead.test/edge/two"
keys = ["rsa"]
"#;

/// A running key server with the keys `ec` and `rsa`: edge one may use both, edge two the second.
struct Running {
    files: Files,
    address: std::net::SocketAddr,
    keys: Vec<Arc<Key>>,
    metrics: Arc<Metrics>,
    authorizations: changing::Sender<Arc<Authorizations>>,
    stop: CancellationToken,
    serving: JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Running {
    async fn start() -> Self {
        Self::configured(CONFIG).await
    }

    async fn configured(config: &str) -> Self {
        Self::with(config, |_| ()).await
    }

    /// Started with the files that `prepare` adds.
    async fn with(config: &str, prepare: impl FnOnce(&Files)) -> Self {
        let files = Files::new();
        prepare(&files);
        files.add_key("ec", Kind::P256);
        files.write_key("rsa", rsa(), &rsa().serialize_pem());
        Self::of(files, config).await
    }

    /// Another process with the same files.
    async fn restart(self, config: &str) -> Self {
        self.stop.cancel();
        self.serving.await.unwrap().unwrap();
        Self::of(self.files, config).await
    }

    async fn of(files: Files, config: &str) -> Self {
        let settings: Settings = files.settings(config).unwrap();
        Self::bound(files, settings).await
    }

    async fn bound(files: Files, settings: Settings) -> Self {
        let keys = settings.keys.clone();
        let server = Server::bind(settings).await.unwrap();
        let (address, metrics) = (server.address(), server.metrics().clone());
        let (authorizations, stop) = (server.authorizations().clone(), CancellationToken::new());
        let serving = tokio::spawn(server.serve(stop.clone()));
        Self { files, address, keys, metrics, authorizations, stop, serving }
    }

    fn channel(&self, edge: &str) -> Channel {
        let material = ClientChannel::new(&self.files.edge(edge));
        let connector = Connector::new(material, self.address.into(), Some("localhost".to_owned())).unwrap();
        Endpoint::from_static("http://key-server").connect_with_connector_lazy(connector)
    }

    fn client(&self, edge: &str) -> KeyServerClient<Channel> {
        KeyServerClient::new(self.channel(edge))
    }

    async fn exchange(&self, edge: &str) -> Stream {
        let (requests, sent) = mpsc::channel(64);
        let replies = self.client(edge).exchange(ReceiverStream::new(sent)).await.unwrap().into_inner();
        Stream { requests, replies }
    }

    fn rights(&self, keys: &[usize], ticket_group: TicketGroup) -> Rights {
        Rights::new(keys.iter().map(|key| Grant::whole(self.keys[*key].clone())), ticket_group)
    }

    fn ec(&self) -> v1::SignServerKeyExchangeRequest {
        self.request(0, SignatureScheme::ECDSA_SECP256R1_SHA256)
    }

    fn rsa(&self) -> v1::SignServerKeyExchangeRequest {
        self.request(1, SignatureScheme::RSA_PSS_RSAE_SHA256)
    }

    fn request(&self, key: usize, scheme: SignatureScheme) -> v1::SignServerKeyExchangeRequest {
        let pair = FAST.key_pair(NamedGroup::SECP256R1, &mut rand::rng()).unwrap();
        v1::SignServerKeyExchangeRequest {
            key_id: self.keys[key].key_id().0.to_vec(),
            client_random: vec![5; 32],
            scheme: scheme.0.into(),
            group: NamedGroup::SECP256R1.0.into(),
            public: pair.public().to_vec(),
            server_name: "localhost".to_owned(),
        }
    }

    /// That `reply` answers `request`.
    fn check(&self, request: &v1::SignServerKeyExchangeRequest, reply: &v1::SignServerKeyExchangeReply) {
        let key_id = KeyId(request.key_id.as_slice().try_into().unwrap());
        let key = self.keys.iter().find(|key| key.key_id() == key_id).unwrap();
        let content = [&request.client_random[..], &reply.server_random, &[3, 0, 23, 65], &request.public].concat();
        let scheme = SignatureScheme(request.scheme.try_into().unwrap());
        FAST.verify(scheme, key.identity().public_key(), &content, &reply.signature).unwrap();
    }

    /// Everything that was wrong leaves a key server that answers.
    async fn still_answers(&self) {
        let request = self.ec();
        let reply = self.client(EDGE_ONE).sign_server_key_exchange(request.clone()).await.unwrap().into_inner();
        self.check(&request, &reply);
    }
}

struct Stream {
    requests: mpsc::Sender<v1::ExchangeRequest>,
    replies: Streaming<v1::ExchangeReply>,
}

impl Stream {
    async fn send(&self, id: u64, request: v1::SignServerKeyExchangeRequest) {
        self.ask(id, Asked::SignServerKeyExchange(request)).await;
    }

    async fn ask(&self, id: u64, asked: Asked) {
        let request = v1::ExchangeRequest { id, operation: Some(asked), ..v1::ExchangeRequest::default() };
        self.requests.send(request).await.unwrap();
    }

    async fn receive(&mut self) -> (u64, Reply) {
        let reply = self.replies.message().await.unwrap().unwrap();
        assert_eq!(reply.encoded_len() % SIZE_CLASS, 0);
        (reply.id, reply.outcome.unwrap())
    }

    /// The code of the refusal that answers `request`.
    async fn refusal(&mut self, request: v1::SignServerKeyExchangeRequest) -> Code {
        self.send(1, request).await;
        match self.receive().await {
            (1, Reply::Refusal(refusal)) => Code::from_i32(refusal.code.try_into().unwrap()),
            other => panic!("no refusal: {other:?}"),
        }
    }
}

#[tokio::test]
async fn every_request_of_a_stream_is_answered_once() {
    let running = Running::start().await;
    let mut stream = running.exchange(EDGE_ONE).await;
    let mut asked = std::collections::HashMap::new();
    for id in 0..50 {
        let request = if id % 5 == 0 { running.rsa() } else { running.ec() };
        asked.insert(id, request.clone());
        stream.send(id, request).await;
    }
    while !asked.is_empty() {
        let (id, reply) = stream.receive().await;
        let Reply::SignServerKeyExchange(reply) = reply else { panic!("{id}: {reply:?}") };
        running.check(&asked.remove(&id).unwrap(), &reply);
    }
    drop(stream.requests);
    assert!(stream.replies.message().await.unwrap().is_none());
    assert_eq!(running.metrics.operations(Some(Call::SignServerKeyExchange), Some(&running.keys[0]), Ok(())), 40);
    assert_eq!(running.metrics.operations(Some(Call::SignServerKeyExchange), Some(&running.keys[1]), Ok(())), 10);
}

#[tokio::test]
async fn a_unary_call_gets_the_same_answer() {
    let running = Running::start().await;
    for request in [running.ec(), running.rsa()] {
        let reply = running.client(EDGE_ONE).sign_server_key_exchange(request.clone()).await.unwrap().into_inner();
        running.check(&request, &reply);
    }
}

#[tokio::test]
async fn a_peer_that_is_not_known_gets_nothing() {
    let running = Running::start().await;
    let mut stranger = running.client("spiffe://keystead.test/edge/three");
    let (_requests, sent) = mpsc::channel(1);
    assert_eq!(stranger.exchange(ReceiverStream::new(sent)).await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(stranger.watch(v1::WatchRequest::default()).await.unwrap_err().code(), Code::PermissionDenied);
    let unary = stranger.sign_server_key_exchange(running.ec()).await;
    assert_eq!(unary.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn an_edge_has_no_more_streams_of_a_kind_than_it_may_have_connections() {
    let running = Running::configured(&CONFIG.replace("[limits]", "[limits]\nconnections_per_edge = 2")).await;
    let mut client = running.client(EDGE_ONE);
    let (mut exchanges, mut watches) = (Vec::new(), Vec::new());
    for expected in [None, None, Some(Code::ResourceExhausted)] {
        let (requests, sent) = mpsc::channel(1);
        let exchange = client.exchange(ReceiverStream::new(sent)).await;
        assert_eq!(exchange.as_ref().err().map(Status::code), expected);
        exchanges.push((requests, exchange));
        let watch = client.watch(v1::WatchRequest::default()).await;
        assert_eq!(watch.as_ref().err().map(Status::code), expected);
        watches.push(watch);
    }
    assert_eq!(running.metrics.operations(None, None, Err(Refusal::TooMuchUnread)), 2);
    // The other edge has its own, and places are given back.
    running.exchange(EDGE_TWO).await;
    drop((exchanges, watches));
    for attempt in 0.. {
        let (_requests, sent) = mpsc::channel(1);
        let exchange = client.exchange(ReceiverStream::new(sent)).await;
        if exchange.is_ok() && client.watch(v1::WatchRequest::default()).await.is_ok() {
            break;
        }
        assert!(attempt < 2000, "places of streams that have ended are not given back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_foreign_key_and_no_key_are_refused_alike() {
    let running = Running::start().await;
    let mut client = running.client(EDGE_TWO);
    let foreign = client.sign_server_key_exchange(running.ec()).await.unwrap_err();
    let nobodys = v1::SignServerKeyExchangeRequest { key_id: vec![0; 32], ..running.ec() };
    let nothing = client.sign_server_key_exchange(nobodys).await.unwrap_err();
    assert_eq!((foreign.code(), foreign.message()), (Code::PermissionDenied, "this edge has no such key"));
    assert_eq!((foreign.code(), foreign.message()), (nothing.code(), nothing.message()));
    assert_eq!(running.metrics.operations(Some(Call::SignServerKeyExchange), None, Err(Refusal::KeyNotAllowed)), 2);
}

#[tokio::test]
async fn what_is_wrong_is_refused_and_the_stream_goes_on() {
    let running = Running::start().await;
    let mut stream = running.exchange(EDGE_ONE).await;
    type Spoil = fn(&mut v1::SignServerKeyExchangeRequest);
    let wrong: [(Spoil, Code); 9] = [
        (|request| request.key_id.truncate(31), Code::InvalidArgument),
        (|request| request.client_random.push(0), Code::InvalidArgument),
        (|request| request.scheme = 1 << 16, Code::InvalidArgument),
        (|request| request.scheme = 0x0201, Code::InvalidArgument),
        (|request| request.group = 256, Code::InvalidArgument),
        (|request| request.public[64] ^= 1, Code::InvalidArgument),
        (|request| request.public.truncate(64), Code::InvalidArgument),
        (|request| request.public = vec![4; 60_000], Code::InvalidArgument),
        (|request| request.key_id = vec![1; 32], Code::PermissionDenied),
    ];
    for (number, (spoil, code)) in wrong.into_iter().enumerate() {
        let mut request = running.ec();
        spoil(&mut request);
        assert_eq!(stream.refusal(request.clone()).await, code, "{number}");
        // The unary twin ends with the same code.
        let unary = running.client(EDGE_ONE).sign_server_key_exchange(request).await;
        assert_eq!(unary.unwrap_err().code(), code, "{number}");
    }
    stream.requests.send(v1::ExchangeRequest { id: 9, ..v1::ExchangeRequest::default() }).await.unwrap();
    let (id, nothing_asked) = stream.receive().await;
    assert!(id == 9 && matches!(nothing_asked, Reply::Refusal(_)));
    stream.send(2, running.ec()).await;
    assert!(matches!(stream.receive().await, (2, Reply::SignServerKeyExchange(_))));
}

#[tokio::test]
async fn an_oversized_request_ends_its_stream_and_no_other() {
    let running = Running::start().await;
    let mut stream = running.exchange(EDGE_ONE).await;
    stream
        .send(1, v1::SignServerKeyExchangeRequest { public: vec![4; keystead_proto::MAX_REQUEST], ..running.ec() })
        .await;
    assert_eq!(stream.replies.message().await.unwrap_err().code(), Code::OutOfRange);
    running.still_answers().await;
}

#[tokio::test]
async fn an_edge_that_does_not_read_is_not_read() {
    let running = Running::start().await;
    let stream = running.exchange(EDGE_ONE).await;
    // Far more than the windows of both directions hold; the edge reads no answer.
    let mut sent = 0;
    while sent < 20_000 {
        let operation = Some(v1::exchange_request::Operation::SignServerKeyExchange(running.ec()));
        let request = v1::ExchangeRequest { id: sent, operation, padding: vec![0; 300], timeout_ms: 0 };
        let patience = Duration::from_millis(500);
        match tokio::time::timeout(patience, stream.requests.send(request)).await {
            Ok(taken) => taken.unwrap(),
            Err(_) => break,
        }
        sent += 1;
    }
    assert!(sent < 20_000, "the key server goes on reading");
    running.still_answers().await;
}

#[tokio::test]
async fn a_request_whose_time_is_over_is_refused() {
    let running = Running::start().await;
    let metrics = Arc::new(Metrics::default());
    let (call, outcome) = oneshot::channel();
    let mut answer = Answer::unary(metrics.clone(), call);
    answer.to(Call::SignServerKeyExchange);
    answer.about(running.keys[0].clone());
    let work = Work::read(Asked::SignServerKeyExchange(running.ec())).unwrap();
    let leases = Arc::new(Leases::new(LeaseLimits { per_call: 1, outstanding: 1 }, &mut rand::rng()));
    let (lane, deadline) = (Lane::of(CostClass::Light), Instant::now());
    let scheduler = Scheduler::start(&[LaneConfig::of(CostClass::Light, 1, 1)], &metrics);
    let peer = Peer::new(EDGE_ONE.parse().unwrap(), running.authorizations.subscribe(), Audit::off());
    scheduler.unwrap().submit(Operation { work, peer, lane, leases, provider: FAST, deadline, answer });
    assert_eq!(outcome.await.unwrap().err(), Some(Refusal::DeadlineExceeded));
    assert_eq!(
        metrics.operations(Some(Call::SignServerKeyExchange), Some(&running.keys[0]), Err(Refusal::DeadlineExceeded)),
        1
    );
}

#[test]
fn an_answer_that_is_dropped_has_answered() {
    let answers = Arc::<Answers>::default();
    drop(Answer::exchange(Arc::new(Metrics::default()), 7, answers.clone()));
    let answer = answers.poll_take(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(answer, Poll::Ready((7, Err(Refusal::SigningFailed)))));
}

/// The names of the identities that come first, and the ticket keys that come with them.
async fn told(events: &mut Streaming<v1::WatchEvent>) -> (Vec<String>, Vec<v1::TicketKey>) {
    let Event::Identities(identities) = events.message().await.unwrap().unwrap().event.unwrap() else {
        panic!("the identities come first");
    };
    let names = identities.identities.into_iter().map(|identity| identity.name).collect();
    (names, ticket_keys(events).await)
}

async fn ticket_keys(events: &mut Streaming<v1::WatchEvent>) -> Vec<v1::TicketKey> {
    let Event::TicketKeys(keys) = events.message().await.unwrap().unwrap().event.unwrap() else {
        panic!("ticket keys come next");
    };
    keys.keys
}

async fn names(events: &mut Streaming<v1::WatchEvent>) -> Vec<String> {
    told(events).await.0
}

#[tokio::test]
async fn watch_tells_what_an_edge_may_serve_and_every_change() {
    let running = Running::start().await;
    let mut events = running.client(EDGE_TWO).watch(v1::WatchRequest::default()).await.unwrap().into_inner();
    let Event::Identities(identities) = events.message().await.unwrap().unwrap().event.unwrap() else {
        panic!("the identities come first");
    };
    let [rsa] = &identities.identities[..] else { panic!("one key: {identities:?}") };
    let identity = running.keys[1].identity();
    assert_eq!((rsa.name.as_str(), rsa.key_id.as_slice()), ("rsa", &running.keys[1].key_id().0[..]));
    assert_eq!(rsa.certificate_chain, identity.chain());
    let schemes: Vec<u32> = identity.schemes().iter().map(|scheme| scheme.0.into()).collect();
    assert_eq!(rsa.signature_schemes, schemes);
    assert!(ticket_keys(&mut events).await.is_empty(), "tickets are off");

    let mut stream = running.exchange(EDGE_TWO).await;
    assert_eq!(stream.refusal(running.ec()).await, Code::PermissionDenied);
    let both = running.rights(&[0, 1], TicketGroup::new(GroupName::default(), []));
    let changed: Authorizations = [(EDGE_TWO.parse().unwrap(), both)].into_iter().collect();
    running.authorizations.send(Arc::new(changed)).unwrap();
    assert_eq!(names(&mut events).await, ["ec", "rsa"]);
    stream.send(2, running.ec()).await;
    assert!(matches!(stream.receive().await, (2, Reply::SignServerKeyExchange(_))));

    running.authorizations.send(Arc::default()).unwrap();
    assert_eq!(events.message().await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(stream.replies.message().await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn an_edge_that_takes_changes_is_told_these_alone() {
    let files = Files::new();
    files.add_key("ec", Kind::P256);
    files.write_key("rsa", rsa(), &rsa().serialize_pem());
    let all = CONFIG.replace(r#"keys = ["rsa"]"#, r#"keys = ["ec", "rsa"]"#);
    let running = Running::of(files, &all).await;
    let mut client = running.client(EDGE_TWO);
    let mut events = client.watch(v1::WatchRequest { takes_changes: true }).await.unwrap().into_inner();
    assert_eq!(names(&mut events).await, ["ec", "rsa"]);
    let mut changes = async || loop {
        let event = tokio::time::timeout(Duration::from_secs(20), events.message()).await.unwrap();
        match event.unwrap().unwrap().event.unwrap() {
            Event::IdentityChanges(changes) => return changes,
            Event::TicketKeys(_) => {}
            Event::Drain(_) | Event::Identities(_) => panic!("changes alone"),
        }
    };

    let before = running.keys[0].key_id();
    running.files.add_key("ec", Kind::P256);
    let told = changes().await;
    let [removed] = &told.removed[..] else { panic!("one key: {told:?}") };
    assert_eq!((removed.name.as_str(), &removed.key_id[..]), ("ec", &before.0[..]));
    let [changed] = &told.changed[..] else { panic!("one key: {told:?}") };
    assert_eq!(changed.name, "ec");
    assert_ne!(changed.key_id, before.0);

    // Whoever has not heard of the change yet is served.
    let mut stream = running.exchange(EDGE_TWO).await;
    stream.send(1, running.ec()).await;
    assert!(matches!(stream.receive().await, (1, Reply::SignServerKeyExchange(_))));

    running.files.write_configuration(CONFIG);
    let told = changes().await;
    assert_eq!((told.removed.len(), told.changed.len()), (1, 0));
    assert_eq!(stream.refusal(running.ec()).await, Code::PermissionDenied, "its name is gone, and it with it");
}

#[tokio::test]
async fn a_configuration_that_changes_while_the_key_server_starts_is_loaded() {
    let files = Files::new();
    files.add_key("ec", Kind::P256);
    files.write_key("rsa", rsa(), &rsa().serialize_pem());
    let settings = files.settings(CONFIG).unwrap();
    files.write_configuration(&CONFIG.replace(r#"keys = ["rsa"]"#, r#"keys = ["ec", "rsa"]"#));
    let running = Running::bound(files, settings).await;
    let mut events = running.client(EDGE_TWO).watch(v1::WatchRequest::default()).await.unwrap().into_inner();
    assert_eq!(names(&mut events).await, ["rsa"]);
    let changed = tokio::time::timeout(Duration::from_secs(20), names(&mut events));
    assert_eq!(changed.await.unwrap(), ["ec", "rsa"]);
}

/// A peer, and the place of its one stream.
fn with_share(peer: Peer) -> (Peer, Share<PeerIdentity>) {
    let share = Shares::new(1).take(peer.identity.clone()).unwrap();
    (peer, share)
}

#[tokio::test]
async fn a_change_between_identities_and_ticket_keys_is_told_with_both() {
    let running = Running::start().await;
    let table = |keys: &[usize]| {
        let rights = running.rights(keys, TicketGroup::new(GroupName::default(), []));
        Arc::new([(EDGE_TWO.parse().unwrap(), rights)].into_iter().collect::<Authorizations>())
    };
    let authorizations = changing::Sender::new(table(&[1]));
    let peer = Peer::new(EDGE_TWO.parse().unwrap(), authorizations.subscribe(), Audit::off());
    let mut events = Watch::new(with_share(peer), false, None, &Stopping::default());
    let mut names = async || match events.next().await.unwrap().unwrap().event.unwrap() {
        Event::Identities(told) => Some(told.identities.into_iter().map(|identity| identity.name).collect::<Vec<_>>()),
        Event::TicketKeys(_) => None,
        Event::Drain(_) | Event::IdentityChanges(_) => panic!("nothing drains, and all is told"),
    };
    assert_eq!(names().await.unwrap(), ["rsa"]);
    authorizations.send_replace(table(&[0, 1]));
    assert_eq!(names().await.unwrap(), ["ec", "rsa"]);
    assert_eq!(names().await, None);
}

#[tokio::test]
async fn a_stream_that_nobody_reads_keeps_no_key_that_was_taken_away() {
    let running = Running::start().await;
    let table = |keys: Vec<Arc<Key>>| {
        let rights = Rights::new(keys.into_iter().map(Grant::whole), TicketGroup::new(GroupName::default(), []));
        Arc::new([(EDGE_ONE.parse().unwrap(), rights)].into_iter().collect::<Authorizations>())
    };
    running.files.add_key("gone", Kind::P256);
    let key = running.files.load_key("gone", keystead_program::crypto::Crypto::Fast, None).unwrap();
    let key = Arc::new(key);
    let authorizations = changing::Sender::new(table(vec![key.clone()]));
    let mut peer = Peer::new(EDGE_ONE.parse().unwrap(), authorizations.subscribe(), Audit::off());
    let mut events = Watch::new(with_share(peer.clone()), true, None, &Stopping::default());
    assert!(events.next().await.unwrap().is_ok());
    assert!(peer.rights().is_ok());

    authorizations.send_replace(table(vec![running.keys[0].clone()]));
    assert!(Arc::into_inner(key).is_some(), "a stream keeps the key");
    assert!(peer.rights().unwrap().grant(&running.keys[0].key_id(), Instant::now()).is_ok());
    drop(events);
}

async fn health(client: &mut HealthClient<Channel>, service: &str) -> ServingStatus {
    let request = HealthCheckRequest { service: service.to_owned() };
    client.check(request).await.unwrap().into_inner().status()
}

#[tokio::test]
async fn drain_is_announced_answered_and_ended() {
    let running = Running::configured(&CONFIG.replace("300ms", "3s")).await;
    let mut checked = HealthClient::new(running.channel(EDGE_ONE));
    for service in ["", "keystead.v1.KeyServer"] {
        assert_eq!(health(&mut checked, service).await, ServingStatus::Serving);
    }
    let watched = HealthCheckRequest { service: String::new() };
    let mut statuses = checked.watch(watched).await.unwrap().into_inner();
    assert_eq!(statuses.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let mut events = running.client(EDGE_ONE).watch(v1::WatchRequest::default()).await.unwrap().into_inner();
    assert_eq!(names(&mut events).await, ["ec", "rsa"]);
    let mut stream = running.exchange(EDGE_ONE).await;

    running.stop.cancel();
    assert_eq!(events.message().await.unwrap().unwrap().event, Some(Event::Drain(v1::Drain {})));
    assert!(events.message().await.unwrap().is_none());
    assert_eq!(statuses.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    stream.send(1, running.ec()).await;
    assert!(matches!(stream.receive().await, (1, Reply::SignServerKeyExchange(_))));
    // The edge stays; at the deadline it is sent away.
    assert_eq!(stream.replies.message().await.unwrap_err().code(), Code::Unavailable);
    running.serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn drain_is_over_when_the_last_edge_has_left() {
    let running = Running::configured(&CONFIG.replace("\"300ms\"", "\"1h\"")).await;
    let mut stream = running.exchange(EDGE_ONE).await;
    stream.send(1, running.ec()).await;
    running.stop.cancel();
    drop(stream.requests);
    assert!(matches!(stream.replies.message().await.unwrap().unwrap().outcome, Some(Reply::SignServerKeyExchange(_))));
    assert!(stream.replies.message().await.unwrap().is_none());
    tokio::time::timeout(Duration::from_secs(20), running.serving).await.unwrap().unwrap().unwrap();
}
