//! What a configuration means: everything that it names is read and checked, before anything is bound.

mod keys;
mod report;

pub use report::Report;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keystead_program::channel::{ChannelConfig, ChannelError, ChannelMaterial, PeerIdentity};
use keystead_program::config::{self, ConfigError, RelativePath};
use keystead_program::crypto::Crypto;
use keystead_program::logging::LogError;
use keystead_program::watched::Snapshot;

use crate::authorize::{AllowedKeys, Authorizations, Rights};
use crate::config::{Config, EdgeConfig, Limits, TicketsConfig};
use crate::key::{Key, KeyError};
use crate::schedule::Capacity;
use crate::ticket_keys::group::{GroupName, TicketGroup};
use crate::ticket_keys::ratchet::{ClockFault, Ratchet, UnixTime};
use crate::ticket_keys::state::{self, StateError};

/// A configuration of which every part was found good.
#[derive(Debug)]
pub struct Settings {
    /// The configuration file and all that it names, as they were before they were read.
    pub files: Snapshot,
    /// The configuration file's content.
    pub config: Config,
    /// What this side of the channel shows and trusts.
    pub channel: ChannelMaterial,
    /// The keys, in the order of the configuration.
    pub keys: Vec<Arc<Key>>,
    /// Who may use them.
    pub authorizations: Authorizations,
    /// Keys that run and whose names others have now. Peers may use them for as long as
    /// they are kept.
    pub superseded: Vec<Arc<Key>>,
    /// The ticket keys, where tickets are on.
    pub tickets: Option<Tickets>,
    /// What is no error and a person should look at.
    pub warnings: Vec<Warning>,
}

/// What was loaded and is in force: what has not changed since is not loaded again.
#[derive(Debug)]
pub struct Running {
    /// As in [`Settings`].
    pub files: Snapshot,
    /// As in [`Settings`].
    pub config: Config,
    /// As in [`Settings`].
    pub channel: ChannelMaterial,
    /// As in [`Settings`].
    pub keys: Vec<Arc<Key>>,
}

impl Running {
    /// What the files that `config` names hold, if they are those that were read.
    fn channel(&self, config: &ChannelConfig, files: &Snapshot) -> Option<ChannelMaterial> {
        let directory = config::directory(files.configuration());
        let is_same = self.config.channel == *config && files.agrees_on(&self.files, config.files(directory));
        is_same.then(|| self.channel.clone())
    }
}

impl Settings {
    /// Reads the configuration file `path` and everything it names.
    ///
    /// # Errors
    /// [`SettingsError`] for the first part that is wrong.
    pub fn load(path: &Path) -> Result<Self, SettingsError> {
        let mut files = Snapshot::of(path);
        let config: Config = config::load(path)?;
        files.look_at(config.files(config::directory(path)));
        let crypto = config.crypto;
        let mut settings = Self::of(config, files, crypto, None)?;
        settings.load_tickets(UnixTime::now())?;
        Ok(settings)
    }

    /// Reads the configuration file of `files` once more, and of what it names all that has changed since `running` was
    /// loaded. `files` then has everything that was looked at, whatever is found. The cryptography and the ticket keys are
    /// those that run.
    ///
    /// # Errors
    /// [`SettingsError`] for the first part that is wrong.
    pub fn reload(files: &mut Snapshot, running: &Running) -> Result<Self, SettingsError> {
        let path = files.configuration().to_owned();
        let config: Config = config::load(&path)?;
        files.look_at(config.files(config::directory(&path)));
        Self::of(config, files.clone(), running.config.crypto, Some(running))
    }

    fn of(config: Config, files: Snapshot, crypto: Crypto, running: Option<&Running>) -> Result<Self, SettingsError> {
        let directory = config::directory(files.configuration());
        config.log.check()?;
        check_limits(&config.limits)?;
        let channel = match running.and_then(|running| running.channel(&config.channel, &files)) {
            Some(unchanged) => unchanged,
            None => ChannelMaterial::load(&config.channel, directory)?,
        };
        let keys = keys::load(&config.key, crypto, &files, running)?;
        let superseded = running.map(|running| keys::superseded(&running.keys, &keys)).unwrap_or_default();
        let authorizations = authorize(&config.edge, &keys, &superseded)?;
        let warnings = warnings(&config, directory, &keys);
        Ok(Self { files, config, channel, keys, authorizations, superseded, tickets: None, warnings })
    }

    fn load_tickets(&mut self, now: UnixTime) -> Result<(), SettingsError> {
        let Some(config) = &self.config.tickets else { return Ok(()) };
        let tickets = Tickets::load(config, config::directory(self.files.configuration()), now)?;
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

fn authorize(
    edges: &[EdgeConfig],
    keys: &[Arc<Key>],
    superseded: &[Arc<Key>],
) -> Result<Authorizations, SettingsError> {
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
        let keys = keys.map_err(unknown)?.with_superseded(superseded);
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
}

fn warnings(config: &Config, directory: &Path, keys: &[Arc<Key>]) -> Vec<Warning> {
    let private_keys = config.key.iter().map(|key| &key.private_key).chain([&config.channel.private_key]);
    let secrets = private_keys.chain(config.tickets.as_ref().map(|tickets| &tickets.state));
    let readable = secrets.filter_map(|path| is_world_readable(path, directory)).map(Warning::WorldReadable);
    let outside = keys.iter().filter(|key| !is_valid(key)).map(|key| Warning::OutsideValidity(key.name().clone()));
    let users = config.edge.iter().filter(|edge| !edge.revoked);
    let used: HashSet<&str> = users.flat_map(|edge| edge.keys.iter().map(String::as_str)).collect();
    let unused =
        keys.iter().filter(|key| !used.contains(key.name().as_ref())).map(|key| Warning::UnusedKey(key.name().clone()));
    let transporting = keys.iter().filter(|key| key.identity().allows_key_transport());
    let transporting = transporting.map(|key| Warning::KeyTransport(key.name().clone()));
    readable.chain(outside).chain(unused).chain(transporting).collect()
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
