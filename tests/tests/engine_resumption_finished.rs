//! The client's Finished where it goes on from a session: wrong ones, what comes along with it, what a client gains by
//! knowing half of a session; and rustls, which knows all of it.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::sync::Arc;

use keystead_tests::client::{Client, Record, full_offer, message};
use keystead_tests::conversation::{State, step};
use keystead_tests::resumption::{By, WAYS, finish, greet, keyless, returning, session};
use keystead_tests::server::{Server, host};
use keystead_tests::sessions::Sessions;
use keystead_tests::signer::{SERVER_NAME, signers};
use keystead_tls::crypto::{FAST, PORTABLE};
use keystead_tls::{Alert, AlertDescription, ContentType, HandshakeType, InvalidMessage, PeerMisbehaved};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rustls::client::{Resumption, Tls12Resumption};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore};

/// A client that comes back and a server that has its session, neither of which has sent anything.
fn pair(by: By) -> (Client, Server) {
    let sessions = by.sessions();
    let saved = session(by, host(), &sessions);
    (returning(&saved), keyless(FAST, host(), &sessions))
}

/// The same, where the server waits for the client's Finished.
fn at_finished(by: By) -> (Client, Server) {
    let (mut client, mut server) = pair(by);
    greet(&mut client, &mut server);
    server.feed(&client.change_cipher_spec()).unwrap();
    (client, server)
}

#[test]
fn finished_with_any_bit_altered_is_refused() {
    for bit in 0..12 * 8 {
        let (mut client, mut server) = at_finished(By::Ticket);
        let mut finished = client.finished_message();
        finished[4 + bit / 8] ^= 1 << (bit % 8);
        let record = client.records(ContentType::HANDSHAKE, &finished);
        assert_eq!(server.feed(&record), Err(PeerMisbehaved::WrongFinished.into()));
        assert_eq!(client.read(&server.take_output())[0].payload, [2, 51]);
    }
}

#[test]
fn the_record_of_finished_with_any_byte_altered_is_refused() {
    let length = {
        let (mut client, _) = at_finished(By::Ticket);
        client.finished().len()
    };
    for at_byte in 5..length {
        let (mut client, mut server) = at_finished(By::Ticket);
        let mut record = client.finished();
        record[at_byte] ^= 1;
        assert_eq!(server.feed(&record), Err(PeerMisbehaved::BadRecordMac.into()), "byte {at_byte}");
        assert_eq!(client.read(&server.take_output())[0].payload, [2, 20]);
    }
}

#[test]
fn a_finished_of_another_transcript_is_refused() {
    // As if the server's Finished had not been seen; and as if something else had been.
    for noted in [&b"more"[..], &message(HandshakeType::FINISHED, &[0; 12])] {
        let (mut client, mut server) = at_finished(By::Id);
        client.note(noted);
        let finished = client.finished();
        assert_eq!(server.feed(&finished), Err(PeerMisbehaved::WrongFinished.into()));
    }
    // The server's own, sent back.
    let (mut client, mut server) = pair(By::Id);
    server.feed(&client.hello()).unwrap();
    let output = server.take_output();
    client.read_resumption(&output);
    let reflected = &output[output.len() - 45..];
    assert_eq!(reflected[0], 22);
    server.feed(&client.change_cipher_spec()).unwrap();
    assert_eq!(server.feed(reflected), Err(PeerMisbehaved::BadRecordMac.into()));
}

#[test]
fn a_finished_that_is_not_protected_is_refused() {
    let (client, mut server) = at_finished(By::Ticket);
    let finished = message(HandshakeType::FINISHED, &[0; 12]);
    let plain = [&[22, 3, 3, 0, 16][..], &finished].concat();
    drop(client);
    assert_eq!(server.feed(&plain).unwrap_err().alert(), Some(AlertDescription::BAD_RECORD_MAC));
}

#[test]
fn whoever_has_the_name_of_a_session_and_not_its_secret_cannot_go_on_from_it() {
    for by in WAYS {
        let sessions = by.sessions();
        let theirs = session(by, host(), &sessions);
        let own = session(by, host(), &sessions);
        let mut thief = returning(&theirs).knowing(&own);
        let mut server = keyless(FAST, host(), &sessions);
        server.feed(&thief.hello()).unwrap();
        let output = server.take_output();
        let (_, protected) = thief.read_resumption_in_the_clear(&output);
        assert!(!protected.is_empty());
        let flight = [thief.change_cipher_spec(), thief.finished(), thief.data(b"let me in")].concat();
        assert_eq!(server.feed(&flight), Err(PeerMisbehaved::BadRecordMac.into()), "{by:?}");
        assert_eq!(server.take_received(), b"");
    }
}

#[test]
fn a_recorded_second_flight_is_of_no_use_again() {
    for by in WAYS {
        let sessions = by.sessions();
        let saved = session(by, host(), &sessions);
        let server = |seed| {
            let rng = Box::new(StdRng::seed_from_u64(seed));
            Server::with(FAST, host(), rng, Box::new(|_| panic!("the key server is asked"))).with_sessions(&sessions)
        };
        let (mut client, mut first, mut second) = (returning(&saved), server(1), server(2));
        let hello = client.hello();
        first.feed(&hello).unwrap();
        client.read_resumption(&first.take_output());
        let flight = [client.change_cipher_spec(), client.finished(), client.data(b"pay")].concat();
        first.feed(&flight).unwrap();
        assert_eq!(first.take_received(), b"pay");
        second.feed(&hello).unwrap();
        assert_eq!(second.feed(&flight), Err(PeerMisbehaved::BadRecordMac.into()));
        assert_eq!(second.take_received(), b"");
    }
}

#[test]
fn the_version_of_records_is_that_of_the_servers_hello() {
    for minor in [1, 2, 4] {
        let (mut client, mut server) = pair(By::Id);
        greet(&mut client, &mut server);
        let mut record = client.change_cipher_spec();
        record[2] = minor;
        assert_eq!(server.feed(&record), Err(InvalidMessage::WrongRecordVersion.into()), "{minor}");
        assert_eq!(client.read(&server.take_output())[0].payload, [2, 70]);
    }
}

// What comes along with Finished.

#[test]
fn data_right_behind_finished_is_delivered() {
    for by in WAYS {
        for cut in [None, Some(1), Some(20)] {
            let (mut client, mut server) = pair(by);
            greet(&mut client, &mut server);
            let flight = [
                client.change_cipher_spec(),
                client.finished(),
                client.data(b"early "),
                client.data(b"data"),
                client.alert(Alert::warning(AlertDescription::CLOSE_NOTIFY)),
            ];
            let (flight, size) = (flight.concat(), cut.unwrap_or(usize::MAX));
            flight.chunks(size).for_each(|piece| server.feed(piece).unwrap());
            assert_eq!(server.take_received(), b"early data");
            assert!(server.is_closed_by_client() && server.summary().resumed);
        }
    }
}

#[test]
fn a_second_hello_in_the_record_of_finished_is_a_renegotiation() {
    let (mut client, mut server) = at_finished(By::Ticket);
    let mut hello = Vec::new();
    full_offer().write(&mut hello);
    let messages = [client.finished_message(), hello].concat();
    server.feed(&client.records(ContentType::HANDSHAKE, &messages)).unwrap();
    let warning = Alert::warning(AlertDescription::NO_RENEGOTIATION).encode().to_vec();
    let expected = Record { content_type: ContentType::ALERT, payload: warning, protected: true };
    assert_eq!(client.read(&server.take_output()), [expected]);
    step(State::Established, &mut client, &mut server);
}

#[test]
fn finished_may_come_in_records_of_a_byte_each() {
    let (mut client, mut server) = at_finished(By::Id);
    let finished = client.finished_message();
    let records = client.records_of(1, ContentType::HANDSHAKE, &finished);
    for byte in records {
        server.feed(&[byte]).unwrap();
    }
    step(State::Established, &mut client, &mut server);

    // No other record stands between them.
    let (mut client, mut server) = at_finished(By::Id);
    let finished = client.finished_message();
    let half = client.record(ContentType::HANDSHAKE, &finished[..8]);
    let warning = client.alert(Alert::warning(AlertDescription::USER_CANCELED));
    server.feed(&half).unwrap();
    assert_eq!(server.feed(&warning), Err(PeerMisbehaved::InterleavedHandshake.into()));
}

#[test]
fn an_established_connection_ends_as_any_other() {
    for (content_type, payload, cause) in [
        (ContentType::CHANGE_CIPHER_SPEC, &[1][..], PeerMisbehaved::EarlyChangeCipherSpec),
        (ContentType::HANDSHAKE, &[20, 0, 0, 0], PeerMisbehaved::UnexpectedHandshakeMessage),
        (ContentType::HANDSHAKE, &[], PeerMisbehaved::EmptyFragment),
    ] {
        let (mut client, mut server) = pair(By::Ticket);
        greet(&mut client, &mut server);
        finish(&mut client, &mut server);
        let record = client.record(content_type, payload);
        assert_eq!(server.feed(&record), Err(cause.into()));
        assert_eq!(client.read(&server.take_output())[0].payload, [2, 10]);
    }
}

// The same bytes.

#[test]
fn the_same_seed_and_bytes_give_the_same_bytes_with_both_providers() {
    for by in WAYS {
        let sessions = by.sessions();
        let saved = session(by, host(), &sessions);
        let said = [(FAST, 9), (FAST, 9), (PORTABLE, 9), (FAST, 10)].map(|(provider, seed)| {
            let rng = Box::new(StdRng::seed_from_u64(seed));
            let server = Server::with(provider, host(), rng, Box::new(|_| panic!("the key server is asked")));
            let (mut client, mut server) = (returning(&saved), server.with_sessions(&sessions));
            server.feed(&client.hello()).unwrap();
            let mut said = server.take_output();
            client.read_resumption(&said);
            server.feed(&[client.change_cipher_spec(), client.finished()].concat()).unwrap();
            server.send(b"hello");
            said.extend(server.take_output());
            said
        });
        assert!(said[0] == said[1] && said[0] == said[2], "{by:?}");
        assert!(said[0] != said[3], "the randoms are the generator's");
    }
}

// rustls.

fn rustls_config(resumption: Tls12Resumption) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    signers().iter().for_each(|signer| roots.add(signer.identity.chain()[0].clone().into()).unwrap());
    let mut config = ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS12])
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::in_memory_sessions(8).tls12_resumption(resumption);
    Arc::new(config)
}

/// Completes a handshake and moves data both ways. Which kind it was for rustls.
fn connect_rustls(config: &Arc<ClientConfig>, server: &mut Server) -> HandshakeKind {
    let mut client = ClientConnection::new(config.clone(), SERVER_NAME.try_into().unwrap()).unwrap();
    client.writer().write_all(b"ping").unwrap();
    while client.wants_write() {
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        server.feed(&bytes).unwrap();
        client.read_tls(&mut server.take_output().as_slice()).unwrap();
        client.process_new_packets().unwrap();
    }
    assert_eq!(server.take_received(), b"ping");
    server.send(b"pong");
    client.read_tls(&mut server.take_output().as_slice()).unwrap();
    client.process_new_packets().unwrap();
    let mut data = [0; 4];
    client.reader().read_exact(&mut data).unwrap();
    assert_eq!(&data, b"pong");
    client.handshake_kind().unwrap()
}

#[test]
fn rustls_goes_on_from_its_sessions() {
    for (by, resumption) in
        [(By::Ticket, Tls12Resumption::SessionIdOrTickets), (By::Id, Tls12Resumption::SessionIdOnly)]
    {
        let (sessions, config) = (Sessions::new(true, true), rustls_config(resumption));
        let mut first = Server::new(FAST, host(), 1).with_sessions(&sessions);
        assert_eq!(connect_rustls(&config, &mut first), HandshakeKind::Full);
        // By ticket, rustls takes another one each time it is given one, and goes on from that.
        for renews in [false, true, false] {
            sessions.change(|shelf| shelf.renews = renews);
            let mut server = keyless(FAST, host(), &sessions);
            assert_eq!(connect_rustls(&config, &mut server), HandshakeKind::Resumed, "{by:?}");
            assert!(server.summary().resumed);
        }
        sessions.lose_all();
        let mut server = Server::new(FAST, host(), 2).with_sessions(&sessions);
        assert_eq!(connect_rustls(&config, &mut server), HandshakeKind::Full, "{by:?}");
        assert!(!server.summary().resumed);
    }
}
