//! Where the client's bytes are cut, into reads or into records, changes nothing; and no bytes make the engine panic.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use keystead_tests::client::{Client, message};
use keystead_tests::conversation::{STATES, State, at};
use keystead_tests::resumption::{By, WAYS, first_visit, returning};
use keystead_tests::server::Server;
use keystead_tests::signer::ED25519;
use keystead_tls::crypto::FAST;
use keystead_tls::{
    Alert, AlertDescription, CipherSuite, ContentType, Error, HandshakeType, HostParameters, NamedGroup,
};
use proptest::prelude::*;
use proptest::sample::Index;

/// What a client does once it is connected.
#[derive(Clone, Debug)]
enum Action {
    Data(Vec<u8>),
    EmptyRecord,
    Warning,
    Renegotiate,
    Close,
    GiveUp,
    ChangeCipherSpecAgain,
}

#[derive(Clone, Debug)]
struct Conversation {
    suite: CipherSuite,
    group: NamedGroup,
    extended_master_secret: bool,
    resumes: Option<Resumes>,
    actions: Vec<Action>,
}

/// What the client goes on from, and whether it is given a ticket in place of its own.
#[derive(Clone, Copy, Debug)]
struct Resumes {
    by: By,
    renews: bool,
}

fn conversations() -> impl Strategy<Value = Conversation> {
    let suites = prop::sample::select(vec![
        CipherSuite::ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ]);
    let groups = prop::sample::select(NamedGroup::KNOWN);
    let resumes = (prop::sample::select(&WAYS[..]), any::<bool>()).prop_map(|(by, renews)| Resumes { by, renews });
    let actions = prop::collection::vec(actions(), 0..12);
    (suites, groups, any::<bool>(), prop::option::of(resumes), actions).prop_map(
        |(suite, group, extended_master_secret, resumes, actions)| Conversation {
            suite,
            group,
            extended_master_secret,
            resumes,
            actions,
        },
    )
}

fn actions() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => prop::collection::vec(any::<u8>(), 0..40_000).prop_map(Action::Data),
        2 => Just(Action::EmptyRecord),
        2 => Just(Action::Warning),
        2 => Just(Action::Renegotiate),
        1 => Just(Action::Close),
        1 => Just(Action::GiveUp),
        1 => Just(Action::ChangeCipherSpecAgain),
    ]
}

/// The server of a conversation. Ed25519 signs the same twice, so that it says the same each time.
fn server(conversation: &Conversation) -> Server {
    meet(conversation).1
}

/// The client and the server of a conversation: where it goes on from a session, they have met before.
fn meet(conversation: &Conversation) -> (Client, Server) {
    let host = HostParameters {
        groups: vec![conversation.group],
        identities: vec![ED25519.identity.clone()],
        ..HostParameters::default()
    };
    let offer = |mut client: Client| {
        client.offer.cipher_suites = vec![conversation.suite];
        client.offer.extensions.extended_master_secret = conversation.extended_master_secret;
        client
    };
    let Some(Resumes { by, renews }) = conversation.resumes else {
        return (offer(Client::default()), Server::new(FAST, host, 11));
    };
    let sessions = by.sessions();
    let mut first = Server::new(FAST, host.clone(), 12).with_sessions(&sessions);
    let saved = first_visit(&mut by.newcomer(offer(Client::default())), &mut first);
    sessions.change(|shelf| shelf.renews = renews);
    (offer(returning(&saved)), Server::new(FAST, host, 11).with_sessions(&sessions))
}

/// The client's bytes from first to last, its handshake messages in records of at most `size` bytes.
fn client_bytes(conversation: &Conversation, size: usize) -> Vec<u8> {
    let (mut client, mut server) = meet(conversation);
    let split = |client: &mut Client, message: &[u8]| client.records_of(size, ContentType::HANDSHAKE, message);

    let hello = client.hello_message();
    let mut bytes = split(&mut client, &hello);
    server.feed(&bytes).unwrap();
    if conversation.resumes.is_some() {
        client.read_resumption(&server.take_output());
    } else {
        client.read_flight(&server.take_output());
        let key_exchange = client.key_exchange_message();
        bytes.extend(split(&mut client, &key_exchange));
    }
    bytes.extend(client.change_cipher_spec());
    let finished = client.finished_message();
    bytes.extend(split(&mut client, &finished));
    for action in &conversation.actions {
        bytes.extend(match action {
            Action::Data(data) => client.data(data),
            Action::EmptyRecord => client.record(ContentType::APPLICATION_DATA, &[]),
            Action::Warning => client.alert(Alert::warning(AlertDescription::USER_CANCELED)),
            Action::Renegotiate => split(&mut client, &hello),
            Action::Close => client.alert(Alert::warning(AlertDescription::CLOSE_NOTIFY)),
            Action::GiveUp => client.alert(Alert::fatal(AlertDescription::UNKNOWN_CA)),
            Action::ChangeCipherSpecAgain => client.record(ContentType::CHANGE_CIPHER_SPEC, &[1]),
        });
    }
    bytes
}

/// All that a server shows of itself.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    output: Vec<u8>,
    received: Vec<u8>,
    error: Option<Error>,
    closed_by_client: bool,
}

fn shown(mut server: Server, reads: impl IntoIterator<Item = Vec<u8>>) -> Shown {
    for read in reads {
        // An error stays, and is looked at below.
        let _ = server.feed(&read);
    }
    Shown {
        output: server.take_output(),
        received: server.take_received(),
        error: server.error(),
        closed_by_client: server.is_closed_by_client(),
    }
}

/// Cuts `bytes` into reads of these sizes, taken in turn.
fn cut(bytes: &[u8], sizes: &[usize]) -> Vec<Vec<u8>> {
    let mut rest = bytes;
    let mut sizes = sizes.iter().cycle();
    let mut reads = Vec::new();
    while !rest.is_empty() {
        let (read, behind) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
        reads.push(read.to_vec());
        rest = behind;
    }
    reads
}

/// Sizes of reads, small ones as likely as large ones.
fn sizes() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![1_usize..8, 1_usize..200, 1_usize..50_000], 1..20)
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn how_the_bytes_are_read_changes_nothing(conversation in conversations(), sizes in sizes()) {
        let bytes = client_bytes(&conversation, 1 << 14);
        let whole = shown(server(&conversation), [bytes.clone()]);
        prop_assert!(shown(server(&conversation), cut(&bytes, &sizes)) == whole);
    }

    #[test]
    fn how_altered_bytes_are_read_changes_nothing(
        conversation in conversations(),
        sizes in sizes(),
        at in any::<Index>(),
        with in 1_u8..,
    ) {
        let mut bytes = client_bytes(&conversation, 1 << 14);
        let at = at.index(bytes.len());
        bytes[at] ^= with;
        let whole = shown(server(&conversation), [bytes.clone()]);
        prop_assert!(shown(server(&conversation), cut(&bytes, &sizes)) == whole);
    }

    #[test]
    fn how_messages_are_cut_into_records_changes_nothing(conversation in conversations(), size in 1_usize..300) {
        let whole = shown(server(&conversation), [client_bytes(&conversation, 1 << 14)]);
        let split = shown(server(&conversation), [client_bytes(&conversation, size)]);
        prop_assert!(split == whole, "{:?} {:?}", split.error, whole.error);
    }

    #[test]
    fn no_garbage_makes_the_engine_panic(
        state in prop::sample::select(&STATES[..]),
        garbage in prop::collection::vec(any::<u8>(), 0..3000),
        sizes in sizes(),
    ) {
        let (_, server) = at(state);
        prop_assert_eq!(shown(server, cut(&garbage, &sizes)).received, b"");
    }

    #[test]
    fn no_message_makes_the_engine_panic(
        state in prop::sample::select(&STATES[..]),
        kind in prop_oneof![prop::sample::select(HandshakeType::KNOWN), any::<u8>().prop_map(HandshakeType)],
        body in prop::collection::vec(any::<u8>(), 0..300),
        content_type in prop_oneof![4 => Just(ContentType::HANDSHAKE), 1 => any::<u8>().prop_map(ContentType)],
    ) {
        let (mut client, mut server) = at(state);
        let record = client.record(content_type, &message(kind, &body));
        if let Err(error) = server.feed(&record) {
            let output = client.read(&server.take_output());
            let alert = output.first().map(|record| AlertDescription(record.payload[1]));
            prop_assert_eq!(alert, error.alert());
        } else {
            prop_assert!(!server.is_established() || state >= State::Finished);
        }
    }
}

#[test]
fn a_conversation_reads_the_same_byte_by_byte() {
    let resumes = [By::Ticket, By::Id].map(|by| Some(Resumes { by, renews: true }));
    for resumes in [None].into_iter().chain(resumes) {
        let conversation = Conversation {
            suite: CipherSuite::ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            group: NamedGroup::X25519,
            extended_master_secret: true,
            resumes,
            actions: vec![Action::Data(b"data".to_vec()), Action::Renegotiate, Action::Warning, Action::Close],
        };
        let bytes = client_bytes(&conversation, 1 << 14);
        let whole = shown(server(&conversation), [bytes.clone()]);
        assert_eq!((whole.received.as_slice(), whole.error, whole.closed_by_client), (&b"data"[..], None, true));
        assert_eq!(shown(server(&conversation), cut(&bytes, &[1])), whole);
    }
}
