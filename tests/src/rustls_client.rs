//! rustls as a client of an edge.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, ConfigBuilder, RootCertStore, StreamOwned, SupportedCipherSuite,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use crate::client_authority::ClientFiles;
use crate::stack::{self, Edge, pki};

/// A connection of rustls.
pub type Connection = StreamOwned<ClientConnection, TcpStream>;

/// A client with TLS 1.2, all suites, and the authority of every stack.
pub fn config() -> ClientConfig {
    config_with(aws_lc_rs::default_provider(), &[&rustls::version::TLS12])
}

/// A client that offers one suite and these groups.
pub fn config_for(suite: CipherSuite, groups: &[rustls::NamedGroup]) -> ClientConfig {
    let all = aws_lc_rs::default_provider();
    let is_chosen = |candidate: &&SupportedCipherSuite| candidate.suite() == suite;
    let suite = *all.cipher_suites.iter().find(is_chosen).expect("a suite of rustls");
    let is_chosen = |candidate: &&'static dyn SupportedKxGroup| groups.contains(&candidate.name());
    let kx_groups = all.kx_groups.iter().copied().filter(is_chosen).collect();
    let provider = CryptoProvider { cipher_suites: vec![suite], kx_groups, ..all };
    config_with(provider, &[&rustls::version::TLS12])
}

/// A client with TLS 1.2, all suites, the authority of every stack, and this certificate to show.
pub fn config_with_certificate(client: &ClientFiles) -> ClientConfig {
    let chain = CertificateDer::pem_file_iter(&client.certificate).and_then(Iterator::collect).expect("certificates");
    let key = PrivateKeyDer::from_pem_file(&client.key).expect("a key");
    let builder = builder(aws_lc_rs::default_provider(), &[&rustls::version::TLS12]);
    builder.with_client_auth_cert(chain, key).expect("key and certificate")
}

/// A client with this cryptography and these versions.
pub fn config_with(provider: CryptoProvider, versions: &[&'static rustls::SupportedProtocolVersion]) -> ClientConfig {
    builder(provider, versions).with_no_client_auth()
}

fn builder(
    provider: CryptoProvider,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(pki::directory().join("ca.pem")).expect("the authority");
    roots.add(authority).expect("a trust root");
    let builder = ClientConfig::builder_with_provider(Arc::new(provider));
    builder.with_protocol_versions(versions).expect("versions").with_root_certificates(roots)
}

/// Connects and completes the handshake, for the host `localhost`.
///
/// # Errors
/// Those of rustls, as they come from a socket.
pub fn connect(edge: &Edge, config: ClientConfig) -> std::io::Result<Connection> {
    connect_to(edge, config, "localhost")
}

/// Connects and completes the handshake.
///
/// # Errors
/// Those of rustls, as they come from a socket.
pub fn connect_to(edge: &Edge, config: ClientConfig, name: &str) -> std::io::Result<Connection> {
    connect_at(edge.address, config, name)
}

/// As [`connect_to`], for an edge that may be on its way.
///
/// # Errors
/// Those of rustls and the socket.
pub fn connect_at(address: SocketAddr, config: ClientConfig, name: &str) -> std::io::Result<Connection> {
    let name = ServerName::try_from(name.to_owned()).expect("a server name");
    let mut tls = ClientConnection::new(Arc::new(config), name).expect("a configuration");
    let mut socket = stack::connect(address)?;
    while tls.is_handshaking() {
        tls.complete_io(&mut socket)?;
    }
    Ok(StreamOwned::new(tls, socket))
}

/// Asks for `/` and returns the page, after which the connection is at its end.
///
/// # Errors
/// Those of the connection; `UnexpectedEof` where it ends without close_notify.
pub fn fetch(connection: &mut Connection) -> std::io::Result<String> {
    connection.write_all(b"GET / HTTP/1.0\r\nhost: localhost\r\n\r\n")?;
    let mut page = String::new();
    connection.read_to_string(&mut page)?;
    Ok(page)
}

/// Whether a client is served: the handshake completes and the backend's page arrives.
pub fn is_served(edge: &Edge) -> bool {
    connect(edge, config()).and_then(|mut connection| fetch(&mut connection)).is_ok()
}
