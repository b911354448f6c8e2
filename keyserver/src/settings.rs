//! What a configuration means: everything that it names is read and checked, before anybody is served.

mod error;
mod keys;
mod report;
mod warning;

pub use error::SettingsError;
pub use report::Report;
pub use warning::Warning;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keystead_program::channel::{ChannelConfig, ChannelMaterial};
use keystead_program::config;
use keystead_program::crypto::Crypto;
use keystead_program::sandbox::Paths;
use keystead_program::watched::Snapshot;

use crate::audit::AuditSettings;
use crate::authorize::{Authorizations, Rights};
use crate::config::grant::GrantConfig;
use crate::config::{Config, EdgeConfig, Limits, TicketsConfig};
use crate::custody::custodian::Custodian;
use crate::custody::protection::KeyProtection;
use crate::custody::secret::credentials_directory;
use crate::custody::token::{TokenConfig, Tokens};
use crate::key::Key;
use crate::policy::{Budget, Grant};
use crate::rate::Cost;
use crate::schedule::{CostClass, LaneConfig};
use crate::ticket_keys::group::{GroupName, TicketGroup};
use crate::ticket_keys::ratchet::{Ratchet, UnixTime};
use crate::ticket_keys::state;
use warning::warnings;

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
    /// Keys that run, and whose names others take.
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

#[cfg(test)]
mod tests;
