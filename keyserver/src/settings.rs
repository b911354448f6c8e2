//! What a configuration means: everything that it names is read and checked, before anything is bound.

mod report;

pub use report::Report;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keystead_program::channel::{ChannelError, ChannelMaterial, PeerIdentity};
use keystead_program::config::{self, ConfigError, RelativePath};
use keystead_program::crypto::Crypto;
use keystead_program::logging::LogError;
use keystead_program::reload::Baseline;

use crate::audit::AuditSettings;
use crate::audit::config::{AuditSettingsError, WhenUnwritable};
use crate::authorize::{AllowedKeys, Authorizations, Rights};
use crate::config::{Config, EdgeConfig, KeyConfig, Limits, TicketsConfig};
use crate::key::{Key, KeyError};
use crate::schedule::Capacity;
use crate::ticket_keys::group::{GroupName, TicketGroup};
use crate::ticket_keys::ratchet::{ClockFault, Ratchet, UnixTime};
use crate::ticket_keys::state::{self, StateError};

/// A configuration of which every part was found good.
#[derive(Debug)]
pub struct Settings {
    /// The configuration file, as it was before it was loaded.
    pub file: Baseline,
    /// The file's content.
    pub config: Config,
    /// What this side of the channel shows and trusts.
    pub channel: ChannelMaterial,
    /// The keys, in the order of the configuration.
    pub keys: Vec<Arc<Key>>,
    /// Who may use them.
    pub authorizations: Authorizations,
    /// The ticket keys, where tickets are on.
    pub tickets: Option<Tickets>,
    /// The audit log, where it is on.
    pub audit: Option<AuditSettings>,
    /// What is no error and a person should look at.
    pub warnings: Vec<Warning>,
}

impl Settings {
    /// Reads the configuration file `path` and everything it names.
    ///
    /// # Errors
    /// [`SettingsError`] for the first part that is wrong.
    pub fn load(path: &Path) -> Result<Self, SettingsError> {
        let file = Baseline::read(path);
        let config: Config = config::load(path)?;
        let crypto = config.crypto;
        let mut settings = Self::of(config, file, crypto)?;
        settings.load_tickets(UnixTime::now())?;
        Ok(settings)
    }

    /// Reads `path` once more, for a key server that runs with `crypto` and has its ticket keys in memory.
    ///
    /// # Errors
    /// [`SettingsError`] for the first part that is wrong.
    pub fn reload(path: &Path, crypto: Crypto) -> Result<Self, SettingsError> {
        let file = Baseline::read(path);
        Self::of(config::load(path)?, file, crypto)
    }

    fn of(config: Config, file: Baseline, crypto: Crypto) -> Result<Self, SettingsError> {
        let directory = config::directory(file.path());
        config.log.check()?;
        check_limits(&config.limits)?;
        let channel = ChannelMaterial::load(&config.channel, directory)?;
        let keys = load_keys(&config.key, directory, crypto)?;
        let authorizations = authorize(&config.edge, &keys)?;
        let audit = config.audit.as_ref().map(|audit| AuditSettings::load(audit, directory)).transpose()?;
        let warnings = warnings(&config, directory, &keys);
        Ok(Self { file, config, channel, keys, authorizations, tickets: None, audit, warnings })
    }

    fn load_tickets(&mut self, now: UnixTime) -> Result<(), SettingsError> {
        let Some(config) = &self.config.tickets else { return Ok(()) };
        let tickets = Tickets::load(config, config::directory(self.file.path()), now)?;
        self.warnings.extend(tickets.ratchet.advance(now).err().map(Warning::Clock));
        self.tickets = Some(tickets);
        Ok(())
    }

    /// Threads and queues.
    pub fn capacity(&self) -> Capacity {
        let limits = &self.config.limits;
        let processors = || std::thread::available_parallelism().map_or(1, usize::from);
        Capacity {
            threads: if limits.signing_threads == 0 { processors() } else { limits.signing_threads },
            light: limits.queue_light,
            medium: limits.queue_medium,
            heavy: limits.queue_heavy,
        }
    }

    /// Which cryptography is used.
    pub fn crypto(&self) -> Crypto {
        self.config.crypto
    }
}

/// The ticket keys and their file.
#[derive(Debug)]
pub struct Tickets {
    /// Where the secret is kept.
    pub state: PathBuf,
    /// The secret, turned forward to the present.
    pub ratchet: Ratchet,
}

impl Tickets {
    fn load(config: &TicketsConfig, directory: &Path, now: UnixTime) -> Result<Self, SettingsError> {
        let state = config.state.under(directory);
        let ratchet = Ratchet::resume(state::read(&state)?, now).map_err(SettingsError::Clock)?;
        Ok(Self { state, ratchet })
    }
}

fn check_limits(limits: &Limits) -> Result<(), SettingsError> {
    let counts = [
        ("queue_light", limits.queue_light),
        ("queue_medium", limits.queue_medium),
        ("queue_heavy", limits.queue_heavy),
        ("in_flight_per_stream", limits.in_flight_per_stream),
        ("leases_per_call", limits.leases_per_call as usize),
        ("leases_per_edge", limits.leases_per_edge as usize),
        ("streams_per_connection", limits.streams_per_connection as usize),
        ("connections", limits.connections),
        ("handshakes", limits.handshakes),
    ];
    let zero_duration =
        [("handshake_timeout", limits.handshake_timeout), ("operation_timeout", limits.operation_timeout)];
    let zeroes = counts.into_iter().filter(|(_, count)| *count == 0).map(|(name, _)| name);
    let instants = zero_duration.into_iter().filter(|(_, duration)| duration.is_zero()).map(|(name, _)| name);
    match zeroes.chain(instants).next() {
        Some(name) => Err(SettingsError::ZeroLimit(name)),
        None if limits.leases_per_edge < LEAST_LEASES => Err(SettingsError::FewLeases),
        None => Ok(()),
    }
}

/// What an edge keeps in reserve on two connections, twice. With less, what it keeps would be too old when it is used.
const LEAST_LEASES: u32 = 8192;

fn load_keys(configs: &[KeyConfig], directory: &Path, crypto: Crypto) -> Result<Vec<Arc<Key>>, SettingsError> {
    if configs.is_empty() {
        return Err(SettingsError::NoKeys);
    }
    let mut rng = rand::rng();
    let mut names = HashSet::new();
    let mut ids: HashMap<_, Arc<str>> = HashMap::new();
    let mut keys = Vec::with_capacity(configs.len());
    for entry in configs {
        if !names.insert(&entry.name) {
            return Err(SettingsError::DuplicateKeyName(entry.name.clone()));
        }
        let key = Key::load(entry, directory, crypto, &mut rng)
            .map_err(|cause| SettingsError::Key { name: entry.name.clone(), cause })?;
        if let Some(first) = ids.insert(key.key_id(), key.name().clone()) {
            return Err(SettingsError::DuplicateKey { first, second: key.name().clone() });
        }
        keys.push(Arc::new(key));
    }
    Ok(keys)
}

fn authorize(edges: &[EdgeConfig], keys: &[Arc<Key>]) -> Result<Authorizations, SettingsError> {
    let by_name: HashMap<&str, &Arc<Key>> = keys.iter().map(|key| (key.name().as_ref(), key)).collect();
    let groups = ticket_groups(edges);
    let mut seen = HashSet::new();
    let mut rights = |edge: &EdgeConfig| {
        if !seen.insert(edge.id.clone()) {
            return Err(SettingsError::DuplicateEdge(edge.id.clone()));
        }
        let find = |name: &String| by_name.get(name.as_str()).map(|key| Arc::clone(key)).ok_or_else(|| name.clone());
        let keys: Result<AllowedKeys, String> = edge.keys.iter().map(find).collect();
        let unknown = |key| SettingsError::UnknownKey { edge: edge.id.clone(), key };
        let keys = keys.map_err(unknown)?;
        let ticket_group = groups.get(&edge.ticket_group).filter(|_| !edge.revoked).cloned();
        Ok(ticket_group.map(|ticket_group| (edge.id.clone(), Rights { keys, ticket_group })))
    };
    // A revoked edge has no rights: it is as unknown as one that was never there.
    edges.iter().filter_map(|edge| rights(edge).transpose()).collect()
}

/// The groups that edges are in, or were.
fn ticket_groups(edges: &[EdgeConfig]) -> BTreeMap<GroupName, TicketGroup> {
    let group = |name: &GroupName| {
        let revoked = edges.iter().filter(|edge| edge.revoked && edge.ticket_group == *name);
        TicketGroup::new(name.clone(), revoked.map(|edge| &edge.id))
    };
    edges.iter().map(|edge| (edge.ticket_group.clone(), group(&edge.ticket_group))).collect()
}

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
    /// The clock does not fit the ticket keys.
    #[error("[tickets] {0}")]
    Clock(ClockFault),
    /// Nobody will know what was asked for.
    #[error("no [audit]: there is no record of what edges have signed")]
    NoAudit,
    /// Operations may lack their records.
    #[error("[audit] when_unwritable = \"danger_go_on\": while the log cannot be written, records are only counted")]
    AuditMayBeSummed,
}

fn warnings(config: &Config, directory: &Path, keys: &[Arc<Key>]) -> Vec<Warning> {
    let private_keys = config.key.iter().map(|key| &key.private_key).chain([&config.channel.private_key]);
    let secrets = private_keys.chain(config.tickets.as_ref().map(|tickets| &tickets.state));
    let secrets = secrets.chain(config.audit.as_ref().map(|audit| &audit.signing_key));
    let audit = match config.audit.as_ref().map(|audit| audit.when_unwritable) {
        Some(WhenUnwritable::Refuse) => None,
        Some(WhenUnwritable::DangerGoOn) => Some(Warning::AuditMayBeSummed),
        None => Some(Warning::NoAudit),
    };
    let readable = secrets.filter_map(|path| is_world_readable(path, directory)).map(Warning::WorldReadable);
    let outside = keys.iter().filter(|key| !is_valid(key)).map(|key| Warning::OutsideValidity(key.name().clone()));
    let may_use =
        |edge: &EdgeConfig, key: &Key| !edge.revoked && edge.keys.iter().any(|name| name == key.name().as_ref());
    let is_used = |key: &Key| config.edge.iter().any(|edge| may_use(edge, key));
    let unused = keys.iter().filter(|key| !is_used(key)).map(|key| Warning::UnusedKey(key.name().clone()));
    let transporting = keys.iter().filter(|key| key.identity().allows_key_transport());
    let transporting = transporting.map(|key| Warning::KeyTransport(key.name().clone()));
    readable.chain(outside).chain(unused).chain(transporting).chain(audit).collect()
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

/// Which part of a configuration is wrong.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file itself.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The `[log]` table.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The `[channel]` table.
    #[error("[channel] {0}")]
    Channel(#[from] ChannelError),
    /// A limit that would let nothing through.
    #[error("[limits] {0} must not be 0")]
    ZeroLimit(&'static str),
    /// Fewer leases than edges keep in reserve.
    #[error("[limits] leases_per_edge must be at least 8192: edges keep up to 2048 for each connection")]
    FewLeases,
    /// No `[[key]]`.
    #[error("no [[key]]: there is nothing to sign with")]
    NoKeys,
    /// Two `[[key]]` of one name.
    #[error("two [[key]] have the name {0}; names must differ")]
    DuplicateKeyName(String),
    /// One private key under two names.
    #[error("[[key]] {first} and {second} hold the same private key; an edge could not tell them apart")]
    DuplicateKey {
        /// The one named first.
        first: Arc<str>,
        /// The other.
        second: Arc<str>,
    },
    /// The ticket secret's file.
    #[error("[tickets] {0}")]
    TicketState(#[from] StateError),
    /// The clock is far ahead of the ticket secret.
    #[error("[tickets] {0}")]
    Clock(ClockFault),
    /// The `[audit]` table.
    #[error("[audit] {0}")]
    Audit(#[from] AuditSettingsError),
    /// A `[[key]]` that cannot be used.
    #[error("[[key]] {name}: {cause}")]
    Key {
        /// Its name.
        name: String,
        /// What is wrong.
        cause: KeyError,
    },
    /// Two `[[edge]]` of one identity.
    #[error("two [[edge]] have the id {0}; put their keys into one")]
    DuplicateEdge(PeerIdentity),
    /// An edge's list names a key that is not there.
    #[error("[[edge]] {edge}: there is no [[key]] of the name {key}")]
    UnknownKey {
        /// Whose list.
        edge: PeerIdentity,
        /// The name on it.
        key: String,
    },
}

#[cfg(test)]
mod tests;
