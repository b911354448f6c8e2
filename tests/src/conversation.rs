//! A client and a server, as far into their conversation as a test wants them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use keystead_tls::{Alert, AlertDescription, ContentType, Error};

use crate::client::{Client, Record};
use crate::server::Server;

/// What the server waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// ClientHello.
    ClientHello,
    /// ClientKeyExchange.
    ClientKeyExchange,
    /// ChangeCipherSpec.
    ChangeCipherSpec,
    /// Finished.
    Finished,
    /// Application data, for ever.
    Established,
}

/// All states, in the order of the protocol.
pub const STATES: [State; 5] =
    [State::ClientHello, State::ClientKeyExchange, State::ChangeCipherSpec, State::Finished, State::Established];

/// A client and a server that waits for `state`.
pub fn at(state: State) -> (Client, Server) {
    let (mut client, mut server) = (Client::default(), Server::default());
    bring(&mut client, &mut server, state);
    (client, server)
}

/// Brings a client and a server that have yet to meet to where the server waits for `state`.
pub fn bring(client: &mut Client, server: &mut Server, state: State) {
    for passed in STATES.into_iter().filter(|passed| *passed < state) {
        step(passed, client, server);
    }
}

/// The right message for `state`.
pub fn right_message(state: State, client: &mut Client) -> Vec<u8> {
    match state {
        State::ClientHello => client.hello(),
        State::ClientKeyExchange => client.key_exchange(),
        State::ChangeCipherSpec => client.change_cipher_spec(),
        State::Finished => client.finished(),
        State::Established => client.data(b"ping"),
    }
}

/// Sends the right message for `state` and reads the answer.
pub fn step(state: State, client: &mut Client, server: &mut Server) {
    server.feed(&right_message(state, client)).unwrap();
    read_answer(state, client, server);
}

/// Reads the answer to the right message for `state`.
pub fn read_answer(state: State, client: &mut Client, server: &mut Server) {
    let answer = server.take_output();
    match state {
        State::ClientHello => drop(client.read_flight(&answer)),
        State::ClientKeyExchange | State::ChangeCipherSpec => assert!(answer.is_empty(), "{answer:02x?}"),
        State::Finished => assert_eq!(client.read_finished(&answer), []),
        State::Established => {
            assert!(answer.is_empty(), "{answer:02x?}");
            assert!(server.take_received().ends_with(b"ping"));
            server.send(b"pong");
            assert_eq!(client.read_data(&server.take_output()), b"pong");
        }
    }
}

/// Completes the handshake from `state` and exchanges data.
pub fn complete_from(state: State, client: &mut Client, server: &mut Server) {
    for next in STATES.into_iter().filter(|next| *next >= state) {
        step(next, client, server);
    }
}

/// Feeds `bytes`, which end the connection with this error and this alert.
pub fn refused(
    client: &mut Client,
    server: &mut Server,
    bytes: &[u8],
    error: impl Into<Error>,
    alert: AlertDescription,
    context: &str,
) {
    let protected = server.is_established();
    assert_eq!(server.feed(bytes), Err(error.into()), "{context}");
    let payload = Alert::fatal(alert).encode().to_vec();
    let expected = Record { content_type: ContentType::ALERT, payload, protected };
    assert_eq!(client.read(&server.take_output()), [expected], "{context}");
}

/// Feeds `bytes` where `state` is awaited.
pub fn refused_at(state: State, bytes: &[u8], error: impl Into<Error>, alert: AlertDescription, context: &str) {
    let (mut client, mut server) = at(state);
    refused(&mut client, &mut server, bytes, error, alert, context);
}
