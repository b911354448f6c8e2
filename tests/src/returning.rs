//! Clients that come back: each offers at every visit the session it has, and keeps the one it is given.

#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use keystead_tls::message::client_hello::ClientHello;
use rustls::client::{Resumption, Tls12Resumption};
use rustls::{ClientConfig, HandshakeKind};

use crate::client::Saved;
use crate::client_authority::ClientFiles;
use crate::rustls_client;
use crate::stack::{Edge, Stack};
use crate::tool;
use crate::wire::{Wire, offer};

/// How a visit went.
#[derive(Debug)]
pub struct Visit {
    /// Whether the handshake went on from a session.
    pub resumed: bool,
    /// What the backend reports.
    pub page: String,
}

/// A client that comes back.
pub trait Returning {
    /// Connects and fetches the page.
    ///
    /// # Errors
    /// What the client says when it cannot.
    fn try_visit(&mut self, edge: &Edge) -> Result<Visit, String>;

    /// As [`Self::try_visit`].
    ///
    /// # Panics
    /// When the client gets no page.
    #[track_caller]
    fn visit(&mut self, edge: &Edge) -> Visit {
        match self.try_visit(edge) {
            Ok(visit) => visit,
            Err(error) => panic!("no visit: {error}"),
        }
    }

    /// Visits, and checks with the edge whether a ticket was what the client went on from.
    ///
    /// # Panics
    /// When client and edge disagree about that, and when it was something else.
    #[track_caller]
    fn resumes(&mut self, edge: &Edge) -> bool {
        let by = self.resumes_by(edge);
        assert!(matches!(by, None | Some("ticket")), "{by:?}");
        by.is_some()
    }

    /// Visits, and gives what the edge says that the client went on from: a `ticket`, an `id`, or an id of the `shared`
    /// store.
    ///
    /// # Panics
    /// When client and edge disagree about whether it went on.
    #[track_caller]
    fn resumes_by(&mut self, edge: &Edge) -> Option<&'static str> {
        let ways = ["ticket", "id", "shared"];
        let before = ways.map(|by| edge.resumed_by(by));
        let visit = self.visit(edge);
        assert!(visit.page.contains("proxy: version 2"), "{}", visit.page);
        let by: Vec<_> = ways.into_iter().zip(before).filter(|(by, before)| edge.resumed_by(by) > *before).collect();
        assert_eq!(by.len(), usize::from(visit.resumed), "client and edge disagree: {by:?}");
        by.first().map(|(by, _)| *by)
    }

    /// Visits, has a full handshake, and checks that the edge counts it as missed for this reason alone.
    ///
    /// # Panics
    /// When that is not so.
    #[track_caller]
    fn misses(&mut self, edge: &Edge, reason: &str) {
        let count = || (edge.misses(reason), edge.metric("keystead_edge_session_misses_total", &[]));
        let (of_reason, all) = count();
        assert_eq!(self.resumes_by(edge), None, "a session was gone on from");
        assert_eq!(count(), (of_reason + 1, all + 1), "{}", edge.process.get("/metrics").1);
    }
}

/// `openssl s_client`, whose session is in a file.
pub struct Openssl {
    host: String,
    authority: PathBuf,
    session: PathBuf,
    arguments: Vec<String>,
}

impl Openssl {
    /// A client without a session that asks for `host`.
    pub fn new(stack: &Stack, host: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let session = format!("session-{}.pem", NEXT.fetch_add(1, Ordering::Relaxed));
        let session = stack.directory().join(session);
        Self { host: host.to_owned(), authority: stack.authority(), session, arguments: Vec::new() }
    }

    /// With further arguments.
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(ToString::to_string));
        self
    }

    /// With a certificate to show.
    pub fn certified(self, client: &ClientFiles) -> Self {
        let (certificate, key) = (client.certificate.display().to_string(), client.key.display().to_string());
        self.with(&["-cert", &certificate, "-key", &key])
    }

    /// With the session that another client has.
    pub fn with_session_of(self, other: &Self) -> Self {
        std::fs::copy(&other.session, &self.session).expect("a session");
        self
    }
}

impl Returning for Openssl {
    fn try_visit(&mut self, edge: &Edge) -> Result<Visit, String> {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-tls1_2", "-connect", &edge.address.to_string(), "-servername", &self.host]);
        command.args(["-verify_return_error", "-CAfile"]).arg(&self.authority).args(&self.arguments);
        if self.session.exists() {
            command.arg("-sess_in").arg(&self.session);
        }
        let output = tool::run(command.arg("-sess_out").arg(&self.session), REQUEST);
        let says = |words: &str| output.text.contains(words);
        match (says("\nReused, TLSv1.2, Cipher is"), says("\nNew, TLSv1.2, Cipher is"), says("HTTP/1.0 200 OK")) {
            (resumed, full, true) if resumed != full => Ok(Visit { resumed, page: output.text }),
            _ => Err(output.text),
        }
    }
}

const REQUEST: &[u8] = b"GET / HTTP/1.0\r\nhost: localhost\r\n\r\n";

/// rustls, whose sessions are in its configuration.
#[derive(Clone)]
pub struct Rustls {
    host: String,
    config: ClientConfig,
}

impl Rustls {
    /// A client without a session that asks for `host`.
    pub fn new(host: &str) -> Self {
        Self { host: host.to_owned(), config: rustls_client::config() }
    }

    /// A client that takes no tickets.
    pub fn without_tickets(host: &str) -> Self {
        let mut client = Self::new(host);
        let resumption = Resumption::in_memory_sessions(16).tls12_resumption(Tls12Resumption::SessionIdOnly);
        client.config.resumption = resumption;
        client
    }
}

impl Rustls {
    /// Visits an edge that may be on its way.
    ///
    /// # Errors
    /// Those of rustls and the socket.
    pub fn visit_at(&self, address: SocketAddr) -> io::Result<Visit> {
        let mut connection = rustls_client::connect_at(address, self.config.clone(), &self.host)?;
        let resumed = connection.conn.handshake_kind() == Some(HandshakeKind::Resumed);
        Ok(Visit { resumed, page: rustls_client::fetch(&mut connection)? })
    }
}

impl Returning for Rustls {
    fn try_visit(&mut self, edge: &Edge) -> Result<Visit, String> {
        self.visit_at(edge.address).map_err(|error| error.to_string())
    }
}

/// The scripted client, whose offer and ticket can be anything.
#[derive(Clone)]
pub struct Scripted {
    /// What it offers, apart from the session.
    pub offer: ClientHello,
    /// What it has to come back with.
    pub saved: Option<Saved>,
}

impl Scripted {
    /// A client without a session that asks for `host`.
    pub fn new(host: &str) -> Self {
        let mut offer = offer();
        offer.extensions.server_name = Some(host.to_owned());
        offer.extensions.session_ticket = Some(Vec::new());
        Self { offer, saved: None }
    }

    /// A client that takes no tickets.
    pub fn without_tickets(host: &str) -> Self {
        let mut client = Self::new(host);
        client.offer.extensions.session_ticket = None;
        client
    }

    /// The ticket it has.
    ///
    /// # Panics
    /// When it has none.
    pub fn ticket(&mut self) -> &mut Vec<u8> {
        let ticket = self.saved.as_mut().and_then(|saved| saved.ticket.as_mut());
        &mut ticket.expect("a ticket").ticket
    }
}

impl Returning for Scripted {
    fn try_visit(&mut self, edge: &Edge) -> Result<Visit, String> {
        let mut wire = Wire::with(edge, self.offer.clone());
        if let Some(saved) = &self.saved {
            wire.client = wire.client.coming_back_with(saved);
        }
        let resumed = wire.go_on().map_err(|alert| format!("alert {alert}"))?;
        if !resumed || wire.client.ticket().is_some() {
            self.saved = Some(wire.client.save());
        }
        let request = wire.client.data(REQUEST);
        wire.send(&request);
        let page: Vec<u8> = wire.read_to_end().into_iter().flat_map(|record| record.payload).collect();
        Ok(Visit { resumed, page: String::from_utf8_lossy(&page).into_owned() })
    }
}
