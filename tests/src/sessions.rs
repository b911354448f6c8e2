//! The sessions that a fleet of servers keeps: each name, of a ticket or of an id, with the session it stands for.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use keystead_tls::handshake::{FindSession, Handshake, Keeping, KeptBy};
use keystead_tls::message::new_session_ticket::NewSessionTicket;
use keystead_tls::session::Difference;
use keystead_tls::{Session, SessionId};

/// What servers share. Clones are the same.
#[derive(Clone, Default)]
pub struct Sessions(Rc<RefCell<Shelf>>);

/// Tickets that hold their sessions, as those of an edge do.
pub trait Sealing {
    /// A ticket that holds this session.
    fn seal(&self, session: &Session) -> Vec<u8>;

    /// The session in a ticket.
    fn open(&self, ticket: &[u8]) -> Option<Session>;
}

/// What the servers do, and what they have.
#[derive(Default)]
pub struct Shelf {
    /// Whether clients that take tickets get them.
    pub tickets: bool,
    /// Whether other clients get ids.
    pub ids: bool,
    /// Whether clients that go on from a session get another ticket for it.
    pub renews: bool,
    /// Whether a promised ticket is missing when it is due.
    pub forgets: bool,
    /// Bytes that each ticket has beyond the 32 of its name.
    pub padding: usize,
    /// How sessions are put into tickets. Without it a ticket is a name of a session that is kept here.
    pub sealing: Option<Box<dyn Sealing>>,
    /// Why sessions that were found were not gone on from.
    pub differences: Vec<Difference>,
    kept: HashMap<Vec<u8>, Vec<u8>>,
    names: u32,
}

impl Sessions {
    /// Sessions kept by tickets, by ids, or by both.
    pub fn new(tickets: bool, ids: bool) -> Self {
        let sessions = Self::default();
        sessions.change(|shelf| (shelf.tickets, shelf.ids) = (tickets, ids));
        sessions
    }

    /// Changes what the servers do, or looks at what they have.
    pub fn change<T>(&self, change: impl FnOnce(&mut Shelf) -> T) -> T {
        change(&mut self.0.borrow_mut())
    }

    /// Keeps a session of the test's own making, under this name of a ticket or of an id.
    pub fn put(&self, name: &[u8], session: &Session) {
        self.change(|shelf| shelf.kept.insert(name.to_vec(), session.to_bytes().to_vec()));
    }

    /// Loses all sessions.
    pub fn lose_all(&self) {
        self.change(|shelf| shelf.kept.clear());
    }

    /// All that have been kept, each with its name.
    pub fn kept(&self) -> Vec<(Vec<u8>, Session)> {
        let shelf = self.0.borrow();
        let read = |bytes: &Vec<u8>| Session::read(bytes).expect("a session");
        shelf.kept.iter().map(|(name, bytes)| (name.clone(), read(bytes))).collect()
    }

    /// How many sessions have been kept.
    pub fn len(&self) -> usize {
        self.0.borrow().kept.len()
    }

    /// Whether none has been kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn keeping(&self) -> Keeping {
        let mut shelf = self.0.borrow_mut();
        let session_id = shelf.ids.then(|| SessionId(shelf.name()));
        Keeping { tickets: shelf.tickets, session_id }
    }

    pub(crate) fn find(&self, handshake: &Handshake<FindSession>) -> Option<Session> {
        let shelf = self.0.borrow();
        if let Some((sealing, ticket)) = shelf.sealing.as_ref().zip(handshake.ticket()) {
            return sealing.open(ticket);
        }
        let id = handshake.session_id();
        let name = handshake.ticket().or(id.as_ref().map(|SessionId(id)| id.as_slice()))?;
        shelf.kept.get(name).map(|bytes| Session::read(bytes).expect("a session"))
    }

    pub(crate) fn differs(&self, difference: Difference) {
        self.0.borrow_mut().differences.push(difference);
    }

    pub(crate) fn keep(&self, kept_by: KeptBy, session: &Session) -> Option<NewSessionTicket> {
        let mut shelf = self.0.borrow_mut();
        match kept_by {
            KeptBy::Ticket if shelf.forgets => None,
            KeptBy::Ticket => Some(shelf.ticket(session)),
            KeptBy::Id(SessionId(id)) => {
                shelf.kept.insert(id.to_vec(), session.to_bytes().to_vec());
                None
            }
        }
    }

    pub(crate) fn renew(&self, session: &Session) -> Option<NewSessionTicket> {
        let mut shelf = self.0.borrow_mut();
        shelf.renews.then(|| shelf.ticket(session))
    }
}

impl Shelf {
    fn name(&mut self) -> [u8; 32] {
        self.names += 1;
        let mut name = [0xa5; 32];
        name.first_chunk_mut().map(|front| *front = self.names.to_be_bytes()).expect("room for a number");
        name
    }

    fn ticket(&mut self, session: &Session) -> NewSessionTicket {
        let lifetime_hint = 3600;
        if let Some(sealing) = &self.sealing {
            return NewSessionTicket { lifetime_hint, ticket: sealing.seal(session) };
        }
        let ticket = [&self.name()[..], &vec![0x5a; self.padding]].concat();
        self.kept.insert(ticket.clone(), session.to_bytes().to_vec());
        NewSessionTicket { lifetime_hint, ticket }
    }
}
