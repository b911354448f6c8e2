//! Sessions that clients come back to: by a ticket, which the client keeps (RFC 5077), or by an id under which a store
//! keeps it (RFC 5246 §7.3). Either way it is sealed under a key that key servers give out and that dies within hours.

pub mod ended;
pub mod miss;
pub mod record;
pub mod seal;
pub mod store;
pub mod ticket_keys;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use bytes::Bytes;
use keystead_tls::handshake::{Keeping, KeptBy};
use keystead_tls::message::new_session_ticket::NewSessionTicket;
use keystead_tls::{Session, SessionId};
use serde::Deserialize;
use strum::IntoStaticStr;
use tokio::time::Instant;

use self::ended::Ended;
pub use self::miss::{Miss, NoSession};
use self::record::{Head, Record, Serial, unix_seconds};
use self::seal::Purpose;
use self::store::{LocalConfig, LocalStore, SharedConfig, SharedFile, SharedStore};
pub use self::ticket_keys::TicketKeys;
use crate::config::check_duration;
use crate::telemetry::Telemetry;
use crate::virtual_host::VirtualHost;

/// The `[sessions]` table.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SessionTable {
    /// Whether clients get tickets.
    pub tickets: bool,
    /// Whether clients without tickets get ids.
    pub ids: bool,
    /// From a full handshake on, how long its session may be gone on from.
    #[serde(with = "humantime_serde")]
    pub lifetime: Duration,
    /// The store on this machine, of sessions with ids.
    pub local: LocalConfig,
    /// A store that the edges of a fleet share, for the same.
    pub shared: Option<SharedFile>,
}

/// A checked `[sessions]` table.
#[derive(Debug)]
pub struct SessionConfig {
    /// As TOML has it.
    pub table: SessionTable,
    /// The shared store, with what its files hold.
    pub shared: Option<SharedConfig>,
}

impl Default for SessionTable {
    fn default() -> Self {
        let lifetime = Duration::from_secs(24 * 3600);
        Self { tickets: true, ids: true, lifetime, local: LocalConfig::default(), shared: None }
    }
}

impl SessionTable {
    /// Reads the files that the table names; relative paths start at `directory`.
    ///
    /// # Errors
    /// What is wrong, and what to do about it.
    pub fn check(self, directory: &Path) -> Result<SessionConfig, String> {
        check_duration("lifetime", self.lifetime)?;
        self.local.check().map_err(|problem| format!("local: {problem}"))?;
        if self.shared.is_some() && !self.ids {
            return Err("shared is a store of sessions with ids, and ids is false".to_owned());
        }
        let shared = self.shared.clone().map(|file| file.check(directory)).transpose();
        Ok(SessionConfig { shared: shared.map_err(|problem| format!("shared: {problem}"))?, table: self })
    }
}

/// The sessions of all virtual hosts.
#[derive(Debug)]
pub struct Sessions {
    tickets: bool,
    lifetime: Duration,
    /// Of sessions with ids; `None` where there are none.
    stores: Option<Stores>,
    ticket_keys: Arc<TicketKeys>,
    ended: Ended,
    telemetry: Arc<Telemetry>,
}

/// Where sessions with ids are.
#[derive(Debug)]
struct Stores {
    local: LocalStore,
    shared: Option<SharedStore>,
}

/// By what a client came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum By {
    /// A ticket.
    Ticket,
    /// An id, which this edge knew.
    Id,
    /// An id, which the shared store knew.
    Shared,
}

/// A session that a client may go on from, as far as anybody but the engine knows.
#[derive(Debug)]
pub struct Found {
    /// The session and what is known about it.
    pub record: Record,
    /// Where it was found.
    pub origin: Origin,
}

/// Where a session was found.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    by: By,
    /// The number of the generation that sealed it.
    generation: u64,
}

/// Which session a connection belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    serial: Serial,
    session_id: Option<SessionId>,
    /// By what the client came back to it; `None` where this is its first connection.
    pub by: Option<By>,
}

impl Kept {
    /// A session that a client goes on from, which it offered by this id, if by an id.
    pub fn again(head: &Head, origin: Origin, session_id: Option<SessionId>) -> Self {
        Self { serial: head.serial, session_id, by: Some(origin.by) }
    }
}

/// A ticket that the client may keep for less is not worth its bytes.
const SHORTEST: Duration = Duration::from_secs(1);

impl Sessions {
    /// With the stores that `config` asks for, the local one below `state_directory`.
    ///
    /// # Errors
    /// That a store cannot be started.
    pub fn start(
        config: SessionConfig,
        state_directory: &Path,
        ticket_keys: Arc<TicketKeys>,
        telemetry: Arc<Telemetry>,
    ) -> anyhow::Result<Self> {
        let SessionConfig { table, shared } = config;
        let stores = match table.ids {
            true => {
                let local = LocalStore::start(state_directory, table.local, telemetry.stores.clone())
                    .context("start the store of sessions")?;
                let shared = shared.map(|shared| SharedStore::start(&shared, telemetry.stores.clone())).transpose();
                Some(Stores { local, shared: shared.context("[sessions.shared]")? })
            }
            false => None,
        };
        let (tickets, lifetime) = (table.tickets, table.lifetime);
        Ok(Self { tickets, lifetime, stores, ticket_keys, ended: Ended::default(), telemetry })
    }

    /// Writes what waits to be written, in at most that time. Blocks.
    pub fn close(self, within: Duration) {
        if self.stores.is_some_and(|stores| !stores.local.close(within)) {
            tracing::warn!(?within, "sessions were left unwritten");
        }
    }

    /// How the session of a handshake that begins at this moment can be kept.
    pub fn keeping(&self) -> Keeping {
        let generations = self.ticket_keys.load();
        let Some(generation) = generations.sealing(Instant::now()) else { return Keeping::default() };
        let fresh_id = |stores: &Stores| seal::mark(generation, SessionId(stores.local.fresh_id(&mut rand::rng())));
        Keeping { tickets: self.tickets, session_id: self.stores.as_ref().map(fresh_id) }
    }

    /// The session of a ticket.
    ///
    /// # Errors
    /// [`Miss`].
    pub fn of_ticket(&self, host: &VirtualHost, ticket: &[u8]) -> Result<Found, Miss> {
        if !self.tickets {
            return Err(NoSession::Off.into());
        }
        self.open(host, None, ticket, By::Ticket)
    }

    /// The session of an id.
    ///
    /// # Errors
    /// [`Miss`].
    pub async fn of_id(&self, host: &VirtualHost, session_id: SessionId) -> Result<Found, Miss> {
        let Stores { local, shared } = self.stores.as_ref().ok_or(NoSession::Off)?;
        if !seal::is_marked(&self.ticket_keys.load(), &session_id, Instant::now()) {
            return Err(NoSession::ForeignId.into());
        }
        let SessionId(id) = &session_id;
        let missed = match local.find(id).await {
            Ok(sealed) => return self.open(host, Some(session_id), &sealed, By::Id),
            Err(store::Miss::Ended) => return Err(NoSession::Ended.into()),
            Err(missed) => missed,
        };
        let Some(shared) = shared else { return Err(missed.into()) };
        let sealed = shared.find(id).await?;
        self.open(host, Some(session_id), &sealed, By::Shared)
    }

    fn open(&self, host: &VirtualHost, session_id: Option<SessionId>, sealed: &[u8], by: By) -> Result<Found, Miss> {
        let generations = self.ticket_keys.load();
        let purpose = Purpose { host: &host.name, session_id };
        let (bytes, generation) = seal::open(&generations, purpose, sealed, Instant::now())?;
        let record = Record::read(&bytes).ok_or(NoSession::Unreadable)?;
        let head = &record.head;
        if head.age(SystemTime::now()) >= self.lifetime {
            return Err(NoSession::TooOld.into());
        }
        if self.ended.contains(&head.serial) {
            return Err(NoSession::Ended.into());
        }
        if head.policy != host.policy {
            return Err(NoSession::OtherPolicy.into());
        }
        Ok(Found { origin: Origin { by, generation: generation.number }, record })
    }

    /// Keeps the session of a full handshake, and gives the ticket for it where that is how.
    pub fn keep(&self, host: &VirtualHost, kept_by: KeptBy, session: &Session) -> (Kept, Option<NewSessionTicket>) {
        let head = Head { began: unix_seconds(SystemTime::now()), serial: rand::random(), policy: host.policy };
        match kept_by {
            KeptBy::Ticket => {
                let kept = Kept { serial: head.serial, session_id: None, by: None };
                (kept, self.ticket(host, &head, session))
            }
            KeptBy::Id(id) => {
                self.store(host, id, &head, session);
                (Kept { serial: head.serial, session_id: Some(id), by: None }, None)
            }
        }
    }

    fn store(&self, host: &VirtualHost, session_id: SessionId, head: &Head, session: &Session) {
        let purpose = Purpose { host: &host.name, session_id: Some(session_id) };
        let Some((stores, (sealed, lives))) = self.stores.as_ref().zip(self.seal(purpose, head, session)) else {
            return;
        };
        let (SessionId(id), sealed) = (session_id, Bytes::from(sealed));
        if let Some(shared) = &stores.shared {
            shared.keep(&id, sealed.clone(), lives);
        }
        stores.local.keep(id, sealed, lives);
        self.telemetry.session_kept(By::Id);
    }

    /// A ticket in place of one that an older generation sealed.
    pub fn renew(
        &self,
        host: &VirtualHost,
        head: &Head,
        session: &Session,
        origin: Origin,
    ) -> Option<NewSessionTicket> {
        if !self.tickets {
            return None;
        }
        let sealing = self.ticket_keys.load().sealing(Instant::now())?.number;
        (sealing > origin.generation).then(|| self.ticket(host, head, session)).flatten()
    }

    /// A client that offered a session has a full handshake.
    pub fn missed(&self, miss: Miss) {
        tracing::debug!(reason = miss.reason(), "session not resumed");
        self.telemetry.session_missed(miss);
    }

    fn ticket(&self, host: &VirtualHost, head: &Head, session: &Session) -> Option<NewSessionTicket> {
        let purpose = Purpose { host: &host.name, session_id: None };
        let (ticket, lives) = self.seal(purpose, head, session)?;
        self.telemetry.session_kept(By::Ticket);
        Some(NewSessionTicket { lifetime_hint: lives.as_secs().try_into().unwrap_or(u32::MAX), ticket })
    }

    /// The sealed session, and for how long it can be gone on from. `None`, which is counted, where it cannot.
    fn seal(&self, purpose: Purpose<'_>, head: &Head, session: &Session) -> Option<(Vec<u8>, Duration)> {
        let now = Instant::now();
        let generations = self.ticket_keys.load();
        let generation = generations.sealing(now)?;
        let left = self.lifetime.saturating_sub(head.age(SystemTime::now()));
        let lives = generation.opens_for(now).min(left);
        if lives < SHORTEST {
            return None;
        }
        let sealed = seal::seal(generation, purpose, &head.with(session), &mut rand::rng())?;
        if sealed.len() > store::LONGEST_VALUE {
            self.telemetry.sessions_too_large.inc();
            return None;
        }
        Some((sealed, lives))
    }

    /// A fatal alert ended one of the session's connections: nobody goes on from it (RFC 5246 §7.2.2).
    pub fn end(&self, kept: &Kept) {
        self.ended.insert(kept.serial, self.lifetime, SystemTime::now());
        if let Some((Stores { local, shared }, SessionId(id))) = self.stores.as_ref().zip(kept.session_id) {
            local.forget(&id);
            if let Some(shared) = shared {
                shared.forget(&id);
            }
        }
    }
}

#[cfg(test)]
mod tests;
