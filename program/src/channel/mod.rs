//! The channel between edge and key server: mutual TLS 1.3, on which each side is what its certificate says.
//!
//! [`ChannelConfig`] names the files, [`ChannelMaterial`] holds what they say, [`ServerChannel`] and [`ClientChannel`]
//! are the two ends. Both ends take replaced material for their next handshake; connections that stand are not touched.

mod accept;
mod connect;
mod expiry;
mod identity;
mod peer_stream;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use tokio::sync::watch;

use crate::config::RelativePath;

pub use accept::{AcceptLimits, Acceptor, ChannelMetrics, RefusedPeer};
pub use connect::{Connector, ConnectorError, HostPort, InvalidHostPort};
pub use expiry::{EndsSoon, Expiry, Validity};
pub use identity::{InvalidPeerIdentity, PeerIdentity};
pub use peer_stream::{PeerInfo, PeerStream};

/// The `[channel]` table of a configuration: PEM files.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelConfig {
    /// This side's certificate, with the intermediates up to the other side's trust roots behind it.
    pub certificate: RelativePath,
    /// Its private key: PKCS#8, PKCS#1 or SEC1.
    pub private_key: RelativePath,
    /// The authorities that the other side's certificate must come from.
    pub trust_roots: RelativePath,
}

impl ChannelConfig {
    /// The files; relative paths start at `directory`.
    pub fn files(&self, directory: &Path) -> [PathBuf; 3] {
        [&self.certificate, &self.private_key, &self.trust_roots].map(|path| path.under(directory))
    }
}

/// What the files of a [`ChannelConfig`] hold, checked to agree.
#[derive(Clone, Debug)]
pub struct ChannelMaterial {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    identity: Result<PeerIdentity, InvalidPeerIdentity>,
    validity: Option<Validity>,
}

impl ChannelMaterial {
    /// Reads the files that `config` names; relative paths start at `directory`.
    ///
    /// # Errors
    /// [`ChannelError`] for files that cannot be read or parsed, and for a key that is not the certificate's.
    pub fn load(config: &ChannelConfig, directory: &Path) -> Result<Self, ChannelError> {
        let certificate = config.certificate.under(directory);
        let private_key = config.private_key.under(directory);
        let chain = certificates(&certificate)?;
        let key = PrivateKeyDer::from_pem_file(&private_key)
            .map_err(|cause| ChannelError::Unreadable { file: private_key.clone(), cause })?;
        let roots = trust_roots(&config.trust_roots.under(directory))?;
        let identity = match chain.first() {
            Some(leaf) => PeerIdentity::of_certificate(leaf),
            None => return Err(ChannelError::NoCertificate { file: certificate }),
        };
        let validity = chain.first().and_then(Validity::of);
        let mismatch = |cause| ChannelError::Mismatch { certificate: certificate.clone(), private_key, cause };
        let (server, client) = configs(chain, key, roots).map_err(mismatch)?;
        Ok(Self { server: Arc::new(server), client: Arc::new(client), identity, validity })
    }

    /// What to tell the operator when the certificate is to be renewed.
    pub fn warning(&self) -> Option<EndsSoon> {
        self.validity.and_then(|validity| validity.warning(SystemTime::now()))
    }

    /// Who this side is, as the other side will read it.
    ///
    /// # Errors
    /// [`InvalidPeerIdentity`] when the certificate names nobody: a key server would refuse it.
    pub fn identity(&self) -> Result<&PeerIdentity, InvalidPeerIdentity> {
        self.identity.as_ref().map_err(|cause| *cause)
    }
}

/// Why the files of a channel cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The file cannot be read, or holds no such PEM section.
    #[error("{}: {cause}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What was found.
        cause: rustls_pki_types::pem::Error,
    },
    /// The file holds no certificate.
    #[error("{}: no certificate in it", file.display())]
    NoCertificate {
        /// The file.
        file: PathBuf,
    },
    /// A certificate in the file cannot be a trust root.
    #[error("{}: {cause}", file.display())]
    TrustRoot {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        cause: rustls::Error,
    },
    /// Certificate and private key do not make one identity.
    #[error("{} and {}: {cause}", certificate.display(), private_key.display())]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The private key's file.
        private_key: PathBuf,
        /// What is wrong.
        cause: rustls::Error,
    },
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, ChannelError> {
    let unreadable = |cause| ChannelError::Unreadable { file: file.to_owned(), cause };
    let found = CertificateDer::pem_file_iter(file).map_err(unreadable)?.collect::<Result<Vec<_>, _>>();
    let found = found.map_err(unreadable)?;
    if found.is_empty() {
        return Err(ChannelError::NoCertificate { file: file.to_owned() });
    }
    Ok(found)
}

fn trust_roots(file: &Path) -> Result<Arc<RootCertStore>, ChannelError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots.add(certificate).map_err(|cause| ChannelError::TrustRoot { file: file.to_owned(), cause })?;
    }
    Ok(Arc::new(roots))
}

const TLS_1_3: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];
const ALPN_H2: &[u8] = b"h2";

fn configs(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Arc<RootCertStore>,
) -> Result<(ServerConfig, ClientConfig), rustls::Error> {
    // Named explicitly: with several providers linked, rustls has no default.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = server_config(provider.clone(), chain.clone(), key.clone_key(), roots.clone())?;
    let client = client_config(provider, chain, key, roots)?;
    Ok((server, client))
}

fn server_config(
    provider: Arc<CryptoProvider>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Arc<RootCertStore>,
) -> Result<ServerConfig, rustls::Error> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build().map_err(no_verifier)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(TLS_1_3)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    // Connections live long; without resumption each begins with the peer's certificate being verified.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn no_verifier(cause: VerifierBuilderError) -> rustls::Error {
    rustls::Error::General(cause.to_string())
}

fn client_config(
    provider: Arc<CryptoProvider>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Arc<RootCertStore>,
) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(TLS_1_3)?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// The accepting end of channels. Clones share the material.
#[derive(Clone, Debug)]
pub struct ServerChannel {
    config: Arc<ArcSwap<ServerConfig>>,
    expiry: Expiry,
}

impl ServerChannel {
    /// An end that shows and trusts what `material` says.
    pub fn new(material: &ChannelMaterial) -> Self {
        Self { config: Arc::new(ArcSwap::new(material.server.clone())), expiry: Expiry::new(material.validity) }
    }

    /// Takes other material for every handshake that begins from here on.
    pub fn replace(&self, material: &ChannelMaterial) {
        self.config.store(material.server.clone());
        self.expiry.replace(material.validity);
    }

    /// How long this side's certificate is good.
    pub fn expiry(&self) -> &Expiry {
        &self.expiry
    }

    fn config(&self) -> Arc<ServerConfig> {
        self.config.load_full()
    }
}

/// The dialling end of channels. Clones share the material.
#[derive(Clone, Debug)]
pub struct ClientChannel {
    config: watch::Sender<Arc<ClientConfig>>,
    expiry: Expiry,
}

impl ClientChannel {
    /// An end that shows and trusts what `material` says.
    pub fn new(material: &ChannelMaterial) -> Self {
        Self { config: watch::Sender::new(material.client.clone()), expiry: Expiry::new(material.validity) }
    }

    /// Takes other material for every handshake that begins from here on. The same again is no change.
    pub fn replace(&self, material: &ChannelMaterial) {
        self.config.send_if_modified(|config| {
            let before = std::mem::replace(config, material.client.clone());
            !Arc::ptr_eq(&before, config)
        });
        self.expiry.replace(material.validity);
    }

    /// The changes from here on.
    pub fn renewals(&self) -> Renewals {
        Renewals(self.config.subscribe())
    }

    /// How long this side's certificate is good.
    pub fn expiry(&self) -> &Expiry {
        &self.expiry
    }

    fn config(&self) -> Arc<ClientConfig> {
        self.config.borrow().clone()
    }
}

/// Changes of a [`ClientChannel`]'s material: connections from before a change show what was shown before.
#[derive(Clone, Debug)]
pub struct Renewals(watch::Receiver<Arc<ClientConfig>>);

impl Renewals {
    /// Waits until there is a change that was not seen. Never ends where there can be none.
    pub async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests;
