//! Who a peer is.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use serde::Deserialize;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The URI subject alternative name of a certificate, such as `spiffe://example.net/edge/one`: who its holder is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct PeerIdentity(Arc<str>);

impl PeerIdentity {
    /// Reads the one URI subject alternative name of a DER certificate.
    ///
    /// # Errors
    /// [`InvalidPeerIdentity`] when the certificate does not parse or does not have exactly one.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Result<Self, InvalidPeerIdentity> {
        let (_, certificate) = X509Certificate::from_der(certificate).map_err(|_| InvalidPeerIdentity::Malformed)?;
        let names = certificate.subject_alternative_name().map_err(|_| InvalidPeerIdentity::Malformed)?;
        let mut uris = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| {
            let GeneralName::URI(uri) = name else { return None };
            Some(*uri)
        });
        match (uris.next(), uris.next()) {
            (Some(uri), None) => uri.parse(),
            (Some(_), Some(_)) => Err(InvalidPeerIdentity::SeveralUris),
            (None, _) => Err(InvalidPeerIdentity::NoUri),
        }
    }

    /// The URI.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PeerIdentity {
    type Err = InvalidPeerIdentity;

    /// Takes an absolute URI of visible ASCII characters.
    fn from_str(uri: &str) -> Result<Self, InvalidPeerIdentity> {
        let has_scheme = uri.split_once(':').is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty());
        if !has_scheme || !uri.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidPeerIdentity::NotAUri);
        }
        Ok(Self(uri.into()))
    }
}

impl TryFrom<String> for PeerIdentity {
    type Error = InvalidPeerIdentity;

    fn try_from(uri: String) -> Result<Self, InvalidPeerIdentity> {
        uri.parse()
    }
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a certificate names nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPeerIdentity {
    /// It does not parse.
    #[error("the certificate is malformed")]
    Malformed,
    /// It has no URI subject alternative name.
    #[error("the certificate has no URI subject alternative name")]
    NoUri,
    /// It has more than one, and which of them counts would be anybody's guess.
    #[error("the certificate has more than one URI subject alternative name")]
    SeveralUris,
    /// The name is no absolute URI.
    #[error("the identity is not an absolute URI such as spiffe://example.net/edge/one")]
    NotAUri,
}
