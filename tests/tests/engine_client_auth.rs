//! Clients with a certificate: whom the engine lets in, that each refusal has its alert, and that nobody comes in with a
//! certificate whose key it has not shown to have.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::sync::Arc;

use keystead_tests::client::{Client, full_offer, message};
use keystead_tests::conversation::refused;
use keystead_tests::server::{Server, host};
use keystead_tests::signer::{ED25519, P256, P384, RSA, SERVER_NAME, Signer, signers};
use keystead_tls::crypto::{FAST, PORTABLE};
use keystead_tls::{
    AlertDescription, ClientAuth, ClientCertificateRefusal, ContentType, Error, HandshakeType, HostParameters,
    InvalidMessage, PeerMisbehaved, SignatureScheme,
};
use rcgen::{CertificateParams, KeyPair};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// An empty distinguished name.
const AUTHORITY: &[u8] = &[0x30, 0];

fn required() -> HostParameters {
    HostParameters { client_auth: ClientAuth::Required { authorities: vec![AUTHORITY.to_vec()] }, ..host() }
}

fn optional() -> HostParameters {
    HostParameters { client_auth: ClientAuth::Optional { authorities: vec![AUTHORITY.to_vec()] }, ..host() }
}

fn server(host: HostParameters) -> Server {
    Server::new(FAST, host, 1)
}

/// Brings the two to where the server waits for the client's Certificate.
fn greet(client: &mut Client, server: &mut Server) {
    server.feed(&client.hello()).unwrap();
    let flight = client.read_flight(&server.take_output());
    let request = flight.certificate_request.unwrap();
    assert_eq!((request.schemes, request.authorities), (SignatureScheme::KNOWN.to_vec(), vec![AUTHORITY.to_vec()]));
}

/// A client and a server of this host that waits for the client's Certificate.
fn greeted(host: HostParameters) -> (Client, Server) {
    let (mut client, mut server) = (Client::default(), server(host));
    greet(&mut client, &mut server);
    (client, server)
}

fn scheme(signer: &Signer) -> SignatureScheme {
    signer.identity.schemes()[0]
}

/// Everything from Certificate to Finished.
fn flight(client: &mut Client, signer: &Signer, scheme: SignatureScheme) -> Vec<u8> {
    [
        client.certificate(signer.identity.chain()),
        client.key_exchange(),
        client.certificate_verify(signer, scheme),
        client.change_cipher_spec(),
        client.finished(),
    ]
    .concat()
}

fn is_refused(
    client: &mut Client,
    server: &mut Server,
    bytes: &[u8],
    error: impl Into<Error>,
    alert: AlertDescription,
) {
    refused(client, server, bytes, error, alert, "");
}

// Who comes in.

#[test]
fn every_kind_of_key_and_every_scheme_comes_in() {
    for provider in [FAST, PORTABLE] {
        for (signer, extended) in signers().into_iter().flat_map(|signer| [(signer, false), (signer, true)]) {
            for scheme in signer.identity.schemes() {
                let mut client = Client::new(full_offer());
                client.offer.extensions.extended_master_secret = extended;
                let mut server = Server::new(provider, required(), 1);
                greet(&mut client, &mut server);
                server.feed(&flight(&mut client, signer, *scheme)).unwrap();
                assert_eq!(client.read_finished(&server.take_output()), []);
                let summary = server.summary();
                assert_eq!(summary.client_chain, signer.identity.chain(), "{scheme}");
                assert_eq!(summary.extended_master_secret, extended);
            }
        }
    }
}

#[test]
fn rustls_comes_in_with_its_certificate() {
    for signer in signers() {
        let mut roots = RootCertStore::empty();
        signers().iter().for_each(|server| roots.add(server.identity.chain()[0].clone().into()).unwrap());
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(signer.pkcs8.clone()));
        let chain = vec![signer.identity.chain()[0].clone().into()];
        let config = ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS12])
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .unwrap();
        let mut client = ClientConnection::new(Arc::new(config), SERVER_NAME.try_into().unwrap()).unwrap();
        let mut server = server(required());
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
            server.feed(&std::mem::take(&mut bytes)).unwrap();
            client.read_tls(&mut server.take_output().as_slice()).unwrap();
            client.process_new_packets().unwrap();
        }
        assert_eq!(server.summary().client_chain, signer.identity.chain());
        server.send(b"pong");
        client.read_tls(&mut server.take_output().as_slice()).unwrap();
        client.process_new_packets().unwrap();
        let mut data = [0; 4];
        client.reader().read_exact(&mut data).unwrap();
        assert_eq!(&data, b"pong");
        client.writer().write_all(b"ping").unwrap();
        client.write_tls(&mut bytes).unwrap();
        server.feed(&bytes).unwrap();
        assert_eq!(server.take_received(), b"ping");
    }
}

#[test]
fn an_optional_certificate_may_be_left_out_and_a_required_one_may_not() {
    let (mut client, mut server) = greeted(optional());
    server.feed(&[client.certificate(&[]), client.second_flight()].concat()).unwrap();
    assert_eq!(client.read_finished(&server.take_output()), []);
    assert!(server.summary().client_chain.is_empty());

    let (mut client, mut server) = greeted(required());
    let none = client.certificate(&[]);
    let cause = ClientCertificateRefusal::Missing;
    is_refused(&mut client, &mut server, &none, cause, AlertDescription::HANDSHAKE_FAILURE);
    assert_eq!(server.error().unwrap().reason(), "certificate_missing");
}

#[test]
fn a_chain_is_shown_to_whoever_decides_in_whole_and_in_order() {
    let chain = [P256.identity.chain(), RSA.identity.chain(), P384.identity.chain()].concat();
    let expected = chain.clone();
    let server = server(required()).verifying(move |chain| if chain == expected { Ok(()) } else { Err(BAD) });
    const BAD: ClientCertificateRefusal = ClientCertificateRefusal::Bad;
    let (mut client, mut server) = (Client::default(), server);
    greet(&mut client, &mut server);
    server.feed(&client.certificate(&chain)).unwrap();
}

#[test]
fn a_connection_may_forget_the_chain() {
    let (mut client, mut server) = greeted(required());
    server.feed(&flight(&mut client, &ED25519, scheme(&ED25519))).unwrap();
    server.connection().forget_client_chain();
    assert!(server.summary().client_chain.is_empty());
    assert_eq!(client.read_finished(&server.take_output()), []);
    server.feed(&client.data(b"ping")).unwrap();
    assert_eq!(server.take_received(), b"ping");
}

#[test]
fn a_flight_may_come_in_any_pieces() {
    for size in [1, 2, 5, 100, 1000] {
        let (mut client, mut server) = greeted(required());
        // All messages in one, cut without regard to where each ends.
        let chain = RSA.identity.chain();
        let messages = [
            client.certificate_message(chain),
            client.key_exchange_message(),
            client.certificate_verify_message(&RSA, scheme(&RSA)),
        ];
        let bytes = [
            client.records_of(size, ContentType::HANDSHAKE, &messages.concat()),
            client.change_cipher_spec(),
            client.finished(),
        ];
        for piece in bytes.concat().chunks(size) {
            server.feed(piece).unwrap();
        }
        assert_eq!(client.read_finished(&server.take_output()), []);
        assert_eq!(server.summary().client_chain, chain);
    }
}

#[test]
fn a_chain_below_64_kib_is_taken_and_a_longer_one_is_refused() {
    let leaf = ED25519.identity.chain()[0].clone();
    let filled = |length: usize| vec![leaf.clone(), vec![0x30; length - leaf.len() - 9]];
    let (mut client, mut server) = greeted(required());
    let whole = client.certificate(&filled(65_535));
    server.feed(&whole).unwrap();
    let rest = [
        client.key_exchange(),
        client.certificate_verify(&ED25519, SignatureScheme::ED25519),
        client.change_cipher_spec(),
        client.finished(),
    ];
    server.feed(&rest.concat()).unwrap();
    assert_eq!(server.summary().client_chain, filled(65_535));

    for length in [65_536, 100_000, 1 << 20] {
        let (mut client, mut server) = greeted(required());
        let long = client.certificate(&filled(length));
        let error = InvalidMessage::MessageTooLarge;
        // The first record is enough, for the message's length stands at its begin.
        let first = &long[..keystead_tls::record::HEADER_LENGTH + keystead_tls::record::MAX_PLAINTEXT];
        is_refused(&mut client, &mut server, first, error, AlertDescription::DECODE_ERROR);
    }
}

#[test]
fn a_host_that_does_not_ask_takes_no_certificate() {
    let (mut client, mut server) = (Client::default(), server(host()));
    server.feed(&client.hello()).unwrap();
    assert!(client.read_flight(&server.take_output()).certificate_request.is_none());
    for chain in [&[][..], ED25519.identity.chain()] {
        let (mut client, mut server) =
            keystead_tests::conversation::at(keystead_tests::conversation::State::ClientKeyExchange);
        let unasked = client.certificate(chain);
        let error = PeerMisbehaved::UnexpectedHandshakeMessage;
        is_refused(&mut client, &mut server, &unasked, error, AlertDescription::UNEXPECTED_MESSAGE);
    }
}

// Who does not.

#[test]
fn each_refusal_has_its_alert_and_its_word() {
    use ClientCertificateRefusal as Refusal;
    for (cause, alert, reason) in [
        (Refusal::Bad, AlertDescription::BAD_CERTIFICATE, "certificate_bad"),
        (Refusal::Unsupported, AlertDescription::UNSUPPORTED_CERTIFICATE, "certificate_unsupported"),
        (Refusal::Revoked, AlertDescription::CERTIFICATE_REVOKED, "certificate_revoked"),
        (Refusal::Expired, AlertDescription::CERTIFICATE_EXPIRED, "certificate_expired"),
        (Refusal::UnknownCa, AlertDescription::UNKNOWN_CA, "certificate_unknown_ca"),
        (Refusal::AccessDenied, AlertDescription::ACCESS_DENIED, "certificate_access_denied"),
    ] {
        for host in [required(), optional()] {
            let (mut client, mut server) = (Client::default(), server(host).verifying(move |_| Err(cause)));
            greet(&mut client, &mut server);
            let certificate = client.certificate(ED25519.identity.chain());
            is_refused(&mut client, &mut server, &certificate, cause, alert);
            assert_eq!(server.error().unwrap().reason(), reason);
        }
    }
}

#[test]
fn certificates_that_cannot_be_read_or_used_are_refused() {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
    let p521 = CertificateParams::new([SERVER_NAME.to_owned()]).unwrap().self_signed(&key).unwrap().der().to_vec();
    let mut cut = ED25519.identity.chain()[0].clone();
    cut.truncate(100);
    use ClientCertificateRefusal::{Bad, Unsupported};
    for (chain, cause, alert) in [
        (vec![p521], Unsupported, AlertDescription::UNSUPPORTED_CERTIFICATE),
        (vec![b"no certificate".to_vec()], Bad, AlertDescription::BAD_CERTIFICATE),
        (vec![cut], Bad, AlertDescription::BAD_CERTIFICATE),
    ] {
        for host in [required(), optional()] {
            let (mut client, mut server) = greeted(host);
            let certificate = client.certificate(&chain);
            is_refused(&mut client, &mut server, &certificate, cause, alert);
        }
    }
}

#[test]
fn a_malformed_certificate_message_is_a_decode_error() {
    for (body, error) in [
        (&[][..], InvalidMessage::Truncated),
        (&[0, 0, 4, 0, 0, 1], InvalidMessage::Truncated),
        (&[0, 0, 4, 0, 0, 2, 1], InvalidMessage::Truncated),
        (&[0, 0, 0, 0], InvalidMessage::TrailingBytes),
    ] {
        let (mut client, mut server) = greeted(optional());
        let record = client.record(ContentType::HANDSHAKE, &message(HandshakeType::CERTIFICATE, body));
        is_refused(&mut client, &mut server, &record, error, AlertDescription::DECODE_ERROR);
    }
}

// The proof of the key.

/// A client and a server that waits for CertificateVerify.
fn proving(signer: &Signer) -> (Client, Server) {
    let (mut client, mut server) = greeted(required());
    server.feed(&[client.certificate(signer.identity.chain()), client.key_exchange()].concat()).unwrap();
    (client, server)
}

#[test]
fn a_certificate_of_somebody_elses_does_not_come_in() {
    const WRONG: PeerMisbehaved = PeerMisbehaved::WrongCertificateVerify;
    for signer in signers() {
        // A signature by another key of the same kind.
        let (mut client, mut server) = proving(signer);
        let mut verify = client.certificate_verify(signer, scheme(signer));
        *verify.last_mut().unwrap() ^= 1;
        is_refused(&mut client, &mut server, &verify, WRONG, AlertDescription::DECRYPT_ERROR);

        // A right signature of other messages: those without ClientKeyExchange.
        let (mut client, mut server) = greeted(required());
        let certificate = client.certificate(signer.identity.chain());
        let early = client.certificate_verify(signer, scheme(signer));
        server.feed(&[certificate, client.key_exchange()].concat()).unwrap();
        is_refused(&mut client, &mut server, &early, WRONG, AlertDescription::DECRYPT_ERROR);
    }
    // A scheme of another kind of key, and another key's signature.
    let (mut client, mut server) = proving(&P256);
    let verify = client.certificate_verify(&ED25519, SignatureScheme::ED25519);
    is_refused(&mut client, &mut server, &verify, WRONG, AlertDescription::DECRYPT_ERROR);
}

#[test]
fn a_proof_for_one_connection_is_none_for_another() {
    let record = |server_seed| {
        // Ed25519 signs the same twice, so that a seed stands for a server's whole flight.
        let host = HostParameters { identities: vec![ED25519.identity.clone()], ..required() };
        let (mut client, mut server) = (Client::default(), Server::new(FAST, host, server_seed));
        greet(&mut client, &mut server);
        server.feed(&[client.certificate(ED25519.identity.chain()), client.key_exchange()].concat()).unwrap();
        (client, server)
    };
    let stolen = record(1).0.certificate_verify(&ED25519, SignatureScheme::ED25519);
    let (mut client, mut server) = record(2);
    let error = PeerMisbehaved::WrongCertificateVerify;
    is_refused(&mut client, &mut server, &stolen, error, AlertDescription::DECRYPT_ERROR);
    let (_, mut server) = record(1);
    assert_eq!(server.feed(&stolen), Ok(()), "where it was made for it counts");
}

#[test]
fn only_schemes_that_were_asked_for_prove_a_key() {
    const RSA_PKCS1_SHA1: SignatureScheme = SignatureScheme(0x0201);
    for (name, host, claimed) in [
        ("SHA-1", required(), RSA_PKCS1_SHA1),
        (
            "a scheme that this host has not",
            HostParameters { schemes: vec![SignatureScheme::RSA_PSS_RSAE_SHA256], ..required() },
            SignatureScheme::RSA_PKCS1_SHA256,
        ),
    ] {
        let (mut client, mut server) = (Client::default(), server(host));
        server.feed(&client.hello()).unwrap();
        client.read_flight(&server.take_output());
        server.feed(&[client.certificate(RSA.identity.chain()), client.key_exchange()].concat()).unwrap();
        let mut verify = client.certificate_verify(&RSA, SignatureScheme::RSA_PKCS1_SHA256);
        verify[9..11].copy_from_slice(&claimed.0.to_be_bytes());
        let error = PeerMisbehaved::SchemeNotOffered;
        refused(&mut client, &mut server, &verify, error, AlertDescription::ILLEGAL_PARAMETER, name);
    }
}

// The order of messages.

/// What the server waits for.
#[derive(Clone, Copy, Debug)]
enum Awaits {
    Certificate,
    /// The client has sent no certificate.
    KeyExchange,
    /// The client has sent a certificate.
    KeyExchangeAndProof,
    Proof,
    /// With the proof.
    ChangeCipherSpec,
    /// Without a certificate.
    ChangeCipherSpecAlone,
}

const AWAITS: [Awaits; 6] = [
    Awaits::Certificate,
    Awaits::KeyExchange,
    Awaits::KeyExchangeAndProof,
    Awaits::Proof,
    Awaits::ChangeCipherSpec,
    Awaits::ChangeCipherSpecAlone,
];

fn awaiting(awaits: Awaits) -> (Client, Server) {
    let (mut client, mut server) = greeted(optional());
    let chain = ED25519.identity.chain();
    let bytes = match awaits {
        Awaits::Certificate => vec![],
        Awaits::KeyExchange => client.certificate(&[]),
        Awaits::KeyExchangeAndProof => client.certificate(chain),
        Awaits::Proof => [client.certificate(chain), client.key_exchange()].concat(),
        Awaits::ChangeCipherSpec => [
            client.certificate(chain),
            client.key_exchange(),
            client.certificate_verify(&ED25519, SignatureScheme::ED25519),
        ]
        .concat(),
        Awaits::ChangeCipherSpecAlone => [client.certificate(&[]), client.key_exchange()].concat(),
    };
    server.feed(&bytes).unwrap();
    (client, server)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Next,
    /// unexpected_message, for a handshake message out of order.
    Order,
    /// unexpected_message, for a key change that comes early.
    Early,
    /// unexpected_message, for another type of record.
    Type,
}

use Outcome::{Early, Next, Order, Type};

type Send = fn(&mut Client) -> Vec<u8>;

#[rustfmt::skip]
const TABLE: [(&str, Send, [Outcome; 6]); 9] = [
    // What is sent             awaiting:       certificate  key exch.  key exch. + proof  proof  ccs    ccs alone
    ("client_hello", |client| client.hello(),                               [Order, Order, Order, Order, Order, Order]),
    ("certificate", |client| client.certificate(ED25519.identity.chain()),  [Next,  Order, Order, Order, Order, Order]),
    ("an empty certificate", |client| client.certificate(&[]),              [Next,  Order, Order, Order, Order, Order]),
    ("client_key_exchange", |client| client.key_exchange(),                 [Order, Next,  Next,  Order, Order, Order]),
    ("certificate_verify", verify,                                          [Order, Order, Order, Next,  Order, Order]),
    ("finished", |client| finished(client),                                 [Order, Order, Order, Order, Order, Order]),
    ("hello_request", |client| handshake(client, 0),                        [Order, Order, Order, Order, Order, Order]),
    ("change_cipher_spec", |client| client.record(ContentType::CHANGE_CIPHER_SPEC, &[1]),
                                                                            [Early, Early, Early, Early, Next,  Next]),
    ("application data", |client| client.record(ContentType::APPLICATION_DATA, b"data"),
                                                                            [Type,  Type,  Type,  Type,  Type,  Type]),
];

fn verify(client: &mut Client) -> Vec<u8> {
    client.certificate_verify(&ED25519, SignatureScheme::ED25519)
}

fn finished(client: &mut Client) -> Vec<u8> {
    client.record(ContentType::HANDSHAKE, &message(HandshakeType::FINISHED, &[0; 12]))
}

fn handshake(client: &mut Client, kind: u8) -> Vec<u8> {
    client.record(ContentType::HANDSHAKE, &message(HandshakeType(kind), &[]))
}

#[test]
fn every_message_in_every_state_has_its_one_outcome() {
    for (name, send, outcomes) in TABLE {
        for (awaits, outcome) in AWAITS.into_iter().zip(outcomes) {
            let context = format!("{name} while {awaits:?} is awaited");
            let (mut client, mut server) = awaiting(awaits);
            let bytes = send(&mut client);
            let error = match outcome {
                Next => {
                    assert_eq!((server.feed(&bytes), server.take_output()), (Ok(()), vec![]), "{context}");
                    continue;
                }
                Order => PeerMisbehaved::UnexpectedHandshakeMessage,
                Early => PeerMisbehaved::EarlyChangeCipherSpec,
                Type => PeerMisbehaved::UnexpectedContentType,
            };
            refused(&mut client, &mut server, &bytes, error, AlertDescription::UNEXPECTED_MESSAGE, &context);
        }
    }
}
