//! Handshakes that complete and connections that end in order: rustls as client where it can do what is to be shown,
//! else the tests' own client.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::sync::Arc;

use keystead_tests::client::{Client, suites_for};
use keystead_tests::conversation::{State, at, bring};
use keystead_tests::server::{Server, host};
use keystead_tests::signer::{self, ED25519, OCSP_RESPONSE, P256, SERVER_NAME, Signer, signers};
use keystead_tls::crypto::{FAST, PORTABLE, Provider};
use keystead_tls::handshake::{Keeping, SignatureRequest, SignedParams};
use keystead_tls::{
    Alert, AlertDescription, CipherSuite, ContentType, Error, Handshake, HostParameters, Identity, NamedGroup,
    PeerClosed, PeerIncompatible, SignatureScheme, Step,
};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

const PROVIDERS: [&dyn Provider; 2] = [FAST, PORTABLE];

/// A host with this certificate alone.
fn host_of(signer: &Signer) -> HostParameters {
    HostParameters { identities: vec![signer.identity.clone()], ..HostParameters::default() }
}

/// A TLS 1.2 client that trusts the tests' certificates and offers these suites.
fn rustls_config(suites: &[CipherSuite]) -> ClientConfig {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|suite| suites.contains(&CipherSuite(suite.suite().into())));
    let mut roots = RootCertStore::empty();
    for signer in signers() {
        roots.add(signer.identity.chain()[0].clone().into()).unwrap();
    }
    ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

fn rustls_client(config: ClientConfig) -> ClientConnection {
    let mut client = ClientConnection::new(Arc::new(config), SERVER_NAME.try_into().unwrap()).unwrap();
    client.set_buffer_limit(None);
    client
}

/// Moves bytes between the two until neither has more to say.
fn converse(client: &mut ClientConnection, server: &mut Server) -> Result<(), rustls::Error> {
    let mut data = Vec::new();
    converse_into(client, server, &mut data)?;
    assert_eq!(data, b"");
    Ok(())
}

/// As [`converse`], with the application data that the client receives.
fn converse_into(
    client: &mut ClientConnection,
    server: &mut Server,
    received: &mut Vec<u8>,
) -> Result<(), rustls::Error> {
    loop {
        let mut to_server = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut to_server).unwrap();
        }
        // What the server makes of it shows in its output and its state.
        let _ = server.feed(&to_server);
        let to_client = server.take_output();
        if to_server.is_empty() && to_client.is_empty() {
            return Ok(());
        }
        let mut rest = to_client.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets()?;
            // Either nothing is there for the moment, or the server has closed: both are no news here.
            let _ = client.reader().read_to_end(received);
        }
    }
}

/// Completes a handshake of the tests' own client; the next bytes are application data.
fn connect(client: &mut Client, server: &mut Server) {
    bring(client, server, State::Established);
}

#[test]
fn every_suite_group_and_certificate_serves_rustls_with_both_providers() {
    for (provider, signer) in PROVIDERS.into_iter().flat_map(|provider| signers().map(|signer| (provider, signer))) {
        for suite in suites_for(&signer.identity) {
            for group in NamedGroup::KNOWN {
                let mut client = rustls_client(rustls_config(&[suite]));
                let mut server = Server::new(provider, HostParameters { groups: vec![*group], ..host_of(signer) }, 1);
                converse(&mut client, &mut server).unwrap();

                let context = format!("{} {suite} {group}", provider.name());
                assert_eq!(client.negotiated_cipher_suite().map(|suite| suite.suite().into()), Some(suite.0));
                assert_eq!(client.negotiated_key_exchange_group().map(|chosen| chosen.name().into()), Some(group.0));
                let summary = server.summary();
                assert_eq!((summary.suite, summary.group), (suite, Some(*group)), "{context}");
                assert_eq!(summary.key_id, signer.identity.public_key().key_id(), "{context}");
                assert_eq!(summary.server_name.as_deref(), Some(SERVER_NAME), "{context}");
                assert!(summary.extended_master_secret, "{context}");

                client.writer().write_all(b"to the server").unwrap();
                server.send(b"to the client");
                let mut received = Vec::new();
                converse_into(&mut client, &mut server, &mut received).unwrap();
                assert_eq!((server.take_received(), received), (b"to the server".into(), b"to the client".into()));
            }
        }
    }
}

#[test]
fn a_megabyte_passes_both_ways_under_each_aead() {
    let megabyte = (0..1 << 20).map(|index: u32| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect::<Vec<_>>();
    for provider in PROVIDERS {
        for suite in suites_for(&P256.identity) {
            let mut client = rustls_client(rustls_config(&[suite]));
            let mut server = Server::new(provider, host_of(&P256), 1);
            converse(&mut client, &mut server).unwrap();
            client.writer().write_all(&megabyte).unwrap();
            server.send(&megabyte);
            let mut received = Vec::new();
            converse_into(&mut client, &mut server, &mut received).unwrap();
            assert!(received == megabyte && server.take_received() == megabyte, "{} {suite}", provider.name());
        }
    }
}

#[test]
fn both_providers_send_the_same_bytes() {
    for (suite, group) in host().suites.into_iter().flat_map(|suite| NamedGroup::KNOWN.iter().map(move |g| (suite, g)))
    {
        let mut answer: Option<SignedParams> = None;
        let conversations = PROVIDERS.map(|provider| {
            let mut client = Client::default();
            client.offer.cipher_suites = vec![suite];
            // Signatures may differ from one to the next, so the second connection is given the first one's.
            let first_answer = answer.clone();
            let (answers, answered) = std::sync::mpsc::channel();
            let key_server = move |request: SignatureRequest<'_>| {
                let signed = first_answer.clone().unwrap_or_else(|| signer::sign(request, [9; 32]));
                answers.send(signed.clone()).unwrap();
                signed
            };
            let host = HostParameters { groups: vec![*group], ..host() };
            let rng = Box::new(StdRng::seed_from_u64(3));
            let mut server = Server::with(provider, host, rng, Box::new(key_server));
            server.feed(&client.hello()).unwrap();
            let mut sent = server.take_output();
            client.read_flight(&sent);
            server.feed(&client.second_flight()).unwrap();
            server.send(&[5; 40_000]);
            server.close();
            sent.extend(server.take_output());
            answer = answered.try_recv().ok();
            sent
        });
        assert!(conversations[0] == conversations[1], "{suite} {group}");
    }
}

#[test]
fn the_hosts_order_of_application_protocols_decides() {
    let connect = |offered: &[&[u8]], served: &[&[u8]]| {
        let mut config = rustls_config(&host().suites);
        config.alpn_protocols = offered.iter().map(|protocol| protocol.to_vec()).collect();
        let alpn = served.iter().map(|protocol| protocol.to_vec()).collect();
        let mut client = rustls_client(config);
        let mut server = Server::new(FAST, HostParameters { alpn, ..host() }, 1);
        let outcome = converse(&mut client, &mut server);
        match server.error() {
            None => assert_eq!(client.alpn_protocol(), server.summary().alpn.as_deref()),
            Some(error) => {
                assert_eq!(error, PeerIncompatible::NoCommonAlpn.into());
                let alert = rustls::AlertDescription::NoApplicationProtocol;
                assert_eq!(outcome, Err(rustls::Error::AlertReceived(alert)));
            }
        }
        server.error().is_none().then(|| client.alpn_protocol().map(<[u8]>::to_vec))
    };
    assert_eq!(connect(&[b"http/1.1", b"h2"], &[b"h2", b"http/1.1"]), Some(Some(b"h2".to_vec())));
    assert_eq!(connect(&[b"http/1.1"], &[b"h2", b"http/1.1"]), Some(Some(b"http/1.1".to_vec())));
    assert_eq!(connect(&[b"h2"], &[]), Some(None));
    assert_eq!(connect(&[], &[b"h2"]), Some(None));
    assert_eq!(connect(&[b"h3"], &[b"h2", b"http/1.1"]), None);
}

#[test]
fn the_server_name_reaches_host_choice_key_server_and_summary() {
    let mut client = Client::default();
    client.offer.extensions.server_name = Some("WWW.Example.COM".into());
    let mut out = Vec::new();
    let step = Handshake::new(FAST).feed(&client.hello(), &mut out).unwrap();
    let Step::ChooseIdentity(handshake) = step else { panic!("{step:?}") };
    assert_eq!(handshake.server_name(), Some("www.example.com"));
    let step =
        handshake.choose(&Arc::new(host()), Keeping::default(), &mut StdRng::seed_from_u64(1), &mut out).unwrap();
    let Step::NeedsSignature(handshake) = step else { panic!("{step:?}") };
    assert_eq!(handshake.request().server_name, Some("www.example.com"));
    assert_eq!(out, b"", "the client is sent nothing before the key server's answer");

    let (mut client, mut server) = (Client::default(), Server::default());
    client.offer.extensions.server_name = None;
    connect(&mut client, &mut server);
    assert_eq!(server.summary().server_name, None);
}

#[test]
fn a_name_that_no_host_has_is_rejected() {
    let mut out = Vec::new();
    let step = Handshake::new(FAST).feed(&Client::default().hello(), &mut out).unwrap();
    let Step::ChooseIdentity(handshake) = step else { panic!("{step:?}") };
    assert_eq!(handshake.reject_name(&mut out), PeerIncompatible::UnrecognizedName.into());
    assert_eq!(out, [21, 3, 3, 0, 2, 2, 112]);
}

#[test]
fn extended_master_secret_is_used_if_and_only_if_offered() {
    for suite in host().suites {
        for offered in [true, false] {
            let (mut client, mut server) = (Client::default(), Server::default());
            client.offer.cipher_suites = vec![suite];
            client.offer.extensions.extended_master_secret = offered;
            server.feed(&client.hello()).unwrap();
            let flight = client.read_flight(&server.take_output());
            assert_eq!(flight.hello.extensions.extended_master_secret, offered);
            server.feed(&client.second_flight()).unwrap();
            assert_eq!(client.read_finished(&server.take_output()), []);
            assert_eq!(server.summary().extended_master_secret, offered);
        }
    }
}

#[test]
fn a_staple_is_sent_if_and_only_if_asked_for_and_there() {
    for (asked, there) in [(true, true), (true, false), (false, true)] {
        let mut client = Client::default();
        client.offer.extensions.status_request = asked;
        let mut host = host_of(&P256);
        if !there {
            let bare = Identity::new(P256.identity.chain().to_vec(), SignatureScheme::KNOWN, None);
            host.identities = vec![Arc::new(bare.unwrap())];
        }
        let mut server = Server::new(FAST, host, 1);
        server.feed(&client.hello()).unwrap();
        let flight = client.read_flight(&server.take_output());
        assert_eq!(flight.hello.extensions.status_request, asked && there);
        assert_eq!(flight.ocsp_response.as_deref(), (asked && there).then_some(OCSP_RESPONSE));
    }
}

#[test]
fn the_server_answers_the_extensions_that_were_offered_and_no_others() {
    let mut client = Client::default();
    client.offer.extensions.record_size_limit = Some(1000);
    client.offer.extensions.alpn = Some(["h2"].into_iter().collect());
    let mut server = Server::new(FAST, HostParameters { alpn: vec![b"h2".to_vec()], ..host() }, 1);
    server.feed(&client.hello()).unwrap();
    let answers = client.read_flight(&server.take_output()).hello.extensions;
    assert!(answers.server_name && answers.renegotiation_info && answers.ec_point_formats);
    assert_eq!((answers.record_size_limit, answers.alpn.as_deref()), (Some(1 << 14), Some(&b"h2"[..])));

    let (mut client, mut server) = (Client::default(), Server::default());
    client.offer.extensions.server_name = None;
    client.offer.extensions.ec_point_formats = false;
    client.offer.extensions.extended_master_secret = false;
    client.offer.extensions.renegotiation_info = false;
    server.feed(&client.hello()).unwrap();
    assert_eq!(client.read_flight(&server.take_output()).hello.extensions, Default::default());
}

#[test]
fn the_renegotiation_scsv_counts_as_the_extension() {
    let (mut client, mut server) = (Client::default(), Server::default());
    client.offer.extensions.renegotiation_info = false;
    client.offer.cipher_suites.push(CipherSuite::EMPTY_RENEGOTIATION_INFO_SCSV);
    server.feed(&client.hello()).unwrap();
    assert!(client.read_flight(&server.take_output()).hello.extensions.renegotiation_info);
}

#[test]
fn protected_records_keep_to_the_clients_record_size_limit() {
    for (limit, largest) in [(64, 64), (1000, 1000), (16_384, 16_384), (16_385, 16_384), (u16::MAX, 16_384)] {
        let (mut client, mut server) = (Client::default(), Server::default());
        client.offer.extensions.record_size_limit = Some(limit);
        connect(&mut client, &mut server);
        assert_eq!(server.connection().max_payload(), largest);
        server.send(&[7; 50_000]);
        let records = client.read(&server.take_output());
        assert!(records.iter().all(|record| record.payload.len() <= largest));
        assert_eq!(records.len(), 50_000_usize.div_ceil(largest));
    }
}

#[test]
fn a_flight_longer_than_a_record_is_sent_in_several() {
    let mut chain = P256.identity.chain().to_vec();
    chain.extend(vec![vec![0x30; 9_000]; 5]);
    let identity = Arc::new(Identity::new(chain.clone(), SignatureScheme::KNOWN, None).unwrap());
    let mut server = Server::new(FAST, HostParameters { identities: vec![identity], ..host() }, 1);
    let mut client = Client::default();
    server.feed(&client.hello()).unwrap();
    assert_eq!(client.read_flight(&server.take_output()).chain, chain);
    server.feed(&client.second_flight()).unwrap();
    client.read_finished(&server.take_output());
}

#[test]
fn data_right_behind_finished_is_delivered() {
    let (mut client, mut server) = (Client::default(), Server::default());
    server.feed(&client.hello()).unwrap();
    client.read_flight(&server.take_output());
    let flight = [client.second_flight(), client.data(b"GET / "), client.data(b"HTTP/1.1")].concat();
    let (front, back) = flight.split_at(flight.len() - 3);
    server.feed(front).unwrap();
    assert_eq!(server.take_received(), b"GET / ");
    server.feed(back).unwrap();
    assert_eq!(server.take_received(), b"HTTP/1.1");
    server.send(b"200 OK");
    let records = client.read_finished(&server.take_output());
    assert_eq!(records[0].payload, b"200 OK");
}

#[test]
fn a_second_flight_that_comes_before_the_signature_is_kept() {
    // Ed25519 signs the same twice: a rehearsal tells the client what the server is going to send.
    let (mut client, server) = (Client::default(), || Server::new(FAST, host_of(&ED25519), 1));
    let (hello, mut rehearsal) = (client.hello(), server());
    rehearsal.feed(&hello).unwrap();
    let flight = rehearsal.take_output();
    client.read_flight(&flight);

    let mut server = server();
    server.feed(&[hello, client.second_flight(), client.data(b"early")].concat()).unwrap();
    assert_eq!(server.take_received(), b"early");
    let output = server.take_output();
    assert!(output.starts_with(&flight));
    assert_eq!(client.read_finished(&output[flight.len()..]), []);
}

#[test]
fn each_side_closes_in_order_and_the_other_may_go_on() {
    let (mut client, mut server) = (Client::default(), Server::default());
    connect(&mut client, &mut server);
    server.feed(&[client.data(b"all"), client.alert(Alert::warning(AlertDescription::CLOSE_NOTIFY))].concat()).unwrap();
    assert!(server.is_closed_by_client());
    assert_eq!(server.take_received(), b"all");
    assert_eq!(server.take_output(), b"", "the engine leaves the answer to its caller");
    server.send(b"still here");
    assert_eq!(client.read_data(&server.take_output()), b"still here");
    server.close();
    let records = client.read(&server.take_output());
    assert_eq!((records[0].content_type, records[0].payload.as_slice()), (ContentType::ALERT, &[1, 0][..]));
    assert_eq!(server.end_of_input(), Ok(()));

    let (mut client, mut server) = at(State::Established);
    server.close();
    assert_eq!(client.read(&server.take_output())[0].payload, [1, 0]);
    server.feed(&client.data(b"more")).unwrap();
    assert_eq!(server.take_received(), b"more");
}

#[test]
fn rustls_and_the_engine_close_in_order() {
    let mut client = rustls_client(rustls_config(&host().suites));
    let mut server = Server::default();
    converse(&mut client, &mut server).unwrap();
    client.send_close_notify();
    converse(&mut client, &mut server).unwrap();
    assert!(server.is_closed_by_client());
    server.close();
    let wire = server.take_output();
    client.read_tls(&mut wire.as_slice()).unwrap();
    assert!(client.process_new_packets().unwrap().peer_has_closed());
}

#[test]
fn truncation_is_told_from_an_orderly_close() {
    assert_eq!(Server::default().end_of_input(), Err(PeerClosed::NothingSent.into()));

    let mut client = Client::default();
    let hello = client.hello();
    for length in [1, 4, 5, hello.len() - 1, hello.len()] {
        let mut server = Server::default();
        server.feed(&hello[..length]).unwrap();
        assert_eq!(server.end_of_input(), Err(PeerClosed::Truncated.into()), "{length} bytes");
    }

    let (mut client, mut server) = at(State::Established);
    let data = client.data(b"half");
    server.feed(&data[..data.len() - 1]).unwrap();
    assert_eq!(server.end_of_input(), Err(PeerClosed::Truncated.into()));
}

#[test]
fn a_client_that_takes_too_long_is_sent_close_notify() {
    let mut out = Vec::new();
    let Ok(Step::NeedsInput(handshake)) = Handshake::new(FAST).feed(&[22, 3], &mut out) else {
        panic!("half a header")
    };
    assert_eq!(handshake.time_out(&mut out), PeerClosed::TimedOut.into());
    assert_eq!(out, [21, 3, 3, 0, 2, 1, 0]);

    // A probe is sent nothing.
    let mut out = Vec::new();
    assert_eq!(Handshake::new(FAST).time_out(&mut out), PeerClosed::NothingSent.into());
    assert!(out.is_empty());
}

#[test]
fn records_sealed_in_place_are_those_of_seal() {
    for suite in host().suites {
        let sealed = [false, true].map(|in_place| {
            let (mut client, mut server) = (Client::default(), Server::default());
            client.offer.cipher_suites = vec![suite];
            // The same conversation twice: Ed25519 and PKCS #1 v1.5 sign the same twice.
            client.offer.extensions.signature_algorithms =
                Some(vec![SignatureScheme::ED25519, SignatureScheme::RSA_PKCS1_SHA256]);
            connect(&mut client, &mut server);
            let connection = server.connection();
            let mut wire = Vec::new();
            for payload in [&b"one"[..], &[2; 1 << 14], b"three"] {
                if in_place {
                    let mut slot = vec![0; connection.headroom()];
                    slot.extend_from_slice(payload);
                    slot.resize(slot.len() + connection.tailroom(), 0);
                    connection.seal_in_place(&mut slot).unwrap();
                    wire.extend(slot);
                } else {
                    connection.seal(payload, &mut wire).unwrap();
                }
            }
            assert_eq!(client.read_data(&wire), [&b"one"[..], &[2; 1 << 14], b"three"].concat());
            wire
        });
        assert!(sealed[0] == sealed[1], "{suite}");
    }
}

#[test]
fn a_wrong_signature_may_be_asked_for_again() {
    let mut client = Client::default();
    let mut out = Vec::new();
    let Ok(Step::ChooseIdentity(handshake)) = Handshake::new(FAST).feed(&client.hello(), &mut out) else { panic!() };
    let step =
        handshake.choose(&Arc::new(host()), Keeping::default(), &mut StdRng::seed_from_u64(1), &mut out).unwrap();
    let Step::NeedsSignature(handshake) = step else { panic!("{step:?}") };
    let right = signer::sign(handshake.request(), [1; 32]);
    let other_random = SignedParams { server_random: [2; 32], ..right.clone() };
    let mut flipped = right.clone();
    *flipped.signature.last_mut().unwrap() ^= 1;
    for wrong in [other_random, flipped, SignedParams { signature: Vec::new(), ..right.clone() }] {
        assert!(handshake.verify(wrong).is_err());
    }
    assert_eq!(out, b"", "the client has been sent nothing");
    let verified = handshake.verify(right).unwrap();
    let Ok(Step::NeedsInput(_)) = handshake.resume(verified, &mut out) else { panic!() };
    client.read_flight(&out);
}

#[test]
fn a_key_server_that_stays_wrong_ends_in_internal_error() {
    let wrong = |_: SignatureRequest<'_>| SignedParams { server_random: [0; 32], signature: vec![0; 256] };
    let rng = Box::new(StdRng::seed_from_u64(1));
    let mut server = Server::with(FAST, host(), rng, Box::new(wrong));
    let error = server.feed(&Client::default().hello()).unwrap_err();
    assert_eq!(error, Error::KeyServer(keystead_tls::KeyServerFailure::WrongSignature));
    assert_eq!(server.take_output(), [21, 3, 3, 0, 2, 2, 80]);
}
