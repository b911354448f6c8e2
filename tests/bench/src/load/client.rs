//! One client: it connects, makes its handshake, and asks.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, Tls12Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, HandshakeKind, RootCertStore, SignatureScheme, SupportedProtocolVersion,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::plan::{Plan, Resuming, Version};

/// For connecting and handshake together.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// What clients are configured with.
#[derive(Clone)]
pub struct Client {
    address: SocketAddr,
    name: ServerName<'static>,
    connector: TlsConnector,
}

/// A connection whose handshake has completed.
pub(super) struct Connected {
    pub(super) stream: TlsStream<TcpStream>,
    pub(super) resumed: bool,
}

impl Client {
    /// Clients of one plan, which share their sessions.
    ///
    /// # Errors
    /// What the plan says and rustls does not have.
    pub fn new(plan: &Plan) -> Result<Self> {
        let name = ServerName::try_from(plan.server_name.clone()).context("--server-name")?;
        Ok(Self { address: plan.address, name, connector: TlsConnector::from(Arc::new(config(plan)?)) })
    }

    pub(super) async fn connect(&self) -> Result<Connected, &'static str> {
        let connecting = async {
            let socket = TcpStream::connect(self.address).await?;
            // Small requests would wait for acknowledgements.
            socket.set_nodelay(true)?;
            self.connector.connect(self.name.clone(), socket).await
        };
        let stream = timeout(HANDSHAKE_TIMEOUT, connecting).await.map_err(|_| "timeout")?;
        let stream = stream.map_err(|cause| reason(&cause))?;
        let resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
        Ok(Connected { stream, resumed })
    }
}

fn config(plan: &Plan) -> Result<ClientConfig> {
    let provider = Arc::new(provider(plan)?);
    let version: &SupportedProtocolVersion = match plan.tls {
        Version::Tls12 => &rustls::version::TLS12,
        Version::Tls13 => &rustls::version::TLS13,
    };
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(&[version])?;
    let verifier: Arc<dyn ServerCertVerifier> = match &plan.ca {
        None => Arc::new(AnyCertificate(provider)),
        Some(file) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(file).with_context(|| file.display().to_string())?)?;
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build()?
        }
    };
    let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    let sessions = || Resumption::in_memory_sessions(plan.connections.get().max(64));
    config.resumption = match plan.resumption {
        Resuming::None => Resumption::disabled(),
        Resuming::Ticket => sessions(),
        Resuming::Id if plan.tls == Version::Tls13 => bail!("TLS 1.3 resumes by ticket alone"),
        Resuming::Id => sessions().tls12_resumption(Tls12Resumption::SessionIdOnly),
    };
    Ok(config)
}

fn provider(plan: &Plan) -> Result<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    if let Some(wanted) = &plan.suite {
        provider.cipher_suites.retain(|suite| suite.suite().as_str() == Some(wanted));
        ensure!(!provider.cipher_suites.is_empty(), "rustls has no suite {wanted}");
    }
    if let Some(wanted) = &plan.group {
        provider.kx_groups.retain(|group| group.name().as_str().is_some_and(|name| name.eq_ignore_ascii_case(wanted)));
        ensure!(!provider.kx_groups.is_empty(), "rustls has no group {wanted}");
    }
    Ok(provider)
}

/// One word for what a client sees.
pub(super) fn reason(cause: &io::Error) -> &'static str {
    let tls = cause.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match (tls, cause.kind()) {
        (Some(Error::AlertReceived(_)), _) => "alert",
        (Some(Error::InvalidCertificate(_)), _) => "bad_certificate",
        (Some(_), _) => "tls_error",
        (None, io::ErrorKind::ConnectionRefused) => "refused",
        (None, io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => "reset",
        (None, io::ErrorKind::UnexpectedEof) => "closed",
        (None, io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse) => "no_port_left",
        (None, _) if cause.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) => "no_descriptor_left",
        _ => "other",
    }
}

/// Takes every certificate; that the server has its key is verified all the same.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _time: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
