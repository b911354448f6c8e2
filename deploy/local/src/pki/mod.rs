//! Certificates for development and for the sample deployment, each part's in a directory of its own.
//!
//! ```text
//! DIR/ca.pem                   what clients trust: signed the served certificates
//! DIR/client.{pem,key}         a client's certificate, where the deployment has one
//! DIR/authority/               the authorities' own keys; no program reads them
//! DIR/keyserver/               channel.{pem,key}, channel-ca.pem, NAME-rsa.{pem,key}, NAME-p256.{pem,key}
//! DIR/edge-EDGE/               channel.{pem,key}, channel-ca.pem, client-ca.pem: no key of a served certificate
//! ```
//!
//! Whoever can sign served certificates cannot enter the channel between edge and key server, nor come in as a client,
//! nor the other way round: each has its own authority.
mod authority;
mod certificate;
mod files;
mod ticket_secret;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rcgen::{ExtendedKeyUsagePurpose, SanType};

use authority::Authority;
use certificate::{KeyType, Request};

pub use files::Owner;
pub use ticket_secret::provide as provide_ticket_secret;

/// The part of every edge's identity that names the deployment: `spiffe://TRUST_DOMAIN/edge/NAME`.
pub const TRUST_DOMAIN: &str = "keystead.local";

/// The DNS name in the key server's channel certificate, whatever address it is reached at.
pub const KEY_SERVER_NAME: &str = "keyserver.keystead.local";

/// The name that the local stack serves by RSA key transport too.
pub const LEGACY_NAME: &str = "legacy.localhost";

/// The name that the local stack serves to clients with a certificate.
pub const MUTUAL_NAME: &str = "mutual.localhost";

/// The DNS name in the local stack's client certificate.
pub const CLIENT_NAME: &str = "developer.keystead.local";

/// What a deployment needs certificates for.
#[derive(Debug, Clone)]
pub struct Deployment {
    /// DNS names (wildcards allowed) and IP addresses to serve. The first names the files and must be a plain name.
    pub served: Vec<String>,
    /// Names to serve by RSA key transport, with a key of its own, so that only these lose forward secrecy. The first
    /// names the files.
    pub legacy: Vec<String>,
    /// The DNS name of a client to certify, for hosts that ask for it.
    pub client: Option<String>,
    /// DNS names of the key server on the channel.
    pub key_server: Vec<String>,
    /// Names of the edges, each a path segment.
    pub edges: Vec<String>,
    /// Who shall own the files; the calling user where `None`.
    pub owner: Option<Owner>,
}

impl Deployment {
    /// The development deployment: `localhost` and everything below it, served by these edges.
    pub fn localhost(edges: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            legacy: vec![LEGACY_NAME.into()],
            client: Some(CLIENT_NAME.into()),
            // Clients with OpenSSL take no wildcard for names of two labels.
            ..Self::serving(["localhost", "*.localhost", MUTUAL_NAME, "127.0.0.1", "::1"], edges)
        }
    }

    /// These names alone, served by these edges and the development deployment's key server.
    pub fn serving(
        served: impl IntoIterator<Item = impl Into<String>>,
        edges: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        Self {
            served: served.into_iter().map(Into::into).collect(),
            legacy: Vec::new(),
            client: None,
            key_server: vec![KEY_SERVER_NAME.into()],
            edges: edges.into_iter().map(Into::into).collect(),
            owner: None,
        }
    }

    /// Brings `directory` to hold every certificate of the deployment, and returns those it had to make. A certificate
    /// stays as it is while its names and issuer are right and it remains valid for a month.
    ///
    /// # Errors
    /// A name that cannot stand in a certificate or a path, and whatever the file system refuses.
    pub fn provide(&self, directory: &Path) -> Result<Vec<PathBuf>> {
        let stem = self.check()?;
        let authorities = directory.join("authority");
        files::private_directory(&authorities)?;
        let public = Authority::provide(&authorities, "ca", "Keystead development CA")?;
        let channel = Authority::provide(&authorities, "channel-ca", "Keystead channel CA")?;
        files::write_if_changed(&directory.join("ca.pem"), public.pem(), None)?;

        let mut made = Vec::new();
        let key_server = Part::provide(directory, "keyserver", &channel, self.owner)?;
        let names = dns_names(&self.key_server)?;
        let request = Request::new(KeyType::P256, names, ExtendedKeyUsagePurpose::ServerAuth);
        made.extend(key_server.certificate("channel", &request, &channel)?);
        for (suffix, key_type) in [("rsa", KeyType::Rsa2048), ("p256", KeyType::P256)] {
            let request = Request::new(key_type, dns_names(&self.served)?, ExtendedKeyUsagePurpose::ServerAuth);
            made.extend(key_server.certificate(&format!("{stem}-{suffix}"), &request, &public)?);
        }
        if let Some(legacy) = self.legacy.first() {
            let names = dns_names(&self.legacy)?;
            let request = Request::new(KeyType::Rsa2048, names, ExtendedKeyUsagePurpose::ServerAuth);
            made.extend(key_server.certificate(&format!("{legacy}-rsa"), &request, &public)?);
        }
        let clients =
            self.client.as_ref().map(|client| self.provide_client(client, directory, &mut made)).transpose()?;
        for edge in &self.edges {
            let part = Part::provide(directory, &format!("edge-{edge}"), &channel, self.owner)?;
            let identity = SanType::URI(edge_identity(edge).try_into()?);
            let request = Request::new(KeyType::P256, vec![identity], ExtendedKeyUsagePurpose::ClientAuth);
            made.extend(part.certificate("channel", &request, &channel)?);
            if let Some(clients) = &clients {
                files::write_if_changed(&part.directory.join("client-ca.pem"), clients.pem(), self.owner)?;
            }
        }
        Ok(made)
    }

    /// Certifies the client, and returns the authority.
    fn provide_client(&self, name: &str, directory: &Path, made: &mut Vec<PathBuf>) -> Result<Authority> {
        let authority = Authority::provide(&directory.join("authority"), "client-ca", "Keystead client CA")?;
        let names = dns_names(&[name.to_owned()])?;
        let request = Request::new(KeyType::P256, names, ExtendedKeyUsagePurpose::ClientAuth);
        made.extend(certificate::provide(directory, "client", &request, &authority, self.owner)?);
        Ok(authority)
    }

    /// The name of the served certificates' files.
    fn check(&self) -> Result<&str> {
        let stem = self.served.first().context("no name to serve")?;
        for name in self.edges.iter().chain(self.legacy.first()).chain([stem]) {
            let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
            ensure!(plain && !name.starts_with('.') && !name.is_empty(), "{name:?} cannot name a file");
        }
        Ok(stem)
    }
}

/// The identity of the edge `name`, as its channel certificate carries it and the key server's configuration names it.
#[must_use]
pub fn edge_identity(name: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/edge/{name}")
}

fn dns_names(names: &[String]) -> Result<Vec<SanType>> {
    let parameters = rcgen::CertificateParams::new(names).with_context(|| format!("cannot certify {names:?}"))?;
    Ok(parameters.subject_alt_names)
}

/// The directory of one program.
struct Part {
    directory: PathBuf,
    owner: Option<Owner>,
}

impl Part {
    fn provide(root: &Path, name: &str, channel: &Authority, owner: Option<Owner>) -> Result<Self> {
        let directory = root.join(name);
        files::directory(&directory, owner)?;
        files::write_if_changed(&directory.join("channel-ca.pem"), channel.pem(), owner)?;
        Ok(Self { directory, owner })
    }

    fn certificate(&self, stem: &str, request: &Request, issuer: &Authority) -> Result<Option<PathBuf>> {
        certificate::provide(&self.directory, stem, request, issuer, self.owner)
    }
}

#[cfg(test)]
mod tests;
