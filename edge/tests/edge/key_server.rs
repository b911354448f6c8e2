//! A key server over real mutual TLS that does as it is told.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use keystead_program::channel::{AcceptLimits, Acceptor, ChannelMaterial, ChannelMetrics, ServerChannel};
use keystead_proto::v1;
use keystead_proto::v1::exchange_reply::Outcome;
use keystead_proto::v1::exchange_request::Operation;
use keystead_proto::v1::key_server_server::{KeyServer, KeyServerServer, SERVICE_NAME};
use keystead_tls::message::server_key_exchange::{ServerEcdhParams, signed_content};
use keystead_tls::{Identity, NamedGroup, SignatureScheme};
use rcgen::{KeyPair, SigningKey};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

/// What the key server does with the next requests.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Conduct {
    /// Signs.
    Sign,
    /// Signs wrongly so many times, and rightly from then on.
    SignWrongly(usize),
    /// Refuses.
    Refuse(Code),
    /// Never answers.
    Ignore,
    /// Ends the stream of the first request it gets, and signs from then on.
    HangUpOnce,
    /// Signs with the key `key`, and keeps requests for `slow` until [`TestKeyServer::release`].
    HoldSlow,
    /// Signs with the key `key`, and refuses requests for `slow`.
    RefuseSlow(Code),
}

/// A P-256 key that a key server holds.
#[derive(Clone)]
pub(crate) struct ServedKey {
    pub(crate) name: &'static str,
    pub(crate) key: Arc<KeyPair>,
    pub(crate) chain: Vec<Vec<u8>>,
}

impl ServedKey {
    fn identity(&self) -> v1::Identity {
        let identity = Identity::new(self.chain.clone(), SignatureScheme::KNOWN, None).unwrap();
        v1::Identity {
            name: self.name.to_owned(),
            key_id: identity.public_key().key_id().0.to_vec(),
            certificate_chain: self.chain.clone(),
            signature_schemes: vec![SignatureScheme::ECDSA_SECP256R1_SHA256.0.into()],
            ocsp_response: Vec::new(),
            // No handshake by RSA key transport is to be had with it, but leases and recoveries are.
            danger_rsa_key_transport: self.name == "key",
        }
    }
}

/// A request that waits for its answer, with where that goes.
type Held = (u64, v1::SignServerKeyExchangeRequest, mpsc::Sender<Result<v1::ExchangeReply, Status>>);

/// A running key server. Dropped, it is gone with all its connections.
pub(crate) struct TestKeyServer {
    pub(crate) address: SocketAddr,
    /// Requests that came on streams.
    pub(crate) asked: Arc<AtomicUsize>,
    /// Those of them that were for the key `slow`.
    pub(crate) asked_for_slow: Arc<AtomicUsize>,
    service: Service,
    health: HealthReporter,
    runtime: Mutex<Option<tokio::runtime::Runtime>>,
}

/// Listens where somebody else may have to go first: who was killed before it, or another test that was given the port.
fn listen(address: SocketAddr) -> std::net::TcpListener {
    let begun = Instant::now();
    loop {
        match std::net::TcpListener::bind(address) {
            Ok(listener) => return listener,
            Err(cause) => assert!(begun.elapsed() < Duration::from_secs(20), "{address}: {cause}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl TestKeyServer {
    /// Serves these keys.
    pub(crate) fn start(address: SocketAddr, material: &ChannelMaterial, keys: Vec<ServedKey>) -> Self {
        let conduct = Arc::new(Mutex::new(Conduct::Sign));
        let (events, _) = tokio::sync::broadcast::channel(16);
        let (asked, asked_for_slow) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let service = Service {
            conduct,
            events,
            keys: keys.into(),
            leased: Arc::default(),
            held: Arc::default(),
            asked: asked.clone(),
            asked_for_slow: asked_for_slow.clone(),
        };
        let health = HealthReporter::new();
        let (calls, checks) = (service.clone(), HealthService::from_health_reporter(health.clone()));
        // A runtime of its own, so that ending it breaks its connections as the death of a process would.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let acceptor = Acceptor {
            channel: ServerChannel::new(material),
            limits: AcceptLimits {
                handshake_timeout: Duration::from_secs(5),
                handshakes: 8,
                handshakes_per_address: 8,
                connections: 8,
                connections_per_peer: 8,
            },
            metrics: ChannelMetrics::default(),
        };
        let listener = listen(address);
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let registered = health.clone();
        runtime.spawn(async move {
            // Before anybody asks, for who asks in vain does not ask again.
            registered.set_service_status(SERVICE_NAME, ServingStatus::Serving).await;
            let incoming = acceptor.accept(TcpListener::from_std(listener).unwrap());
            let calls = KeyServerServer::new(calls).max_decoding_message_size(keystead_proto::MAX_REQUEST);
            let server = tonic::transport::Server::builder().add_service(calls).add_service(HealthServer::new(checks));
            server.serve_with_incoming(incoming).await.unwrap();
        });
        let runtime = Mutex::new(Some(runtime));
        Self { address, asked, asked_for_slow, service, health, runtime }
    }

    pub(crate) fn conduct(&self, conduct: Conduct) {
        *self.service.conduct.lock().unwrap() = conduct;
    }

    /// Requests that are kept.
    pub(crate) fn held(&self) -> usize {
        self.service.held.lock().unwrap().len()
    }

    /// Answers what is kept, and signs from then on.
    pub(crate) fn release(&self) {
        self.conduct(Conduct::Sign);
        for (id, request, replies) in self.service.held.lock().unwrap().drain(..) {
            let outcome = Some(self.service.sign(&request));
            replies.try_send(Ok(v1::ExchangeReply { id, outcome, padding: Vec::new() })).unwrap();
        }
    }

    /// Says by grpc.health.v1 that it serves, or that it does not.
    pub(crate) async fn tell_health(&self, serving: bool) {
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.health.set_service_status(SERVICE_NAME, status).await;
    }

    /// Is gone, with all its connections.
    pub(crate) fn die(&self) {
        if let Some(runtime) = self.runtime.lock().unwrap().take() {
            runtime.shutdown_background();
        }
    }

    /// Tells the generations of ticket keys around `current`, each of this many milliseconds.
    pub(crate) fn tell_ticket_keys(&self, current: u8, period: u64) {
        let key = |number: u8| v1::TicketKey {
            generation: number.into(),
            name: vec![number; 16],
            key: vec![number; 32],
            seal_for_ms: if number == current { period } else { 0 },
            open_for_ms: (u64::from(number) + 2 - u64::from(current)) * period,
        };
        let keys = v1::TicketKeys { keys: [current - 1, current, current + 1].map(key).to_vec() };
        let event = Some(v1::watch_event::Event::TicketKeys(keys));
        self.service.events.send(v1::WatchEvent { event }).unwrap();
    }

    pub(crate) fn announce_drain(&self) {
        let event = Some(v1::watch_event::Event::Drain(v1::Drain {}));
        self.service.events.send(v1::WatchEvent { event }).unwrap();
    }
}

impl Drop for TestKeyServer {
    fn drop(&mut self) {
        self.die();
    }
}

#[derive(Clone)]
struct Service {
    conduct: Arc<Mutex<Conduct>>,
    events: tokio::sync::broadcast::Sender<v1::WatchEvent>,
    keys: Arc<[ServedKey]>,
    /// Tokens that were leased and are not spent.
    leased: Arc<Mutex<HashSet<Vec<u8>>>>,
    held: Arc<Mutex<Vec<Held>>>,
    asked: Arc<AtomicUsize>,
    asked_for_slow: Arc<AtomicUsize>,
}

enum Answer {
    Outcome(Outcome),
    Nothing,
    HangUp,
    Hold(v1::SignServerKeyExchangeRequest),
}

fn refusal(code: Code) -> Outcome {
    Outcome::Refusal(v1::Refusal { code: code as u32, message: "as told".to_owned() })
}

impl Service {
    fn answer(&self, operation: &Operation) -> Answer {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.keys.is_empty() {
            return Answer::Outcome(refusal(Code::PermissionDenied));
        }
        match operation {
            Operation::SignServerKeyExchange(request) => self.answer_signing(request),
            Operation::LeaseRandoms(request) => self.answer_unless_told(|| self.lease(request.count)),
            Operation::RecoverMasterSecret(request) => self.answer_unless_told(|| self.recover(&request.lease)),
        }
    }

    fn answer_unless_told(&self, outcome: impl FnOnce() -> Outcome) -> Answer {
        match *self.conduct.lock().unwrap() {
            Conduct::Refuse(code) => Answer::Outcome(refusal(code)),
            Conduct::Ignore => Answer::Nothing,
            Conduct::Sign
            | Conduct::SignWrongly(_)
            | Conduct::HangUpOnce
            | Conduct::HoldSlow
            | Conduct::RefuseSlow(_) => Answer::Outcome(outcome()),
        }
    }

    fn lease(&self, count: u32) -> Outcome {
        let mut leased = self.leased.lock().unwrap();
        let lease = |_| {
            let server_random: [u8; 32] = rand::random();
            leased.insert(server_random.to_vec());
            v1::Lease { server_random: server_random.to_vec(), token: server_random.to_vec() }
        };
        Outcome::LeaseRandoms(v1::LeaseRandomsReply { leases: (0..count).map(lease).collect() })
    }

    /// The token, as the front of a master secret: what the edge makes of it is not looked at here.
    fn recover(&self, token: &[u8]) -> Outcome {
        if !self.leased.lock().unwrap().remove(token) {
            return refusal(Code::FailedPrecondition);
        }
        let master_secret = [token, &[0; 16]].concat();
        Outcome::RecoverMasterSecret(v1::RecoverMasterSecretReply { master_secret })
    }

    fn answer_signing(&self, request: &v1::SignServerKeyExchangeRequest) -> Answer {
        let is_slow = self.key(request).name == "slow";
        self.asked_for_slow.fetch_add(is_slow.into(), Ordering::SeqCst);
        let mut conduct = self.conduct.lock().unwrap();
        match *conduct {
            Conduct::HoldSlow if is_slow => Answer::Hold(request.clone()),
            Conduct::RefuseSlow(code) if is_slow => Answer::Outcome(refusal(code)),
            Conduct::HoldSlow | Conduct::RefuseSlow(_) | Conduct::Sign | Conduct::SignWrongly(0) => {
                Answer::Outcome(self.sign(request))
            }
            Conduct::SignWrongly(times) => {
                *conduct = Conduct::SignWrongly(times - 1);
                let other = v1::SignServerKeyExchangeRequest { client_random: vec![0; 32], ..request.clone() };
                Answer::Outcome(self.sign(&other))
            }
            Conduct::Refuse(code) => Answer::Outcome(refusal(code)),
            Conduct::Ignore => Answer::Nothing,
            Conduct::HangUpOnce => {
                *conduct = Conduct::Sign;
                Answer::HangUp
            }
        }
    }

    fn key(&self, request: &v1::SignServerKeyExchangeRequest) -> &ServedKey {
        self.keys.iter().find(|key| key.identity().key_id == request.key_id).unwrap()
    }

    fn sign(&self, request: &v1::SignServerKeyExchangeRequest) -> Outcome {
        let params = ServerEcdhParams { group: NamedGroup(request.group as u16), public: &request.public };
        let server_random = [7; 32];
        let client_random = request.client_random.clone().try_into().unwrap();
        let signature = self.key(request).key.sign(&signed_content(&client_random, &server_random, &params)).unwrap();
        Outcome::SignServerKeyExchange(v1::SignServerKeyExchangeReply {
            server_random: server_random.to_vec(),
            signature,
        })
    }

    fn identities(&self) -> v1::WatchEvent {
        let identities = v1::Identities { identities: self.keys.iter().map(ServedKey::identity).collect() };
        v1::WatchEvent { event: Some(v1::watch_event::Event::Identities(identities)) }
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl KeyServer for Service {
    type ExchangeStream = Answers<v1::ExchangeReply>;
    type WatchStream = Answers<v1::WatchEvent>;

    async fn exchange(
        &self,
        requests: Request<Streaming<v1::ExchangeRequest>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let mut requests = requests.into_inner();
        let (replies, stream) = mpsc::channel(16);
        let service = self.clone();
        tokio::spawn(async move {
            while let Some(Ok(request)) = requests.next().await {
                let Some(operation) = request.operation else { continue };
                match service.answer(&operation) {
                    Answer::Outcome(outcome) => {
                        let reply = v1::ExchangeReply { id: request.id, outcome: Some(outcome), padding: Vec::new() };
                        replies.send(Ok(reply)).await.unwrap();
                    }
                    Answer::Nothing => {}
                    Answer::Hold(held) => service.held.lock().unwrap().push((request.id, held, replies.clone())),
                    Answer::HangUp => return,
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn sign_server_key_exchange(
        &self,
        _: Request<v1::SignServerKeyExchangeRequest>,
    ) -> Result<Response<v1::SignServerKeyExchangeReply>, Status> {
        Err(Status::unimplemented("the edge does not use it"))
    }

    async fn lease_randoms(
        &self,
        _: Request<v1::LeaseRandomsRequest>,
    ) -> Result<Response<v1::LeaseRandomsReply>, Status> {
        Err(Status::unimplemented("the edge does not use it"))
    }

    async fn recover_master_secret(
        &self,
        _: Request<v1::RecoverMasterSecretRequest>,
    ) -> Result<Response<v1::RecoverMasterSecretReply>, Status> {
        Err(Status::unimplemented("the edge does not use it"))
    }

    async fn watch(&self, _: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let mut events = self.events.subscribe();
        let (told, stream) = mpsc::channel(16);
        told.send(Ok(self.identities())).await.unwrap();
        tokio::spawn(async move {
            while let Ok(event) = events.recv().await {
                if told.send(Ok(event)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}
