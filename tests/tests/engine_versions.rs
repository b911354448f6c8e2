//! Clients of other versions, of other protocols, and of versions and values yet to come.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use keystead_tests::client::{Client, extension};
use keystead_tests::conversation::{State, complete_from};
use keystead_tests::server::{Server, host};
use keystead_tests::signer;
use keystead_tls::crypto::FAST;
use keystead_tls::handshake::SignatureRequest;
use keystead_tls::{
    CipherSuite, Error, InvalidMessage, NamedGroup, PeerIncompatible, ProtocolVersion, SignatureScheme,
};
use rand::SeedableRng;
use rand::rngs::StdRng;

#[test]
fn clients_of_other_versions_are_told_so_in_their_own() {
    const TLS_1_0: ProtocolVersion = ProtocolVersion::TLS_1_0;
    const TLS_1_1: ProtocolVersion = ProtocolVersion::TLS_1_1;
    for (version, fallback, cause, alert) in [
        (ProtocolVersion::SSL_3_0, false, PeerIncompatible::VersionTooOld, 70),
        (TLS_1_0, false, PeerIncompatible::VersionTooOld, 70),
        (TLS_1_1, false, PeerIncompatible::VersionTooOld, 70),
        (TLS_1_0, true, PeerIncompatible::InappropriateFallback, 86),
        (TLS_1_1, true, PeerIncompatible::InappropriateFallback, 86),
    ] {
        let (mut client, mut server) = (Client::default(), Server::default());
        client.offer.version = version;
        if fallback {
            client.offer.cipher_suites.push(CipherSuite::FALLBACK_SCSV);
        }
        assert_eq!(server.feed(&client.hello()), Err(cause.into()), "{version}");
        let [high, low] = version.0.to_be_bytes();
        assert_eq!(server.take_output(), [21, high, low, 0, 2, 2, alert], "{version}");
    }
    for (versions, cause) in [
        (vec![ProtocolVersion::TLS_1_3], PeerIncompatible::VersionTooNew),
        (vec![ProtocolVersion(0x7a7a), ProtocolVersion::TLS_1_3], PeerIncompatible::VersionTooNew),
        (vec![TLS_1_1, TLS_1_0], PeerIncompatible::VersionTooOld),
    ] {
        let (mut client, mut server) = (Client::default(), Server::default());
        client.offer.extensions.supported_versions = Some(versions);
        assert_eq!(server.feed(&client.hello()), Err(cause.into()));
        assert_eq!(server.take_output(), [21, 3, 3, 0, 2, 2, 70]);
    }
}

#[test]
fn a_client_of_tls_1_3_and_1_2_gets_1_2_and_the_key_servers_random_as_it_is() {
    use ProtocolVersion as Version;
    for server_random in [[0x5a; 32], *b"twenty-four bytes come..DOWNGRD\x01"] {
        let mut client = Client::default();
        client.offer.extensions.supported_versions = Some(vec![Version::TLS_1_3, Version::TLS_1_2, Version::TLS_1_1]);
        client.offer.cipher_suites.insert(0, CipherSuite(0x1301));
        client.offer.cipher_suites.push(CipherSuite::FALLBACK_SCSV);
        let key_server = move |request: SignatureRequest<'_>| signer::sign(request, server_random);
        let rng = Box::new(StdRng::seed_from_u64(1));
        let mut server = Server::with(FAST, host(), rng, Box::new(key_server));
        server.feed(&client.hello()).unwrap();
        let flight = client.read_flight(&server.take_output());
        assert_eq!(flight.hello.random, server_random);
        complete_from(State::ClientKeyExchange, &mut client, &mut server);
        assert_eq!(server.summary().version, Version::TLS_1_2);
    }
}

#[test]
fn a_version_from_the_future_gets_1_2() {
    let (mut client, mut server) = (Client::default(), Server::default());
    client.offer.version = ProtocolVersion(0x0399);
    complete_from(State::ClientHello, &mut client, &mut server);
}

#[test]
fn what_is_not_tls_is_named() {
    let sslv2 = [0x80, 0x2e, 1, 3, 1, 0, 0x15, 0, 0, 0, 0x10, 1, 0, 0x80, 0, 0, 5];
    let cases: [(&[u8], Error, u8); 9] = [
        (&sslv2, PeerIncompatible::Sslv2Hello.into(), 70),
        (b"GET / HTTP/1.1\r\n\r\n", PeerIncompatible::PlainHttp.into(), 10),
        (b"POST /a HTTP/1.1\r\n", PeerIncompatible::PlainHttp.into(), 10),
        (b"CONNECT a:443 HTTP/1.1\r\n", PeerIncompatible::PlainHttp.into(), 10),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", PeerIncompatible::PlainHttp.into(), 10),
        (b"SSH-2.0-OpenSSH_9.2\r\n", PeerIncompatible::NotTls.into(), 10),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", PeerIncompatible::NotTls.into(), 10),
        (&[0; 5], PeerIncompatible::NotTls.into(), 10),
        (&[22, 4, 0, 0, 1, 1], InvalidMessage::WrongRecordVersion.into(), 70),
    ];
    for (bytes, error, alert) in cases {
        let mut server = Server::default();
        // What comes in several pieces is named as soon as it can be, and never taken for something else.
        let outcome = bytes.iter().find_map(|byte| server.feed(&[*byte]).err());
        assert_eq!(outcome, Some(error), "{bytes:?}");
        assert_eq!(server.take_output(), [21, 3, 3, 0, 2, 2, alert], "{bytes:?}");
    }
}

#[test]
fn grease_is_passed_over_everywhere() {
    let (mut client, mut server) = (Client::default(), Server::default());
    let offer = &mut client.offer;
    offer.cipher_suites.insert(0, CipherSuite(0x0a0a));
    let extensions = &mut offer.extensions;
    extensions.supported_groups.as_mut().unwrap().insert(0, NamedGroup(0x1a1a));
    extensions.signature_algorithms.as_mut().unwrap().insert(0, SignatureScheme(0x2a2a));
    extensions.supported_versions = Some(vec![ProtocolVersion(0x3a3a), ProtocolVersion::TLS_1_2]);
    extensions.alpn = Some([&b"\x4a\x4a"[..], b"h2"].into_iter().collect());
    client.more_extensions = [extension(0x5a5a, &[]), extension(0xeaea, &[0]), extension(0xfafa, &[7; 300])].concat();
    complete_from(State::ClientHello, &mut client, &mut server);
}
