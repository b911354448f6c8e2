//! Clients that come back with a session that is not there or does not fit, and start over: what must agree, and that
//! one disagreement ends the connection.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use keystead_tests::client::{Client, Saved, full_offer};
use keystead_tests::conversation::refused;
use keystead_tests::resumption::{By, WAYS, first_visit, keyless, resume, returning, session, start_over};
use keystead_tests::server::{Server, host};
use keystead_tests::sessions::Sessions;
use keystead_tests::signer::{ED25519, P256, RSA, SERVER_NAME};
use keystead_tls::crypto::FAST;
use keystead_tls::session::Difference;
use keystead_tls::{AlertDescription, ClientAuth, HostParameters, PeerMisbehaved, SignatureScheme};

fn both<A: Copy, B: Copy>(ones: &[A], others: &[B]) -> Vec<(A, B)> {
    ones.iter().flat_map(|one| others.iter().map(|other| (*one, *other))).collect()
}

fn server(host: HostParameters, sessions: &Sessions) -> Server {
    Server::new(FAST, host, 3).with_sessions(sessions)
}

/// A client that comes back goes on from its session, with data both ways.
fn resumes(saved: &Saved, host: HostParameters, sessions: &Sessions) {
    resume(&mut returning(saved), &mut keyless(FAST, host, sessions));
}

#[test]
fn names_of_no_session_lead_to_a_fresh_one() {
    let sessions = Sessions::new(true, true);
    let by_id = session(By::Id, host(), &sessions);
    let ticket = session(By::Ticket, host(), &sessions).ticket.unwrap().ticket;
    let elsewhere = session(By::Ticket, host(), &By::Ticket.sessions());

    let altered = (0..ticket.len()).map(|at| {
        let mut altered = ticket.clone();
        altered[at] ^= 1;
        altered
    });
    let cut = (1..ticket.len()).map(|length| ticket[..length].to_vec());
    let grown = [&ticket[..], &[0]].concat();
    let others = [vec![0], vec![0xff; 257], vec![9; 60_000], grown];
    for ticket in altered.chain(cut).chain(others) {
        let mut client = Client::default();
        client.offer.extensions.session_ticket = Some(ticket);
        start_over(&mut client, &mut server(host(), &sessions));
        resumes(&client.save(), host(), &sessions);
    }
    start_over(&mut returning(&elsewhere), &mut server(host(), &By::Ticket.sessions()));

    let altered = (0..32).map(|at| {
        let mut altered = by_id.session_id.clone();
        altered[at] ^= 1;
        altered
    });
    let cut = (1..32).map(|length| by_id.session_id[..length].to_vec());
    for id in altered.chain(cut) {
        let mut client = Client::default();
        client.offer.session_id = id.clone();
        let hello = start_over(&mut client, &mut server(host(), &sessions)).hello;
        assert_ne!(hello.session_id, id);
        resumes(&client.save(), host(), &sessions);
    }
}

/// Of what a client offers, and of what a host allows.
type Change = (fn(&mut Client), fn(&mut HostParameters));

/// What a client or a server changes between the visits, so that the session differs in this.
fn differing(difference: Difference) -> Vec<Change> {
    fn same<T>(_: &mut T) {}
    match difference {
        Difference::OtherServerName => vec![
            (|client| client.offer.extensions.server_name = Some("other.test".into()), same),
            (|client| client.offer.extensions.server_name = None, same),
            // This alone would end the connection; a session of another name is none of this name's.
            (
                |client| {
                    client.offer.extensions.server_name = None;
                    client.offer.extensions.extended_master_secret = false;
                },
                same,
            ),
        ],
        Difference::OtherSuite => vec![
            (|client| client.offer.cipher_suites.retain(|suite| *suite != full_offer().cipher_suites[0]), same),
            (same, |host| host.suites.retain(|suite| *suite != full_offer().cipher_suites[0])),
        ],
        Difference::KeyGone => vec![(same, |host| {
            host.identities.retain(|identity| identity.public_key() != P256.identity.public_key());
        })],
        Difference::OtherClientAuth => vec![(same, |host| {
            host.client_auth = ClientAuth::Required { authorities: Vec::new() };
        })],
        // Where the first client left it out.
        Difference::NoExtendedMasterSecret => vec![(same, same)],
    }
}

#[test]
fn every_difference_leads_to_a_full_handshake_and_a_fresh_session() {
    use Difference::{KeyGone, NoExtendedMasterSecret, OtherClientAuth, OtherServerName, OtherSuite};
    // The P-256 certificate is the first that fits the first suite.
    let host = || HostParameters {
        identities: vec![P256.identity.clone(), ED25519.identity.clone(), RSA.identity.clone()],
        ..host()
    };
    for (by, difference) in
        both(&WAYS, &[OtherServerName, OtherSuite, KeyGone, OtherClientAuth, NoExtendedMasterSecret])
    {
        for (change_client, change_host) in differing(difference) {
            let sessions = by.sessions();
            let mut client = by.newcomer(Client::default());
            client.offer.extensions.extended_master_secret = difference != NoExtendedMasterSecret;
            let saved = first_visit(&mut client, &mut server(host(), &sessions));

            let (mut client, mut host) = (returning(&saved), host());
            change_client(&mut client);
            change_host(&mut host);
            let mut server = server(host.clone(), &sessions);
            if difference == OtherClientAuth {
                // Of its own, as the client is asked for a certificate.
                server.feed(&client.hello()).unwrap();
                let flight = client.read_flight(&server.take_output());
                assert!(flight.certificate_request.is_some());
                assert_eq!(flight.hello.session_id == saved.session_id, by == By::Ticket, "by ticket, both are empty");
                server.feed(&certified_flight(&mut client)).unwrap();
                assert_eq!(client.read_finished(&server.take_output()), []);
            } else {
                start_over(&mut client, &mut server);
            }
            assert_eq!(sessions.change(|shelf| std::mem::take(&mut shelf.differences)), [difference]);
            assert_eq!(sessions.len(), 2, "a fresh session is kept");

            let fresh = client.save();
            let mut client = returning(&fresh);
            change_client(&mut client);
            resume(&mut client, &mut keyless(FAST, host, &sessions));
        }
    }
}

#[test]
fn a_session_without_a_name_is_for_clients_without_a_name() {
    for by in WAYS {
        let sessions = by.sessions();
        let mut client = by.newcomer(Client::default());
        client.offer.extensions.server_name = None;
        let saved = first_visit(&mut client, &mut server(host(), &sessions));
        let mut client = returning(&saved);
        client.offer.extensions.server_name = None;
        let mut second = keyless(FAST, host(), &sessions);
        resume(&mut client, &mut second);
        assert_eq!(second.summary().server_name, None);
        start_over(&mut returning(&saved), &mut server(host(), &sessions));
        assert_eq!(sessions.change(|shelf| shelf.differences.clone()), [Difference::OtherServerName]);
    }
}

#[test]
fn the_name_is_the_same_in_any_case_and_with_a_final_dot() {
    let sessions = By::Ticket.sessions();
    let saved = session(By::Ticket, host(), &sessions);
    let mut client = returning(&saved);
    client.offer.extensions.server_name = Some(format!("{}.", SERVER_NAME.to_uppercase()));
    let mut second = keyless(FAST, host(), &sessions);
    resume(&mut client, &mut second);
    assert_eq!(second.summary().server_name.as_deref(), Some(SERVER_NAME));
}

/// RFC 7627 §5.3, all four of its combinations.
#[test]
fn extended_master_secret_must_agree_and_leaving_it_out_ends_the_connection() {
    for (by, (at_first, then)) in both(&WAYS, &both(&[false, true], &[false, true])) {
        let sessions = by.sessions();
        let mut client = by.newcomer(Client::default());
        client.offer.extensions.extended_master_secret = at_first;
        let saved = first_visit(&mut client, &mut server(host(), &sessions));
        let mut client = returning(&saved);
        client.offer.extensions.extended_master_secret = then;
        match (at_first, then) {
            (true, true) | (false, false) => {
                let hello = resume(&mut client, &mut keyless(FAST, host(), &sessions));
                assert_eq!(hello.extensions.extended_master_secret, then);
            }
            (false, true) => {
                let flight = start_over(&mut client, &mut server(host(), &sessions));
                assert!(flight.hello.extensions.extended_master_secret);
            }
            (true, false) => {
                let (hello, mut server) = (client.hello(), keyless(FAST, host(), &sessions));
                let (error, alert) = (PeerMisbehaved::ExtendedMasterSecretDropped, AlertDescription::HANDSHAKE_FAILURE);
                refused(&mut client, &mut server, &hello, error, alert, "");
                assert_eq!(server.error().unwrap().reason(), "extended_master_secret_dropped");
            }
        }
    }
}

// Client certificates.

fn client_auths() -> [ClientAuth; 3] {
    let authorities = vec![vec![0x30, 0]];
    [ClientAuth::None, ClientAuth::Optional { authorities: authorities.clone() }, ClientAuth::Required { authorities }]
}

/// Everything from Certificate to Finished.
fn certified_flight(client: &mut Client) -> Vec<u8> {
    [
        client.certificate(ED25519.identity.chain()),
        client.key_exchange(),
        client.certificate_verify(&ED25519, SignatureScheme::ED25519),
        client.change_cipher_spec(),
        client.finished(),
    ]
    .concat()
}

/// A session in which the client has shown a certificate.
fn certified_session(by: By, sessions: &Sessions) -> Saved {
    let [_, optional, _] = client_auths();
    let mut client = by.newcomer(Client::default());
    let mut server = server(HostParameters { client_auth: optional, ..host() }, sessions);
    server.feed(&client.hello()).unwrap();
    client.read_flight(&server.take_output());
    server.feed(&certified_flight(&mut client)).unwrap();
    assert_eq!(client.read_finished(&server.take_output()), []);
    client.save()
}

#[test]
fn a_clients_certificate_is_the_sessions() {
    for by in WAYS {
        let sessions = by.sessions();
        let saved = certified_session(by, &sessions);
        for client_auth in &client_auths()[1..] {
            let host = HostParameters { client_auth: client_auth.clone(), ..host() };
            let mut server = keyless(FAST, host, &sessions);
            resume(&mut returning(&saved), &mut server);
            assert_eq!(server.summary().client_chain, ED25519.identity.chain());
        }
    }
}

#[test]
fn a_host_has_the_certificate_it_requires_and_none_that_it_does_not_want() {
    for (by, certified) in both(&WAYS, &[false, true]) {
        for (client_auth, takes) in client_auths().into_iter().zip([!certified, true, certified]) {
            let sessions = by.sessions();
            let saved = if certified { certified_session(by, &sessions) } else { session(by, host(), &sessions) };
            let (mut client, host) = (returning(&saved), HostParameters { client_auth: client_auth.clone(), ..host() });
            if takes {
                resume(&mut client, &mut keyless(FAST, host, &sessions));
                continue;
            }
            let mut server = server(host, &sessions);
            server.feed(&client.hello()).unwrap();
            let flight = client.read_flight(&server.take_output());
            assert_eq!(flight.certificate_request.is_some(), client_auth != ClientAuth::None);
            assert_eq!(sessions.change(|shelf| shelf.differences.clone()), [Difference::OtherClientAuth]);
        }
    }
}
