//! Records as they may come and as they may not: split, interleaved, too long, altered, unprotected, too many.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use keystead_tests::client::{Client, plain_record};
use keystead_tests::conversation::{STATES, State, at, complete_from, refused, refused_at, right_message};
use keystead_tests::server::{Server, host};
use keystead_tls::record::{HEADER_LENGTH, MAX_CIPHERTEXT, MAX_PLAINTEXT};
use keystead_tls::{Alert, AlertDescription, CipherSuite, ContentType, Error, InvalidMessage, PeerMisbehaved};

#[test]
fn record_versions_are_free_before_the_version_is_agreed_on_and_fixed_after() {
    for minor in [0, 1, 2, 3, 4, 9] {
        let (mut client, mut server) = (Client::default(), Server::default());
        let mut hello = client.hello();
        hello[2] = minor;
        server.feed(&hello).unwrap();
        client.read_flight(&server.take_output());
        complete_from(State::ClientKeyExchange, &mut client, &mut server);
    }
    for state in &STATES[1..] {
        let (mut client, mut server) = at(*state);
        let mut bytes = right_message(*state, &mut client);
        bytes[2] = 1;
        let cause = InvalidMessage::WrongRecordVersion;
        refused(&mut client, &mut server, &bytes, cause, AlertDescription::PROTOCOL_VERSION, "TLS 1.0's");
    }
}

#[test]
fn handshake_messages_may_be_split_over_any_number_of_records() {
    for size in [1, 2, 3, 4, 5, 11, 12, 100] {
        let (mut client, mut server) = (Client::default(), Server::default());
        let hello = client.hello_message();
        server.feed(&client.records_of(size, ContentType::HANDSHAKE, &hello)).unwrap();
        client.read_flight(&server.take_output());
        let key_exchange = client.key_exchange_message();
        server.feed(&client.records_of(size, ContentType::HANDSHAKE, &key_exchange)).unwrap();
        server.feed(&client.change_cipher_spec()).unwrap();
        let finished = client.finished_message();
        server.feed(&client.records_of(size, ContentType::HANDSHAKE, &finished)).unwrap();
        assert_eq!(client.read_finished(&server.take_output()), []);
        complete_from(State::Established, &mut client, &mut server);
    }
}

#[test]
fn other_records_inside_a_handshake_message_are_refused() {
    let alert = Alert::warning(AlertDescription::USER_CANCELED).encode();
    let others: [(ContentType, &[u8]); 4] = [
        (ContentType::ALERT, &alert),
        (ContentType::ALERT, &[1, 0]),
        (ContentType::CHANGE_CIPHER_SPEC, &[1]),
        (ContentType::APPLICATION_DATA, b"data"),
    ];
    for state in [State::ClientHello, State::ClientKeyExchange, State::Finished, State::Established] {
        for (content_type, payload) in others {
            let (mut client, mut server) = at(state);
            let message = match state {
                State::ClientKeyExchange => client.key_exchange_message(),
                State::Finished => client.finished_message(),
                State::ClientHello | State::ChangeCipherSpec | State::Established => client.hello_message(),
            };
            for half in [1, message.len() - 1] {
                let (mut client, mut server) = at(state);
                server.feed(&client.record(ContentType::HANDSHAKE, &message[..half])).unwrap();
                // Renegotiation is refused as soon as it is seen.
                client.read(&server.take_output());
                let bytes = client.record(content_type, payload);
                let context = format!("{content_type} in {state:?}");
                let (cause, alert) = (PeerMisbehaved::InterleavedHandshake, AlertDescription::UNEXPECTED_MESSAGE);
                refused(&mut client, &mut server, &bytes, cause, alert, &context);
            }
            // The whole message alone is right, so that it was the other record that was refused.
            server.feed(&client.record(ContentType::HANDSHAKE, &message)).unwrap();
        }
    }
}

#[test]
fn keys_do_not_change_inside_a_handshake_message() {
    for (behind, cause) in [
        (&[1][..], PeerMisbehaved::InterleavedHandshake),
        (&[20, 0, 0], PeerMisbehaved::InterleavedHandshake),
        (&[20, 0, 0, 12], PeerMisbehaved::UnexpectedHandshakeMessage),
        (&[20, 0, 0, 12, 0, 0], PeerMisbehaved::UnexpectedHandshakeMessage),
    ] {
        let (mut client, mut server) = at(State::ClientKeyExchange);
        let messages = [&client.key_exchange_message(), behind].concat();
        let bytes = [client.record(ContentType::HANDSHAKE, &messages), client.change_cipher_spec()].concat();
        refused(&mut client, &mut server, &bytes, cause, AlertDescription::UNEXPECTED_MESSAGE, "behind the message");
    }
}

#[test]
fn messages_behind_finished_in_its_record_are_taken_as_later_ones() {
    let (mut client, mut server) = at(State::Finished);
    let finished = client.finished_message();
    let renegotiation = Client::default().hello_message();
    server.feed(&client.record(ContentType::HANDSHAKE, &[finished, renegotiation].concat())).unwrap();
    let records = client.read(&server.take_output());
    assert_eq!(records[2].payload, Alert::warning(AlertDescription::NO_RENEGOTIATION).encode());
    complete_from(State::Established, &mut client, &mut server);

    let (mut client, mut server) = at(State::Finished);
    let finished = client.finished_message();
    let bytes = client.record(ContentType::HANDSHAKE, &[&finished[..], &finished].concat());
    assert_eq!(server.feed(&bytes), Err(PeerMisbehaved::UnexpectedHandshakeMessage.into()));
    let records = client.read(&server.take_output());
    assert_eq!(records[2].payload, Alert::fatal(AlertDescription::UNEXPECTED_MESSAGE).encode());
}

#[test]
fn records_over_their_limits_are_record_overflow() {
    let (overflow, alert) = (InvalidMessage::RecordOverflow, AlertDescription::RECORD_OVERFLOW);
    let header = |content_type: u8, length: usize| {
        let [high, low] = u16::try_from(length).unwrap().to_be_bytes();
        [content_type, 3, 3, high, low]
    };
    for state in [State::ClientHello, State::ClientKeyExchange, State::ChangeCipherSpec] {
        // The header is enough.
        refused_at(state, &header(22, MAX_PLAINTEXT + 1), overflow, alert, "plain");
        refused_at(state, &header(22, 0xffff), overflow, alert, "plain");
    }
    for state in [State::Finished, State::Established] {
        refused_at(state, &header(23, MAX_CIPHERTEXT + 1), overflow, alert, "protected");
        refused_at(state, &header(23, 0xffff), overflow, alert, "protected");
        let bytes = [&header(23, MAX_CIPHERTEXT)[..], &[0; MAX_CIPHERTEXT]].concat();
        let (cause, alert) = (PeerMisbehaved::BadRecordMac, AlertDescription::BAD_RECORD_MAC);
        refused_at(state, &bytes, cause, alert, "as long as a protected record may be");
    }
    for suite in host().suites {
        let (mut client, mut server) = connected_with(suite);
        server.feed(&client.record(ContentType::APPLICATION_DATA, &[7; MAX_PLAINTEXT])).unwrap();
        assert_eq!(server.take_received(), [7; MAX_PLAINTEXT]);
        let bytes = client.record(ContentType::APPLICATION_DATA, &[7; MAX_PLAINTEXT + 1]);
        refused(&mut client, &mut server, &bytes, overflow, alert, "decrypted");
    }
}

fn connected_with(suite: CipherSuite) -> (Client, Server) {
    let (mut client, mut server) = (Client::default(), Server::default());
    client.offer.cipher_suites = vec![suite];
    complete_from(State::ClientHello, &mut client, &mut server);
    (client, server)
}

const SUITE_OF_EACH_AEAD: [CipherSuite; 3] = [
    CipherSuite::ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    CipherSuite::ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    CipherSuite::ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
];

/// What a record of application data comes to that was altered on its way.
fn verdict(altered: &[u8]) -> (Error, AlertDescription) {
    if ContentType(altered[0]).name().is_none() {
        (InvalidMessage::UnknownContentType.into(), AlertDescription::UNEXPECTED_MESSAGE)
    } else if altered[1..3] != [3, 3] {
        (InvalidMessage::WrongRecordVersion.into(), AlertDescription::PROTOCOL_VERSION)
    } else if length_of(altered) > MAX_CIPHERTEXT {
        (InvalidMessage::RecordOverflow.into(), AlertDescription::RECORD_OVERFLOW)
    } else {
        (PeerMisbehaved::BadRecordMac.into(), AlertDescription::BAD_RECORD_MAC)
    }
}

fn length_of(record: &[u8]) -> usize {
    u16::from_be_bytes([record[3], record[4]]).into()
}

#[test]
fn a_record_with_any_bit_flipped_is_refused() {
    for suite in SUITE_OF_EACH_AEAD {
        for bit in 0..connected_with(suite).0.data(b"data").len() * 8 {
            let (mut client, mut server) = connected_with(suite);
            let mut bytes = client.data(b"data");
            bytes[bit / 8] ^= 0x80 >> (bit % 8);
            // A record that seems longer is waited for.
            bytes.resize(bytes.len().max(HEADER_LENGTH + length_of(&bytes)), 0);
            let (error, alert) = verdict(&bytes);
            refused(&mut client, &mut server, &bytes, error, alert, &format!("{suite}, bit {bit}"));
            assert_eq!(server.take_received(), b"");
        }
    }
}

#[test]
fn a_flipped_bit_in_the_finished_record_is_bad_record_mac() {
    let length = at(State::Finished).0.finished().len();
    for index in 5..length {
        let (mut client, mut server) = at(State::Finished);
        let mut bytes = client.finished();
        bytes[index] ^= 1;
        let (cause, alert) = (PeerMisbehaved::BadRecordMac, AlertDescription::BAD_RECORD_MAC);
        refused(&mut client, &mut server, &bytes, cause, alert, &format!("byte {index}"));
    }
}

#[test]
fn records_that_are_not_the_next_one_are_bad_record_mac() {
    for suite in SUITE_OF_EACH_AEAD {
        let (cause, alert) = (PeerMisbehaved::BadRecordMac, AlertDescription::BAD_RECORD_MAC);
        let (mut client, mut server) = connected_with(suite);
        let first = client.data(b"first");
        server.feed(&first).unwrap();
        refused(&mut client, &mut server, &first, cause, alert, "replayed");

        let (mut client, mut server) = connected_with(suite);
        let (_lost, second) = (client.data(b"first"), client.data(b"second"));
        refused(&mut client, &mut server, &second, cause, alert, "one is lost");

        for length in 0..32 {
            let (mut client, mut server) = connected_with(suite);
            let bytes = plain_record(ContentType::APPLICATION_DATA, &vec![0; length]);
            refused(&mut client, &mut server, &bytes, cause, alert, &format!("{length} bytes without protection"));
        }
    }
}

#[test]
fn records_without_protection_do_not_pass_behind_change_cipher_spec() {
    for state in [State::Finished, State::Established] {
        for (content_type, payload) in [
            (ContentType::CHANGE_CIPHER_SPEC, &[1][..]),
            (ContentType::ALERT, &[1, 0]),
            (ContentType::ALERT, &[2, 40]),
            (ContentType::HANDSHAKE, &[20, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            (ContentType::APPLICATION_DATA, b"data"),
        ] {
            let (cause, alert) = (PeerMisbehaved::BadRecordMac, AlertDescription::BAD_RECORD_MAC);
            refused_at(state, &plain_record(content_type, payload), cause, alert, content_type.name().unwrap());
        }
    }
}

#[test]
fn explicit_nonces_are_the_clients_to_choose() {
    // RFC 5288 §3. The tests' client uses the sequence number, OpenSSL a random start; golden conversations show that
    // one. Here: two records swapped in their nonces alone do not open.
    let (mut client, mut server) = connected_with(CipherSuite::ECDHE_ECDSA_WITH_AES_128_GCM_SHA256);
    let (mut first, second) = (client.data(b"a"), client.data(b"b"));
    first[5..13].copy_from_slice(&second[5..13]);
    let (cause, alert) = (PeerMisbehaved::BadRecordMac, AlertDescription::BAD_RECORD_MAC);
    refused(&mut client, &mut server, &first, cause, alert, "another nonce");
}

#[test]
fn empty_records_are_bounded_in_a_row() {
    let (mut client, mut server) = at(State::Established);
    for _ in 0..10 {
        for _ in 0..16 {
            server.feed(&client.record(ContentType::APPLICATION_DATA, &[])).unwrap();
        }
        server.feed(&client.data(b"data")).unwrap();
    }
    for _ in 0..16 {
        server.feed(&client.record(ContentType::APPLICATION_DATA, &[])).unwrap();
    }
    let bytes = client.record(ContentType::APPLICATION_DATA, &[]);
    let (cause, alert) = (PeerMisbehaved::TooManyEmptyFragments, AlertDescription::UNEXPECTED_MESSAGE);
    refused(&mut client, &mut server, &bytes, cause, alert, "the seventeenth");
}

#[test]
fn warnings_are_bounded_in_a_row() {
    let warning = Alert::warning(AlertDescription::USER_CANCELED);
    for state in STATES {
        let (mut client, mut server) = at(state);
        for _ in 0..4 {
            server.feed(&client.alert(warning)).unwrap();
        }
        let bytes = client.alert(warning);
        let (cause, alert) = (PeerMisbehaved::TooManyWarnings, AlertDescription::UNEXPECTED_MESSAGE);
        refused(&mut client, &mut server, &bytes, cause, alert, "the fifth");
    }
    let (mut client, mut server) = at(State::Established);
    for _ in 0..10 {
        for _ in 0..4 {
            server.feed(&client.alert(warning)).unwrap();
        }
        server.feed(&client.data(b"data")).unwrap();
    }
}

#[test]
fn renegotiation_is_refused_with_a_warning_and_then_for_good() {
    let (mut client, mut server) = at(State::Established);
    let hello = Client::default().hello_message();
    for _ in 0..8 {
        server.feed(&client.records_of(50, ContentType::HANDSHAKE, &hello)).unwrap();
        let records = client.read(&server.take_output());
        assert_eq!(records[0].payload, Alert::warning(AlertDescription::NO_RENEGOTIATION).encode());
        assert_eq!((records.len(), records[0].protected), (1, true));
        complete_from(State::Established, &mut client, &mut server);
    }
    let bytes = client.record(ContentType::HANDSHAKE, &hello);
    let (cause, alert) = (PeerMisbehaved::TooManyRenegotiations, AlertDescription::UNEXPECTED_MESSAGE);
    refused(&mut client, &mut server, &bytes, cause, alert, "the ninth");
}
