//! A first visit that leaves a session, and clients that come back with it.
//!
//! ```text
//!  newcomer ──► first_visit ──► Saved ──► returning ──► greet, finish or resume; start_over where the server declines
//! ```

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use keystead_tls::HostParameters;
use keystead_tls::crypto::Provider;
use keystead_tls::message::server_hello::ServerHello;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::client::{Client, Flight, Saved};
use crate::conversation::{State, bring, complete_from, step};
use crate::server::Server;
use crate::sessions::Sessions;

/// What a session is named by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A ticket (RFC 5077).
    Ticket,
    /// An id (RFC 5246 §7.3).
    Id,
}

/// All ways.
pub const WAYS: [By; 2] = [By::Ticket, By::Id];

impl By {
    /// Sessions that are kept this way alone.
    pub fn sessions(self) -> Sessions {
        Sessions::new(self == Self::Ticket, self == Self::Id)
    }

    /// The same client, which takes tickets if sessions are kept by them.
    pub fn newcomer(self, mut client: Client) -> Client {
        client.offer.extensions.session_ticket = (self == Self::Ticket).then(Vec::new);
        client
    }
}

/// Completes a full handshake by ECDHE and exchanges data. What the client comes away with.
pub fn first_visit(client: &mut Client, server: &mut Server) -> Saved {
    bring(client, server, State::Established);
    step(State::Established, client, server);
    client.save()
}

/// A session of these sessions', left by a client that offers everything.
pub fn session(by: By, host: HostParameters, sessions: &Sessions) -> Saved {
    let mut server = Server::new(keystead_tls::crypto::FAST, host, 1).with_sessions(sessions);
    first_visit(&mut by.newcomer(Client::default()), &mut server)
}

/// A client that offers everything, and to go on from this session.
pub fn returning(saved: &Saved) -> Client {
    let mut client = Client::default().coming_back_with(saved);
    client.offer.random = [0xc2; 32];
    client
}

/// A server that has no key server.
pub fn keyless(provider: &'static dyn Provider, host: HostParameters, sessions: &Sessions) -> Server {
    let rng = Box::new(StdRng::seed_from_u64(9));
    Server::with(provider, host, rng, Box::new(|_| panic!("the key server is asked"))).with_sessions(sessions)
}

/// Sends ClientHello, and reads ServerHello to Finished and nothing else.
pub fn greet(client: &mut Client, server: &mut Server) -> ServerHello {
    server.feed(&client.hello()).unwrap();
    let (hello, behind) = client.read_resumption(&server.take_output());
    assert_eq!(behind, []);
    hello
}

/// Sends ChangeCipherSpec and Finished, which nothing answers, and exchanges data.
pub fn finish(client: &mut Client, server: &mut Server) {
    server.feed(&[client.change_cipher_spec(), client.finished()].concat()).unwrap();
    assert_eq!(server.take_output(), b"");
    step(State::Established, client, server);
    assert!(server.summary().resumed);
}

/// Completes a handshake that goes on from the client's session, and exchanges data.
pub fn resume(client: &mut Client, server: &mut Server) -> ServerHello {
    let hello = greet(client, server);
    finish(client, server);
    hello
}

/// Completes a full handshake although the client offers a session, and exchanges data.
pub fn start_over(client: &mut Client, server: &mut Server) -> Flight {
    server.feed(&client.hello()).unwrap();
    let flight = client.read_flight(&server.take_output());
    // An echo would say that the session is gone on from (RFC 5246 §7.4.1.3).
    assert!(flight.hello.session_id.is_empty() || flight.hello.session_id != client.offer.session_id);
    complete_from(State::ClientKeyExchange, client, server);
    assert!(!server.summary().resumed);
    flight
}
