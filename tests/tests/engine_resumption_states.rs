//! A handshake that goes on from a session, state by state: what every message comes to, as one literal table, and the
//! pause in which the session is looked for.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;

use keystead_tests::client::{Client, Record, message};
use keystead_tests::conversation::{State, step};
use keystead_tests::resumption::{By, WAYS, greet, keyless, returning, session};
use keystead_tests::server::{Server, host};
use keystead_tests::signer::{ED25519, SERVER_NAME};
use keystead_tls::crypto::FAST;
use keystead_tls::handshake::{FindSession, Fit, Keeping, NeedsInput, ReadyToResume};
use keystead_tls::secret::MasterSecret;
use keystead_tls::{
    Alert, AlertDescription, CipherSuite, ContentType, Error, Handshake, HandshakeType, InvalidMessage, PeerClosed,
    PeerMisbehaved, Session, SessionId, Step,
};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// What the server waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    /// The caller's word on the session; what comes meanwhile stands right behind ClientHello.
    Session,
    ChangeCipherSpec,
    Finished,
}

use Awaited::{ChangeCipherSpec, Finished};

const AWAITED: [Awaited; 3] = [Awaited::Session, ChangeCipherSpec, Finished];

/// What the client sends, protected from its ChangeCipherSpec on.
#[derive(Clone, Copy, Debug)]
enum Sent {
    /// That of the handshake.
    ClientHello,
    ChangeCipherSpec,
    /// The right one where it belongs.
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
    /// The same state, and nothing is sent; the handshake then completes.
    Stays,
    /// The end, with this alert, protected since the server's ChangeCipherSpec is sent.
    Ends(Error, Alert),
    /// The end, and nothing is sent.
    EndsSilently(Error),
}

use Outcome::{Next, Stays};

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
const NO_TYPE: Outcome =
    ends(Error::InvalidMessage(InvalidMessage::UnknownContentType), AlertDescription::UNEXPECTED_MESSAGE);
const BAD_CCS: Outcome =
    ends(Error::InvalidMessage(InvalidMessage::MalformedChangeCipherSpec), AlertDescription::DECODE_ERROR);
const BAD_ALERT: Outcome = ends(Error::InvalidMessage(InvalidMessage::MalformedAlert), AlertDescription::DECODE_ERROR);
const CLOSED: Outcome =
    Outcome::Ends(Error::PeerClosed(PeerClosed::ClosedInHandshake), Alert::warning(AlertDescription::CLOSE_NOTIFY));
const FATAL: Outcome = Outcome::EndsSilently(Error::PeerAlert(AlertDescription::UNKNOWN_CA));
const LONG: Outcome = ends(Error::InvalidMessage(InvalidMessage::MessageTooLarge), AlertDescription::DECODE_ERROR);
const SHORT: Outcome = ends(Error::InvalidMessage(InvalidMessage::WrongLength), AlertDescription::DECODE_ERROR);
const WRONG: Outcome = ends(Error::PeerMisbehaved(PeerMisbehaved::WrongFinished), AlertDescription::DECRYPT_ERROR);

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
const TABLE: [(&str, Sent, [Outcome; 3]); 35] = [
    // What is sent                                          awaiting:  session    ccs        finished
    ("hello_request",          handshake(0, &[]),                      [ORDER,     ORDER,     ORDER]),
    ("client_hello",           Sent::ClientHello,                      [ORDER,     ORDER,     ORDER]),
    ("server_hello",           handshake(2, &[3; 38]),                 [ORDER,     ORDER,     ORDER]),
    ("hello_verify_request",   handshake(3, &[]),                      [ORDER,     ORDER,     ORDER]),
    ("new_session_ticket",     handshake(4, &[0; 6]),                  [ORDER,     ORDER,     ORDER]),
    ("end_of_early_data",      handshake(5, &[]),                      [ORDER,     ORDER,     ORDER]),
    ("encrypted_extensions",   handshake(8, &[0; 2]),                  [ORDER,     ORDER,     ORDER]),
    ("certificate",            handshake(11, &[0; 3]),                 [ORDER,     ORDER,     ORDER]),
    ("server_key_exchange",    handshake(12, &[3, 0, 29, 0]),          [ORDER,     ORDER,     ORDER]),
    ("certificate_request",    handshake(13, &[]),                     [ORDER,     ORDER,     ORDER]),
    ("server_hello_done",      handshake(14, &[]),                     [ORDER,     ORDER,     ORDER]),
    ("certificate_verify",     handshake(15, &[4, 3, 0, 0]),           [ORDER,     ORDER,     ORDER]),
    ("client_key_exchange",    handshake(16, &[32; 33]),               [ORDER,     ORDER,     ORDER]),
    ("finished",               Sent::Finished,                         [ORDER,     ORDER,     Next]),
    ("a wrong finished",       handshake(20, &[0; 12]),                [ORDER,     ORDER,     WRONG]),
    ("a short finished",       handshake(20, &[0; 11]),                [ORDER,     ORDER,     SHORT]),
    ("a long finished",        handshake(20, &[0; 13]),                [ORDER,     ORDER,     LONG]),
    ("certificate_status",     handshake(22, &[1, 0, 0, 0]),           [ORDER,     ORDER,     ORDER]),
    ("key_update",             handshake(24, &[0]),                    [ORDER,     ORDER,     ORDER]),
    ("an unknown message",     handshake(99, &[]),                     [ORDER,     ORDER,     ORDER]),
    ("an empty handshake",     record(22, &[]),                        [EMPTY,     EMPTY,     EMPTY]),
    ("change_cipher_spec",     Sent::ChangeCipherSpec,                 [Next,      Next,      EARLY]),
    ("another byte in it",     record(20, &[2]),                       [BAD_CCS,   BAD_CCS,   EARLY]),
    ("two of them in one",     record(20, &[1, 1]),                    [BAD_CCS,   BAD_CCS,   EARLY]),
    ("an empty one",           record(20, &[]),                        [EMPTY,     EMPTY,     EMPTY]),
    ("application data",       record(23, b"data"),                    [TYPE,      TYPE,      TYPE]),
    ("empty application data", record(23, &[]),                        [TYPE,      TYPE,      TYPE]),
    ("close_notify",           record(21, &[1, 0]),                    [CLOSED,    CLOSED,    CLOSED]),
    ("fatal close_notify",     record(21, &[2, 0]),                    [CLOSED,    CLOSED,    CLOSED]),
    ("a warning",              record(21, &[1, 90]),                   [Stays,     Stays,     Stays]),
    ("a fatal alert",          record(21, &[2, 48]),                   [FATAL,     FATAL,     FATAL]),
    ("an alert of no level",   record(21, &[3, 48]),                   [LEVEL,     LEVEL,     LEVEL]),
    ("half an alert",          record(21, &[2]),                       [BAD_ALERT, BAD_ALERT, BAD_ALERT]),
    ("an empty alert",         record(21, &[]),                        [EMPTY,     EMPTY,     EMPTY]),
    ("an unknown record",      record(24, &[1, 0, 0]),                 [NO_TYPE,   NO_TYPE,   NO_TYPE]),
];

/// A client that comes back and a server that has its session, neither of which has sent anything.
fn pair(by: By) -> (Client, Server) {
    let sessions = by.sessions();
    let saved = session(by, host(), &sessions);
    (returning(&saved), keyless(FAST, host(), &sessions))
}

/// The same, where the server waits for this.
fn at(awaited: Awaited, by: By) -> (Client, Server) {
    let (mut client, mut server) = pair(by);
    if awaited != Awaited::Session {
        greet(&mut client, &mut server);
    }
    if awaited == Finished {
        server.feed(&client.change_cipher_spec()).unwrap();
    }
    (client, server)
}

impl Sent {
    /// All that goes to the server in one read.
    fn bytes(self, awaited: Awaited, client: &mut Client) -> Vec<u8> {
        let hello = if awaited == Awaited::Session { client.hello() } else { Vec::new() };
        let sent = match self {
            Self::ClientHello => {
                let mut again = Vec::new();
                client.offer.write(&mut again);
                client.record(ContentType::HANDSHAKE, &again)
            }
            Self::ChangeCipherSpec if awaited == ChangeCipherSpec => client.change_cipher_spec(),
            Self::ChangeCipherSpec => client.record(ContentType::CHANGE_CIPHER_SPEC, &[1]),
            Self::Finished if awaited == Finished => client.finished(),
            Self::Finished => client.record(ContentType::HANDSHAKE, &message(HandshakeType::FINISHED, &[0; 12])),
            Self::Handshake(kind, body) => client.record(ContentType::HANDSHAKE, &message(kind, body)),
            Self::Record(content_type, payload) => client.record(content_type, payload),
        };
        [hello, sent].concat()
    }
}

/// Completes the handshake where ChangeCipherSpec has been sent or not.
fn complete(client: &mut Client, server: &mut Server, sent: Sent, awaited: Awaited, expected: Outcome) {
    let is_next = matches!(expected, Next);
    match (awaited, is_next) {
        // It was sent before the client could have keys, which it takes into use by sending it once more.
        (Awaited::Session, true) => drop(client.change_cipher_spec()),
        (Awaited::Session, false) | (ChangeCipherSpec, false) => server.feed(&client.change_cipher_spec()).unwrap(),
        (ChangeCipherSpec, true) | (Finished, _) => {}
    }
    if !matches!((sent, is_next), (Sent::Finished, true)) {
        server.feed(&client.finished()).unwrap();
    }
    assert_eq!(server.take_output(), b"");
    step(State::Established, client, server);
}

fn check(name: &str, sent: Sent, awaited: Awaited, by: By, expected: Outcome) {
    let context = format!("{name} while {awaited:?} is awaited, by {by:?}");
    let (mut client, mut server) = at(awaited, by);
    let bytes = sent.bytes(awaited, &mut client);
    let outcome = server.feed(&bytes);
    let output = server.take_output();
    let answer = match awaited {
        Awaited::Session => client.read_resumption(&output).1,
        ChangeCipherSpec | Finished => client.read(&output),
    };
    match expected {
        Next | Stays => {
            assert_eq!((outcome, answer), (Ok(()), vec![]), "{context}");
            complete(&mut client, &mut server, sent, awaited, expected);
        }
        Outcome::Ends(error, alert) => {
            assert_eq!(outcome, Err(error), "{context}");
            let payload = alert.encode().to_vec();
            let expected = Record { content_type: ContentType::ALERT, payload, protected: true };
            assert_eq!(answer, [expected], "{context}");
            assert_eq!(error.alert(), Some(alert.description), "{context}");
        }
        Outcome::EndsSilently(error) => assert_eq!((outcome, answer), (Err(error), vec![]), "{context}"),
    }
    assert!(server.take_received().is_empty(), "{context}");
}

#[test]
fn every_message_in_every_state_has_its_one_outcome() {
    for (name, sent, outcomes) in TABLE {
        for (awaited, expected) in AWAITED.into_iter().zip(outcomes) {
            WAYS.into_iter().for_each(|by| check(name, sent, awaited, by, expected));
        }
    }
}

#[test]
fn the_table_has_every_known_message() {
    let known = |kind: &HandshakeType| TABLE.iter().any(|(name, ..)| Some(*name) == kind.name());
    assert!(HandshakeType::KNOWN.iter().all(known));
}

// The pause in which the session is looked for.

#[test]
fn what_comes_behind_client_hello_is_judged_as_in_a_full_handshake_if_the_session_is_not_there() {
    let order = PeerMisbehaved::UnexpectedHandshakeMessage;
    let early = PeerMisbehaved::EarlyChangeCipherSpec;
    let data = PeerMisbehaved::UnexpectedContentType;
    for (content_type, payload, cause) in [
        (ContentType::HANDSHAKE, &message(HandshakeType::FINISHED, &[0; 12])[..], order),
        (ContentType::CHANGE_CIPHER_SPEC, &[1], early),
        (ContentType::APPLICATION_DATA, b"data", data),
    ] {
        for by in WAYS {
            let saved = session(by, host(), &by.sessions());
            let mut client = returning(&saved);
            let mut server = Server::new(FAST, host(), 1).with_sessions(&by.sessions());
            let bytes = [client.hello(), client.record(content_type, payload)].concat();
            assert_eq!(server.feed(&bytes), Err(cause.into()));
            let alert = client.read(&server.take_output()).pop().unwrap();
            assert_eq!((alert.payload, alert.protected), (vec![2, 10], false));
        }
    }
}

#[test]
fn no_message_hides_behind_client_hello_in_its_record() {
    let order = PeerMisbehaved::UnexpectedHandshakeMessage;
    let interleaved = PeerMisbehaved::InterleavedHandshake;
    for (behind, next, cause) in [
        (&message(HandshakeType::FINISHED, &[0; 12])[..], &[][..], order),
        (&message(HandshakeType::CLIENT_HELLO, &[])[..], &[], order),
        (&[20, 0, 0][..], &[20, 3, 3, 0, 1, 1], interleaved),
    ] {
        let (mut client, mut server) = pair(By::Ticket);
        let messages = [&client.hello_message(), behind].concat();
        let bytes = [&client.records(ContentType::HANDSHAKE, &messages), next].concat();
        assert_eq!(server.feed(&bytes), Err(cause.into()));
        let (_, answer) = {
            let output = server.take_output();
            // The client's transcript has ClientHello alone.
            client.read_resumption(&output)
        };
        assert_eq!(answer[0].payload, [2, 10]);
    }
}

/// A handshake paused for the session of this client, and what the client came away with before.
fn paused(client: &mut Client, keeping: Keeping) -> Handshake<FindSession> {
    let mut out = Vec::new();
    let Ok(Step::ChooseIdentity(handshake)) = Handshake::new(FAST).feed(&client.hello(), &mut out) else { panic!() };
    let step = handshake.choose(&Arc::new(host()), keeping, &mut StdRng::seed_from_u64(1), &mut out);
    let Ok(Step::FindSession(handshake)) = step else { panic!("{step:?}") };
    assert_eq!(out, b"", "the client has been sent nothing");
    handshake
}

fn some_session() -> Session {
    Session {
        server_name: Some(SERVER_NAME.into()),
        suite: CipherSuite::ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        extended_master_secret: true,
        key_id: ED25519.identity.public_key().key_id(),
        client_chain: Vec::new(),
        master_secret: MasterSecret::new([5; 48]),
    }
}

#[test]
fn the_pause_names_what_the_client_offers() {
    for (ticket, id, names) in [
        (None, vec![7; 32], (None, Some(SessionId([7; 32])))),
        (None, vec![7; 31], (None, None)),
        (None, vec![7], (None, None)),
        (Some(vec![]), vec![7; 32], (None, Some(SessionId([7; 32])))),
        (Some(vec![1]), vec![7; 32], (Some(&[1][..]), None)),
        (Some(vec![1]), vec![], (Some(&[1][..]), None)),
    ] {
        let mut client = Client::default();
        (client.offer.extensions.session_ticket, client.offer.session_id) = (ticket, id);
        let handshake = paused(&mut client, Keeping::default());
        assert_eq!((handshake.ticket(), handshake.session_id()), names);
    }
    // Without either there is no pause.
    for ticket in [None, Some(vec![])] {
        let mut client = Client::default();
        client.offer.extensions.session_ticket = ticket;
        let mut out = Vec::new();
        let step = Handshake::new(FAST).feed(&client.hello(), &mut out);
        let Ok(Step::ChooseIdentity(handshake)) = step else { panic!("{step:?}") };
        let step = handshake.choose(&Arc::new(host()), Keeping::default(), &mut StdRng::seed_from_u64(1), &mut out);
        assert!(matches!(step, Ok(Step::NeedsSignature(_))), "{step:?}");
    }
}

fn ready(client: &mut Client, session: Session) -> Handshake<ReadyToResume> {
    let mut out = Vec::new();
    let keeping = Keeping { tickets: false, session_id: Some(SessionId([3; 32])) };
    let Ok(Fit::Fits(handshake)) = paused(client, keeping).fit(session, &mut out) else {
        panic!("a session that fits")
    };
    assert_eq!(out, b"");
    handshake
}

#[test]
fn a_session_that_fits_may_still_be_declined() {
    let mut client = Client::default();
    client.offer.session_id = vec![7; 32];
    let handshake = ready(&mut client, some_session());
    assert_eq!(handshake.session().server_name.as_deref(), Some(SERVER_NAME));
    let mut out = Vec::new();
    let step = handshake.decline(&mut StdRng::seed_from_u64(1), &mut out);
    let Ok(Step::NeedsSignature(handshake)) = step else { panic!("{step:?}") };
    assert_eq!(out, b"");
    let signed = keystead_tests::signer::sign(handshake.request(), [1; 32]);
    let verified = handshake.verify(signed).unwrap();
    let step = handshake.resume(verified, &mut out);
    assert!(matches!(step, Ok(Step::NeedsInput(_))), "{step:?}");
    assert_eq!(client.read_flight(&out).hello.session_id, [3; 32]);
}

/// A handshake that waits for ChangeCipherSpec, and what the client has been sent.
fn resumed() -> (Handshake<NeedsInput>, Vec<u8>) {
    let mut client = Client::default();
    client.offer.session_id = vec![7; 32];
    let mut out = Vec::new();
    let step = ready(&mut client, some_session()).resume(None, &mut StdRng::seed_from_u64(1), &mut out);
    let Ok(Step::NeedsInput(handshake)) = step else { panic!("{step:?}") };
    (handshake, out)
}

#[test]
fn a_client_that_leaves_or_falls_silent_leaves_no_doubt() {
    assert_eq!(resumed().0.end_of_input(), PeerClosed::Truncated.into());
    let (handshake, mut out) = resumed();
    let sent = out.len();
    assert_eq!(handshake.time_out(&mut out), PeerClosed::TimedOut.into());
    // close_notify, behind the header and the explicit nonce, and with a tag.
    assert_eq!((&out[sent..sent + 5], out.len() - sent), (&[21, 3, 3, 0, 26][..], 5 + 26));

    for awaited in [ChangeCipherSpec, Finished] {
        let (_, mut server) = at(awaited, By::Ticket);
        assert_eq!(server.end_of_input(), Err(PeerClosed::Truncated.into()));
    }
}

#[test]
fn a_pause_can_be_given_up() {
    let mut client = Client::default();
    client.offer.session_id = vec![7; 32];
    let mut out = Vec::new();
    let cause = PeerClosed::TimedOut.into();
    assert_eq!(paused(&mut client, Keeping::default()).abort(cause, &mut out), cause);
    assert_eq!(out, [21, 3, 3, 0, 2, 1, 0]);
}
