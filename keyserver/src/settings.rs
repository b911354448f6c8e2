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
use keystead_program::sandbox::Paths;
use keystead_program::watched::Snapshot;

use crate::audit::AuditSettings;
use crate::audit::config::{AuditSettingsError, WhenUnwritable};
use crate::authorize::{Authorizations, Rights};
use crate::config::grant::GrantConfig;
use crate::config::{Config, EdgeConfig, Limits, TicketsConfig};
use crate::custody::custodian::Custodian;
use crate::custody::protection::{KeyProtection, Protected, ProtectionError};
use crate::custody::secret::{SecretSource, credentials_directory};
use crate::custody::token::{TokenConfig, TokenError, TokenFault, Tokens};
use crate::key::{Key, KeyError};
use crate::policy::{Budget, Grant, NotAfter, PolicyError};
use crate::rate::Cost;
use crate::schedule::{CostClass, LaneConfig};
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
    /// The tokens that keys may be in.
    pub tokens: Tokens,
    /// Who may use them.
    pub authorizations: Authorizations,
    /// Keys that run and whose names others have now. Peers may use them for as long as they
    /// are kept.
    pub superseded: Vec<Arc<Key>>,
    /// The ticket keys, where tickets are on.
    pub tickets: Option<Tickets>,
    /// The audit log, where it is on.
    pub audit: Option<AuditSettings>,
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
    /// As in [`Settings`], with the sessions that are open.
    pub tokens: Tokens,
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
        let tokens = Tokens::load(&config.token, config::directory(path))?;
        let mut settings = Self::of(config, files, tokens, None)?;
        settings.load_tickets(UnixTime::now())?;
        Ok(settings)
    }

    /// Reads the configuration file of `files` once more, and of what it names all that has changed since `running` was
    /// loaded. `files` then has everything that was looked at, whatever is found. The cryptography, the tokens and the
    /// ticket keys are those that run.
    ///
    /// # Errors
    /// [`SettingsError`] for the first part that is wrong.
    pub fn reload(files: &mut Snapshot, running: &Running) -> Result<Self, SettingsError> {
        let path = files.configuration().to_owned();
        let config: Config = config::load(&path)?;
        files.look_at(config.files(config::directory(&path)));
        Self::of(config, files.clone(), running.tokens.clone(), Some(running))
    }

    fn of(config: Config, files: Snapshot, tokens: Tokens, running: Option<&Running>) -> Result<Self, SettingsError> {
        let directory = config::directory(files.configuration());
        config.log.check()?;
        check_limits(&config.limits)?;
        let channel = match running.and_then(|running| running.channel(&config.channel, &files)) {
            Some(unchanged) => unchanged,
            None => ChannelMaterial::load(&config.channel, directory).map_err(SettingsError::Channel)?,
        };
        let protection = KeyProtection::load(&config.key_protection, directory);
        let protection = protection.map_err(SettingsError::KeyProtection)?;
        let crypto = running.map_or(config.crypto, |running| running.config.crypto);
        let custodian = Custodian { crypto, directory, protection, tokens };
        let (keys, away) = keys::load(&config.key, &custodian, &files, running)?;
        let superseded = running.map(|running| keys::superseded(&running.keys, &keys)).unwrap_or_default();
        let authorizations = authorize(&config.edge, &keys)?;
        let audit = config.audit.as_ref().map(|audit| AuditSettings::load(audit, directory)).transpose();
        let audit = audit.map_err(SettingsError::Audit)?;
        let mut warnings = warnings(&config, directory, &keys);
        warnings.extend(away);
        let tokens = custodian.tokens;
        Ok(Self { files, config, channel, keys, tokens, authorizations, superseded, tickets: None, audit, warnings })
    }

    fn load_tickets(&mut self, now: UnixTime) -> Result<(), SettingsError> {
        let Some(config) = &self.config.tickets else { return Ok(()) };
        let tickets = Tickets::load(config, config::directory(self.files.configuration()), now)?;
        self.warnings.extend(tickets.ratchet.advance(now).err().map(Warning::Clock));
        self.tickets = Some(tickets);
        Ok(())
    }

    /// The files that a key server with this configuration opens while it runs.
    pub fn paths(&self) -> Paths {
        let directory = config::directory(self.files.configuration());
        let state = self.tickets.as_ref().map(|tickets| config::directory(&tickets.state).to_owned());
        let audit = self.config.audit.as_ref().map(|audit| audit.directory.under(directory));
        let mut named = Paths::named_by(self.files.configuration());
        named.write.extend(state.into_iter().chain(audit));
        // A secret from there has no path in the configuration, and is read with each change of that.
        named.read.extend(credentials_directory().filter(|path| path.is_dir()));
        self.config.process.paths(directory, named)
    }

    /// The scheduler's lanes.
    pub fn lanes(&self) -> Vec<LaneConfig> {
        let limits = &self.config.limits;
        let processors = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if limits.signing_threads == 0 { processors() } else { limits.signing_threads };
        let bounds = [
            (CostClass::Light, limits.queue_light),
            (CostClass::Medium, limits.queue_medium),
            (CostClass::Heavy, limits.queue_heavy),
        ];
        let classes = bounds.map(|(class, bound)| LaneConfig::of(class, threads, bound));
        classes.into_iter().chain(self.config.token.iter().map(TokenConfig::lane)).collect()
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
        let secret = state::read(&state).map_err(SettingsError::TicketState)?;
        let ratchet = Ratchet::resume(secret, now).map_err(SettingsError::Clock)?;
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
        ("connections_per_edge", limits.connections_per_edge),
        ("handshakes", limits.handshakes),
        ("handshakes_per_address", limits.handshakes_per_address),
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

fn authorize(edges: &[EdgeConfig], keys: &[Arc<Key>]) -> Result<Authorizations, SettingsError> {
    let by_name: HashMap<&str, &Arc<Key>> = keys.iter().map(|key| (key.name().as_ref(), key)).collect();
    let groups = ticket_groups(edges);
    let mut seen = HashSet::new();
    let mut rights = |edge: &EdgeConfig| {
        if !seen.insert(edge.id.clone()) {
            return Err(SettingsError::DuplicateEdge(edge.id.clone()));
        }
        let grants = grants(edge, &by_name)?;
        let dearest = grants.iter().map(|grant| grant.key().unit_cost()).max().unwrap_or(Cost::LEAST);
        let bounds = edge.bounds();
        let budget = Budget::new(bounds, dearest);
        let budget = budget.map_err(|cause| SettingsError::EdgePolicy { edge: edge.id.clone(), cause })?;
        let ticket_group = groups.get(&edge.ticket_group).filter(|_| !edge.revoked).cloned();
        Ok(ticket_group.map(|ticket_group| {
            let rights = Rights::new(grants, ticket_group).within(budget, bounds.not_after.into());
            (edge.id.clone(), rights)
        }))
    };
    // A revoked edge has no rights: it is as unknown as one that was never there.
    edges.iter().filter_map(|edge| rights(edge).transpose()).collect()
}

/// What `edge` may do with each of its keys.
fn grants(edge: &EdgeConfig, by_name: &HashMap<&str, &Arc<Key>>) -> Result<Vec<Grant>, SettingsError> {
    let mut seen = HashSet::new();
    let grant = |entry: &GrantConfig| {
        let (edge, key) = (edge.id.clone(), entry.name.clone());
        if !seen.insert(entry.name.clone()) {
            return Err(SettingsError::DuplicateGrant { edge, key });
        }
        match by_name.get(entry.name.as_str()) {
            Some(found) => {
                Grant::new(entry, Arc::clone(found)).map_err(|cause| SettingsError::Policy { edge, key, cause })
            }
            None => Err(SettingsError::UnknownKey { edge, key }),
        }
    };
    edge.keys.iter().map(grant).collect()
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

fn warnings(config: &Config, directory: &Path, keys: &[Arc<Key>]) -> Vec<Warning> {
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
    Channel(ChannelError),
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
    TicketState(StateError),
    /// The clock is far ahead of the ticket secret.
    #[error("[tickets] {0}")]
    Clock(ClockFault),
    /// The `[key_protection]` table.
    #[error("[key_protection] {0}")]
    KeyProtection(ProtectionError),
    /// A `[[token]]` that cannot be used.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The `[audit]` table.
    #[error("[audit] {0}")]
    Audit(AuditSettingsError),
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
    /// An edge's list names a key twice.
    #[error("[[edge]] {edge}: the key {key} stands twice in `keys`; put both entries into one")]
    DuplicateGrant {
        /// Whose list.
        edge: PeerIdentity,
        /// The name on it.
        key: String,
    },
    /// What an edge may do with a key makes no sense.
    #[error("[[edge]] {edge}: the key {key}: {cause}")]
    Policy {
        /// Whose list.
        edge: PeerIdentity,
        /// The name on it.
        key: String,
        /// What is wrong.
        cause: PolicyError,
    },
    /// The bounds of an edge make no sense.
    #[error("[[edge]] {edge}: {cause}")]
    EdgePolicy {
        /// The edge.
        edge: PeerIdentity,
        /// What is wrong.
        cause: PolicyError,
    },
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
