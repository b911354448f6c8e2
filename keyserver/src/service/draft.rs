//! The record of a request in the audit log, from the request to its outcome.

use std::sync::Arc;

use keystead_program::channel::PeerIdentity;
use keystead_proto::v1::exchange_request::Operation as Asked;

use super::Peer;
use super::answer::{Done, Outcome};
use super::unread::NOTHING;
use crate::audit::Audit;
use crate::audit::record::{Request, ServerName};
use crate::audit::recorder::Place;
use crate::key::Key;
use crate::operation::Call;
use crate::operation::recover_master_secret::Claimed;
use crate::refusal::Refusal;

/// The word for requests that were answered with what they asked for.
const DONE: &str = "done";

/// A record whose outcome is not known yet.
#[derive(Debug)]
pub(crate) struct Draft {
    audit: Audit,
    peer: PeerIdentity,
    called: &'static str,
    server_name: Option<ServerName>,
    /// That of the ServerHello in a request for a master secret: the edge's word, until the request was found right.
    claimed_random: Option<[u8; 32]>,
    /// That of the ServerHello that the private key was tried for in vain.
    tried_for: Option<[u8; 32]>,
    place: Option<Place>,
}

impl Draft {
    /// For a call as such.
    pub(super) fn call(peer: &Peer, called: &'static str) -> Self {
        Self::new(peer.audit.clone(), peer.identity.clone(), called)
    }

    /// For a call of that peer.
    pub(super) fn new(audit: Audit, peer: PeerIdentity, called: &'static str) -> Self {
        Self { audit, peer, called, server_name: None, claimed_random: None, tried_for: None, place: None }
    }

    /// For what is asked for.
    pub(super) fn of(peer: &Peer, asked: Option<&Asked>) -> Self {
        let draft = Self::call(peer, NOTHING);
        if !draft.audit.is_on() {
            return draft;
        }
        match asked {
            Some(Asked::SignServerKeyExchange(request)) => {
                Self { server_name: ServerName::of(&request.server_name), ..draft }
            }
            Some(Asked::RecoverMasterSecret(request)) => {
                let Claimed { server_name, server_random } = Claimed::read(&request.handshake_messages);
                let server_name = server_name.and_then(|name| ServerName::of(&name));
                Self { server_name, claimed_random: server_random, ..draft }
            }
            Some(Asked::LeaseRandoms(_)) | None => draft,
        }
    }

    /// Makes sure of a place.
    pub(super) fn reserve(&mut self) -> Result<(), Refusal> {
        self.place = self.audit.reserve()?;
        Ok(())
    }

    /// The private key was tried in vain, if there is a random.
    pub(super) fn tried_for(&mut self, server_random: Option<[u8; 32]>) {
        self.tried_for = server_random;
    }

    /// A stream was opened.
    pub(super) fn opened(self) {
        let request = self.request(DONE);
        self.audit.note(request, None);
    }

    /// A call was refused as such.
    pub(super) fn refused(self, reason: Refusal) {
        let request = self.request(reason.reason());
        self.audit.note(request, None);
    }

    /// A request has come to its end. What a private key was used for, or tried, has a record of its own; what was refused
    /// before that may be summed up.
    ///
    /// # Errors
    /// [`Refusal::AuditUnavailable`] when nobody writes the record of what was done: its answer must not leave.
    pub(super) fn settle(mut self, asked: Option<Call>, key: Option<&Key>, outcome: &Outcome) -> Result<(), Refusal> {
        if !self.audit.is_on() {
            return Ok(());
        }
        self.called = asked.map_or(self.called, Call::into);
        let mut request = self.request(outcome.as_ref().map_or_else(|reason| reason.reason(), |_| DONE));
        request.key = key.map(|key| Arc::clone(key.name()));
        request.key_id = key.map(Key::key_id);
        match outcome {
            Ok(Done::Signed(signed)) => request.server_random = Some(signed.server_random),
            Ok(Done::Recovered(_)) => request.server_random = self.claimed_random,
            Ok(Done::Leased(batch)) => request.leased = Some(batch.leases.len()),
            Err(reason) if self.tried_for.is_some() || reason.is_a_keys() => request.server_random = self.tried_for,
            Err(_) => {
                self.audit.note(request, self.place);
                return Ok(());
            }
        }
        self.audit.done(request, self.place)
    }

    fn request(&self, outcome: &'static str) -> Request {
        Request {
            peer: self.peer.clone(),
            operation: self.called,
            key: None,
            key_id: None,
            server_name: self.server_name.clone(),
            server_random: None,
            leased: None,
            outcome,
        }
    }
}
