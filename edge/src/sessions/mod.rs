//! Sessions that clients come back to: by a ticket, which the client keeps (RFC 5077), or by an id under which a store
//! keeps it (RFC 5246 §7.3). Either way it is sealed under a key that key servers give out and that dies within hours.

pub mod ended;
pub mod miss;
pub mod record;
pub mod seal;
pub mod ticket_keys;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

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
pub use self::ticket_keys::TicketKeys;
use crate::config::check_duration;
use crate::telemetry::Telemetry;
use crate::virtual_host::VirtualHost;

/// The `[sessions]` table.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SessionConfig {
    /// Whether clients get tickets.
    pub tickets: bool,
    /// From a full handshake on, how long its session may be gone on from.
    #[serde(with = "humantime_serde")]
    pub lifetime: Duration,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self { tickets: true, lifetime: Duration::from_secs(24 * 3600) }
    }
}

impl SessionConfig {
    /// Whether the values can stand.
    ///
    /// # Errors
    /// What is wrong, and what to do about it.
    pub fn check(&self) -> Result<(), String> {
        check_duration("lifetime", self.lifetime)
    }
}

/// The sessions of all virtual hosts.
#[derive(Debug)]
pub struct Sessions {
    config: SessionConfig,
    ticket_keys: Arc<TicketKeys>,
    ended: Ended,
    telemetry: Arc<Telemetry>,
}

/// By what a client came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum By {
    /// A ticket.
    Ticket,
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
}

/// Most bytes of a sealed session. A client sends a ticket with each ClientHello, and a store has millions.
const LARGEST: usize = 16 << 10;
/// A ticket that the client may keep for less is not worth its bytes.
const SHORTEST: Duration = Duration::from_secs(1);

impl Sessions {
    /// Without any session, and under `ticket_keys`.
    pub fn new(config: SessionConfig, ticket_keys: Arc<TicketKeys>, telemetry: Arc<Telemetry>) -> Self {
        Self { config, ticket_keys, ended: Ended::default(), telemetry }
    }

    /// How the session of a handshake that begins at this moment can be kept.
    pub fn keeping(&self) -> Keeping {
        let seals = self.ticket_keys.load().sealing(Instant::now()).is_some();
        Keeping { tickets: seals && self.config.tickets, session_id: None }
    }

    /// The session of a ticket.
    ///
    /// # Errors
    /// [`Miss`].
    pub fn of_ticket(&self, host: &VirtualHost, ticket: &[u8]) -> Result<Found, Miss> {
        if !self.config.tickets {
            return Err(NoSession::Off.into());
        }
        self.open(host, None, ticket, By::Ticket)
    }

    /// The session of an id.
    ///
    /// # Errors
    /// [`Miss`].
    pub async fn of_id(&self, _host: &VirtualHost, _session_id: SessionId) -> Result<Found, Miss> {
        Err(NoSession::Off.into())
    }

    fn open(&self, host: &VirtualHost, session_id: Option<SessionId>, sealed: &[u8], by: By) -> Result<Found, Miss> {
        let generations = self.ticket_keys.load();
        let purpose = Purpose { host: &host.name, session_id };
        let (bytes, generation) = seal::open(&generations, purpose, sealed, Instant::now())?;
        let record = Record::read(&bytes).ok_or(NoSession::Unreadable)?;
        let head = &record.head;
        if head.age(SystemTime::now()) >= self.config.lifetime {
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
        let ticket = match kept_by {
            KeptBy::Ticket => self.ticket(host, &head, session),
            KeptBy::Id(_) => None,
        };
        (Kept { serial: head.serial }, ticket)
    }

    /// A ticket in place of one that an older generation sealed.
    pub fn renew(
        &self,
        host: &VirtualHost,
        head: &Head,
        session: &Session,
        origin: Origin,
    ) -> Option<NewSessionTicket> {
        let sealing = self.ticket_keys.load().sealing(Instant::now())?.number;
        (sealing > origin.generation).then(|| self.ticket(host, head, session)).flatten()
    }

    /// A client goes on from a session.
    pub fn resumed(&self, head: &Head, origin: Origin) -> Kept {
        self.telemetry.resumed(origin.by);
        Kept { serial: head.serial }
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
        let left = self.config.lifetime.saturating_sub(head.age(SystemTime::now()));
        let lives = generation.opens_for(now).min(left);
        if lives < SHORTEST {
            return None;
        }
        let sealed = seal::seal(generation, purpose, &head.with(session), &mut rand::rng())?;
        if sealed.len() > LARGEST {
            self.telemetry.sessions_too_large.inc();
            return None;
        }
        Some((sealed, lives))
    }

    /// A fatal alert ended one of the session's connections: nobody goes on from it (RFC 5246 §7.2.2).
    pub fn end(&self, kept: &Kept) {
        self.ended.insert(kept.serial, self.config.lifetime, SystemTime::now());
    }
}
