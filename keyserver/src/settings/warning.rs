//! What a person should look at in a configuration that is good.

use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keystead_program::channel::PeerIdentity;
use keystead_program::config::RelativePath;

use crate::audit::config::WhenUnwritable;
use crate::config::{Config, EdgeConfig};
use crate::custody::protection::Protected;
use crate::custody::secret::SecretSource;
use crate::custody::token::TokenFault;
use crate::key::Key;
use crate::policy::NotAfter;
use crate::ticket_keys::ratchet::{ClockFault, UnixTime};

/// Something that is no error and that a person should look at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// Every account of the machine can read a private key or the ticket secret.
    #[error("{}: every account of this machine can read this secret; chmod 600 it", .0.display())]
    WorldReadable(PathBuf),
    /// A certificate that clients will refuse.
    #[error("the certificate of key {0} is outside its time of validity")]
    OutsideValidity(Arc<str>),
    /// A key that nobody may use.
    #[error("no [[edge]] may use the key {0}")]
    UnusedKey(Arc<str>),
    /// A key that is for RSA key transport.
    #[error(
        "danger_rsa_key_transport of key {0}: handshakes by RSA key transport have no forward secrecy; \
         whoever records them and one day has the key reads them"
    )]
    KeyTransport(Arc<str>),
    /// Private keys that whoever gets the files has.
    #[error("private keys are not encrypted: {0}; seal them with `keystead-keyserver key import`")]
    PlainPrivateKeys(String),
    /// Key transport with a token, of which nobody here knows how even its time is.
    #[error(
        "danger_rsa_key_transport of key {0}: that the raw RSA operation takes the same time for every ciphertext is up to \
         its token"
    )]
    TokenKeyTransport(Arc<str>),
    /// A key that cannot be used yet.
    #[error("the key {key} is not ready: {fault}; it is tried again until it is")]
    TokenAway {
        /// The key's name.
        key: Arc<str>,
        /// What its token says.
        fault: TokenFault,
    },
    /// The clock does not fit the ticket keys.
    #[error("[tickets] {0}")]
    Clock(ClockFault),
    /// An edge, or an edge's key, whose time is over.
    #[error(
        "[[edge]] {edge}: not_after{} is in the past: the edge is refused; move it, or take the entry out",
        .key.as_ref().map(|key| format!(" of the key {key}")).unwrap_or_default()
    )]
    RightsOver {
        /// The edge.
        edge: PeerIdentity,
        /// The key; `None` where the end is that of all of them.
        key: Option<String>,
    },
    /// Nobody will know what was asked for.
    #[error("no [audit]: there is no record of what edges have signed")]
    NoAudit,
    /// Operations may lack their records.
    #[error("[audit] when_unwritable = \"danger_go_on\": while the log cannot be written, records are only counted")]
    AuditMayBeSummed,
}

pub(super) fn warnings(config: &Config, directory: &Path, keys: &[Arc<Key>]) -> Vec<Warning> {
    let private_keys = config.key.iter().filter_map(|key| key.private_key.as_ref());
    let passphrases = config.key.iter().filter_map(|key| key.passphrase.as_ref());
    let protection = [&config.key_protection.sealing_key, &config.key_protection.passphrase].into_iter().flatten();
    let pins = config.token.iter().map(|token| &token.pin);
    let secrets = private_keys
        .chain([&config.channel.private_key])
        .chain(passphrases.chain(protection).chain(pins).filter_map(SecretSource::file))
        .chain(config.tickets.as_ref().map(|tickets| &tickets.state))
        .chain(config.audit.as_ref().map(|audit| &audit.signing_key));
    let audit = match config.audit.as_ref().map(|audit| audit.when_unwritable) {
        Some(WhenUnwritable::Refuse) => None,
        Some(WhenUnwritable::DangerGoOn) => Some(Warning::AuditMayBeSummed),
        None => Some(Warning::NoAudit),
    };
    let readable = secrets.filter_map(|path| is_world_readable(path, directory)).map(Warning::WorldReadable);
    let outside = keys.iter().filter(|key| !is_valid(key)).map(|key| Warning::OutsideValidity(key.name().clone()));
    let users = config.edge.iter().filter(|edge| !edge.revoked);
    let used: HashSet<&str> = users.flat_map(|edge| edge.keys.iter().map(|entry| entry.name.as_str())).collect();
    let unused =
        keys.iter().filter(|key| !used.contains(key.name().as_ref())).map(|key| Warning::UnusedKey(key.name().clone()));
    let transporting = keys.iter().filter(|key| key.identity().allows_key_transport());
    let transporting = transporting.map(|key| Warning::KeyTransport(key.name().clone()));
    let plain = plain_keys(keys).map(Warning::PlainPrivateKeys);
    let in_token = keys.iter().filter(|key| key.protected().is_none() && key.identity().allows_key_transport());
    let in_token = in_token.map(|key| Warning::TokenKeyTransport(key.name().clone()));
    let bounded = rights_over(&config.edge);
    readable
        .chain(plain)
        .chain(outside)
        .chain(unused)
        .chain(transporting)
        .chain(in_token)
        .chain(bounded)
        .chain(audit)
        .collect()
}

fn rights_over(edges: &[EdgeConfig]) -> impl Iterator<Item = Warning> {
    let now = UnixTime::now();
    edges.iter().filter(|edge| !edge.revoked).flat_map(move |edge| {
        let of_all = (None, edge.not_after);
        let of_keys = edge.keys.iter().map(|entry| (Some(entry.name.clone()), entry.bounds.not_after));
        let over = std::iter::once(of_all).chain(of_keys).filter(move |(_, end)| NotAfter::from(*end).is_over(now));
        over.map(|(key, _)| Warning::RightsOver { edge: edge.id.clone(), key })
    })
}

/// The names of the keys that lie in the clear, as far as anybody reads them.
fn plain_keys(keys: &[Arc<Key>]) -> Option<String> {
    const MOST_NAMES: usize = 8;
    let plain: Vec<_> = keys.iter().filter(|key| key.protected() == Some(Protected::Plain)).collect();
    let names: Vec<_> = plain.iter().take(MOST_NAMES).map(|key| key.name().as_ref()).collect();
    let more = plain.len().saturating_sub(MOST_NAMES);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!plain.is_empty()).then(|| format!("{}{more}", names.join(", ")))
}

fn is_world_readable(path: &RelativePath, directory: &Path) -> Option<PathBuf> {
    let path = path.under(directory);
    let mode = std::fs::metadata(&path).ok()?.permissions().mode();
    (mode & 0o004 != 0).then_some(path)
}

/// Whether this moment is within the validity of the key's own certificate.
fn is_valid(key: &Key) -> bool {
    let leaf = key.identity().chain().first();
    leaf.and_then(|der| x509_parser::parse_x509_certificate(der).ok())
        .is_some_and(|(_, certificate)| certificate.validity().is_valid())
}
