//! A client that knows its keys and does what the fuzzer says, so that every state is reached and every record that
//! should open does: no panic, the right alert, nothing altered completes a handshake, nobody comes in with a
//! certificate that was refused or is another's, nothing but what the client sent is received.
//!
//! With ECDHE and with RSA key transport, which goes to the key server's own code, and with and without client
//! certificates.

#![no_main]

use std::num::NonZeroU8;

use keystead_fuzz::client::{Client, Saved, full_offer, message};
use keystead_fuzz::key_transport::{self, KeyServer};
use keystead_fuzz::server::Server;
use keystead_fuzz::sessions::Sessions;
use keystead_fuzz::signer::{ED25519, SERVER_NAME};
use keystead_fuzz::{PRE_MASTER_SECRET, ends_with_alert, host};
use keystead_tls::crypto::FAST;
use keystead_tls::message::new_session_ticket::NewSessionTicket;
use keystead_tls::record::{HEADER_LENGTH, MAX_PLAINTEXT};
use keystead_tls::secret::MasterSecret;
use keystead_tls::{
    Alert, CipherSuite, ClientAuth, ClientCertificateRefusal, ContentType, HandshakeType, HostParameters, NamedGroup,
    Session, SignatureScheme,
};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Conversation {
    suites: Vec<u8>,
    groups: Option<Vec<u8>>,
    extended_master_secret: bool,
    record_size_limit: Option<u16>,
    key_transport: bool,
    asked: Asked,
    shown: Shown,
    session: Option<OfferedSession>,
    acts: Vec<Act>,
}

/// What the server wants of the client's certificate.
#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Nothing,
    Optional,
    Required,
    /// And whatever comes is refused.
    Refused,
}

/// What the client shows.
#[derive(Arbitrary, Debug)]
enum Shown {
    Nothing,
    /// Its own.
    Own,
    /// Certificates of the fuzzer's.
    Other(Vec<Vec<u8>>),
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
    let known = [&full_offer().cipher_suites, HostParameters::KEY_TRANSPORT_SUITES].concat();
    client.offer.cipher_suites = pick(&known, &conversation.suites, CipherSuite);
    let groups = conversation.groups.as_ref();
    client.offer.extensions.supported_groups = groups.map(|groups| pick(NamedGroup::KNOWN, groups, NamedGroup));
    client.offer.extensions.extended_master_secret = conversation.extended_master_secret;
    client.offer.extensions.record_size_limit = conversation.record_size_limit;
    let sessions = Sessions::new(true, true);
    if let Some(session) = &conversation.session {
        client = session.offer(client, &sessions);
    }
    play(client, server(&conversation).with_sessions(&sessions), &conversation);
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

/// The server that the conversation is with.
fn server(conversation: &Conversation) -> Server {
    let host = if conversation.key_transport { key_transport::host() } else { host() };
    let authorities = vec![vec![0x30, 0]];
    let client_auth = match conversation.asked {
        Asked::Nothing => ClientAuth::None,
        Asked::Optional => ClientAuth::Optional { authorities },
        Asked::Required | Asked::Refused => ClientAuth::Required { authorities },
    };
    let refused = conversation.asked == Asked::Refused;
    let verdict = move |_: &[Vec<u8>]| if refused { Err(ClientCertificateRefusal::AccessDenied) } else { Ok(()) };
    let host = HostParameters { client_auth, ..host };
    Server::new(FAST, host, 1).with_key_transport(KeyServer::default()).verifying(verdict)
}

/// What the server waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    ClientHello,
    Certificate,
    ClientKeyExchange,
    CertificateVerify,
    ChangeCipherSpec,
    Finished,
    Established,
}

impl State {
    fn next(self, conversation: &Conversation) -> Self {
        let proves = conversation.asked != Asked::Nothing && !matches!(conversation.shown, Shown::Nothing);
        match self {
            Self::ClientHello if conversation.asked == Asked::Nothing => Self::ClientKeyExchange,
            Self::ClientHello => Self::Certificate,
            Self::Certificate => Self::ClientKeyExchange,
            Self::ClientKeyExchange if proves => Self::CertificateVerify,
            Self::ClientKeyExchange | Self::CertificateVerify => Self::ChangeCipherSpec,
            Self::ChangeCipherSpec => Self::Finished,
            Self::Finished | Self::Established => Self::Established,
        }
    }
}

impl Shown {
    fn chain(&self) -> Vec<Vec<u8>> {
        match self {
            Self::Nothing => Vec::new(),
            Self::Own => ED25519.identity.chain().to_vec(),
            Self::Other(chain) => {
                let fitting = chain.iter().take(100).map(|der| der[..der.len().min(5_000)].to_vec());
                // One that is no certificate is still one that is shown.
                if chain.is_empty() { vec![vec![0]] } else { fitting.collect() }
            }
        }
    }
}

/// One of `known` for each index in it, else a value of the fuzzer's.
fn pick<T: Copy>(known: &[T], indices: &[u8], unknown: impl Fn(u16) -> T) -> Vec<T> {
    let pick = |index: &u8| known.get(usize::from(*index)).copied().unwrap_or_else(|| unknown(u16::from(*index) << 8));
    // A ClientHello has room for as many.
    indices.iter().map(pick).take(10_000).collect()
}

fn play(mut client: Client, mut server: Server, conversation: &Conversation) {
    // Where a session is gone on from, the server's part ends with its first flight.
    let (mut state, mut resumed) = (State::ClientHello, false);
    // Nothing but right messages and warnings has passed.
    let mut honest = true;
    for act in &conversation.acts {
        let was_established = server.is_established();
        let bytes = act.bytes(state, &mut client, conversation);
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
        // A certificate of the fuzzer's is sent where one is asked for, and its key nobody has.
        honest &= act.is_honest() && !(state == State::Certificate && matches!(conversation.shown, Shown::Other(_)));
        assert!(honest || was_established || !server.is_established(), "an altered handshake is complete");
        if server.is_established() && !resumed && conversation.asked != Asked::Nothing {
            assert_ne!(conversation.asked, Asked::Refused, "a refused certificate came in");
            assert_eq!(server.summary().client_chain, conversation.shown.chain());
        }
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
            Act::Right(_) if honest && resumed && !was_established => assert!(server.take_output().is_empty()),
            Act::Right(_) if honest => read_answer(state, &mut client, &mut server),
            _ if was_established => drop(client.read(&server.take_output())),
            // The client cannot go on from a ClientHello that is not its own.
            _ if state == State::ClientHello && !honest => return,
            Act::Right(_) | Act::Altered(..) | Act::Message(..) | Act::Record(..) => {}
        }
        if matches!(act, Act::Right(_) | Act::Altered(..)) {
            state =
                if resumed && state == State::ClientHello { State::ChangeCipherSpec } else { state.next(conversation) };
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

    fn bytes(&self, state: State, client: &mut Client, conversation: &Conversation) -> Vec<u8> {
        match self {
            Self::Right(size) => right(state, *size, client, conversation),
            Self::Altered(at, with) => {
                let mut bytes = right(state, 0, client, conversation);
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

/// Reads the answer to the right message for `state`.
fn read_answer(state: State, client: &mut Client, server: &mut Server) {
    let answer = server.take_output();
    match state {
        State::ClientHello
        | State::Certificate
        | State::ClientKeyExchange
        | State::CertificateVerify
        | State::ChangeCipherSpec => {
            assert!(answer.is_empty(), "{answer:02x?}");
        }
        State::Finished => assert_eq!(client.read_finished(&answer), []),
        State::Established => {
            assert!(answer.is_empty(), "{answer:02x?}");
            assert!(server.take_received().ends_with(b"ping"));
            server.send(b"pong");
            assert_eq!(client.read_data(&server.take_output()), b"pong");
        }
    }
}

/// The right message for `state`.
fn right(state: State, size: u8, client: &mut Client, conversation: &Conversation) -> Vec<u8> {
    let (ciphertext, pre_master_secret) = &*PRE_MASTER_SECRET;
    let content = match state {
        State::ClientHello => client.hello_message(),
        State::Certificate => client.certificate_message(&conversation.shown.chain()),
        State::ClientKeyExchange if conversation.key_transport => {
            client.rsa_key_exchange_message(ciphertext, pre_master_secret)
        }
        State::ClientKeyExchange => client.key_exchange_message(),
        State::CertificateVerify => client.certificate_verify_message(&ED25519, SignatureScheme::ED25519),
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
