//! An edge with valid credentials that does what it should not: a client of the key server's protocol, by hand.

#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::SocketAddr;

use keystead_local::pki::KEY_SERVER_NAME;
use keystead_program::channel::{ChannelConfig, ChannelMaterial, ClientChannel, Connector};
use keystead_proto::v1;
use keystead_proto::v1::exchange_reply::Outcome;
use keystead_proto::v1::exchange_request::Operation;
use keystead_proto::v1::key_server_client::KeyServerClient;
use keystead_tls::crypto::FAST;
use keystead_tls::{Identity, NamedGroup, SignatureScheme};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};

use crate::stack::{KeyType, Stack, pki};

/// A hostile edge.
pub struct HostileEdge {
    /// What its calls run on.
    pub runtime: Runtime,
    channel: ClientChannel,
    address: SocketAddr,
    connection: Channel,
}

impl HostileEdge {
    /// One with the credentials of the edge `name`, at the key server of `stack`.
    pub fn new(stack: &Stack, name: &str) -> Self {
        let config = ChannelConfig {
            certificate: "channel.pem".into(),
            private_key: "channel.key".into(),
            trust_roots: "channel-ca.pem".into(),
        };
        let directory = pki::directory().join(format!("edge-{name}"));
        let channel = ClientChannel::new(&ChannelMaterial::load(&config, &directory).expect("credentials"));
        let (runtime, address) = (Runtime::new().expect("a runtime"), stack.key_server_address());
        let connection = runtime.block_on(async { connect(&channel, address) });
        Self { runtime, channel, address, connection }
    }

    /// A connection of its own.
    pub fn connection(&self) -> Channel {
        let _runtime = self.runtime.enter();
        connect(&self.channel, self.address)
    }

    /// Asks for a signature.
    ///
    /// # Errors
    /// The key server's.
    pub fn sign(&self, request: v1::SignServerKeyExchangeRequest) -> Result<v1::SignServerKeyExchangeReply, Status> {
        let mut client = KeyServerClient::new(self.connection.clone());
        self.runtime.block_on(client.sign_server_key_exchange(request)).map(tonic::Response::into_inner)
    }

    /// Asks for leases.
    ///
    /// # Errors
    /// The key server's.
    pub fn lease(&self, count: u32) -> Result<v1::LeaseRandomsReply, Status> {
        let mut client = KeyServerClient::new(self.connection.clone());
        let leased = client.lease_randoms(v1::LeaseRandomsRequest { count });
        self.runtime.block_on(leased).map(tonic::Response::into_inner)
    }

    /// Asks for a master secret.
    ///
    /// # Errors
    /// The key server's.
    pub fn recover(&self, request: v1::RecoverMasterSecretRequest) -> Result<v1::RecoverMasterSecretReply, Status> {
        let mut client = KeyServerClient::new(self.connection.clone());
        self.runtime.block_on(client.recover_master_secret(request)).map(tonic::Response::into_inner)
    }

    /// Sends these bytes where a message of the unary call `method` should be. The status that it ends with.
    pub fn send_raw(&self, method: &'static str, bytes: Vec<u8>) -> Status {
        let mut client = Grpc::new(self.connection.clone());
        let path = PathAndQuery::from_static(method);
        let answered = self.runtime.block_on(async {
            client.ready().await.map_err(|cause| Status::unavailable(cause.to_string()))?;
            client.unary(Request::new(bytes), path, Raw).await
        });
        match answered {
            Err(status) => status,
            Ok(answer) => panic!("answered with {answer:?}"),
        }
    }

    /// A stream of requests on a connection of its own.
    pub fn exchange(&self) -> Exchange {
        let (requests, outgoing) = mpsc::channel(4096);
        let mut client = KeyServerClient::new(self.connection());
        let opened = self.runtime.block_on(client.exchange(ReceiverStream::new(outgoing)));
        Exchange { requests, replies: opened.expect("a stream").into_inner() }
    }

    /// Whether the key server knows it.
    pub fn is_known(&self) -> bool {
        let refused = self.sign(v1::SignServerKeyExchangeRequest::default());
        refused.is_err_and(|status| status.code() != Code::PermissionDenied && status.code() != Code::Unavailable)
    }
}

fn connect(channel: &ClientChannel, address: SocketAddr) -> Channel {
    let connector = Connector::new(channel.clone(), address.into(), Some(KEY_SERVER_NAME.to_owned()));
    Endpoint::from_static("http://key-server").connect_with_connector_lazy(connector.expect("a name"))
}

/// A stream of requests.
pub struct Exchange {
    requests: mpsc::Sender<v1::ExchangeRequest>,
    /// What comes back.
    pub replies: Streaming<v1::ExchangeReply>,
}

impl Exchange {
    /// Sends a request, and does not wait for its answer. Fails where the stream has ended, or takes no more.
    pub fn ask(&self, id: u64, operation: Operation) -> bool {
        let request = v1::ExchangeRequest { id, operation: Some(operation), ..v1::ExchangeRequest::default() };
        self.requests.try_send(request).is_ok()
    }

    /// The next answer.
    pub async fn answer(&mut self) -> (u64, Outcome) {
        let reply = self.replies.message().await.expect("a stream").expect("an answer");
        (reply.id, reply.outcome.expect("an outcome"))
    }
}

/// Requests of bytes that need be no protobuf.
#[derive(Clone, Copy, Debug, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, bytes: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        tonic::codegen::Bytes::from(bytes).into_iter().for_each(|byte| put(buffer, byte));
        Ok(())
    }
}

fn put(buffer: &mut EncodeBuf<'_>, byte: u8) {
    use bytes::BufMut;
    buffer.put_u8(byte);
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        use bytes::Buf;
        let mut bytes = vec![0; buffer.remaining()];
        buffer.copy_to_slice(&mut bytes);
        Ok(Some(bytes))
    }
}

/// The certificate that the key server has for this key.
pub fn identity(key: KeyType) -> Identity {
    let file = pki::directory().join("keyserver").join(key.stem()).with_extension("pem");
    let chain = CertificateDer::pem_file_iter(file).expect("a chain").map(|der| der.expect("PEM").to_vec()).collect();
    Identity::new(chain, SignatureScheme::KNOWN, None).expect("an identity")
}

/// A request that an honest edge would make.
pub fn honest(key: KeyType) -> v1::SignServerKeyExchangeRequest {
    let identity = identity(key);
    let pair = FAST.key_pair(NamedGroup::X25519, &mut rand::rng()).expect("a key pair");
    v1::SignServerKeyExchangeRequest {
        key_id: identity.public_key().key_id().0.to_vec(),
        client_random: vec![7; 32],
        scheme: identity.schemes().first().expect("a scheme").0.into(),
        group: NamedGroup::X25519.0.into(),
        public: pair.public().to_vec(),
        server_name: "localhost".to_owned(),
    }
}
