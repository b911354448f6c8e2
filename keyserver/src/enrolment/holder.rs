//! Who a certificate of the channel is for.

use std::fmt;
use std::str::FromStr;

use keystead_program::channel::PeerIdentity;
use rcgen::string::Ia5String;
use rcgen::{ExtendedKeyUsagePurpose, SanType};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Who a certificate of the channel is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// An edge, by the URI of its identity.
    Edge(PeerIdentity),
    /// A key server, by the DNS names that edges expect of it.
    KeyServer(Vec<String>),
}

impl Holder {
    /// The edge `name` of a deployment.
    pub fn edge(trust_domain: &TrustDomain, name: &EdgeName) -> Option<Self> {
        format!("spiffe://{trust_domain}/edge/{name}").parse().ok().map(Self::Edge)
    }

    /// Its names in a certificate.
    pub(super) fn names(&self) -> Result<Vec<SanType>, rcgen::Error> {
        let names = match self {
            Self::Edge(identity) => vec![SanType::URI(Ia5String::try_from(identity.as_str())?)],
            Self::KeyServer(names) => {
                let names = names.iter().map(|name| Ok(SanType::DnsName(name.as_str().try_into()?)));
                names.collect::<Result<_, rcgen::Error>>()?
            }
        };
        Ok(names)
    }

    /// What its certificate is good for.
    pub(super) fn purpose(&self) -> ExtendedKeyUsagePurpose {
        match self {
            Self::Edge(_) => ExtendedKeyUsagePurpose::ClientAuth,
            Self::KeyServer(_) => ExtendedKeyUsagePurpose::ServerAuth,
        }
    }

    /// Whether a certificate has its names, and no others.
    pub(super) fn is_named_by(&self, der: &CertificateDer<'_>) -> bool {
        let Ok((_, certificate)) = X509Certificate::from_der(der) else { return false };
        let Ok(Some(names)) = certificate.subject_alternative_name() else { return false };
        let found = names.value.general_names.iter();
        match self {
            Self::Edge(identity) => found.eq([&GeneralName::URI(identity.as_str())]),
            Self::KeyServer(names) => {
                let wanted: Vec<_> = names.iter().map(|name| GeneralName::DNSName(name)).collect();
                found.eq(&wanted)
            }
        }
    }
}

/// The name of an edge: the last part of its identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeName(String);

impl FromStr for EdgeName {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        let is_segment = (1..=63).contains(&name.len()) && !name.starts_with('.');
        let is_good = is_plain && is_segment;
        is_good.then(|| Self(name.to_owned())).ok_or("up to 63 letters, digits, hyphens, underscores and dots")
    }
}

impl fmt::Display for EdgeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The trust domain of a SPIFFE id: who runs the deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustDomain(String);

impl FromStr for TrustDomain {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        // SPIFFE-ID §2.1, without what no DNS name has.
        let is_plain =
            name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte));
        let is_good = is_plain && (1..=253).contains(&name.len()) && !name.starts_with(['.', '-']);
        is_good.then(|| Self(name.to_owned())).ok_or("a domain in lower case, such as example.org")
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
