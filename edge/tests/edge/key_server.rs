//! A key server over real mutual TLS that does as it is told.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keystead_program::channel::{AcceptLimits, Acceptor, ChannelMaterial, ChannelMetrics, ServerChannel};
use keystead_proto::v1;
use keystead_proto::v1::exchange_reply::Outcome;
use keystead_proto::v1::exchange_request::Operation;
use keystead_proto::v1::key_server_server::{KeyServer, KeyServerServer};
use keystead_tls::message::server_key_exchange::{ServerEcdhParams, signed_content};
use keystead_tls::{Identity, NamedGroup, SignatureScheme};
use rcgen::{KeyPair, SigningKey};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Code, Request, Response, Status, Streaming};

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
}

/// A running key server. Dropped, it is gone with all its connections.
pub(crate) struct TestKeyServer {
    pub(crate) address: SocketAddr,
    /// Requests that came on streams.
    pub(crate) asked: Arc<AtomicUsize>,
    conduct: Arc<Mutex<Conduct>>,
    events: tokio::sync::broadcast::Sender<v1::WatchEvent>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl TestKeyServer {
    /// Serves one P-256 key by the name `key`, with `chain` for it; none if the chain is empty.
    pub(crate) fn start(
        address: SocketAddr,
        material: &ChannelMaterial,
        key: Arc<KeyPair>,
        chain: Vec<Vec<u8>>,
    ) -> Self {
        let conduct = Arc::new(Mutex::new(Conduct::Sign));
        let (events, _) = tokio::sync::broadcast::channel(16);
        let (leased, asked) = (Arc::default(), Arc::<AtomicUsize>::default());
        let service =
            Service { conduct: conduct.clone(), events: events.clone(), key, chain, leased, asked: asked.clone() };
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
        let listener = std::net::TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move {
            let incoming = acceptor.accept(TcpListener::from_std(listener).unwrap());
            let calls = KeyServerServer::new(service).max_decoding_message_size(keystead_proto::MAX_REQUEST);
            let server = tonic::transport::Server::builder().add_service(calls);
            server.serve_with_incoming(incoming).await.unwrap();
        });
        Self { address, asked, conduct, events, runtime: Some(runtime) }
    }

    pub(crate) fn conduct(&self, conduct: Conduct) {
        *self.conduct.lock().unwrap() = conduct;
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
        self.events.send(v1::WatchEvent { event }).unwrap();
    }

    pub(crate) fn announce_drain(&self) {
        let event = Some(v1::watch_event::Event::Drain(v1::Drain {}));
        self.events.send(v1::WatchEvent { event }).unwrap();
    }
}

impl Drop for TestKeyServer {
    fn drop(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

#[derive(Clone)]
struct Service {
    conduct: Arc<Mutex<Conduct>>,
    events: tokio::sync::broadcast::Sender<v1::WatchEvent>,
    key: Arc<KeyPair>,
    chain: Vec<Vec<u8>>,
    /// Tokens that were leased and are not spent.
    leased: Arc<Mutex<HashSet<Vec<u8>>>>,
    asked: Arc<AtomicUsize>,
}

enum Answer {
    Outcome(Outcome),
    Nothing,
    HangUp,
}

fn refusal(code: Code) -> Outcome {
    Outcome::Refusal(v1::Refusal { code: code as u32, message: "as told".to_owned() })
}

impl Service {
    fn answer(&self, operation: &Operation) -> Answer {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.chain.is_empty() {
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
            Conduct::Sign | Conduct::SignWrongly(_) | Conduct::HangUpOnce => Answer::Outcome(outcome()),
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
        let mut conduct = self.conduct.lock().unwrap();
        match *conduct {
            Conduct::Sign | Conduct::SignWrongly(0) => Answer::Outcome(self.sign(request)),
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

    fn sign(&self, request: &v1::SignServerKeyExchangeRequest) -> Outcome {
        let params = ServerEcdhParams { group: NamedGroup(request.group as u16), public: &request.public };
        let server_random = [7; 32];
        let client_random = request.client_random.clone().try_into().unwrap();
        let signature = self.key.sign(&signed_content(&client_random, &server_random, &params)).unwrap();
        Outcome::SignServerKeyExchange(v1::SignServerKeyExchangeReply {
            server_random: server_random.to_vec(),
            signature,
        })
    }

    fn identities(&self) -> v1::WatchEvent {
        let identities = v1::Identities { identities: self.identity().into_iter().collect() };
        v1::WatchEvent { event: Some(v1::watch_event::Event::Identities(identities)) }
    }

    fn identity(&self) -> Option<v1::Identity> {
        if self.chain.is_empty() {
            return None;
        }
        let identity = Identity::new(self.chain.clone(), SignatureScheme::KNOWN, None).unwrap();
        Some(v1::Identity {
            name: "key".to_owned(),
            key_id: identity.public_key().key_id().0.to_vec(),
            certificate_chain: self.chain.clone(),
            signature_schemes: vec![SignatureScheme::ECDSA_SECP256R1_SHA256.0.into()],
            ocsp_response: Vec::new(),
            // No handshake by RSA key transport is to be had with it, but leases and recoveries are.
            danger_rsa_key_transport: true,
        })
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
