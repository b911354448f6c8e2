//! What clients may not send, over real connections: each gets the alert that its RFC names, as the last bytes before
//! the end of the stream, and the edge goes on serving.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use keystead_tests::backend;
use keystead_tests::client::{Client, message, plain_record};
use keystead_tests::rustls_client::is_served;
use keystead_tests::stack::{Edge, Host, PATIENCE, Stack, wait_until};
use keystead_tests::wire::{self, End, Wire, offer};
use keystead_tls::message::client_hello::ClientHello;
use keystead_tls::{
    Alert, AlertDescription, CipherSuite, ContentType, ExtensionType, HandshakeType, NamedGroup, ProtocolVersion,
    SignatureScheme,
};

use AlertDescription as Description;

/// Sends `bytes` on a connection of its own, and expects this alert and this reason in the metric.
#[track_caller]
fn expect(edge: &Edge, what: &str, bytes: &[u8], alert: Description, reason: &str) {
    let before = edge.failures(reason);
    let mut stream = edge.connect();
    stream.write_all(bytes).unwrap();
    assert_eq!(wire::end(&mut stream), End::Alert(alert), "{what}");
    wait_until(&format!("{what} is counted as {reason}"), || edge.failures(reason) == before + 1);
}

/// As [`expect`], for what `bytes` makes of a client that has the server's first flight. The alert comes in the clear: the
/// server switches its keys on when it has read Finished.
#[track_caller]
fn expect_behind_flight(
    edge: &Edge,
    what: &str,
    bytes: impl FnOnce(&mut Client) -> Vec<u8>,
    alert: Description,
    reason: &str,
) {
    let before = edge.failures(reason);
    let mut wire = Wire::connect(edge);
    wire.hello();
    let bytes = bytes(&mut wire.client);
    wire.send(&bytes);
    assert_eq!(wire.end(), End::Alert(alert), "{what}");
    wait_until(&format!("{what} is counted as {reason}"), || edge.failures(reason) == before + 1);
}

/// The process is the one that was started, it has no connection left, and serves.
#[track_caller]
fn assert_lives(stack: &mut Stack) {
    assert!(stack.edge_mut().process.is_running());
    wait_until("every connection has ended", || stack.edge().connections() == 0);
    assert!(is_served(stack.edge()));
}

/// A ClientHello message with other bytes in place of its extensions.
fn hello_with_extensions(block: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    ClientHello { extensions: Default::default(), ..offer() }.write(&mut message);
    // The header, and the empty block's length.
    let body = &message[4..message.len() - 2];
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    handshake(HandshakeType::CLIENT_HELLO, &[body, &length, block].concat())
}

/// An extension.
fn extension(kind: ExtensionType, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).unwrap().to_be_bytes();
    [&kind.0.to_be_bytes()[..], &length, data].concat()
}

/// A handshake message in as many records as it takes.
fn handshake(kind: HandshakeType, body: &[u8]) -> Vec<u8> {
    message(kind, body).chunks(1 << 14).flat_map(|part| plain_record(ContentType::HANDSHAKE, part)).collect()
}

/// The body of a good ClientHello.
fn hello_body() -> Vec<u8> {
    Client::new(offer()).hello_message().split_off(4)
}

#[test]
fn malformed_client_hellos_get_their_alerts() {
    let mut stack = Stack::start();
    let edge = stack.edge();
    let body = hello_body();
    let hello = |body: &[u8]| handshake(HandshakeType::CLIENT_HELLO, body);

    // Truncated in every field, the message's length being that of what is there.
    let without_extensions = 2 + 32 + 1 + 2 + 2 * offer().cipher_suites.len() + 2;
    for length in [0, 1, 2, 20, 34, 35, 36, 37, without_extensions - 1, without_extensions + 1, body.len() - 1] {
        let what = format!("{length} bytes of ClientHello");
        expect(edge, &what, &hello(&body[..length]), Description::DECODE_ERROR, "truncated");
    }
    let trailing = [&body[..], &[0]].concat();
    expect(edge, "trailing bytes", &hello(&trailing), Description::DECODE_ERROR, "trailing_bytes");

    use ExtensionType as Type;
    for (kind, data, alert, reason) in [
        (Type::SUPPORTED_GROUPS, &[0, 3, 0, 29, 0][..], Description::DECODE_ERROR, "odd_list_length"),
        (Type::SUPPORTED_GROUPS, &[0, 0], Description::DECODE_ERROR, "empty_list"),
        (Type::SIGNATURE_ALGORITHMS, &[0, 1, 4], Description::DECODE_ERROR, "odd_list_length"),
        (Type::SIGNATURE_ALGORITHMS, &[0, 2, 4], Description::DECODE_ERROR, "truncated"),
        (Type::EXTENDED_MASTER_SECRET, &[0], Description::DECODE_ERROR, "trailing_bytes"),
        (Type::APPLICATION_LAYER_PROTOCOL_NEGOTIATION, &[0, 1, 0], Description::DECODE_ERROR, "wrong_length"),
        (Type::EC_POINT_FORMATS, &[1, 1], Description::ILLEGAL_PARAMETER, "no_uncompressed_points"),
        (Type::RECORD_SIZE_LIMIT, &[0, 63], Description::ILLEGAL_PARAMETER, "record_size_limit_too_small"),
        (Type::SERVER_NAME, &[0, 4, 0, 0, 1, 0], Description::ILLEGAL_PARAMETER, "invalid_server_name"),
        (Type::RENEGOTIATION_INFO, &[1, 0], Description::HANDSHAKE_FAILURE, "non_empty_renegotiation_info"),
    ] {
        let bytes = hello_with_extensions(&extension(kind, data));
        expect(edge, &format!("{kind} {data:?}"), &bytes, alert, reason);
    }
    let twice = extension(Type::EXTENDED_MASTER_SECRET, &[]).repeat(2);
    let bytes = hello_with_extensions(&twice);
    expect(edge, "an extension twice", &bytes, Description::ILLEGAL_PARAMETER, "duplicate_extension");
    let mut compressed = body.clone();
    compressed[without_extensions - 1] = 1;
    expect(edge, "compression", &hello(&compressed), Description::ILLEGAL_PARAMETER, "no_null_compression");
    assert_lives(&mut stack);
}

#[test]
fn incompatible_clients_get_their_alerts() {
    let mut stack = Stack::builder().host(Host::new("localhost").alpn(&["http/1.1"])).start();
    let hello = |change: fn(&mut ClientHello)| {
        let mut offer = offer();
        change(&mut offer);
        Client::new(offer).hello()
    };
    for (what, bytes, alert, reason) in [
        (
            "TLS 1.1 at most",
            hello(|offer| offer.version = ProtocolVersion(0x0302)),
            Description::PROTOCOL_VERSION,
            "version_too_old",
        ),
        (
            "TLS 1.3 alone",
            hello(|offer| offer.extensions.supported_versions = Some(vec![ProtocolVersion::TLS_1_3])),
            Description::PROTOCOL_VERSION,
            "version_too_new",
        ),
        (
            "no suite in common",
            hello(|offer| offer.cipher_suites = vec![CipherSuite(0x002f), CipherSuite(0x1301)]),
            Description::HANDSHAKE_FAILURE,
            "no_common_suite",
        ),
        (
            "no group in common",
            hello(|offer| offer.extensions.supported_groups = Some(vec![NamedGroup(25)])),
            Description::HANDSHAKE_FAILURE,
            "no_common_group",
        ),
        (
            "no scheme in common",
            hello(|offer| offer.extensions.signature_algorithms = Some(vec![SignatureScheme(0x0201)])),
            Description::HANDSHAKE_FAILURE,
            "no_common_scheme",
        ),
        (
            "no application protocol in common",
            hello(|offer| offer.extensions.alpn = Some([&b"h2"[..]].into_iter().collect())),
            Description::NO_APPLICATION_PROTOCOL,
            "no_common_alpn",
        ),
        (
            "an unknown name",
            hello(|offer| offer.extensions.server_name = Some("other.test".to_owned())),
            Description::UNRECOGNIZED_NAME,
            "unrecognized_name",
        ),
        (
            "no name",
            hello(|offer| offer.extensions.server_name = None),
            Description::UNRECOGNIZED_NAME,
            "unrecognized_name",
        ),
        (
            "a fallback that was not needed",
            hello(|offer| {
                offer.version = ProtocolVersion(0x0302);
                offer.cipher_suites.push(CipherSuite(0x5600));
            }),
            Description::INAPPROPRIATE_FALLBACK,
            "inappropriate_fallback",
        ),
    ] {
        expect(stack.edge(), what, &bytes, alert, reason);
    }
    assert_lives(&mut stack);
}

#[test]
fn what_is_no_tls_is_named() {
    let mut stack = Stack::start();
    let edge = stack.edge();
    for request in ["GET / HTTP/1.1\r\nhost: localhost\r\n\r\n", "POST / HTTP/1.1\r\n\r\n", "HEAD / HTTP/1.0\r\n\r\n"] {
        expect(edge, request, request.as_bytes(), Description::UNEXPECTED_MESSAGE, "plain_http");
    }
    // RFC 5246 appendix E.2: length with the high bit, CLIENT-HELLO, version, three lengths, one cipher, a challenge.
    let challenge = [7; 16];
    let sslv2 = [&[0x80, 28, 1, 3, 3, 0, 3, 0, 0, 0, 16, 0, 0, 47][..], &challenge].concat();
    expect(edge, "an SSL 2 hello", &sslv2, Description::PROTOCOL_VERSION, "sslv2_hello");
    for first in [0_u8, 1, 0x0d, b'S', 0x7f, 0xff] {
        let mut stream = edge.connect();
        stream.write_all(&[first; 64]).unwrap();
        let end = wire::end(&mut stream);
        assert!(matches!(end, End::Alert(_)), "{first:#04x}: {end:?}");
    }
    assert_lives(&mut stack);
}

/// Numbers from a fixed seed (xorshift64*).
fn random_bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(|| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_be_bytes()
    })
    .flatten()
    .take(length)
    .collect()
}

#[test]
fn random_bytes_get_an_alert_wherever_they_come() {
    let mut stack = Stack::builder().limit("handshake_timeout", "2s").start();
    for seed in 0..40 {
        let noise = random_bytes(seed, 100 + 37 * usize::try_from(seed).unwrap());
        let mut wire = Wire::connect(stack.edge());
        // Alone, inside a record, inside a handshake message, and behind the server's first flight.
        match seed % 4 {
            0 => wire.send(&noise),
            1 => wire.send(&plain_record(ContentType::HANDSHAKE, &noise)),
            2 => wire.send(&handshake(HandshakeType::CLIENT_HELLO, &noise)),
            _ => {
                wire.hello();
                wire.send(&plain_record(ContentType::HANDSHAKE, &noise));
            }
        }
        wire.stream.shutdown(Shutdown::Write).unwrap();
        match wire.end() {
            // A length that promises more than comes is the client's end, to which there is nothing to say.
            End::Bytes(bytes) => assert!(bytes.is_empty(), "{seed}: {bytes:02x?}"),
            End::Alert(_) => {}
            End::Reset(bytes) => panic!("{seed}: reset after {bytes:02x?}"),
        }
    }
    assert_lives(&mut stack);
}

#[test]
fn malformed_records_get_their_alerts() {
    let mut stack = Stack::start();
    let edge = stack.edge();
    let record = |content_type: u8, payload: &[u8]| plain_record(ContentType(content_type), payload);
    for (what, bytes, alert, reason) in [
        ("application data", record(23, b"early"), Description::UNEXPECTED_MESSAGE, "unexpected_content_type"),
        ("ChangeCipherSpec", record(20, &[1]), Description::UNEXPECTED_MESSAGE, "early_change_cipher_spec"),
        ("an empty record", record(22, &[]), Description::UNEXPECTED_MESSAGE, "empty_fragment"),
        ("half an alert", record(21, &[2]), Description::DECODE_ERROR, "malformed_alert"),
        ("an alert of no level", record(21, &[9, 40]), Description::ILLEGAL_PARAMETER, "unknown_alert_level"),
        (
            "a message that may not begin",
            handshake(HandshakeType::FINISHED, &[0; 12]),
            Description::UNEXPECTED_MESSAGE,
            "unexpected_handshake_message",
        ),
        ("a message of 16 MB", record(22, &[1, 0xff, 0xff, 0xff]), Description::DECODE_ERROR, "message_too_large"),
        (
            "a record of more than 2^14 bytes",
            [&[22, 3, 1, 0x40, 0x01][..], &[1; 0x4001]].concat(),
            Description::RECORD_OVERFLOW,
            "record_overflow",
        ),
    ] {
        expect(edge, what, &bytes, alert, reason);
    }
    let hello = Client::new(offer()).hello_message();
    let (front, back) = hello.split_at(10);
    let interleaved = [record(22, front), record(21, &[1, 90]), record(22, back)].concat();
    let alert = Description::UNEXPECTED_MESSAGE;
    expect(edge, "an alert inside ClientHello", &interleaved, alert, "interleaved_handshake");
    assert_lives(&mut stack);
}

#[test]
fn malformed_second_flights_get_their_alerts() {
    let mut stack = Stack::start();
    let edge = stack.edge();
    let key_exchange = |body: &'static [u8]| move |_: &mut Client| handshake(HandshakeType::CLIENT_KEY_EXCHANGE, body);
    let point = |length: u8| {
        let body = [&[length][..], &vec![0; length.into()]].concat();
        move |_: &mut Client| handshake(HandshakeType::CLIENT_KEY_EXCHANGE, &body)
    };
    let alert = Description::DECODE_ERROR;
    expect_behind_flight(edge, "an empty key exchange", key_exchange(&[]), alert, "truncated");
    expect_behind_flight(edge, "a truncated point", key_exchange(&[32, 1, 2, 3]), alert, "truncated");
    expect_behind_flight(edge, "bytes behind the point", key_exchange(&[1, 1, 1]), alert, "trailing_bytes");
    let alert = Description::ILLEGAL_PARAMETER;
    expect_behind_flight(edge, "the point zero", point(32), alert, "invalid_key_share");
    expect_behind_flight(edge, "a short point", point(31), alert, "invalid_key_share");
    expect_behind_flight(edge, "a long point", point(65), alert, "invalid_key_share");

    let alert = Description::UNEXPECTED_MESSAGE;
    let early = |_: &mut Client| plain_record(ContentType::CHANGE_CIPHER_SPEC, &[1]);
    expect_behind_flight(edge, "ChangeCipherSpec first", early, alert, "early_change_cipher_spec");
    let again = |client: &mut Client| client.hello();
    expect_behind_flight(edge, "ClientHello again", again, alert, "unexpected_handshake_message");
    let data =
        |client: &mut Client| [client.key_exchange(), client.change_cipher_spec(), client.data(b"early")].concat();
    expect_behind_flight(edge, "data before Finished", data, alert, "unexpected_content_type");
    let plain = |client: &mut Client| {
        let finished = plain_record(ContentType::HANDSHAKE, &message(HandshakeType::FINISHED, &[0; 12]));
        [client.key_exchange(), finished].concat()
    };
    expect_behind_flight(edge, "Finished in the clear", plain, alert, "unexpected_handshake_message");
    let malformed =
        |client: &mut Client| [client.key_exchange(), plain_record(ContentType::CHANGE_CIPHER_SPEC, &[2])].concat();
    let alert = Description::DECODE_ERROR;
    expect_behind_flight(edge, "another ChangeCipherSpec", malformed, alert, "malformed_change_cipher_spec");
    assert_lives(&mut stack);
}

#[test]
fn wrong_finished_messages_get_their_alerts() {
    let mut stack = Stack::start();
    let edge = stack.edge();
    let finished = |body: Vec<u8>| {
        move |client: &mut Client| {
            let begin = [client.key_exchange(), client.change_cipher_spec()].concat();
            let message = message(HandshakeType::FINISHED, &body);
            [begin, client.records(ContentType::HANDSHAKE, &message)].concat()
        }
    };
    let (decode, decrypt) = (Description::DECODE_ERROR, Description::DECRYPT_ERROR);
    expect_behind_flight(edge, "a wrong Finished", finished(vec![0; 12]), decrypt, "wrong_finished");
    for (length, reason) in [(0, "wrong_length"), (11, "wrong_length"), (13, "message_too_large")] {
        expect_behind_flight(edge, "a Finished of another length", finished(vec![0; length]), decode, reason);
    }
    let altered = |client: &mut Client| {
        let mut flight = client.second_flight();
        *flight.last_mut().unwrap() ^= 1;
        flight
    };
    expect_behind_flight(edge, "a wrong tag", altered, Description::BAD_RECORD_MAC, "bad_record_mac");
    assert_lives(&mut stack);
}

#[test]
fn established_connections_end_with_the_alert_of_their_fault() {
    let mut stack = Stack::builder().host(Host::new("localhost").default().backends(&[backend::echo()])).start();
    let edge = stack.edge();
    type Bytes = fn(&mut Client) -> Vec<u8>;
    let cases: [(&str, Bytes, Description, &str); 6] = [
        (
            "a wrong tag",
            |client| {
                let mut record = client.data(b"altered");
                *record.last_mut().unwrap() ^= 1;
                record
            },
            Description::BAD_RECORD_MAC,
            "bad_record_mac",
        ),
        ("a record twice", |client| client.data(b"again").repeat(2), Description::BAD_RECORD_MAC, "bad_record_mac"),
        (
            "ChangeCipherSpec",
            |client| client.record(ContentType::CHANGE_CIPHER_SPEC, &[1]),
            Description::UNEXPECTED_MESSAGE,
            "early_change_cipher_spec",
        ),
        (
            "a Finished",
            |client| client.records(ContentType::HANDSHAKE, &message(HandshakeType::FINISHED, &[0; 12])),
            Description::UNEXPECTED_MESSAGE,
            "unexpected_handshake_message",
        ),
        (
            "warnings without end",
            |client| (0..100).flat_map(|_| client.alert(Alert::warning(Description::USER_CANCELED))).collect(),
            Description::UNEXPECTED_MESSAGE,
            "too_many_warnings",
        ),
        (
            "empty records without end",
            |client| (0..1000).flat_map(|_| client.record(ContentType::APPLICATION_DATA, &[])).collect(),
            Description::UNEXPECTED_MESSAGE,
            "too_many_empty_fragments",
        ),
    ];
    for (what, bytes, alert, reason) in cases {
        let before = edge.ended(reason);
        let mut wire = Wire::connect(edge);
        wire.handshake();
        let bytes = bytes(&mut wire.client);
        wire.send(&bytes);
        let records = wire.read_to_end();
        assert_eq!(records.last().unwrap().payload, Alert::fatal(alert).encode(), "{what}");
        drop(wire);
        wait_until(&format!("{what} is counted as {reason}"), || edge.ended(reason) == before + 1);
    }
    assert!(stack.edge_mut().process.is_running());
    wait_until("every connection has ended", || stack.edge().connections() == 0);
}

#[test]
fn renegotiation_is_refused_and_the_connection_goes_on() {
    let stack = Stack::builder().host(Host::new("localhost").backends(&[backend::echo()])).start();
    let mut wire = Wire::connect(stack.edge());
    wire.handshake();
    let hello = Client::new(offer()).hello_message();
    let hello = wire.client.records(ContentType::HANDSHAKE, &hello);
    wire.send(&hello);
    assert_eq!(wire.read().payload, Alert::warning(Description::NO_RENEGOTIATION).encode());
    let data = wire.client.data(b"as before");
    wire.send(&data);
    assert_eq!(wire.read().payload, b"as before");
}

#[test]
fn a_fatal_alert_ends_the_handshake_without_an_answer() {
    let mut stack = Stack::start();
    let mut wire = Wire::connect(stack.edge());
    wire.hello();
    let alert = wire.client.alert(Alert::fatal(Description::UNKNOWN_CA));
    wire.send(&alert);
    assert_eq!(wire.end(), End::Bytes(Vec::new()));
    assert_eq!(stack.edge().failures("peer_alert"), 1);
    drop(wire);
    assert_lives(&mut stack);
}

#[test]
fn the_alert_arrives_though_a_megabyte_was_not_read() {
    let mut stack = Stack::start();
    for (first, alert) in [
        (b"GET / HTTP/1.1\r\n".to_vec(), Description::UNEXPECTED_MESSAGE),
        (plain_record(ContentType::APPLICATION_DATA, b"early"), Description::UNEXPECTED_MESSAGE),
        (handshake(HandshakeType::CLIENT_HELLO, &[]), Description::DECODE_ERROR),
    ] {
        let mut stream = stack.edge().connect();
        stream.write_all(&first).unwrap();
        stream.write_all(&vec![0; 1 << 20]).unwrap();
        assert_eq!(wire::end(&mut stream), End::Alert(alert));
    }
    assert_lives(&mut stack);
}

#[test]
fn a_client_hello_of_64_kib_with_thousands_of_extensions_passes() {
    let mut stack = Stack::start();
    let unknown: Vec<u8> = (0x4000..0x7000).flat_map(|kind| extension(ExtensionType(kind), &[])).collect();
    let hello = Client::new(offer()).hello_message();
    let known = hello.len() - 4 - (2 + 32 + 1 + 2 + 2 * offer().cipher_suites.len() + 2) - 2;
    let filler = vec![0; (1 << 16) - 1 - known - unknown.len() - 4];
    let extensions = [&hello[hello.len() - known..], &unknown, &extension(ExtensionType(0x7f00), &filler)].concat();
    let records = hello_with_extensions(&extensions);
    assert!(records.len() > 1 << 16);
    let mut wire = Wire::connect(stack.edge());
    // The records carry the message that the transcript needs.
    let message = records.chunks((1 << 14) + 5).flat_map(|record| &record[5..]).copied().collect::<Vec<_>>();
    wire.client.note(&message);
    wire.send(&records);
    wire.read_flight();
    let flight = wire.client.second_flight();
    wire.send(&flight);
    wire.read_finished();
    drop(wire);
    assert_lives(&mut stack);
}

#[test]
fn a_flood_of_half_open_connections_ends_at_the_deadline() {
    let mut stack = Stack::builder().limit("handshake_timeout", "1s").limit("max_connections", "50").start();
    let began = Instant::now();
    // More than are let in at a time; the others wait in the kernel's queue.
    let flood: Vec<TcpStream> = (0..100)
        .map(|number| {
            let mut stream = stack.edge().connect();
            stream.write_all(if number % 2 == 0 { &[22, 3, 1] } else { &[] }).unwrap();
            stream
        })
        .collect();
    wait_until("the edge is full", || stack.edge().connections() == 50);
    assert!(is_served(stack.edge()), "a client behind the flood");
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    // Those that sent something are told.
    let mut first = flood.into_iter().next().unwrap();
    let mut end = Vec::new();
    first.read_to_end(&mut end).unwrap();
    assert_eq!(end, [21, 3, 3, 0, 2, 1, 0]);
    assert_lives(&mut stack);
}

#[test]
fn a_flood_of_garbage_is_outlived() {
    let mut stack = Stack::start();
    let descriptors = stack.edge().settled_descriptors();
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let address = stack.edge().address;
            std::thread::spawn(move || {
                for number in 0..100 {
                    let mut stream = TcpStream::connect(address).unwrap();
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    // The edge may end the connection before all is written.
                    let _ = stream.write_all(&random_bytes(thread * 1000 + number, 5000));
                    let _ = stream.shutdown(Shutdown::Write);
                    let _ = stream.read_to_end(&mut Vec::new());
                }
            })
        })
        .collect();
    let began = Instant::now();
    while !threads.iter().all(std::thread::JoinHandle::is_finished) {
        assert!(is_served(stack.edge()), "a client among the flood");
        assert!(began.elapsed() < PATIENCE * 2, "the flood does not end");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_lives(&mut stack);
    wait_until("no descriptor is left", || stack.edge().process.descriptors() <= descriptors);
}
