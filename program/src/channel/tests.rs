//! Real handshakes on loopback.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tower::ServiceExt;

use super::*;

const EDGE: &str = "spiffe://keystead.test/edge/one";
const OTHER_EDGE: &str = "spiffe://keystead.test/edge/two";

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn issue(&self, names: &[SanType]) -> (String, String) {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.to_vec();
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }

    /// Material for the holder of a certificate with `names`, who trusts `trusted`.
    fn material(&self, names: &[SanType], trusted: &Self) -> ChannelMaterial {
        let (certificate, key) = self.issue(names);
        load(&certificate, &key, &trusted.0.pem()).unwrap()
    }
}

fn load(certificate: &str, key: &str, roots: &str) -> Result<ChannelMaterial, ChannelError> {
    let directory = tempfile::tempdir().unwrap();
    let config = ChannelConfig {
        certificate: "channel.pem".into(),
        private_key: "channel.key".into(),
        trust_roots: "ca.pem".into(),
    };
    for (file, text) in [("channel.pem", certificate), ("channel.key", key), ("ca.pem", roots)] {
        std::fs::write(directory.path().join(file), text).unwrap();
    }
    ChannelMaterial::load(&config, directory.path())
}

fn uri(uri: &str) -> SanType {
    SanType::URI(uri.try_into().unwrap())
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

struct Server {
    address: std::net::SocketAddr,
    metrics: ChannelMetrics,
    connections: ReceiverStream<std::io::Result<PeerStream>>,
    channel: ServerChannel,
}

impl Server {
    async fn start(authority: &Authority) -> Self {
        Self::with_timeout(authority, std::time::Duration::from_secs(20)).await
    }

    async fn with_timeout(authority: &Authority, handshake_timeout: std::time::Duration) -> Self {
        let limits = AcceptLimits {
            handshake_timeout,
            handshakes: 4,
            handshakes_per_address: 3,
            connections: 3,
            connections_per_peer: 2,
        };
        let channel = ServerChannel::new(&authority.material(&[dns("localhost")], authority));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let metrics = ChannelMetrics::default();
        let acceptor = Acceptor { channel: channel.clone(), limits, metrics: metrics.clone() };
        Self { address, metrics, connections: acceptor.accept(listener), channel }
    }

    fn connector(&self, material: &ChannelMaterial) -> Connector {
        Connector::new(ClientChannel::new(material), self.address.into(), Some("localhost".to_owned())).unwrap()
    }

    /// Both ends of a connection whose peer shows `material`.
    async fn admits(&mut self, material: &ChannelMaterial) -> impl Sized + use<> {
        (dial(self.connector(material)).await.unwrap(), self.connections.next().await.unwrap().unwrap())
    }

    /// Waits until a connection has been refused for `reason`.
    async fn refuses(&self, reason: RefusedPeer) {
        for _ in 0..200 {
            if self.metrics.refused(reason) == 1 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("no connection was refused for {reason:?}");
    }
}

async fn dial(
    connector: Connector,
) -> Result<hyper_util::rt::TokioIo<tokio_rustls::client::TlsStream<TcpStream>>, ConnectorError> {
    connector.oneshot(tonic::codegen::http::Uri::from_static("http://key-server")).await
}

/// Dials and reads to the end: TLS 1.3 lets a client believe in a connection that the server is about to refuse.
async fn dial_in_vain(connector: Connector) {
    if let Ok(stream) = dial(connector).await {
        let mut read = Vec::new();
        let _ = stream.into_inner().read_to_end(&mut read).await;
        assert!(read.is_empty());
    }
}

#[tokio::test]
async fn both_sides_know_each_other() {
    let authority = Authority::new();
    let mut server = Server::start(&authority).await;
    let material = authority.material(&[dns("edge"), uri(EDGE)], &authority);
    assert_eq!(material.identity().unwrap().as_str(), EDGE);

    let mut client = dial(server.connector(&material)).await.unwrap().into_inner();
    let mut accepted = server.connections.next().await.unwrap().unwrap();
    let peer = tonic::transport::server::Connected::connect_info(&accepted);
    assert_eq!(peer.identity.as_str(), EDGE);
    assert_eq!(client.get_ref().1.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    assert_eq!(server.metrics.connected(), 1);

    client.write_all(b"ping").await.unwrap();
    let mut bytes = [0; 4];
    accepted.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"ping");
    drop(accepted);
    assert_eq!(server.metrics.connected(), 0);
}

#[tokio::test]
async fn peers_without_a_right_certificate_are_refused_by_name() {
    let (authority, other) = (Authority::new(), Authority::new());
    let cases = [
        (other.material(&[uri(EDGE)], &authority), RefusedPeer::UntrustedCertificate),
        (authority.material(&[dns("edge")], &authority), RefusedPeer::NoIdentity),
        (authority.material(&[uri(EDGE), uri("spiffe://keystead.test/edge/two")], &authority), RefusedPeer::NoIdentity),
    ];
    for (material, reason) in cases {
        let server = Server::start(&authority).await;
        dial_in_vain(server.connector(&material)).await;
        server.refuses(reason).await;
        assert_eq!(server.metrics.connected(), 0);
    }
}

#[tokio::test]
async fn an_expired_certificate_is_refused_by_name() {
    let authority = Authority::new();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![uri(EDGE)];
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &authority.0).unwrap();
    let material = load(&certificate.pem(), &key.serialize_pem(), &authority.0.pem()).unwrap();
    let server = Server::start(&authority).await;
    dial_in_vain(server.connector(&material)).await;
    server.refuses(RefusedPeer::ExpiredCertificate).await;
}

async fn dial_raw(server: &Server, config: ClientConfig) {
    let socket = TcpStream::connect(server.address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    if let Ok(mut stream) = connector.connect("localhost".try_into().unwrap(), socket).await {
        let ended = stream.read(&mut [0; 1]).await;
        assert!(ended.is_err(), "the server ends the connection with an alert");
    }
}

fn client(authority: &Authority, versions: &[&'static rustls::SupportedProtocolVersion]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(authority.0.der().clone()).unwrap();
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

#[tokio::test]
async fn a_peer_without_certificate_is_refused() {
    let authority = Authority::new();
    let server = Server::start(&authority).await;
    dial_raw(&server, client(&authority, TLS_1_3)).await;
    server.refuses(RefusedPeer::NoCertificate).await;
}

#[tokio::test]
async fn a_peer_that_speaks_another_protocol_is_refused() {
    let authority = Authority::new();
    let server = Server::start(&authority).await;
    dial_raw(&server, client(&authority, &[&rustls::version::TLS12])).await;
    server.refuses(RefusedPeer::NoCommonProtocol).await;

    let server = Server::start(&authority).await;
    let mut http1 = client(&authority, TLS_1_3);
    http1.alpn_protocols = vec![b"http/1.1".to_vec()];
    dial_raw(&server, http1).await;
    server.refuses(RefusedPeer::NoCommonAlpn).await;

    let server = Server::start(&authority).await;
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    server.refuses(RefusedPeer::NoCommonProtocol).await;
}

#[tokio::test]
async fn silence_is_bounded() {
    let server = Server::with_timeout(&Authority::new(), std::time::Duration::from_millis(300)).await;
    let _silent = TcpStream::connect(server.address).await.unwrap();
    server.refuses(RefusedPeer::HandshakeTimeout).await;
    let leaving = TcpStream::connect(server.address).await.unwrap();
    drop(leaving);
    server.refuses(RefusedPeer::ConnectionLost).await;
}

#[tokio::test]
async fn connections_are_bounded() {
    let authority = Authority::new();
    let mut server = Server::start(&authority).await;
    let [one, two] = [EDGE, OTHER_EDGE].map(|edge| authority.material(&[uri(edge)], &authority));
    let first = server.admits(&one).await;
    let second = server.admits(&two).await;
    let _third = server.admits(&two).await;
    assert!(dial(server.connector(&one)).await.is_err());
    server.refuses(RefusedPeer::TooManyConnections).await;
    drop(second);
    let _fourth = server.admits(&two).await;
    drop(first);
    server.admits(&one).await;
}

#[tokio::test]
async fn one_peer_leaves_room_for_others() {
    let authority = Authority::new();
    let mut server = Server::start(&authority).await;
    let [one, two] = [EDGE, OTHER_EDGE].map(|edge| authority.material(&[uri(edge)], &authority));
    let first = server.admits(&one).await;
    let _second = server.admits(&one).await;
    dial_in_vain(server.connector(&one)).await;
    server.refuses(RefusedPeer::TooManyConnectionsOfPeer).await;
    let other = server.admits(&two).await;
    drop((first, other));
    server.admits(&one).await;
}

#[tokio::test]
async fn handshakes_of_one_address_leave_room_for_others() {
    let authority = Authority::new();
    let mut server = Server::start(&authority).await;
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    let mut refused = TcpStream::connect(server.address).await.unwrap();
    // Closed without a byte.
    assert!(!matches!(refused.read(&mut [0]).await, Ok(1)));
    server.refuses(RefusedPeer::TooManyHandshakesOfAddress).await;
    drop(silent);
    let material = authority.material(&[uri(EDGE)], &authority);
    for _ in 0..100 {
        if let Ok(_client) = dial(server.connector(&material)).await {
            server.connections.next().await.unwrap().unwrap();
            return;
        }
    }
    panic!("the places of those that left are free again");
}

#[tokio::test]
async fn a_client_refuses_a_server_of_another_name_or_authority() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = Server::start(&authority).await;
    let material = authority.material(&[uri(EDGE)], &authority);
    let elsewhere =
        Connector::new(ClientChannel::new(&material), server.address.into(), Some("elsewhere".to_owned())).unwrap();
    assert!(matches!(dial(elsewhere).await.unwrap_err(), ConnectorError::Handshake(_)));
    let stranger = authority.material(&[uri(EDGE)], &other);
    assert!(matches!(dial(server.connector(&stranger)).await.unwrap_err(), ConnectorError::Handshake(_)));
}

#[tokio::test]
async fn replaced_material_counts_from_the_next_handshake() {
    let (authority, next) = (Authority::new(), Authority::new());
    let mut server = Server::start(&authority).await;
    let channel = ClientChannel::new(&authority.material(&[uri(EDGE)], &authority));
    let connector = Connector::new(channel.clone(), server.address.into(), Some("localhost".to_owned())).unwrap();
    let _client = dial(connector.clone()).await.unwrap();
    server.connections.next().await.unwrap().unwrap();

    server.channel.replace(&next.material(&[dns("localhost")], &next));
    assert!(dial(connector.clone()).await.is_err());
    channel.replace(&next.material(&[uri(EDGE)], &next));
    dial(connector).await.unwrap();
    server.connections.next().await.unwrap().unwrap();
}

#[test]
fn material_is_checked_when_it_is_read() {
    let authority = Authority::new();
    let (certificate, key) = authority.issue(&[uri(EDGE)]);
    let (_, other_key) = authority.issue(&[uri(EDGE)]);
    let roots = authority.0.pem();
    assert!(matches!(load(&certificate, &other_key, &roots), Err(ChannelError::Mismatch { .. })));
    assert!(matches!(load("", &key, &roots), Err(ChannelError::NoCertificate { .. })));
    assert!(matches!(load(&certificate, "", &roots), Err(ChannelError::Unreadable { .. })));
    assert!(matches!(load(&certificate, &key, "nothing"), Err(ChannelError::NoCertificate { .. })));
}

#[test]
fn host_and_port_are_read() {
    let read = |text: &str| text.parse::<HostPort>().map(|server| (server.host().to_owned(), server.port()));
    assert_eq!(read("keys.example.net:7443"), Ok(("keys.example.net".to_owned(), 7443)));
    assert_eq!(read("[::1]:7443"), Ok(("::1".to_owned(), 7443)));
    assert_eq!("[::1]:7443".parse::<HostPort>().unwrap().to_string(), "[::1]:7443");
    for wrong in ["keys.example.net", ":7443", "keys:99999", "a b:1"] {
        assert_eq!(read(wrong), Err(InvalidHostPort), "{wrong}");
    }
}

#[tokio::test]
async fn a_connection_ends_with_its_peers_certificate() {
    let authority = Authority::new();
    let mut server = Server::start(&authority).await;
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![uri(EDGE)];
    // Long enough for a busy machine to connect.
    params.not_after = (SystemTime::now() + std::time::Duration::from_secs(8)).into();
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &authority.0).unwrap().pem();
    let material = load(&certificate, &key.serialize_pem(), &authority.0.pem()).unwrap();
    assert!(material.warning().is_some());
    let mut client = dial(server.connector(&material)).await.unwrap().into_inner();
    let patience = std::time::Duration::from_secs(20);
    let mut accepted = tokio::time::timeout(patience, server.connections.next()).await.unwrap().unwrap().unwrap();
    client.write_all(b"ping").await.unwrap();
    let mut bytes = [0; 4];
    accepted.read_exact(&mut bytes).await.unwrap();

    let ended = tokio::time::timeout(patience, accepted.read_exact(&mut bytes)).await.unwrap().unwrap_err();
    assert_eq!(ended.kind(), std::io::ErrorKind::ConnectionAborted);
    assert!(accepted.write_all(b"pong").await.is_err(), "for good");
    assert_eq!(server.metrics.expired(), 1);
    // Whoever comes later is refused by the handshake.
    dial_in_vain(server.connector(&material)).await;
    server.refuses(RefusedPeer::ExpiredCertificate).await;
}
