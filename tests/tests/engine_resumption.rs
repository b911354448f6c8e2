//! Clients that come back with a session and go on from it: what is agreed on anew, and by what they come back next.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ops::Not;

use keystead_tests::client::{Client, Saved, suites_for};
use keystead_tests::conversation::refused;
use keystead_tests::key_transport::{self, SECRET, encrypt, good_block};
use keystead_tests::resumption::{By, WAYS, first_visit, greet, keyless, resume, returning, session, start_over};
use keystead_tests::server::{Server, host};
use keystead_tests::sessions::Sessions;
use keystead_tests::signer::signers;
use keystead_tls::crypto::{FAST, PORTABLE, Provider};
use keystead_tls::message::new_session_ticket::MAX_TICKET;
use keystead_tls::message::server_hello::ServerExtensions;
use keystead_tls::{AlertDescription, CipherSuite, HostParameters, PeerIncompatible, PeerMisbehaved, Summary};

const PROVIDERS: [&dyn Provider; 2] = [FAST, PORTABLE];

fn both<A: Copy, B: Copy>(ones: &[A], others: &[B]) -> Vec<(A, B)> {
    ones.iter().flat_map(|one| others.iter().map(|other| (*one, *other))).collect()
}

/// What a handshake that goes on from `first`'s session agrees on.
fn resumed(first: Summary) -> Summary {
    Summary { group: None, scheme: None, resumed: true, ..first }
}

fn server(host: HostParameters, sessions: &Sessions) -> Server {
    Server::new(FAST, host, 3).with_sessions(sessions)
}

/// A client that comes back goes on from its session, with data both ways.
fn resumes(saved: &Saved, host: HostParameters, sessions: &Sessions) {
    resume(&mut returning(saved), &mut keyless(FAST, host, sessions));
}

// Who goes on.

#[test]
fn every_suite_and_certificate_resumes_by_ticket_and_by_id_with_both_providers() {
    for (by, provider) in both(&WAYS, &PROVIDERS) {
        for (signer, extended) in both(&signers(), &[false, true]) {
            let host = HostParameters { identities: vec![signer.identity.clone()], ..HostParameters::default() };
            for suite in suites_for(&signer.identity) {
                let sessions = by.sessions();
                let mut client = by.newcomer(Client::default());
                client.offer.cipher_suites = vec![suite];
                client.offer.extensions.extended_master_secret = extended;
                let mut first = Server::new(provider, host.clone(), 1).with_sessions(&sessions);
                let saved = first_visit(&mut client, &mut first);
                assert_eq!(saved.session_id.is_empty(), by == By::Ticket);

                // The other of the two providers goes on from what the one has left.
                let other = PROVIDERS.into_iter().find(|other| other.name() != provider.name()).unwrap();
                let mut client = returning(&saved);
                client.offer.extensions.extended_master_secret = extended;
                let mut second = keyless(other, host.clone(), &sessions);
                let hello = resume(&mut client, &mut second);
                assert_eq!((hello.cipher_suite, hello.extensions.extended_master_secret), (suite, extended));
                assert_eq!(hello.session_id, client.offer.session_id);
                assert_eq!(second.summary(), resumed(first.summary()), "{suite}, {by:?}, extended {extended}");
            }
        }
    }
}

#[test]
fn sessions_of_rsa_key_transport_resume_without_the_key_server() {
    for (by, provider) in both(&WAYS, &PROVIDERS) {
        for (suite, extended) in both(HostParameters::KEY_TRANSPORT_SUITES, &[false, true]) {
            let sessions = by.sessions();
            let mut client = by.newcomer(key_transport::client(suite, extended));
            let mut first = key_transport::server(provider, key_transport::host()).with_sessions(&sessions);
            first.feed(&client.hello()).unwrap();
            client.read_flight(&first.take_output());
            let block = good_block();
            let key_exchange = client.rsa_key_exchange(&encrypt(&block), &block[SECRET..]);
            first.feed(&[key_exchange, client.change_cipher_spec(), client.finished()].concat()).unwrap();
            assert_eq!(client.read_finished(&first.take_output()), []);

            let mut client = returning(&client.save());
            client.offer.cipher_suites = vec![suite];
            client.offer.extensions.extended_master_secret = extended;
            // Neither leases nor signatures are there.
            let mut second = keyless(provider, key_transport::host(), &sessions);
            assert_eq!(resume(&mut client, &mut second).cipher_suite, suite);
            assert_eq!(second.summary(), resumed(first.summary()), "{suite}, {by:?}, extended {extended}");
        }
    }
}

#[test]
fn a_session_resumes_again_and_again() {
    for by in WAYS {
        let sessions = by.sessions();
        let saved = session(by, host(), &sessions);
        for _ in 0..5 {
            resumes(&saved, host(), &sessions);
        }
        assert_eq!(sessions.len(), 1, "a session is kept once");
    }
}

#[test]
fn the_sessions_suite_is_used_and_not_the_hosts_best() {
    let (by, sessions) = (By::Id, By::Id.sessions());
    let suite = CipherSuite::ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256;
    let mut client = by.newcomer(Client::default());
    client.offer.cipher_suites = vec![suite];
    let saved = first_visit(&mut client, &mut server(host(), &sessions));
    let hello = resume(&mut returning(&saved), &mut keyless(FAST, host(), &sessions));
    assert_eq!(hello.cipher_suite, suite);
}

#[test]
fn a_session_is_kept_only_once_the_clients_finished_is_right() {
    for by in WAYS {
        let sessions = by.sessions();
        let (mut client, mut server) = (by.newcomer(Client::default()), server(host(), &sessions));
        server.feed(&client.hello()).unwrap();
        client.read_flight(&server.take_output());
        server.feed(&[client.key_exchange(), client.change_cipher_spec()].concat()).unwrap();
        assert!(sessions.is_empty());
        client.note(b"what the server has not seen");
        let finished = client.finished();
        assert_eq!(server.feed(&finished), Err(PeerMisbehaved::WrongFinished.into()));
        assert!(sessions.is_empty(), "{by:?}");
    }
}

#[test]
fn nothing_is_kept_where_the_server_keeps_nothing() {
    for by in WAYS {
        let mut client = by.newcomer(Client::default());
        let saved = first_visit(&mut client, &mut server(host(), &Sessions::default()));
        assert!(saved.session_id.is_empty() && saved.ticket.is_none());
    }
    // A client that does not know tickets is not sent one.
    let sessions = By::Ticket.sessions();
    let saved = first_visit(&mut Client::default(), &mut server(host(), &sessions));
    assert!(saved.session_id.is_empty() && saved.ticket.is_none() && sessions.is_empty());
}

#[test]
fn a_client_that_takes_tickets_gets_no_id_and_another_one_does() {
    let sessions = Sessions::new(true, true);
    let server_of = |client: &mut Client| {
        let mut server = server(host(), &sessions);
        server.feed(&client.hello()).unwrap();
        client.read_flight(&server.take_output()).hello
    };
    let hello = server_of(&mut By::Ticket.newcomer(Client::default()));
    assert!(hello.session_id.is_empty() && hello.extensions.session_ticket);
    let hello = server_of(&mut By::Id.newcomer(Client::default()));
    assert!(hello.session_id.len() == 32 && !hello.extensions.session_ticket);
}

// What is agreed on anew.

#[test]
fn nothing_of_the_certificate_or_the_key_exchange_is_answered() {
    for (by, offers) in both(&WAYS, &[false, true]) {
        let sessions = by.sessions();
        let saved = session(by, host(), &sessions);
        let mut client = returning(&saved);
        let extensions = &mut client.offer.extensions;
        (extensions.status_request, extensions.ec_point_formats) = (offers, offers);
        (extensions.renegotiation_info, extensions.record_size_limit) = (offers, offers.then_some(1000));
        extensions.alpn = offers.then(|| ["h2"].into_iter().collect());
        let host = HostParameters { alpn: vec![b"h2".to_vec()], ..host() };
        let hello = greet(&mut client, &mut keyless(FAST, host, &sessions));
        let expected = ServerExtensions {
            renegotiation_info: offers,
            alpn: offers.then(|| b"h2".to_vec()),
            extended_master_secret: true,
            record_size_limit: offers.then_some(1 << 14),
            ..ServerExtensions::default()
        };
        assert_eq!(hello.extensions, expected, "{by:?}");
    }
}

#[test]
fn the_application_protocol_is_agreed_on_anew() {
    let host = |alpn: &[&str]| HostParameters {
        alpn: alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect(),
        ..host()
    };
    for by in WAYS {
        let sessions = by.sessions();
        let mut client = by.newcomer(Client::default());
        client.offer.extensions.alpn = Some(["http/1.1"].into_iter().collect());
        let mut first = server(host(&["h2", "http/1.1"]), &sessions);
        let saved = first_visit(&mut client, &mut first);
        assert_eq!(first.summary().alpn.unwrap(), b"http/1.1");

        for (offered, allowed, agreed) in [
            (Some(&["http/1.1", "h2"][..]), &["h2", "http/1.1"][..], Some("h2")),
            (Some(&["http/1.1"]), &["h2", "http/1.1"], Some("http/1.1")),
            (Some(&["h3"]), &[], None),
            (None, &["h2", "http/1.1"], None),
        ] {
            let mut client = returning(&saved);
            client.offer.extensions.alpn = offered.map(|offered| offered.iter().copied().collect());
            let mut server = keyless(FAST, host(allowed), &sessions);
            let hello = resume(&mut client, &mut server);
            let agreed = agreed.map(|protocol| protocol.as_bytes().to_vec());
            assert_eq!((hello.extensions.alpn, server.summary().alpn), (agreed.clone(), agreed), "{offered:?}");
        }

        let mut client = returning(&saved);
        client.offer.extensions.alpn = Some(["h3"].into_iter().collect());
        let mut server = keyless(FAST, host(&["h2"]), &sessions);
        let (hello, alert) = (client.hello(), AlertDescription::NO_APPLICATION_PROTOCOL);
        refused(&mut client, &mut server, &hello, PeerIncompatible::NoCommonAlpn, alert, "");
    }
}

#[test]
fn the_record_size_limit_is_agreed_on_anew() {
    let sessions = By::Ticket.sessions();
    let mut client = By::Ticket.newcomer(Client::default());
    client.offer.extensions.record_size_limit = Some(64);
    let saved = first_visit(&mut client, &mut server(host(), &sessions));
    for (limit, longest) in [(None, 1 << 14), (Some(64), 64), (Some(5000), 5000), (Some(u16::MAX), 1 << 14)] {
        let mut client = returning(&saved);
        client.offer.extensions.record_size_limit = limit;
        let mut server = keyless(FAST, host(), &sessions);
        resume(&mut client, &mut server);
        server.send(&[7; 1 << 14]);
        let records = client.read(&server.take_output());
        assert_eq!(records.iter().map(|record| record.payload.len()).max(), Some(longest), "{limit:?}");
    }
}

#[test]
fn a_small_record_size_limit_holds_no_ticket_back() {
    // What is in the clear has no limit but TLS's own (RFC 8449 §4).
    let sessions = By::Ticket.sessions();
    sessions.change(|shelf| (shelf.renews, shelf.padding) = (true, 500));
    let mut client = By::Ticket.newcomer(Client::default());
    client.offer.extensions.record_size_limit = Some(64);
    let saved = first_visit(&mut client, &mut server(host(), &sessions));
    let mut client = returning(&saved);
    client.offer.extensions.record_size_limit = Some(64);
    resume(&mut client, &mut keyless(FAST, host(), &sessions));
    assert_eq!(client.ticket().unwrap().ticket.len(), 532);
}

// Tickets in place of the client's.

#[test]
fn a_renewed_ticket_resumes_too() {
    let sessions = By::Ticket.sessions();
    let saved = session(By::Ticket, host(), &sessions);
    assert!(resume(&mut returning(&saved), &mut keyless(FAST, host(), &sessions)).extensions.session_ticket.not());

    sessions.change(|shelf| shelf.renews = true);
    let mut client = returning(&saved);
    let hello = resume(&mut client, &mut keyless(FAST, host(), &sessions));
    assert!(hello.extensions.session_ticket);
    let renewed = client.save();
    assert_ne!(renewed.ticket, saved.ticket);
    sessions.change(|shelf| shelf.renews = false);
    resumes(&renewed, host(), &sessions);
}

#[test]
fn a_session_that_came_by_id_goes_on_by_ticket_if_the_client_takes_them() {
    let sessions = By::Id.sessions();
    let saved = session(By::Id, host(), &sessions);
    sessions.change(|shelf| shelf.renews = true);
    let mut client = returning(&saved);
    assert!(!resume(&mut client, &mut keyless(FAST, host(), &sessions)).extensions.session_ticket);
    assert_eq!(client.ticket(), None, "it does not know tickets");

    let mut client = By::Ticket.newcomer(returning(&saved));
    let hello = resume(&mut client, &mut keyless(FAST, host(), &sessions));
    assert_eq!((hello.session_id, hello.extensions.session_ticket), (saved.session_id, true));
    let by_ticket = Saved { session_id: Vec::new(), ..client.save() };
    resumes(&by_ticket, host(), &sessions);
}

#[test]
fn a_promised_ticket_that_is_not_there_is_an_empty_one() {
    let sessions = By::Ticket.sessions();
    sessions.change(|shelf| shelf.forgets = true);
    let (mut client, mut first) = (By::Ticket.newcomer(Client::default()), server(host(), &sessions));
    let saved = first_visit(&mut client, &mut first);
    let ticket = saved.ticket.clone().unwrap();
    assert_eq!((ticket.lifetime_hint, ticket.ticket.as_slice()), (0, &[][..]));
    // A client that sends it back says nothing but that it takes tickets.
    sessions.change(|shelf| shelf.forgets = false);
    let mut client = returning(&saved);
    assert!(start_over(&mut client, &mut server(host(), &sessions)).hello.extensions.session_ticket);
    resumes(&client.save(), host(), &sessions);
}

#[test]
fn tickets_of_any_length_go_and_come() {
    for length in [32, 255, 256, 16_000, 1 << 14, 40_000, MAX_TICKET - 200] {
        let sessions = By::Ticket.sessions();
        sessions.change(|shelf| (shelf.padding, shelf.renews) = (length - 32, true));
        let saved = session(By::Ticket, host(), &sessions);
        assert_eq!(saved.ticket.as_ref().unwrap().ticket.len(), length);
        resumes(&saved, host(), &sessions);
    }
    // The longest that NewSessionTicket holds leaves no room for other extensions in ClientHello.
    let sessions = By::Ticket.sessions();
    sessions.change(|shelf| shelf.padding = MAX_TICKET - 32);
    assert_eq!(session(By::Ticket, host(), &sessions).ticket.unwrap().ticket.len(), MAX_TICKET);
}

// Both a ticket and an id (RFC 5077 §3.4).

#[test]
fn a_ticket_decides_and_the_id_beside_it_is_echoed() {
    let sessions = Sessions::new(true, true);
    let by_id = session(By::Id, host(), &sessions);
    let by_ticket = session(By::Ticket, host(), &sessions);
    // An id of the client's own; and one that names another session, whose secret this client does not use.
    for id in [vec![7], vec![7; 31], vec![7; 32], by_id.session_id.clone()] {
        let mut client = returning(&by_ticket);
        client.offer.session_id.clone_from(&id);
        let hello = resume(&mut client, &mut keyless(FAST, host(), &sessions));
        assert_eq!(hello.session_id, id);
    }
}

#[test]
fn an_id_beside_a_refused_ticket_is_neither_echoed_nor_looked_up() {
    let sessions = Sessions::new(true, true);
    let by_id = session(By::Id, host(), &sessions);
    for id in [vec![7], vec![7; 32], by_id.session_id.clone()] {
        let mut client = returning(&by_id);
        client.offer.session_id.clone_from(&id);
        client.offer.extensions.session_ticket = Some(b"a ticket of nobody's".to_vec());
        let hello = start_over(&mut client, &mut server(host(), &sessions)).hello;
        assert!(hello.session_id.is_empty() && hello.extensions.session_ticket);
    }
    // A server without tickets tells the client an id of its own choice.
    let mut client = returning(&by_id);
    client.offer.extensions.session_ticket = Some(b"a ticket of nobody's".to_vec());
    sessions.change(|shelf| shelf.tickets = false);
    let hello = start_over(&mut client, &mut server(host(), &sessions)).hello;
    assert!(hello.session_id.len() == 32 && !hello.extensions.session_ticket);
}

#[test]
fn an_empty_ticket_beside_an_id_leaves_the_id_to_decide() {
    let sessions = Sessions::new(true, true);
    let saved = session(By::Id, host(), &sessions);
    let mut client = By::Ticket.newcomer(returning(&saved));
    let hello = resume(&mut client, &mut keyless(FAST, host(), &sessions));
    assert_eq!(hello.session_id, saved.session_id);
}
