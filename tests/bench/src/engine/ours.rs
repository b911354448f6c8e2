//! Our engine, with the rest of an edge played by the tests' server.

use std::any::Any;
use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use keystead_tests::server;
use keystead_tests::sessions::Sessions;
use keystead_tests::signer::Signer;
use keystead_tls::crypto::Provider;
use keystead_tls::handshake::{SignatureRequest, SignedParams};
use keystead_tls::{HostParameters, Opened};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::tickets::Tickets;
use super::{Coming, Server, Service};

/// Our engine.
pub struct Ours {
    provider: &'static dyn Provider,
    host: HostParameters,
    sessions: Sessions,
    signer: &'static Signer,
}

impl Ours {
    /// With this cryptography and certificate.
    pub fn new(provider: &'static dyn Provider, signer: &'static Signer, coming: Coming) -> Self {
        let host = HostParameters { identities: vec![signer.identity.clone()], ..HostParameters::default() };
        let sessions = Sessions::new(coming == Coming::ByTicket, coming == Coming::ById);
        sessions.change(|shelf| shelf.sealing = Some(Box::new(Tickets::default())));
        Self { provider, host, sessions, signer }
    }
}

impl Service for Ours {
    fn accept(&self) -> Box<dyn Server> {
        let waited = Rc::new(Cell::new(Duration::ZERO));
        let (signer, waits) = (self.signer, waited.clone());
        let key_server = move |request: SignatureRequest<'_>| {
            let began = Instant::now();
            let mut server_random = [0; 32];
            rand::rng().fill_bytes(&mut server_random);
            let signed = sign_elsewhere(signer, request, server_random);
            waits.set(waits.get() + began.elapsed());
            signed
        };
        let rng = Box::new(StdRng::from_rng(&mut rand::rng()));
        let server = server::Server::with(self.provider, self.host.clone(), rng, Box::new(key_server));
        Box::new(OurServer { server: server.with_sessions(&self.sessions), waited, buffer: Vec::new(), received: 0 })
    }
}

struct OurServer {
    server: server::Server,
    waited: Rc<Cell<Duration>>,
    buffer: Vec<u8>,
    received: usize,
}

impl Server for OurServer {
    fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) {
        if !self.server.is_established() {
            self.server.feed(input).expect("what a client says");
            out.append(&mut self.server.take_output());
            return;
        }
        // As a socket would fill it: records are opened in place.
        self.buffer.clear();
        self.buffer.extend_from_slice(input);
        let mut rest = self.buffer.as_mut_slice();
        while !rest.is_empty() {
            match self.server.connection().open(rest, out).expect("a record") {
                Opened::Record { consumed, plaintext } => {
                    self.received += plaintext.len();
                    rest = rest.get_mut(consumed..).expect("a part of the buffer");
                }
                Opened::Incomplete { .. } | Opened::Closed => panic!("clients here send whole records"),
            }
        }
    }

    fn received(&mut self) -> usize {
        std::mem::take(&mut self.received)
    }

    fn send(&mut self, data: &[u8], out: &mut Vec<u8>) {
        self.server.connection().seal(data, out).expect("records are left");
    }

    fn stand(self: Box<Self>) -> Box<dyn Any> {
        self.server.into_connection()
    }

    fn waited(&self) -> Duration {
        self.waited.get()
    }
}

// Counted apart, by its name.
#[inline(never)]
fn sign_elsewhere(signer: &Signer, request: SignatureRequest<'_>, server_random: [u8; 32]) -> SignedParams {
    signer.sign(request, server_random)
}
