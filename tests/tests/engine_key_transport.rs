//! RSA key transport against the key server's own code: what completes, what is refused, and that nothing a client sees
//! tells one malformed pre-master secret from another.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::sync::Arc;

use keystead_tests::client::{Client, full_offer, message};
use keystead_tests::conversation::refused;
use keystead_tests::key_transport::{SECRET, client, encrypt, good_block, host, identity, modulus, server};
use keystead_tests::server::Server;
use keystead_tests::signer::{ED25519, P256};
use keystead_tls::crypto::{FAST, PORTABLE, Provider};
use keystead_tls::{
    Alert, AlertDescription, CipherSuite, ClientAuth, ContentType, Error, HandshakeType, HostParameters, Identity,
    InvalidMessage, PeerClosed, PeerIncompatible, PeerMisbehaved, SignatureScheme,
};

const SUITES: &[CipherSuite] = HostParameters::KEY_TRANSPORT_SUITES;
const PROVIDERS: [&dyn Provider; 2] = [FAST, PORTABLE];
const REFUSED: Error = Error::PeerMisbehaved(PeerMisbehaved::KeyTransportRefused);

/// Brings the two to where the server waits for the client's flight.
fn greet(client: &mut Client, server: &mut Server) {
    server.feed(&client.hello()).unwrap();
    let flight = client.read_flight(&server.take_output());
    assert!(flight.share.is_none(), "RSA key transport has no ServerKeyExchange");
}

/// ClientKeyExchange with a good block.
fn good_key_exchange(client: &mut Client) -> Vec<u8> {
    let block = good_block();
    client.rsa_key_exchange(&encrypt(&block), &block[SECRET..])
}

fn exchange_data(client: &mut Client, server: &mut Server) {
    assert_eq!(client.read_finished(&server.take_output()), []);
    server.feed(&client.data(b"ping")).unwrap();
    assert_eq!(server.take_received(), b"ping");
    server.send(b"pong");
    assert_eq!(client.read_data(&server.take_output()), b"pong");
}

#[test]
fn both_suites_complete_with_and_without_extended_master_secret() {
    for (provider, suite) in PROVIDERS.into_iter().flat_map(|provider| SUITES.iter().map(move |s| (provider, *s))) {
        for extended in [false, true] {
            let (mut client, mut server) = (client(suite, extended), server(provider, host()));
            greet(&mut client, &mut server);
            let key_exchange = good_key_exchange(&mut client);
            server.feed(&[key_exchange, client.change_cipher_spec(), client.finished()].concat()).unwrap();
            exchange_data(&mut client, &mut server);
            let summary = server.summary();
            assert_eq!((summary.suite, summary.extended_master_secret), (suite, extended));
            assert_eq!((summary.group, summary.scheme), (None, None));
        }
    }
}

#[test]
fn a_key_for_key_transport_alone_signs_for_nobody() {
    let alone = Identity::for_key_transport_alone(identity(true).chain().to_vec(), None).unwrap();
    let ecdhe = CipherSuite::ECDHE_RSA_WITH_AES_128_GCM_SHA256;
    let suites = [&[ecdhe], SUITES].concat();
    let host = HostParameters { suites, identities: vec![Arc::new(alone)], ..host() };
    let (mut both, mut server_of_both) = (client(SUITES[0], true), server(FAST, host.clone()));
    both.offer.cipher_suites = vec![ecdhe, SUITES[0]];
    greet(&mut both, &mut server_of_both);
    let key_exchange = good_key_exchange(&mut both);
    server_of_both.feed(&[key_exchange, both.change_cipher_spec(), both.finished()].concat()).unwrap();
    assert_eq!(server_of_both.summary().suite, SUITES[0]);

    let no_scheme = server(FAST, host).feed(&client(ecdhe, true).hello()).unwrap_err();
    assert_eq!(no_scheme, Error::PeerIncompatible(PeerIncompatible::NoCommonScheme));
}

#[test]
fn it_completes_with_a_client_certificate_and_without_an_optional_one() {
    let chain = ED25519.identity.chain();
    for (suite, extended) in SUITES.iter().flat_map(|suite| [(*suite, false), (*suite, true)]) {
        for sent in [&[][..], chain] {
            let client_auth = ClientAuth::Optional { authorities: vec![vec![0x30, 0]] };
            let (mut client, mut server) =
                (client(suite, extended), server(FAST, HostParameters { client_auth, ..host() }));
            greet(&mut client, &mut server);
            let mut flight = client.certificate(sent);
            flight.extend(good_key_exchange(&mut client));
            if !sent.is_empty() {
                flight.extend(client.certificate_verify(&ED25519, SignatureScheme::ED25519));
            }
            flight.extend([client.change_cipher_spec(), client.finished()].concat());
            server.feed(&flight).unwrap();
            exchange_data(&mut client, &mut server);
            assert_eq!(server.summary().client_chain, sent, "{suite}, extended {extended}");
        }
    }
}

#[test]
fn bytes_may_come_one_by_one() {
    let (mut client, mut server) = (client(SUITES[0], true), server(FAST, host()));
    for byte in client.hello() {
        server.feed(&[byte]).unwrap();
    }
    client.read_flight(&server.take_output());
    let key_exchange = good_key_exchange(&mut client);
    for byte in [key_exchange, client.change_cipher_spec(), client.finished()].concat() {
        server.feed(&[byte]).unwrap();
    }
    exchange_data(&mut client, &mut server);
}

#[test]
fn data_behind_the_finished_waits_for_the_key_server() {
    let (mut client, mut server) = (client(SUITES[0], true), server(FAST, host()));
    greet(&mut client, &mut server);
    let key_exchange = good_key_exchange(&mut client);
    let flight = [key_exchange, client.change_cipher_spec(), client.finished(), client.data(b"early")].concat();
    server.feed(&flight).unwrap();
    assert_eq!(server.take_received(), b"early");
    // The data is no part of the server's Finished, nor in the way of it.
    assert!(server.is_established());
}

#[test]
fn both_the_host_and_the_key_must_allow_it() {
    let default = HostParameters::default().suites;
    let all = [&default, SUITES].concat();
    for (name, suites, identities, cause) in [
        ("the key does not", all.clone(), vec![identity(false)], PeerIncompatible::NoSuitableCertificate),
        ("the host does not", default, vec![identity(true)], PeerIncompatible::NoCommonSuite),
        ("no RSA key", all.clone(), vec![P256.identity.clone()], PeerIncompatible::NoSuitableCertificate),
        ("no key does", all, vec![P256.identity.clone(), identity(false)], PeerIncompatible::NoSuitableCertificate),
    ] {
        for suite in SUITES {
            let mut client = client(*suite, true);
            let mut server =
                server(FAST, HostParameters { suites: suites.clone(), identities: identities.clone(), ..host() });
            let hello = client.hello();
            refused(&mut client, &mut server, &hello, cause, AlertDescription::HANDSHAKE_FAILURE, name);
        }
    }
}

#[test]
fn a_suite_with_forward_secrecy_comes_first() {
    let suites = [&HostParameters::default().suites, SUITES].concat();
    let mut client = Client::new(full_offer());
    client.offer.cipher_suites = [SUITES, &HostParameters::default().suites].concat();
    let identities = vec![identity(true), P256.identity.clone()];
    let mut server = server(FAST, HostParameters { suites, identities, ..host() });
    server.feed(&client.hello()).unwrap();
    let flight = client.read_flight(&server.take_output());
    assert!(flight.share.is_some() && !SUITES.contains(&flight.hello.cipher_suite));
}

// Malformed pre-master secrets.

/// A client's flight: the ciphertext, the pre-master secret it goes on with, and what it does to its Finished.
struct Flight {
    ciphertext: Vec<u8>,
    secret: Vec<u8>,
    finished: fn(&mut Client) -> Vec<u8>,
}

impl Flight {
    /// A good one whose block is spoilt; the client goes on as if nobody noticed.
    fn spoilt(spoil: impl FnOnce(&mut [u8; 256])) -> Self {
        let mut block = good_block();
        spoil(&mut block);
        Self { ciphertext: encrypt(&block), secret: block[SECRET..].to_vec(), finished: Client::finished }
    }

    /// A good one whose ciphertext is another.
    fn recut(cut: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut flight = Self::spoilt(|_| {});
        cut(&mut flight.ciphertext);
        flight
    }

    /// A good one up to its Finished.
    fn ending(finished: fn(&mut Client) -> Vec<u8>) -> Self {
        Self { finished, ..Self::spoilt(|_| {}) }
    }

    /// A block whose pre-master secret ends the block and has another length, and the client takes it as it is.
    fn of_length(length: usize) -> Self {
        let mut block = good_block();
        block[207] = 9;
        block[255 - length] = 0;
        if let Some(version) = block.get_mut(256 - length..258 - length) {
            version.copy_from_slice(&[3, 3]);
        }
        let secret = block[256 - length..].to_vec();
        Self { ciphertext: encrypt(&block), secret, finished: Client::finished }
    }
}

fn finished_with(client: &mut Client, verify_data: &[u8]) -> Vec<u8> {
    client.record(ContentType::HANDSHAKE, &message(HandshakeType::FINISHED, verify_data))
}

fn malformed() -> Vec<(&'static str, Flight)> {
    let minus_one = |number: &[u8]| [&number[..255], &[number[255] & !1]].concat();
    let block = |spoil: fn(&mut [u8; 256])| Flight::spoilt(spoil);
    let number = |number: Vec<u8>| Flight::recut(|ciphertext| *ciphertext = number);
    vec![
        ("first byte 01", block(|block| block[0] = 1)),
        ("first byte 17", block(|block| block[0] = 0x17)),
        ("block type 00", block(|block| block[1] = 0)),
        ("block type 01", block(|block| block[1] = 1)),
        ("block type ff", block(|block| block[1] = 0xff)),
        ("no 00", block(|block| block[2..].iter_mut().for_each(|byte| *byte = (*byte).max(1)))),
        ("no 00 in front of the secret", block(|block| block[207] = 9)),
        ("00 at the first byte of the padding", block(|block| block[2] = 0)),
        ("00 within the first eight bytes", block(|block| block[9] = 0)),
        ("00 in the middle of the padding", block(|block| block[100] = 0)),
        ("nothing but 00", block(|block| block[2..].fill(0))),
        ("SSL 3", block(|block| block[209] = 0)),
        ("TLS 1.1", block(|block| block[209] = 2)),
        ("TLS 1.3", block(|block| block[209] = 4)),
        ("version 02 03", block(|block| block[208] = 2)),
        ("version 00 00", block(|block| block[208..210].fill(0))),
        ("a secret of no bytes", Flight::of_length(0)),
        ("a secret of 2 bytes", Flight::of_length(2)),
        ("a secret of 47 bytes", Flight::of_length(47)),
        ("a secret of 49 bytes", Flight::of_length(49)),
        ("a secret of 200 bytes", Flight::of_length(200)),
        ("no ciphertext", Flight::recut(Vec::clear)),
        ("a ciphertext of one byte", Flight::recut(|ciphertext| ciphertext.truncate(1))),
        ("a ciphertext cut at its end", Flight::recut(|ciphertext| ciphertext.truncate(255))),
        ("a ciphertext cut at its front", Flight::recut(|ciphertext| *ciphertext = ciphertext.split_off(1))),
        ("a ciphertext with 00 in front", Flight::recut(|ciphertext| ciphertext.insert(0, 0))),
        ("a ciphertext with 00 behind", Flight::recut(|ciphertext| ciphertext.push(0))),
        ("a ciphertext of 1,024 bytes", Flight::recut(|ciphertext| ciphertext.resize(1024, 7))),
        ("ciphertext 0", number(vec![0; 256])),
        ("ciphertext 1", number([&[0; 255][..], &[1]].concat())),
        ("the modulus - 1", number(minus_one(&modulus()))),
        ("the modulus", number(modulus())),
        ("above the modulus", number(vec![0xff; 256])),
        ("another ciphertext", Flight::recut(|ciphertext| ciphertext[200] ^= 1)),
        ("another secret", Flight { secret: vec![3; 48], ..block(|_| {}) }),
        ("a wrong verify_data", Flight::ending(|client| finished_with(client, &[0; 12]))),
        ("a longer verify_data", Flight::ending(|client| finished_with(client, &[0; 13]))),
        ("a shorter verify_data", Flight::ending(|client| finished_with(client, &[0; 11]))),
        ("another message", Flight::ending(|client| client.record(ContentType::HANDSHAKE, &[1; 16]))),
        (
            "a Finished with a wrong tag",
            Flight::ending(|client| {
                let mut finished = client.finished();
                *finished.last_mut().unwrap() ^= 1;
                finished
            }),
        ),
        (
            "a second record of the client's",
            Flight::ending(|client| {
                client.record(ContentType::HANDSHAKE, b"the first");
                client.finished()
            }),
        ),
    ]
}

/// What the server says to each part of a client's flight.
fn answers(suite: CipherSuite, extended: bool, flight: &Flight) -> [(Result<(), Error>, Vec<u8>); 3] {
    let (mut client, mut server) = (client(suite, extended), server(FAST, host()));
    greet(&mut client, &mut server);
    let key_exchange = client.rsa_key_exchange(&flight.ciphertext, &flight.secret);
    let change_cipher_spec = client.change_cipher_spec();
    [key_exchange, change_cipher_spec, (flight.finished)(&mut client)]
        .map(|part| (server.feed(&part), server.take_output()))
}

#[test]
fn every_malformed_pre_master_secret_gets_the_same_bytes_at_the_same_point() {
    let alert = Alert::fatal(AlertDescription::BAD_RECORD_MAC).encode();
    let alert = [&[ContentType::ALERT.0, 3, 3, 0, 2][..], &alert].concat();
    let expected = [(Ok(()), vec![]), (Ok(()), vec![]), (Err(REFUSED), alert)];
    for (suite, extended) in SUITES.iter().flat_map(|suite| [(*suite, false), (*suite, true)]) {
        let good = answers(suite, extended, &Flight::spoilt(|_| {}));
        assert!(good.iter().all(|(result, _)| result.is_ok()), "what the variants are made of is right: {good:?}");
        for (name, flight) in malformed() {
            assert_eq!(answers(suite, extended, &flight), expected, "{name}, {suite}, extended {extended}");
        }
    }
}

#[test]
fn every_malformed_pre_master_secret_gets_the_same_bytes_in_one_piece() {
    let mut seen = Vec::new();
    for (_, flight) in malformed() {
        let (mut client, mut server) = (client(SUITES[0], true), server(FAST, host()));
        greet(&mut client, &mut server);
        let key_exchange = client.rsa_key_exchange(&flight.ciphertext, &flight.secret);
        let flight = [key_exchange, client.change_cipher_spec(), (flight.finished)(&mut client)].concat();
        seen.push((server.feed(&flight), server.take_output()));
    }
    seen.dedup();
    assert_eq!(seen.len(), 1, "{seen:?}");
}

#[test]
fn what_everybody_can_see_is_refused_at_once() {
    for (name, body, error) in [
        ("nothing", vec![], InvalidMessage::Truncated),
        ("a length beyond the end", vec![0, 9, 1, 1], InvalidMessage::Truncated),
        ("bytes behind the ciphertext", [&[1, 0][..], &[7; 257]].concat(), InvalidMessage::TrailingBytes),
        ("longer than any modulus", [&[4, 1][..], &[7; 1025]].concat(), InvalidMessage::MessageTooLarge),
    ] {
        let (mut client, mut server) = (client(SUITES[0], true), server(FAST, host()));
        greet(&mut client, &mut server);
        let message = message(HandshakeType::CLIENT_KEY_EXCHANGE, &body);
        let record = client.record(ContentType::HANDSHAKE, &message);
        refused(&mut client, &mut server, &record, error, AlertDescription::DECODE_ERROR, name);
    }
}

#[test]
fn keys_do_not_change_before_they_are_agreed_on() {
    let (mut client, mut server) = (client(SUITES[0], true), server(FAST, host()));
    greet(&mut client, &mut server);
    let early = client.record(ContentType::CHANGE_CIPHER_SPEC, &[1]);
    let (error, alert) = (PeerMisbehaved::EarlyChangeCipherSpec, AlertDescription::UNEXPECTED_MESSAGE);
    refused(&mut client, &mut server, &early, error, alert, "CVE-2014-0224");
}

/// A client and a server that waits for the client's sealed Finished; the client protects what it sends.
fn awaiting_the_sealed_finished() -> (Client, Server) {
    let (mut client, mut server) = (client(SUITES[0], true), server(FAST, host()));
    greet(&mut client, &mut server);
    let key_exchange = good_key_exchange(&mut client);
    server.feed(&[key_exchange, client.change_cipher_spec()].concat()).unwrap();
    assert!(server.take_output().is_empty());
    (client, server)
}

#[test]
fn nothing_but_a_record_of_the_handshake_comes_where_the_sealed_finished_does() {
    let plain = |content_type, payload: &[u8]| keystead_tests::client::plain_record(content_type, payload);
    let sealed = |content_type, payload: &'static [u8]| move |client: &mut Client| client.record(content_type, payload);
    let unexpected = AlertDescription::UNEXPECTED_MESSAGE;
    let early = Error::from(PeerMisbehaved::EarlyChangeCipherSpec);
    let data = Error::from(PeerMisbehaved::UnexpectedContentType);
    // What is in a sealed alert nobody here can read: the client has left, whatever it says.
    let left = Error::from(PeerClosed::ClosedInHandshake);
    type Make<'m> = &'m dyn Fn(&mut Client) -> Vec<u8>;
    let cases: [(&str, Make<'_>, Error, Alert); 8] = [
        (
            "a second ChangeCipherSpec",
            &|_| plain(ContentType::CHANGE_CIPHER_SPEC, &[1]),
            early,
            Alert::fatal(unexpected),
        ),
        ("a sealed one", &sealed(ContentType::CHANGE_CIPHER_SPEC, &[1]), early, Alert::fatal(unexpected)),
        ("application data", &|_| plain(ContentType::APPLICATION_DATA, b"data"), data, Alert::fatal(unexpected)),
        ("sealed data", &sealed(ContentType::APPLICATION_DATA, b"data"), data, Alert::fatal(unexpected)),
        ("a plain warning", &|_| plain(ContentType::ALERT, &[1, 90]), left, CLOSE),
        ("a plain fatal alert", &|_| plain(ContentType::ALERT, &[2, 48]), left, CLOSE),
        ("a sealed close_notify", &sealed(ContentType::ALERT, &[1, 0]), left, CLOSE),
        ("a sealed fatal alert", &sealed(ContentType::ALERT, &[2, 48]), left, CLOSE),
    ];
    for (name, make, error, alert) in cases {
        let (mut client, mut server) = awaiting_the_sealed_finished();
        let record = make(&mut client);
        // The right Finished behind it comes too late.
        let finished = client.finished();
        assert_eq!(server.feed(&[record, finished].concat()), Err(error), "{name}");
        assert_eq!(server.take_output(), plain(ContentType::ALERT, &alert.encode()), "{name}");
        assert!(!server.is_established(), "{name}");
    }
}

const CLOSE: Alert = Alert::warning(AlertDescription::CLOSE_NOTIFY);

#[test]
fn a_second_key_change_behind_the_finished_ends_the_connection() {
    let (mut client, mut server) = awaiting_the_sealed_finished();
    server.feed(&client.finished()).unwrap();
    assert_eq!(client.read_finished(&server.take_output()), []);
    let again = client.record(ContentType::CHANGE_CIPHER_SPEC, &[1]);
    let (error, alert) = (PeerMisbehaved::EarlyChangeCipherSpec, AlertDescription::UNEXPECTED_MESSAGE);
    refused(&mut client, &mut server, &again, error, alert, "established");
}

#[test]
fn a_recorded_handshake_says_nothing_to_another_connection() {
    let (mut client, mut recorded) = (client(SUITES[0], false), server(FAST, host()));
    greet(&mut client, &mut recorded);
    let key_exchange = good_key_exchange(&mut client);
    let flight = [key_exchange, client.change_cipher_spec(), client.finished()].concat();
    recorded.feed(&flight).unwrap();

    // The same client again, word for word.
    let hello = keystead_tests::key_transport::client(SUITES[0], false).hello();
    let mut server = server(FAST, host());
    server.feed(&hello).unwrap();
    server.take_output();
    assert_eq!(server.feed(&flight), Err(REFUSED));
}
