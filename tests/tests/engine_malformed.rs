//! Malformed handshake messages: each has one error and one alert, and the alert is there when the error is.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use keystead_tests::client::{Client, extension, full_offer, hello_parts, message, plain_record};
use keystead_tests::conversation::{State, at, complete_from, refused, refused_at, step};
use keystead_tests::server::{Server, host};
use keystead_tls::crypto::{FAST, PORTABLE, Provider};
use keystead_tls::message::client_hello::{self, ClientExtensions, ClientHello};
use keystead_tls::message::client_key_exchange;
use keystead_tls::record::MAX_PLAINTEXT;
use keystead_tls::{
    AlertDescription, ContentType, Error, ExtensionType, HandshakeType, HostParameters, InvalidMessage, NamedGroup,
    PeerIncompatible, PeerMisbehaved, ProtocolVersion,
};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// Feeds a ClientHello with this body.
fn hello_refused(body: &[u8], error: impl Into<Error>, alert: AlertDescription, context: &str) {
    let hello = message(HandshakeType::CLIENT_HELLO, body);
    refused_at(State::ClientHello, &plain_record(ContentType::HANDSHAKE, &hello), error, alert, context);
}

/// The body of a ClientHello with exactly these extensions.
fn hello_body(extensions: &[u8]) -> Vec<u8> {
    let (front, _) = hello_parts(&full_offer());
    [&front, &u16::try_from(extensions.len()).unwrap().to_be_bytes()[..], extensions].concat()
}

fn full_body() -> Vec<u8> {
    let (_, extensions) = hello_parts(&full_offer());
    hello_body(&extensions)
}

#[test]
fn a_client_hello_cut_anywhere_is_a_decode_error() {
    let body = full_body();
    let (front, _) = hello_parts(&full_offer());
    // Without extensions it is whole, though nothing can be agreed on.
    for length in (0..body.len()).filter(|length| *length != front.len()) {
        let context = format!("{length} bytes");
        hello_refused(&body[..length], InvalidMessage::Truncated, AlertDescription::DECODE_ERROR, &context);
    }
    let cause = PeerIncompatible::NoCommonScheme;
    hello_refused(&front, cause, AlertDescription::HANDSHAKE_FAILURE, "without extensions");
}

#[test]
fn malformed_fields_of_a_client_hello_are_refused() {
    let random = [7; 32];
    let body = |parts: &[&[u8]]| [&[3, 3], &random[..], &parts.concat()].concat();
    let no_compression: &[u8] = &[1, 0];
    let suites: &[u8] = &[0, 2, 0xc0, 0x2f];
    for (name, body, error, alert) in [
        (
            "a byte too many",
            [full_body(), vec![0]].concat(),
            Error::from(InvalidMessage::TrailingBytes),
            AlertDescription::DECODE_ERROR,
        ),
        (
            "a session id of 33 bytes",
            body(&[&[33], &[1; 33], suites, no_compression]),
            InvalidMessage::WrongLength.into(),
            AlertDescription::DECODE_ERROR,
        ),
        (
            "no suites",
            body(&[&[0], &[0, 0], no_compression]),
            InvalidMessage::EmptyList.into(),
            AlertDescription::DECODE_ERROR,
        ),
        (
            "one and a half suites",
            body(&[&[0], &[0, 3, 0xc0, 0x2f, 0xc0], no_compression]),
            InvalidMessage::OddListLength.into(),
            AlertDescription::DECODE_ERROR,
        ),
        (
            "no compression methods",
            body(&[&[0], suites, &[0]]),
            InvalidMessage::EmptyList.into(),
            AlertDescription::DECODE_ERROR,
        ),
        (
            "DEFLATE alone",
            body(&[&[0], suites, &[1, 1]]),
            PeerMisbehaved::NoNullCompression.into(),
            AlertDescription::ILLEGAL_PARAMETER,
        ),
        (
            "half a length of extensions",
            body(&[&[0], suites, no_compression, &[0]]),
            InvalidMessage::Truncated.into(),
            AlertDescription::DECODE_ERROR,
        ),
        (
            "extensions longer than the message",
            body(&[&[0], suites, no_compression, &[0, 5, 0, 23, 0, 0]]),
            InvalidMessage::Truncated.into(),
            AlertDescription::DECODE_ERROR,
        ),
        (
            "extensions shorter than the message",
            body(&[&[0], suites, no_compression, &[0, 3, 0, 23, 0, 0]]),
            InvalidMessage::TrailingBytes.into(),
            AlertDescription::DECODE_ERROR,
        ),
        (
            "half an extension's header",
            body(&[&[0], suites, no_compression, &[0, 3, 0, 23, 0]]),
            InvalidMessage::Truncated.into(),
            AlertDescription::DECODE_ERROR,
        ),
    ] {
        hello_refused(&body, error, alert, name);
    }
}

#[test]
fn malformed_extensions_are_refused() {
    use ExtensionType as Type;
    use InvalidMessage::{EmptyList, InvalidServerName, OddListLength, TrailingBytes, Truncated, WrongLength};
    let decode_error: [(Type, &[u8], InvalidMessage); 30] = [
        (Type::SERVER_NAME, &[], Truncated),
        (Type::SERVER_NAME, &[0, 0], EmptyList),
        (Type::SERVER_NAME, &[0, 4, 0, 0, 1], Truncated),
        (Type::SERVER_NAME, &[0, 4, 0, 0, 2, b'a'], Truncated),
        (Type::SERVER_NAME, &[0, 4, 0, 0, 1, b'a', 0], TrailingBytes),
        (Type::STATUS_REQUEST, &[], Truncated),
        (Type::STATUS_REQUEST, &[1, 0, 0, 0], Truncated),
        (Type::STATUS_REQUEST, &[1, 0, 2, 0, 0, 0, 0], WrongLength),
        (Type::STATUS_REQUEST, &[1, 0, 0, 0, 0, 0], TrailingBytes),
        (Type::SUPPORTED_GROUPS, &[], Truncated),
        (Type::SUPPORTED_GROUPS, &[0, 0], EmptyList),
        (Type::SUPPORTED_GROUPS, &[0, 3, 0, 29, 0], OddListLength),
        (Type::SUPPORTED_GROUPS, &[0, 2, 0, 29, 0], TrailingBytes),
        (Type::EC_POINT_FORMATS, &[], Truncated),
        (Type::EC_POINT_FORMATS, &[0], EmptyList),
        (Type::EC_POINT_FORMATS, &[2, 0], Truncated),
        (Type::SIGNATURE_ALGORITHMS, &[], Truncated),
        (Type::SIGNATURE_ALGORITHMS, &[0, 0], EmptyList),
        (Type::SIGNATURE_ALGORITHMS, &[0, 1, 4], OddListLength),
        (Type::APPLICATION_LAYER_PROTOCOL_NEGOTIATION, &[], Truncated),
        (Type::APPLICATION_LAYER_PROTOCOL_NEGOTIATION, &[0, 0], EmptyList),
        (Type::APPLICATION_LAYER_PROTOCOL_NEGOTIATION, &[0, 1, 0], WrongLength),
        (Type::APPLICATION_LAYER_PROTOCOL_NEGOTIATION, &[0, 2, 2, b'h'], Truncated),
        (Type::EXTENDED_MASTER_SECRET, &[0], TrailingBytes),
        (Type::RECORD_SIZE_LIMIT, &[64], Truncated),
        (Type::RECORD_SIZE_LIMIT, &[0, 64, 0], TrailingBytes),
        (Type::SUPPORTED_VERSIONS, &[0], EmptyList),
        (Type::SUPPORTED_VERSIONS, &[1, 3], OddListLength),
        (Type::RENEGOTIATION_INFO, &[], Truncated),
        (Type::RENEGOTIATION_INFO, &[0, 0], TrailingBytes),
    ];
    for (kind, data, cause) in decode_error {
        let context = format!("{kind} {data:?}");
        hello_refused(&hello_body(&extension(kind.0, data)), cause, AlertDescription::DECODE_ERROR, &context);
    }
    let illegal_parameter: [(Type, &[u8], Error); 6] = [
        (Type::SERVER_NAME, &[0, 4, 0, 0, 1, b' '], InvalidServerName.into()),
        (Type::SERVER_NAME, &[0, 3, 0, 0, 0], InvalidServerName.into()),
        (Type::SERVER_NAME, &[0, 8, 0, 0, 1, b'a', 0, 0, 1, b'b'], PeerMisbehaved::DuplicateServerName.into()),
        (Type::EC_POINT_FORMATS, &[2, 1, 2], PeerMisbehaved::NoUncompressedPoints.into()),
        (Type::RECORD_SIZE_LIMIT, &[0, 63], PeerMisbehaved::RecordSizeLimitTooSmall.into()),
        (Type::RECORD_SIZE_LIMIT, &[0, 0], PeerMisbehaved::RecordSizeLimitTooSmall.into()),
    ];
    for (kind, data, cause) in illegal_parameter {
        let context = format!("{kind} {data:?}");
        hello_refused(&hello_body(&extension(kind.0, data)), cause, AlertDescription::ILLEGAL_PARAMETER, &context);
    }
    let renegotiating = hello_body(&extension(Type::RENEGOTIATION_INFO.0, &[12; 13]));
    let cause = PeerMisbehaved::NonEmptyRenegotiationInfo;
    hello_refused(&renegotiating, cause, AlertDescription::HANDSHAKE_FAILURE, "a renegotiation's");
}

#[test]
fn an_extension_twice_is_refused() {
    let offer = ClientHello {
        extensions: ClientExtensions {
            status_request: true,
            alpn: Some(["h2"].into_iter().collect()),
            record_size_limit: Some(1 << 14),
            supported_versions: Some(vec![ProtocolVersion::TLS_1_2]),
            session_ticket: Some(Vec::new()),
            ..full_offer().extensions
        },
        ..full_offer()
    };
    let (_, block) = hello_parts(&offer);
    let mut rest = block.as_slice();
    let mut seen = 0;
    while let Some((header, behind)) = rest.split_first_chunk::<4>() {
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let again = [&block[..], header, &behind[..length]].concat();
        let context = format!("{header:?}");
        let cause = InvalidMessage::DuplicateExtension;
        hello_refused(&hello_body(&again), cause, AlertDescription::ILLEGAL_PARAMETER, &context);
        rest = &behind[length..];
        seen += 1;
    }
    assert_eq!(seen, ExtensionType::KNOWN.len());
    let unknown = [extension(0x1234, &[]), extension(0x1234, &[1])].concat();
    let cause = InvalidMessage::DuplicateExtension;
    hello_refused(&hello_body(&unknown), cause, AlertDescription::ILLEGAL_PARAMETER, "an unknown one");
}

/// A client with as many unknown extensions as a ClientHello takes.
fn talkative() -> Client {
    let mut client = Client::default();
    let (_, extensions) = hello_parts(&client.offer);
    let room = usize::from(u16::MAX) - extensions.len();
    client.more_extensions = (0x4000..).flat_map(|kind| extension(kind, &[])).take(room / 4 * 4).collect();
    client
}

#[test]
fn a_client_hello_of_64_kib_and_thousands_of_extensions_passes() {
    for size in [MAX_PLAINTEXT, 1000, 1] {
        let (mut client, mut server) = (talkative(), Server::default());
        let hello = client.hello_message();
        assert!(hello.len() > 65_000);
        let records = client.records_of(size, ContentType::HANDSHAKE, &hello);
        server.feed(&records).unwrap();
        client.read_flight(&server.take_output());
        complete_from(State::ClientKeyExchange, &mut client, &mut server);
    }
}

#[test]
fn a_client_hello_of_64_kib_passes_byte_by_byte() {
    let (mut client, mut server) = (talkative(), Server::default());
    for byte in client.hello() {
        server.feed(&[byte]).unwrap();
    }
    client.read_flight(&server.take_output());
    complete_from(State::ClientKeyExchange, &mut client, &mut server);
}

#[test]
fn a_message_over_its_bound_is_refused_by_its_header() {
    let header = |kind: HandshakeType, length: usize| {
        let [.., high, middle, low] = u32::try_from(length).unwrap().to_be_bytes();
        [kind.0, high, middle, low]
    };
    for (state, kind, bound) in [
        (State::ClientHello, HandshakeType::CLIENT_HELLO, client_hello::MAX_LENGTH),
        (State::ClientKeyExchange, HandshakeType::CLIENT_KEY_EXCHANGE, client_key_exchange::MAX_LENGTH),
        (State::Finished, HandshakeType::FINISHED, 12),
        (State::Established, HandshakeType::CLIENT_HELLO, client_hello::MAX_LENGTH),
    ] {
        for (length, error) in [
            (bound, None),
            (bound + 1, Some(InvalidMessage::MessageTooLarge)),
            (0xff_ffff, Some(InvalidMessage::MessageTooLarge)),
        ] {
            let (mut client, mut server) = at(state);
            let bytes = client.record(ContentType::HANDSHAKE, &header(kind, length));
            match error {
                None => assert_eq!(server.feed(&bytes), Ok(())),
                Some(error) => {
                    let context = format!("{kind} of {length}");
                    refused(&mut client, &mut server, &bytes, error, AlertDescription::DECODE_ERROR, &context);
                }
            }
        }
    }
}

#[test]
fn malformed_client_key_exchanges_are_decode_errors() {
    for (body, cause) in [
        (&[][..], InvalidMessage::Truncated),
        (&[0], InvalidMessage::WrongLength),
        (&[2, 1], InvalidMessage::Truncated),
        (&[32], InvalidMessage::Truncated),
        (&[1, 1, 1], InvalidMessage::TrailingBytes),
        (&[0; 256], InvalidMessage::TrailingBytes),
    ] {
        let bytes = message(HandshakeType::CLIENT_KEY_EXCHANGE, body);
        let bytes = plain_record(ContentType::HANDSHAKE, &bytes);
        refused_at(State::ClientKeyExchange, &bytes, cause, AlertDescription::DECODE_ERROR, &format!("{body:?}"));
    }
}

/// Public values that are no points of the group, or whose result would be no secret.
fn bad_shares(group: NamedGroup) -> Vec<(&'static str, Vec<u8>)> {
    let share = FAST.key_pair(group, &mut StdRng::seed_from_u64(5)).unwrap().public().to_vec();
    let mut shares = vec![
        ("a byte short", share[..share.len() - 1].to_vec()),
        ("a byte long", [&share[..], &[0]].concat()),
        ("one byte", vec![4]),
        ("255 bytes", vec![4; 255]),
        ("infinity", vec![0]),
    ];
    if group == NamedGroup::X25519 {
        // The points of small order, in every encoding of 32 bytes below 2^255.
        let bytes = |first: u8, middle: u8, last: u8| [&[first][..], &[middle; 30], &[last]].concat();
        let order_8 = [
            "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
            "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        ];
        shares.extend([
            ("zero", vec![0; 32]),
            ("one", bytes(1, 0, 0)),
            ("of order 8", hex(order_8[0])),
            ("the other of order 8", hex(order_8[1])),
            ("p - 1", bytes(0xec, 0xff, 0x7f)),
            ("p", bytes(0xed, 0xff, 0x7f)),
            ("p + 1", bytes(0xee, 0xff, 0x7f)),
            ("zero with the unused bit", bytes(0, 0, 0x80)),
        ]);
        return shares;
    }
    let with_first = |first: u8| [&[first][..], &share[1..]].concat();
    let half = share.len() / 2;
    let mut off_the_curve = share.clone();
    *off_the_curve.last_mut().unwrap() ^= 1;
    shares.extend([
        ("off the curve", off_the_curve),
        ("compressed", [&[2 | (share[share.len() - 1] & 1)][..], &share[1..=half]].concat()),
        ("hybrid", with_first(6 | (share[share.len() - 1] & 1))),
        ("compressed's mark on a whole point", with_first(2)),
        ("no mark", with_first(0)),
        ("zero coordinates", [&[4][..], &vec![0; share.len() - 1]].concat()),
        ("coordinates over the prime", [&[4][..], &vec![0xff; share.len() - 1]].concat()),
        ("infinity in a point's length", vec![0; share.len()]),
    ]);
    shares
}

fn hex(digits: &str) -> Vec<u8> {
    let byte = |index: usize| u8::from_str_radix(&digits[index..index + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}

#[test]
fn public_values_that_are_no_points_are_illegal_parameters() {
    let providers: [&dyn Provider; 2] = [FAST, PORTABLE];
    for (provider, group) in
        providers.into_iter().flat_map(|provider| NamedGroup::KNOWN.iter().map(move |g| (provider, *g)))
    {
        for (name, share) in bad_shares(group) {
            let host = HostParameters { groups: vec![group], ..host() };
            let (mut client, mut server) = (Client::default(), Server::new(provider, host, 1));
            step(State::ClientHello, &mut client, &mut server);
            let length = u8::try_from(share.len()).unwrap();
            let bytes = message(HandshakeType::CLIENT_KEY_EXCHANGE, &[&[length], &share[..]].concat());
            let bytes = client.record(ContentType::HANDSHAKE, &bytes);
            let (cause, alert) = (PeerMisbehaved::InvalidKeyShare, AlertDescription::ILLEGAL_PARAMETER);
            refused(&mut client, &mut server, &bytes, cause, alert, &format!("{} {group}: {name}", provider.name()));
        }
    }
}

#[test]
fn a_finished_with_any_bit_wrong_is_a_decrypt_error() {
    for bit in 0..12 * 8 {
        let (mut client, mut server) = at(State::Finished);
        let mut finished = client.finished_message();
        finished[4 + bit / 8] ^= 0x80 >> (bit % 8);
        let bytes = client.record(ContentType::HANDSHAKE, &finished);
        let (cause, alert) = (PeerMisbehaved::WrongFinished, AlertDescription::DECRYPT_ERROR);
        refused(&mut client, &mut server, &bytes, cause, alert, &format!("bit {bit}"));
    }
}

#[test]
fn a_finished_of_another_length_is_a_decode_error() {
    for (length, cause) in [
        (0, InvalidMessage::WrongLength),
        (11, InvalidMessage::WrongLength),
        (13, InvalidMessage::MessageTooLarge),
        (36, InvalidMessage::MessageTooLarge),
    ] {
        let (mut client, mut server) = at(State::Finished);
        let bytes = client.record(ContentType::HANDSHAKE, &message(HandshakeType::FINISHED, &vec![0; length]));
        refused(&mut client, &mut server, &bytes, cause, AlertDescription::DECODE_ERROR, &format!("{length} bytes"));
    }
}

#[test]
fn a_finished_over_another_transcript_is_a_decrypt_error() {
    let (mut client, mut server) = at(State::Finished);
    client.note(&[0]);
    let bytes = client.finished();
    let (cause, alert) = (PeerMisbehaved::WrongFinished, AlertDescription::DECRYPT_ERROR);
    refused(&mut client, &mut server, &bytes, cause, alert, "one byte more in the transcript");
}
