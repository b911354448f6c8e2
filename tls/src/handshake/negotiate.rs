//! Chooses suite, group, signature scheme and certificate together: each limits the others.

use std::sync::Arc;

use super::HostParameters;
use crate::code_point::{NamedGroup, SignatureScheme};
use crate::error::PeerIncompatible;
use crate::identity::{Identity, KeyKind};
use crate::message::client_hello::{ClientExtensions, ClientHello};
use crate::suite::{KeyExchange, Suite};

/// What client and host agree on.
#[derive(Clone, Debug)]
pub(crate) struct Agreed {
    pub(crate) suite: &'static Suite,
    pub(crate) identity: Arc<Identity>,
    pub(crate) exchange: AgreedExchange,
    pub(crate) alpn: Option<Vec<u8>>,
}

/// What the key exchange of the suite needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AgreedExchange {
    Ecdhe { group: NamedGroup, scheme: SignatureScheme },
    Rsa,
}

/// Chooses by the host's order of suites and groups, and by the client's order of schemes (RFC 8446 §4.2.3).
pub(crate) fn negotiate(hello: &ClientHello, host: &HostParameters) -> Result<Agreed, PeerIncompatible> {
    let (suite, identity, exchange) = choose_suite(hello, host)?;
    let alpn = choose_alpn(&hello.extensions, host)?;
    Ok(Agreed { suite, identity, exchange, alpn })
}

fn choose_suite(
    hello: &ClientHello,
    host: &HostParameters,
) -> Result<(&'static Suite, Arc<Identity>, AgreedExchange), PeerIncompatible> {
    let group = choose_group(&hello.extensions, host);
    let mut closest = PeerIncompatible::NoCommonSuite;
    let common = host.suites.iter().filter(|suite| hello.offers(**suite)).filter_map(|suite| Suite::find(*suite));
    for suite in common {
        for identity in &host.identities {
            match fit(suite, identity, group, hello, host) {
                Ok(exchange) => return Ok((suite, Arc::clone(identity), exchange)),
                Err(cause) => closest = closer(closest, cause),
            }
        }
        closest = closer(closest, PeerIncompatible::NoSuitableCertificate);
    }
    Err(closest)
}

/// Whether this certificate can serve this suite, and with what.
fn fit(
    suite: &Suite,
    identity: &Identity,
    group: Option<NamedGroup>,
    hello: &ClientHello,
    host: &HostParameters,
) -> Result<AgreedExchange, PeerIncompatible> {
    let kind = identity.public_key().kind();
    if !suite.key_exchange.fits(kind) {
        return Err(PeerIncompatible::NoSuitableCertificate);
    }
    match suite.key_exchange {
        KeyExchange::Rsa if identity.allows_key_transport() => Ok(AgreedExchange::Rsa),
        KeyExchange::Rsa => Err(PeerIncompatible::NoSuitableCertificate),
        KeyExchange::EcdheEcdsa | KeyExchange::EcdheRsa => {
            let group = group.ok_or(PeerIncompatible::NoCommonGroup)?;
            if !takes_curve(&hello.extensions, kind) {
                return Err(PeerIncompatible::NoSuitableCertificate);
            }
            let scheme = choose_scheme(&hello.extensions, host, identity).ok_or(PeerIncompatible::NoCommonScheme)?;
            Ok(AgreedExchange::Ecdhe { group, scheme })
        }
    }
}

/// Of two causes the one that was closer to an agreement, which tells more.
fn closer(one: PeerIncompatible, other: PeerIncompatible) -> PeerIncompatible {
    const FROM_FAR_TO_CLOSE: [PeerIncompatible; 4] = [
        PeerIncompatible::NoCommonSuite,
        PeerIncompatible::NoSuitableCertificate,
        PeerIncompatible::NoCommonGroup,
        PeerIncompatible::NoCommonScheme,
    ];
    let closeness = |cause| FROM_FAR_TO_CLOSE.iter().position(|known| *known == cause);
    if closeness(other) > closeness(one) { other } else { one }
}

fn choose_group(client: &ClientExtensions, host: &HostParameters) -> Option<NamedGroup> {
    let mut groups = host.groups.iter().copied().filter(|group| group.name().is_some());
    match &client.supported_groups {
        Some(offered) => groups.find(|group| offered.contains(group)),
        // A client that names none takes any (RFC 8422 §4); the oldest is the safest guess.
        None => groups.find(|group| *group == NamedGroup::SECP256R1),
    }
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
pub(crate) fn choose_alpn(
    client: &ClientExtensions,
    host: &HostParameters,
) -> Result<Option<Vec<u8>>, PeerIncompatible> {
    let Some(offered) = client.alpn.as_ref().filter(|_| !host.alpn.is_empty()) else { return Ok(None) };
    let chosen = host.alpn.iter().find(|protocol| offered.iter().any(|name| name == protocol.as_slice()));
    chosen.map(|protocol| Some(protocol.clone())).ok_or(PeerIncompatible::NoCommonAlpn)
}
