//! The dialling end: a connector for `tonic::transport::Endpoint`.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::http::Uri;
use tower::Service;

use super::{ALPN_H2, ClientChannel};

/// Where a server listens: `host:port`, with a DNS name or an address as the host.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct HostPort {
    host: String,
    port: u16,
}

impl HostPort {
    /// The DNS name or address, an IPv6 address without its brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for HostPort {
    type Err = InvalidHostPort;

    fn from_str(text: &str) -> Result<Self, InvalidHostPort> {
        let (host, port) = text.rsplit_once(':').ok_or(InvalidHostPort)?;
        let port = port.parse().map_err(|_| InvalidHostPort)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        ServerName::try_from(bare).map_err(|_| InvalidHostPort)?;
        Ok(Self { host: bare.to_owned(), port })
    }
}

impl TryFrom<String> for HostPort {
    type Error = InvalidHostPort;

    fn try_from(text: String) -> Result<Self, InvalidHostPort> {
        text.parse()
    }
}

impl From<std::net::SocketAddr> for HostPort {
    fn from(address: std::net::SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port() }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            return write!(f, "[{}]:{}", self.host, self.port);
        }
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The text is not `host:port`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected host:port, with a DNS name or an address as the host")]
pub struct InvalidHostPort;

/// Dials one server. The name is resolved at each dial, and its addresses are tried in turn.
///
/// tonic asks for a URI and this connector takes no notice of it, since where to dial and whom to expect there are
/// settled at its creation:
///
/// ```no_run
/// # use keystead_program::channel::{ChannelMaterial, ClientChannel, Connector, HostPort};
/// # fn example(material: &ChannelMaterial, server: HostPort) -> Result<(), Box<dyn std::error::Error>> {
/// let connector = Connector::new(ClientChannel::new(material), server, None)?;
/// let channel = tonic::transport::Endpoint::from_static("http://key-server").connect_with_connector_lazy(connector);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Connector {
    channel: ClientChannel,
    server: HostPort,
    server_name: ServerName<'static>,
}

/// How long dialling and handshake together may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

impl Connector {
    /// A connector to `server`, whose certificate must be for `server_name`: its own host where that is `None`.
    ///
    /// # Errors
    /// [`InvalidHostPort`] when the name is neither a DNS name nor an address.
    pub fn new(channel: ClientChannel, server: HostPort, server_name: Option<String>) -> Result<Self, InvalidHostPort> {
        let server_name = server_name.unwrap_or_else(|| server.host.clone());
        let server_name = ServerName::try_from(server_name).map_err(|_| InvalidHostPort)?;
        Ok(Self { channel, server, server_name })
    }

    async fn dial(self) -> Result<TokioIo<TlsStream<TcpStream>>, ConnectorError> {
        let HostPort { host, port } = &self.server;
        let socket = TcpStream::connect((host.as_str(), *port)).await.map_err(ConnectorError::Dial)?;
        socket.set_nodelay(true).map_err(ConnectorError::Dial)?;
        let handshake = TlsConnector::from(self.channel.config()).connect(self.server_name, socket);
        let stream = handshake.await.map_err(ConnectorError::Handshake)?;
        if stream.get_ref().1.alpn_protocol() != Some(ALPN_H2) {
            return Err(ConnectorError::NotHttp2);
        }
        Ok(TokioIo::new(stream))
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = ConnectorError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectorError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectorError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let dial = self.clone().dial();
        Box::pin(async { tokio::time::timeout(CONNECT_TIMEOUT, dial).await.unwrap_or(Err(ConnectorError::TimedOut)) })
    }
}

/// Why a server could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectorError {
    /// No connection: the name does not resolve, or nobody listens there.
    #[error("dial: {0}")]
    Dial(io::Error),
    /// The TLS handshake failed.
    #[error("handshake: {0}")]
    Handshake(io::Error),
    /// Something other than a key server listens there.
    #[error("the server does not speak HTTP/2")]
    NotHttp2,
    /// Dialling and handshake took longer than 5 s.
    #[error("no connection within {CONNECT_TIMEOUT:?}")]
    TimedOut,
}
