//! What every message comes to in every state, as one literal table.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use keystead_tests::client::{Client, Record, message};
use keystead_tests::conversation::{STATES, State, at, complete_from, read_answer, right_message};
use keystead_tls::{
    Alert, AlertDescription, ContentType, Error, HandshakeType, InvalidMessage, PeerClosed, PeerIncompatible,
    PeerMisbehaved,
};

/// What the client sends, protected from its ChangeCipherSpec on.
#[derive(Clone, Copy, Debug)]
enum Sent {
    /// A right one where one belongs, else one that parses.
    ClientHello,
    ClientKeyExchange,
    ChangeCipherSpec,
    Finished,
    /// A handshake message of this type with this body.
    Handshake(HandshakeType, &'static [u8]),
    /// A record of this type with this content.
    Record(ContentType, &'static [u8]),
}

/// What comes of it.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    /// The next state; the handshake then completes.
    Next,
    /// The same state, and nothing is sent; the handshake then completes, and the connection goes on.
    Stays,
    /// The same state, and this warning is sent; the connection goes on.
    Warns(AlertDescription),
    /// The client sends nothing more; this side may.
    HalfCloses,
    /// The end, with this alert, protected once the server's ChangeCipherSpec is sent.
    Ends(Error, Alert),
    /// The end, and nothing is sent.
    EndsSilently(Error),
}

use Outcome::{HalfCloses, Next, Stays};

const RENEGOTIATION: Outcome = Outcome::Warns(AlertDescription::NO_RENEGOTIATION);
/// The message may not come here.
const ORDER: Outcome =
    ends(Error::PeerMisbehaved(PeerMisbehaved::UnexpectedHandshakeMessage), AlertDescription::UNEXPECTED_MESSAGE);
/// The content type may not come here.
const TYPE: Outcome =
    ends(Error::PeerMisbehaved(PeerMisbehaved::UnexpectedContentType), AlertDescription::UNEXPECTED_MESSAGE);
/// ChangeCipherSpec may not come here.
const EARLY: Outcome =
    ends(Error::PeerMisbehaved(PeerMisbehaved::EarlyChangeCipherSpec), AlertDescription::UNEXPECTED_MESSAGE);
const EMPTY: Outcome = ends(Error::PeerMisbehaved(PeerMisbehaved::EmptyFragment), AlertDescription::UNEXPECTED_MESSAGE);
const LEVEL: Outcome =
    ends(Error::PeerMisbehaved(PeerMisbehaved::UnknownAlertLevel), AlertDescription::ILLEGAL_PARAMETER);
const NO_TLS: Outcome = ends(Error::PeerIncompatible(PeerIncompatible::NotTls), AlertDescription::UNEXPECTED_MESSAGE);
const NO_TYPE: Outcome =
    ends(Error::InvalidMessage(InvalidMessage::UnknownContentType), AlertDescription::UNEXPECTED_MESSAGE);
const BAD_CCS: Outcome =
    ends(Error::InvalidMessage(InvalidMessage::MalformedChangeCipherSpec), AlertDescription::DECODE_ERROR);
const BAD_ALERT: Outcome = ends(Error::InvalidMessage(InvalidMessage::MalformedAlert), AlertDescription::DECODE_ERROR);
const CLOSED: Outcome =
    Outcome::Ends(Error::PeerClosed(PeerClosed::ClosedInHandshake), Alert::warning(AlertDescription::CLOSE_NOTIFY));
const FATAL: Outcome = Outcome::EndsSilently(Error::PeerAlert(AlertDescription::UNKNOWN_CA));

const fn ends(error: Error, alert: AlertDescription) -> Outcome {
    Outcome::Ends(error, Alert::fatal(alert))
}

const fn handshake(kind: u8, body: &'static [u8]) -> Sent {
    Sent::Handshake(HandshakeType(kind), body)
}

const fn record(content_type: u8, payload: &'static [u8]) -> Sent {
    Sent::Record(ContentType(content_type), payload)
}

#[rustfmt::skip]
const TABLE: [(&str, Sent, [Outcome; 5]); 32] = [
    // What is sent                                          awaiting:  hello    key exch. ccs        finished established
    ("hello_request",          handshake(0, &[]),                      [ORDER,   ORDER,    ORDER,     ORDER,   ORDER]),
    ("client_hello",           Sent::ClientHello,                      [Next,    ORDER,    ORDER,     ORDER,   RENEGOTIATION]),
    ("server_hello",           handshake(2, &[3; 38]),                 [ORDER,   ORDER,    ORDER,     ORDER,   ORDER]),
    ("hello_verify_request",   handshake(3, &[]),                      [ORDER,   ORDER,    ORDER,     ORDER,   ORDER]),
    ("new_session_ticket",     handshake(4, &[0; 6]),                  [ORDER,   ORDER,    ORDER,     ORDER,   ORDER]),
    ("end_of_early_data",      handshake(5, &[]),                      [ORDER,   ORDER,    ORDER,     ORDER,   ORDER]),
    ("encrypted_extensions",   handshake(8, &[0; 2]),                  [ORDER,   ORDER,    ORDER,     ORDER,   ORDER]),
    ("certificate",            handshake(11, &[0; 3]),                 [ORDER,   ORDER,    ORDER,     ORDER,   ORDER]),
    ("server_key_exchange",    handshake(12, &[3, 0, 29, 0]),          [ORDER,   ORDER,    ORDER,     ORDER,   ORDER]),
    ("certificate_request",    handshake(13, &[]),                     [ORDER,   ORDER,    ORDER,     ORDER,   ORDER]),
    ("server_hello_done",      handshake(14, &[]),                     [ORDER,   ORDER,    ORDER,     ORDER,   ORDER]),
    ("certificate_verify",     handshake(15, &[4, 3, 0, 0]),           [ORDER,   ORDER,    ORDER,     ORDER,   ORDER]),
    ("client_key_exchange",    Sent::ClientKeyExchange,                [ORDER,   Next,     ORDER,     ORDER,   ORDER]),
    ("finished",               Sent::Finished,                         [ORDER,   ORDER,    ORDER,     Next,    ORDER]),
    ("certificate_status",     handshake(22, &[1, 0, 0, 0]),           [ORDER,   ORDER,    ORDER,     ORDER,   ORDER]),
    ("key_update",             handshake(24, &[0]),                    [ORDER,   ORDER,    ORDER,     ORDER,   ORDER]),
    ("an unknown message",     handshake(99, &[]),                     [ORDER,   ORDER,    ORDER,     ORDER,   ORDER]),
    ("an empty handshake",     record(22, &[]),                        [EMPTY,   EMPTY,    EMPTY,     EMPTY,   EMPTY]),
    ("change_cipher_spec",     Sent::ChangeCipherSpec,                 [EARLY,   EARLY,    Next,      EARLY,   EARLY]),
    ("another byte in it",     record(20, &[2]),                       [EARLY,   EARLY,    BAD_CCS,   EARLY,   EARLY]),
    ("two of them in one",     record(20, &[1, 1]),                    [EARLY,   EARLY,    BAD_CCS,   EARLY,   EARLY]),
    ("an empty one",           record(20, &[]),                        [EMPTY,   EMPTY,    EMPTY,     EMPTY,   EMPTY]),
    ("application data",       record(23, b"data"),                    [TYPE,    TYPE,     TYPE,      TYPE,    Stays]),
    ("empty application data", record(23, &[]),                        [TYPE,    TYPE,     TYPE,      TYPE,    Stays]),
    ("close_notify",           record(21, &[1, 0]),                    [CLOSED,  CLOSED,   CLOSED,    CLOSED,  HalfCloses]),
    ("fatal close_notify",     record(21, &[2, 0]),                    [CLOSED,  CLOSED,   CLOSED,    CLOSED,  HalfCloses]),
    ("a warning",              record(21, &[1, 90]),                   [Stays,   Stays,    Stays,     Stays,   Stays]),
    ("a fatal alert",          record(21, &[2, 48]),                   [FATAL,   FATAL,    FATAL,     FATAL,   FATAL]),
    ("an alert of no level",   record(21, &[3, 48]),                   [LEVEL,   LEVEL,    LEVEL,     LEVEL,   LEVEL]),
    ("half an alert",          record(21, &[2]),                       [BAD_ALERT, BAD_ALERT, BAD_ALERT, BAD_ALERT, BAD_ALERT]),
    ("an empty alert",         record(21, &[]),                        [EMPTY,   EMPTY,    EMPTY,     EMPTY,   EMPTY]),
    ("an unknown record",      record(24, &[1, 0, 0]),                 [NO_TLS,  NO_TYPE,  NO_TYPE,   NO_TYPE, NO_TYPE]),
];

impl Sent {
    fn bytes(self, state: State, client: &mut Client) -> Vec<u8> {
        let belongs_to = match self {
            Self::ClientHello => State::ClientHello,
            Self::ClientKeyExchange => State::ClientKeyExchange,
            Self::ChangeCipherSpec => State::ChangeCipherSpec,
            Self::Finished => State::Finished,
            Self::Handshake(kind, body) => return client.record(ContentType::HANDSHAKE, &message(kind, body)),
            Self::Record(content_type, payload) => return client.record(content_type, payload),
        };
        if belongs_to == state {
            return right_message(state, client);
        }
        match self {
            Self::ClientHello => client.hello(),
            Self::ClientKeyExchange => {
                let public = [&[32][..], &[9; 32]].concat();
                client.record(ContentType::HANDSHAKE, &message(HandshakeType::CLIENT_KEY_EXCHANGE, &public))
            }
            Self::Finished => client.record(ContentType::HANDSHAKE, &message(HandshakeType::FINISHED, &[0; 12])),
            Self::ChangeCipherSpec | Self::Handshake(..) | Self::Record(..) => {
                client.record(ContentType::CHANGE_CIPHER_SPEC, &[1])
            }
        }
    }
}

fn alert_record(alert: Alert, state: State) -> Record {
    let protected = state == State::Established;
    Record { content_type: ContentType::ALERT, payload: alert.encode().to_vec(), protected }
}

fn check(name: &str, sent: Sent, state: State, expected: Outcome) {
    let context = format!("{name} while {state:?} is awaited");
    let (mut client, mut server) = at(state);
    let bytes = sent.bytes(state, &mut client);
    let outcome = server.feed(&bytes);
    match expected {
        Next => {
            assert_eq!(outcome, Ok(()), "{context}");
            read_answer(state, &mut client, &mut server);
            let next = STATES.into_iter().find(|next| *next > state).unwrap();
            complete_from(next, &mut client, &mut server);
        }
        Stays => {
            assert_eq!((outcome, server.take_output()), (Ok(()), vec![]), "{context}");
            complete_from(state, &mut client, &mut server);
        }
        Outcome::Warns(description) => {
            assert_eq!(outcome, Ok(()), "{context}");
            let answer = client.read(&server.take_output());
            assert_eq!(answer, [alert_record(Alert::warning(description), state)], "{context}");
            complete_from(state, &mut client, &mut server);
        }
        HalfCloses => {
            assert_eq!((outcome, server.take_output()), (Ok(()), vec![]), "{context}");
            assert!(server.is_closed_by_client(), "{context}");
            server.send(b"the rest");
            assert_eq!(client.read_data(&server.take_output()), b"the rest", "{context}");
        }
        Outcome::Ends(error, alert) => {
            assert_eq!(outcome, Err(error), "{context}");
            assert_eq!(client.read(&server.take_output()), [alert_record(alert, state)], "{context}");
            assert_eq!(error.alert(), Some(alert.description), "{context}");
        }
        Outcome::EndsSilently(error) => assert_eq!((outcome, server.take_output()), (Err(error), vec![])),
    }
}

#[test]
fn every_message_in_every_state_has_its_one_outcome() {
    for (name, sent, outcomes) in TABLE {
        for (state, expected) in STATES.into_iter().zip(outcomes) {
            check(name, sent, state, expected);
        }
    }
}

#[test]
fn the_table_has_every_known_message_and_record() {
    let known = |kind: &HandshakeType| TABLE.iter().any(|(name, ..)| Some(*name) == kind.name());
    assert!(HandshakeType::KNOWN.iter().all(known));
}
