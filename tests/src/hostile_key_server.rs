//! A key server with valid credentials that does what it should not.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use keystead_program::channel::{
    AcceptLimits, Acceptor, ChannelConfig, ChannelMaterial, ChannelMetrics, ServerChannel,
};
use keystead_proto::v1::exchange_reply::Outcome;
use keystead_proto::v1::key_server_server::{KeyServer, KeyServerServer};
use keystead_proto::v1::{self, watch_event};
use keystead_tls::message::server_key_exchange::{ServerEcdhParams, signed_content};
use keystead_tls::{Identity, NamedGroup, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_stream::{Stream, StreamExt};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::stack::{KeyType, pki};

/// What it does with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Signs as it should.
    Honest,
    /// Signs another ServerHello.random than it sends.
    SignsAnotherRandom,
    /// Sends bytes that are no signature.
    SendsNoSignature,
    /// Sends a ServerHello.random that is too short.
    SendsShortRandom,
    /// Refuses with this code.
    Refuses(Code),
    /// Answers requests that nobody made.
    AnswersAnother,
    /// Sends no answer.
    IsSilent,
    /// Ends the stream of answers.
    Leaves,
}

/// A running one.
pub struct HostileKeyServer {
    /// Where edges connect.
    pub address: SocketAddr,
    behaviour: Arc<Mutex<Behaviour>>,
    _runtime: Runtime,
}

impl HostileKeyServer {
    /// Starts it with the P-256 key of every stack, and its credentials.
    pub fn start(behaviour: Behaviour) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let behaviour = Arc::new(Mutex::new(behaviour));
        let service = Service { behaviour: behaviour.clone(), signer: Arc::new(Signer::load()) };
        let acceptor = acceptor();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("an address");
        runtime.spawn(async move {
            let server = tonic::transport::Server::builder().add_service(KeyServerServer::new(service));
            server.serve_with_incoming(acceptor.accept(listener)).await
        });
        Self { address, behaviour, _runtime: runtime }
    }

    /// Does this from the next request on.
    pub fn behave(&self, behaviour: Behaviour) {
        *self.behaviour.lock().expect("no panic") = behaviour;
    }
}

fn acceptor() -> Acceptor {
    let config = ChannelConfig {
        certificate: "channel.pem".into(),
        private_key: "channel.key".into(),
        trust_roots: "channel-ca.pem".into(),
    };
    let material = ChannelMaterial::load(&config, &pki::directory().join("keyserver")).expect("credentials");
    let limits = AcceptLimits {
        handshake_timeout: Duration::from_secs(5),
        handshakes: 8,
        handshakes_per_address: 8,
        connections: 64,
        connections_per_peer: 64,
    };
    Acceptor { channel: ServerChannel::new(&material), limits, metrics: ChannelMetrics::default() }
}

#[derive(Clone)]
struct Service {
    behaviour: Arc<Mutex<Behaviour>>,
    signer: Arc<Signer>,
}

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl KeyServer for Service {
    type ExchangeStream = Boxed<v1::ExchangeReply>;
    type WatchStream = Boxed<v1::WatchEvent>;

    async fn exchange(
        &self,
        requests: Request<Streaming<v1::ExchangeRequest>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let service = self.clone();
        let answers = requests.into_inner().filter_map(move |request| match request {
            Ok(request) => service.answer(request),
            Err(status) => Some(Err(status)),
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn sign_server_key_exchange(
        &self,
        _: Request<v1::SignServerKeyExchangeRequest>,
    ) -> Result<Response<v1::SignServerKeyExchangeReply>, Status> {
        Err(Status::unimplemented("edges use Exchange"))
    }

    async fn lease_randoms(
        &self,
        _: Request<v1::LeaseRandomsRequest>,
    ) -> Result<Response<v1::LeaseRandomsReply>, Status> {
        Err(Status::unimplemented("edges use Exchange"))
    }

    async fn recover_master_secret(
        &self,
        _: Request<v1::RecoverMasterSecretRequest>,
    ) -> Result<Response<v1::RecoverMasterSecretReply>, Status> {
        Err(Status::unimplemented("edges use Exchange"))
    }

    async fn watch(&self, _: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let identities = v1::Identities { identities: vec![self.signer.identity()] };
        let event = v1::WatchEvent { event: Some(watch_event::Event::Identities(identities)) };
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(event)).chain(tokio_stream::pending()))))
    }
}

impl Service {
    /// The answer, if there is to be one; an error ends the stream.
    fn answer(&self, request: v1::ExchangeRequest) -> Option<Result<v1::ExchangeReply, Status>> {
        let Some(v1::exchange_request::Operation::SignServerKeyExchange(question)) = request.operation else {
            return Some(Err(Status::invalid_argument("no operation")));
        };
        let behaviour = *self.behaviour.lock().expect("no panic");
        let (mut id, mut server_random) = (request.id, vec![0x5a; 32]);
        let mut signature = self.signer.sign(&question, [0x5a; 32]);
        match behaviour {
            Behaviour::Honest => {}
            Behaviour::SignsAnotherRandom => signature = self.signer.sign(&question, [0xa5; 32]),
            Behaviour::SendsNoSignature => signature = b"no signature".to_vec(),
            Behaviour::SendsShortRandom => server_random.truncate(31),
            Behaviour::Refuses(code) => {
                let refusal = v1::Refusal { code: code as u32, message: "as the test wants".to_owned() };
                return Some(Ok(v1::ExchangeReply {
                    id,
                    outcome: Some(Outcome::Refusal(refusal)),
                    padding: Vec::new(),
                }));
            }
            Behaviour::AnswersAnother => id ^= 1 << 63,
            Behaviour::IsSilent => return None,
            Behaviour::Leaves => return Some(Err(Status::unavailable("as the test wants"))),
        }
        let reply = v1::SignServerKeyExchangeReply { server_random, signature };
        let outcome = Some(Outcome::SignServerKeyExchange(reply));
        Some(Ok(v1::ExchangeReply { id, outcome, padding: Vec::new() }))
    }
}

struct Signer {
    key: EcdsaKeyPair,
    chain: Vec<Vec<u8>>,
    key_id: Vec<u8>,
}

impl Signer {
    fn load() -> Self {
        let file = pki::directory().join("keyserver").join(KeyType::P256.stem());
        let key = PrivateKeyDer::from_pem_file(file.with_extension("key")).expect("a key");
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key.secret_der()).expect("a P-256 key");
        let pem = fs::read(file.with_extension("pem")).expect("a certificate");
        let chain = CertificateDer::pem_slice_iter(&pem).map(|der| der.expect("a certificate").to_vec()).collect();
        let identity = Identity::new(chain, SignatureScheme::KNOWN, None).expect("an identity");
        let (chain, key_id) = (identity.chain().to_vec(), identity.public_key().key_id().0.to_vec());
        Self { key, chain, key_id }
    }

    fn identity(&self) -> v1::Identity {
        v1::Identity {
            name: KeyType::P256.name().to_owned(),
            key_id: self.key_id.clone(),
            certificate_chain: self.chain.clone(),
            signature_schemes: vec![SignatureScheme::ECDSA_SECP256R1_SHA256.0.into()],
            ocsp_response: Vec::new(),
            danger_rsa_key_transport: false,
        }
    }

    fn sign(&self, request: &v1::SignServerKeyExchangeRequest, server_random: [u8; 32]) -> Vec<u8> {
        let client_random = request.client_random.as_slice().try_into().expect("32 bytes");
        let group = NamedGroup(request.group.try_into().expect("a group"));
        let params = ServerEcdhParams { group, public: &request.public };
        let content = signed_content(&client_random, &server_random, &params);
        self.key.sign(&SystemRandom::new(), &content).expect("a signature").as_ref().to_vec()
    }
}
