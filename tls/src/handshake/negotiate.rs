//! Chooses suite, group, signature scheme and certificate together: each limits the others.

use std::sync::Arc;

use super::HostParameters;
use crate::code_point::{NamedGroup, SignatureScheme};
use crate::error::PeerIncompatible;
use crate::identity::{Identity, KeyKind};
use crate::message::client_hello::{ClientExtensions, ClientHello};
use crate::suite::Suite;

/// What client and host agree on.
#[derive(Clone, Debug)]
pub(crate) struct Agreed {
    pub(crate) suite: &'static Suite,
    pub(crate) group: NamedGroup,
    pub(crate) scheme: SignatureScheme,
    pub(crate) identity: Arc<Identity>,
    pub(crate) alpn: Option<Vec<u8>>,
}

/// Chooses by the host's order of suites and groups, and by the client's order of schemes (RFC 8446 §4.2.3).
pub(crate) fn negotiate(hello: &ClientHello, host: &HostParameters) -> Result<Agreed, PeerIncompatible> {
    let group = choose_group(&hello.extensions, host)?;
    let (suite, identity, scheme) = choose_suite(hello, host)?;
    let alpn = choose_alpn(&hello.extensions, host)?;
    Ok(Agreed { suite, group, scheme, identity, alpn })
}

fn choose_group(client: &ClientExtensions, host: &HostParameters) -> Result<NamedGroup, PeerIncompatible> {
    let mut groups = host.groups.iter().copied().filter(|group| group.name().is_some());
    let chosen = match &client.supported_groups {
        Some(offered) => groups.find(|group| offered.contains(group)),
        // A client that names none takes any (RFC 8422 §4); the oldest is the safest guess.
        None => groups.find(|group| *group == NamedGroup::SECP256R1),
    };
    chosen.ok_or(PeerIncompatible::NoCommonGroup)
}

fn choose_suite(
    hello: &ClientHello,
    host: &HostParameters,
) -> Result<(&'static Suite, Arc<Identity>, SignatureScheme), PeerIncompatible> {
    let mut cause = PeerIncompatible::NoCommonSuite;
    let common = host.suites.iter().filter(|suite| hello.offers(**suite)).filter_map(|suite| Suite::find(*suite));
    for suite in common {
        if cause == PeerIncompatible::NoCommonSuite {
            cause = PeerIncompatible::NoSuitableCertificate;
        }
        for identity in &host.identities {
            let kind = identity.public_key().kind();
            if !suite.authentication.fits(kind) || !takes_curve(&hello.extensions, kind) {
                continue;
            }
            if let Some(scheme) = choose_scheme(&hello.extensions, host, identity) {
                return Ok((suite, Arc::clone(identity), scheme));
            }
            cause = PeerIncompatible::NoCommonScheme;
        }
    }
    Err(cause)
}

/// A certificate's curve is one of those the client offered, if it offered any (RFC 8422 §5.1).
fn takes_curve(client: &ClientExtensions, kind: KeyKind) -> bool {
    match (kind.curve(), &client.supported_groups) {
        (Some(curve), Some(offered)) => offered.contains(&curve),
        (None, _) | (_, None) => true,
    }
}

/// The first scheme of the client's that host and key server have for this key. A client that names none means SHA-1
/// (RFC 5246 §7.4.1.4.1), which is on nobody's list here.
fn choose_scheme(client: &ClientExtensions, host: &HostParameters, identity: &Identity) -> Option<SignatureScheme> {
    let offered = client.signature_algorithms.as_deref().unwrap_or_default();
    offered.iter().copied().find(|scheme| identity.schemes().contains(scheme) && host.schemes.contains(scheme))
}

/// RFC 7301 §3.2: the host's order decides; without an overlap the connection ends.
fn choose_alpn(client: &ClientExtensions, host: &HostParameters) -> Result<Option<Vec<u8>>, PeerIncompatible> {
    let Some(offered) = client.alpn.as_ref().filter(|_| !host.alpn.is_empty()) else { return Ok(None) };
    let chosen = host.alpn.iter().find(|protocol| offered.contains(protocol));
    chosen.map(|protocol| Some(protocol.clone())).ok_or(PeerIncompatible::NoCommonAlpn)
}
