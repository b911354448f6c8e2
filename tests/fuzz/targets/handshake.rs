//! A client that knows its keys and does what the fuzzer says, so that every state is reached and every record that
//! should open does: no panic, the right alert, nothing altered completes a handshake, nothing but what the client sent
//! is received.

#![no_main]

use std::num::NonZeroU8;

use keystead_fuzz::client::{Client, Saved, full_offer, message};
use keystead_fuzz::conversation::{STATES, State, read_answer};
use keystead_fuzz::server::Server;
use keystead_fuzz::sessions::Sessions;
use keystead_fuzz::signer::{ED25519, SERVER_NAME};
use keystead_fuzz::{ends_with_alert, server};
use keystead_tls::message::new_session_ticket::NewSessionTicket;
use keystead_tls::record::{HEADER_LENGTH, MAX_PLAINTEXT};
use keystead_tls::secret::MasterSecret;
use keystead_tls::{Alert, CipherSuite, ContentType, HandshakeType, NamedGroup, Session};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Conversation {
    suites: Vec<u8>,
    groups: Option<Vec<u8>>,
    extended_master_secret: bool,
    record_size_limit: Option<u16>,
    session: Option<OfferedSession>,
    acts: Vec<Act>,
}

/// A session that the client offers to go on from.
#[derive(Arbitrary, Debug)]
struct OfferedSession {
    by: By,
    /// Whether the name that the client knows is the session's.
    known: bool,
    suite: u8,
    extended_master_secret: bool,
    named: bool,
    certified: bool,
    renews: bool,
}

/// What the client sends of names.
#[derive(Arbitrary, Debug)]
enum By {
    Ticket { id_beside_it: Option<Vec<u8>> },
    Id { takes_tickets: bool },
}

/// What the client does next.
#[derive(Arbitrary, Debug)]
enum Act {
    /// The right message, its content in records of at most this size (0: as few as may be).
    Right(u8),
    /// The right message with a byte of its records altered: where, and by which exclusive or.
    Altered(u16, NonZeroU8),
    /// A handshake message of any type and content.
    Message(u8, Vec<u8>),
    /// A record of any type and content.
    Record(u8, Vec<u8>),
    /// Any bytes.
    Raw(Vec<u8>),
}

fuzz_target!(|conversation: Conversation| {
    let mut client = Client::new(full_offer());
    client.offer.cipher_suites = pick(&full_offer().cipher_suites, &conversation.suites, CipherSuite);
    let groups = conversation.groups.as_ref();
    client.offer.extensions.supported_groups = groups.map(|groups| pick(NamedGroup::KNOWN, groups, NamedGroup));
    client.offer.extensions.extended_master_secret = conversation.extended_master_secret;
    client.offer.extensions.record_size_limit = conversation.record_size_limit;
    let sessions = Sessions::new(true, true);
    if let Some(session) = &conversation.session {
        client = session.offer(client, &sessions);
    }
    play(client, server().with_sessions(&sessions), &conversation.acts);
});

impl OfferedSession {
    /// Keeps the session and has the client offer it.
    fn offer(&self, client: Client, sessions: &Sessions) -> Client {
        const NAME: [u8; 32] = [0x11; 32];
        let session = Session {
            server_name: self.named.then(|| SERVER_NAME.to_owned()),
            suite: pick(&full_offer().cipher_suites, &[self.suite], CipherSuite)[0],
            extended_master_secret: self.extended_master_secret,
            key_id: ED25519.identity.public_key().key_id(),
            client_chain: if self.certified { vec![vec![0x30]] } else { vec![] },
            master_secret: MasterSecret::new([5; 48]),
        };
        if self.known {
            sessions.put(&NAME, &session);
        }
        sessions.change(|shelf| shelf.renews = self.renews);
        let mut saved = Saved { session_id: NAME.to_vec(), ticket: None, master_secret: [5; 48] };
        if matches!(self.by, By::Ticket { .. }) {
            saved.ticket = Some(NewSessionTicket { lifetime_hint: 0, ticket: NAME.to_vec() });
        }
        let mut client = client.coming_back_with(&saved);
        match &self.by {
            By::Ticket { id_beside_it } => {
                client.offer.session_id = id_beside_it.iter().flatten().copied().take(32).collect();
            }
            By::Id { takes_tickets } => client.offer.extensions.session_ticket = takes_tickets.then(Vec::new),
        }
        client
    }
}

/// Whether the server's flight ends with its Finished, as that of a full handshake does not.
fn is_resumption(flight: &[u8]) -> bool {
    let mut rest = flight;
    while let Some((&[content_type, _, _, high, low], body)) = rest.split_first_chunk::<HEADER_LENGTH>() {
        if content_type == ContentType::CHANGE_CIPHER_SPEC.0 {
            return true;
        }
        rest = &body[usize::from(u16::from_be_bytes([high, low]))..];
    }
    false
}

/// One of `known` for each index in it, else a value of the fuzzer's.
fn pick<T: Copy>(known: &[T], indices: &[u8], unknown: impl Fn(u16) -> T) -> Vec<T> {
    let pick = |index: &u8| known.get(usize::from(*index)).copied().unwrap_or_else(|| unknown(u16::from(*index) << 8));
    // A ClientHello has room for as many.
    indices.iter().map(pick).take(10_000).collect()
}

fn play(mut client: Client, mut server: Server, acts: &[Act]) {
    // Where a session is gone on from, the server's part ends with its first flight.
    let (mut state, mut resumed) = (State::ClientHello, false);
    // Nothing but right messages and warnings has passed.
    let mut honest = true;
    for act in acts {
        let was_established = server.is_established();
        let bytes = act.bytes(state, &mut client);
        if let Err(error) = server.feed(&bytes) {
            let output = server.take_output();
            if was_established || resumed {
                let last = client.read(&output).pop().map(|record| record.payload);
                assert_eq!(last, error.alert().map(|alert| Alert::fatal(alert).encode().to_vec()), "{error}");
            } else {
                assert!(ends_with_alert(&output, error), "{error}: {output:02x?}");
            }
            return;
        }
        honest &= act.is_honest();
        assert!(honest || was_established || !server.is_established(), "an altered handshake is complete");
        match act {
            // What the server then waits for is not known.
            Act::Raw(_) => return,
            Act::Altered(..) if state == State::ClientHello || was_established => return,
            _ if server.is_closed_by_client() => return,
            Act::Right(_) if honest && state == State::ClientHello => {
                let flight = server.take_output();
                resumed = is_resumption(&flight);
                match resumed {
                    true => assert_eq!(client.read_resumption(&flight).1, []),
                    false => drop(client.read_flight(&flight)),
                }
            }
            Act::Right(_) if honest && resumed && !was_established => assert_eq!(server.take_output(), []),
            Act::Right(_) if honest => read_answer(state, &mut client, &mut server),
            _ if was_established => drop(client.read(&server.take_output())),
            // The client cannot go on from a ClientHello that is not its own.
            _ if state == State::ClientHello && !honest => return,
            Act::Right(_) | Act::Altered(..) | Act::Message(..) | Act::Record(..) => {}
        }
        if matches!(act, Act::Right(_) | Act::Altered(..)) {
            let has_turn = |next: &State| *next > state && !(resumed && *next == State::ClientKeyExchange);
            state = STATES.into_iter().find(has_turn).unwrap_or(State::Established);
        }
    }
}

impl Act {
    /// Whether a handshake with it may complete, once it has passed.
    fn is_honest(&self) -> bool {
        match self {
            Self::Right(_) => true,
            Self::Record(content_type, _) => ContentType(*content_type) == ContentType::ALERT,
            Self::Altered(..) | Self::Message(..) | Self::Raw(_) => false,
        }
    }

    fn bytes(&self, state: State, client: &mut Client) -> Vec<u8> {
        match self {
            Self::Right(size) => right(state, *size, client),
            Self::Altered(at, with) => {
                let mut bytes = right(state, 0, client);
                let at = usize::from(*at) % bytes.len();
                bytes[at] ^= with.get();
                bytes
            }
            Self::Message(kind, body) => {
                client.record(ContentType::HANDSHAKE, &message(HandshakeType(*kind), cut(body)))
            }
            Self::Record(content_type, payload) => client.record(ContentType(*content_type), cut(payload)),
            Self::Raw(bytes) => bytes.clone(),
        }
    }
}

/// The right message for `state`.
fn right(state: State, size: u8, client: &mut Client) -> Vec<u8> {
    let content = match state {
        State::ClientHello => client.hello_message(),
        State::ClientKeyExchange => client.key_exchange_message(),
        State::ChangeCipherSpec => return client.change_cipher_spec(),
        State::Finished => client.finished_message(),
        State::Established => b"ping".to_vec(),
    };
    let established = state == State::Established;
    let content_type = if established { ContentType::APPLICATION_DATA } else { ContentType::HANDSHAKE };
    client.records_of(if size == 0 { MAX_PLAINTEXT } else { size.into() }, content_type, &content)
}

/// As much as one record may claim to hold.
fn cut(payload: &[u8]) -> &[u8] {
    &payload[..payload.len().min(20_000)]
}
