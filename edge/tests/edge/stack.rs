//! Everything around a connection: certificates, key servers, a backend, the edge, and clients.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use keystead_edge::admission::Admission;
use keystead_edge::backend::Pool;
use keystead_edge::client_auth::{self, Verifications};
use keystead_edge::config::{Config, Limits};
use keystead_edge::connection::Connections;
use keystead_edge::directory::Directory;
use keystead_edge::handshake::Handshakes;
use keystead_edge::identity::IdentitySet;
use keystead_edge::key_client::KeyClient;
use keystead_edge::listener::Listener;
use keystead_edge::sessions::Sessions;
use keystead_edge::telemetry::Telemetry;
use keystead_edge::virtual_host::HostTemplate;
use keystead_program::channel::{ChannelConfig, ChannelMaterial, ClientChannel};
use keystead_program::observe::Readiness;
use keystead_tls::KeyId;
use prometheus_client::registry::Registry;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rustls::client::{Resumption, Tls12Resumption};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::key_server::{ServedKey, TestKeyServer};

const KEY_SERVER_NAME: &str = "keyserver.test";
pub(crate) const SERVER_NAME: &str = "www.test";
pub(crate) const SECOND_NAME: &str = "second.test";

type Authority = CertifiedIssuer<'static, KeyPair>;

/// A stack with one edge.
pub(crate) struct Stack {
    pub(crate) key_servers: Vec<TestKeyServer>,
    pub(crate) edge: SocketAddr,
    pub(crate) connections: Arc<Connections>,
    pub(crate) backend: TcpListener,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) readiness: Readiness,
    pub(crate) tracker: TaskTracker,
    pub(crate) stop: CancellationToken,
    registry: Registry,
    roots: Arc<RootCertStore>,
    keys: Keys,
    /// Where the configuration's files are.
    pub(crate) directory: TempDir,
    _links: JoinSet<()>,
    _lists: JoinSet<()>,
}

/// What key servers need to start.
struct Keys {
    material: ChannelMaterial,
    served: Vec<ServedKey>,
}

/// What differs between stacks.
pub(crate) struct Options {
    pub(crate) key_servers: usize,
    /// So many of them are not in the edge's configuration.
    pub(crate) unknown: usize,
    /// The first so many of them hold no key.
    pub(crate) without_key: usize,
    pub(crate) connections: usize,
    pub(crate) key_server_timeout: Duration,
    /// Further lines of `[key_server]`.
    pub(crate) key_server_lines: &'static str,
    pub(crate) limits: Limits,
    /// The backends of the virtual host, as TOML has them; `BACKEND` is the stack's own.
    pub(crate) backends: String,
    /// Further lines of the listener.
    pub(crate) listener_lines: String,
    /// Further lines of the virtual host, and of further hosts.
    pub(crate) host_lines: String,
    /// Where the files that those lines name are.
    pub(crate) directory: TempDir,
}

impl Default for Options {
    fn default() -> Self {
        let limits = Limits {
            handshake_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(10),
            ..Limits::default()
        };
        Self {
            key_servers: 1,
            unknown: 0,
            without_key: 0,
            connections: 2,
            key_server_timeout: Duration::from_secs(2),
            key_server_lines: "",
            limits,
            backends: "[\"BACKEND\"]".to_owned(),
            listener_lines: String::new(),
            host_lines: String::new(),
            directory: tempfile::tempdir().unwrap(),
        }
    }
}

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn material(authority: &Authority, name: SanType) -> ChannelMaterial {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![name];
    let certificate = params.signed_by(&key, authority).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let files = [("c.pem", certificate.pem()), ("k.pem", key.serialize_pem()), ("ca.pem", authority.pem())];
    for (file, text) in files {
        std::fs::write(directory.path().join(file), text).unwrap();
    }
    let config =
        ChannelConfig { certificate: "c.pem".into(), private_key: "k.pem".into(), trust_roots: "ca.pem".into() };
    ChannelMaterial::load(&config, directory.path()).unwrap()
}

impl Stack {
    /// A stack that is ready.
    pub(crate) async fn start(options: Options) -> Self {
        let authority = authority();
        let keys = Keys::new(&authority);
        let any = "127.0.0.1:0".parse().unwrap();
        let start = |index| if index < options.without_key { keys.start_without_key(any) } else { keys.start(any) };
        let key_servers: Vec<_> = (0..options.key_servers).map(start).collect();
        let backend = TcpListener::bind(any).await.unwrap();
        let mut config = config(&key_servers, &options, backend.local_addr().unwrap());
        config.limits = options.limits;

        let mut registry = Registry::default();
        let telemetry = Arc::new(Telemetry::register(&mut registry));
        let pool = Pool::register(&mut registry);
        let readiness = Readiness::new();
        let edge = material(&authority, SanType::URI("spiffe://test/edge/one".try_into().unwrap()));
        let channel = ClientChannel::new(&edge);
        let key_client =
            KeyClient::new(&config.key_server, &channel, readiness.condition("key_server"), telemetry.clone()).unwrap();
        let verifiers: Vec<_> = config.hosts.iter().filter_map(|host| host.client_verifier.clone()).collect();
        let directory = Arc::new(Directory::new(
            config.hosts.into_iter().map(|host| HostTemplate::new(host, &pool)).collect(),
            key_servers.len(),
            IdentitySet::default(),
            readiness.condition("identities"),
            telemetry.clone(),
        ));
        let links = key_client.keep_up(&directory);
        let mut lists = JoinSet::new();
        lists.spawn(client_auth::keep_fresh(move || verifiers.clone(), Duration::from_millis(20), telemetry.clone()));
        let (provider, verifications) = (config.crypto.provider(), Verifications::default());
        let ticket_keys = directory.ticket_keys().clone();
        let sessions =
            Sessions::start(config.sessions, &config.state_directory, ticket_keys, telemetry.clone()).unwrap();
        let handshakes = Handshakes { provider, directory, key_client, sessions, verifications };
        let places = Arc::new(Semaphore::new(config.limits.max_connections));
        let admission = Admission::new(&config.limits);
        let connections = Connections { handshakes, admission, limits: config.limits, telemetry: telemetry.clone() };
        let connections = Arc::new(connections);
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let listener = Listener::bind(&config.listeners[0]).unwrap();
        let edge = listener.address();
        tokio::spawn(listener.accept(connections.clone(), places, tracker.clone(), stop.clone()).unwrap());
        let stack = Self {
            edge,
            connections,
            backend,
            telemetry,
            pool,
            readiness,
            tracker,
            stop,
            registry,
            roots: roots(&authority),
            keys,
            directory: options.directory,
            key_servers,
            _links: links,
            _lists: lists,
        };
        let all = i64::try_from((options.key_servers - options.unknown) * options.connections).unwrap();
        stack.until("all connections stand", || stack.telemetry.key_server_connections.get() == all).await;
        stack.until("ready", || stack.readiness.is_ready()).await;
        stack
    }

    /// Waits until `condition` holds.
    pub(crate) async fn until(&self, what: &str, condition: impl Fn() -> bool) {
        for _ in 0..500 {
            if condition() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not within 5 s: {what}; {:?}\n{}", self.readiness.reasons(), self.metrics());
    }

    /// Waits until the metric of this name and labels has this value.
    pub(crate) async fn until_metric(&self, name_and_labels: &str, value: u64) {
        let line = format!("keystead_edge_{name_and_labels} {value}\n");
        self.until(&line, || self.metrics().contains(&line)).await;
    }

    /// The key that key servers hold.
    pub(crate) fn key_id(&self) -> KeyId {
        let leaf = self.keys.served[0].chain.first().unwrap();
        keystead_tls::PublicKey::of_certificate(leaf).unwrap().key_id()
    }

    pub(crate) fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text
    }

    /// A client that tries its handshake.
    pub(crate) async fn try_connect(&self) -> std::io::Result<TlsStream<TcpStream>> {
        self.try_connect_to(SERVER_NAME).await
    }

    pub(crate) async fn try_connect_to(&self, name: &'static str) -> std::io::Result<TlsStream<TcpStream>> {
        self.try_connect_as(name, None).await
    }

    /// A client that has this certificate, if any.
    pub(crate) async fn try_connect_as(
        &self,
        name: &'static str,
        certificate: Option<&ClientCertificate>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        self.try_connect_with(name, Arc::new(client_config(self.roots.clone(), certificate))).await
    }

    /// What a client keeps over its connections, its sessions among it.
    pub(crate) fn returning_client(&self, certificate: Option<&ClientCertificate>) -> Arc<ClientConfig> {
        Arc::new(client_config(self.roots.clone(), certificate))
    }

    /// The same, of a client that knows no tickets.
    pub(crate) fn returning_client_without_tickets(&self) -> Arc<ClientConfig> {
        let mut config = client_config(self.roots.clone(), None);
        config.resumption = Resumption::in_memory_sessions(8).tls12_resumption(Tls12Resumption::SessionIdOnly);
        Arc::new(config)
    }

    pub(crate) async fn try_connect_with(
        &self,
        name: &'static str,
        config: Arc<ClientConfig>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let socket = TcpStream::connect(self.edge).await?;
        socket.set_nodelay(true)?;
        TlsConnector::from(config).connect(ServerName::try_from(name).unwrap(), socket).await
    }

    /// A client that speaks over a connection of the test's.
    pub(crate) async fn try_connect_over<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        socket: S,
    ) -> std::io::Result<TlsStream<S>> {
        let config = Arc::new(client_config(self.roots.clone(), None));
        TlsConnector::from(config).connect(ServerName::try_from(SERVER_NAME).unwrap(), socket).await
    }

    /// A connection through the edge: the client's end and the backend's.
    pub(crate) async fn connect(&self) -> (TlsStream<TcpStream>, TcpStream) {
        let (client, accepted) = tokio::try_join!(self.try_connect(), self.backend.accept()).unwrap();
        (client, accepted.0)
    }

    /// Ends a key server.
    pub(crate) async fn kill_key_server(&mut self, index: usize) -> SocketAddr {
        let before = self.telemetry.key_server_connections.get();
        let address = self.key_servers.remove(index).address;
        self.until("its connections are gone", || self.telemetry.key_server_connections.get() < before).await;
        address
    }

    /// Starts a key server where one was before.
    pub(crate) fn start_key_server(&mut self, address: SocketAddr) {
        self.key_servers.push(self.keys.start(address));
    }
}

impl Keys {
    fn new(authority: &Authority) -> Self {
        let served = |name| {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec![SERVER_NAME.to_owned(), SECOND_NAME.to_owned()]).unwrap();
            let chain = vec![params.signed_by(&key, authority).unwrap().der().to_vec()];
            ServedKey { name, key: Arc::new(key), chain }
        };
        let name = SanType::DnsName(KEY_SERVER_NAME.try_into().unwrap());
        Self { material: material(authority, name), served: vec![served("key"), served("slow")] }
    }

    fn start(&self, address: SocketAddr) -> TestKeyServer {
        TestKeyServer::start(address, &self.material, self.served.clone())
    }

    fn start_without_key(&self, address: SocketAddr) -> TestKeyServer {
        TestKeyServer::start(address, &self.material, Vec::new())
    }
}

fn config(key_servers: &[TestKeyServer], options: &Options, backend: SocketAddr) -> Config {
    let known = key_servers.iter().take(options.key_servers - options.unknown);
    let addresses: Vec<_> = known.map(|server| format!("\"{}\"", server.address)).collect();
    let text = format!(
        r#"
state_directory = "state"
[channel]
certificate = "c.pem"
private_key = "k.pem"
trust_roots = "ca.pem"
[[listener]]
address = "127.0.0.1:0"
{}
[key_server]
addresses = [{}]
server_name = "{KEY_SERVER_NAME}"
timeout = "{}ms"
{}
[[virtual_host]]
names = ["{SERVER_NAME}"]
keys = ["key"]
backends = {}
{}
"#,
        options.listener_lines,
        addresses.join(", "),
        options.key_server_timeout.as_millis(),
        options.key_server_lines,
        options.backends.replace("BACKEND", &backend.to_string()),
        options.host_lines.replace("BACKEND", &backend.to_string()),
    );
    let file = options.directory.path().join("edge.toml");
    std::fs::write(&file, text).unwrap();
    let mut config = Config::load(&file).unwrap();
    // No file may have one alone, but what happens on one connection is seen best where there is no other.
    config.key_server.connections = options.connections;
    config
}

/// A client's chain and its key.
pub(crate) struct ClientCertificate {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: KeyPair,
}

fn roots(authority: &Authority) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    Arc::new(roots)
}

fn client_config(roots: Arc<RootCertStore>, certificate: Option<&ClientCertificate>) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots);
    match certificate {
        None => config.with_no_client_auth(),
        Some(ClientCertificate { chain, key }) => {
            let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
            config.with_client_auth_cert(chain.clone(), key).unwrap()
        }
    }
}
