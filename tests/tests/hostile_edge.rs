//! An edge that has valid credentials and tries everything: what it may not have it does not get, nobody else suffers,
//! and the audit log has each attempt.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use keystead_proto::v1;
use keystead_proto::v1::exchange_reply::Outcome;
use keystead_proto::v1::exchange_request::Operation;
use keystead_tests::hostile_edge::{HostileEdge, honest, identity};
use keystead_tests::rustls_client::is_served;
use keystead_tests::stack::{KeyType, Stack, pki, wait_until};
use keystead_tls::crypto::FAST;
use keystead_tls::{NamedGroup, SignatureScheme};
use tonic::Code;

const EDGE_TWO: &str = "spiffe://keystead.local/edge/two";

/// A key server with an RSA and a P-256 key, and edge one, which may use both and serves clients. Edge two may use the
/// P-256 key alone, for signatures and one name, and is hostile.
fn start() -> (Stack, HostileEdge) {
    start_with("")
}

/// As [`start`], with further lines about edge two.
fn start_with(lines: &str) -> (Stack, HostileEdge) {
    let stack = Stack::builder().keys(&[KeyType::Rsa2048, KeyType::P256]).key_transport().audit().start();
    let grant = "{ name = \"p256\", operations = [\"sign_server_key_exchange\"], server_names = [\"localhost\"] }";
    let entry = format!("[[edge]]\nid = {EDGE_TWO:?}\nkeys = [{grant}]\n{lines}\n");
    stack.edit("keyserver/keyserver.toml", |text| format!("{text}{entry}"));
    let edge = HostileEdge::new(&stack, "two");
    wait_until("the key server knows edge two", || edge.is_known());
    (stack, edge)
}

/// Clients of edge one get what they ask for, and so do the hostile edge's own good requests, once none of its others are in
/// their way.
#[track_caller]
fn nobody_suffers(stack: &Stack, edge: &HostileEdge) {
    assert!(is_served(stack.edge()));
    wait_until("good requests of the hostile edge are answered", || match edge.sign(honest(KeyType::P256)) {
        Ok(_) => true,
        Err(status) => {
            assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
            false
        }
    });
}

/// How many requests of edge two are on record with this outcome, those told of in a sum included.
fn on_record(stack: &Stack, outcome: &str) -> u64 {
    of_two_on_record(stack, |record| record["outcome"] == outcome)
}

/// How many requests of edge two are on record that fit, those told of in a sum included.
fn of_two_on_record(stack: &Stack, fits: impl Fn(&serde_json::Value) -> bool) -> u64 {
    let mut files: Vec<_> = fs::read_dir(stack.audit_log()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|end| end == "jsonl"));
    let texts: String = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let records = texts.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let of_two = records.filter(|record| record["peer"] == EDGE_TWO && fits(record));
    of_two.map(|record| record["count"].as_u64().unwrap_or(1)).sum()
}

/// Each of `count` attempts that were refused for `outcome` is in the audit log, which verifies.
#[track_caller]
fn is_on_record(stack: &Stack, outcome: &str, count: usize) {
    wait_until(&format!("{count} times {outcome} are on record"), || on_record(stack, outcome) >= count as u64);
    // What is being written may be cut off where it is read.
    wait_until("the log verifies", || stack.verify_audit(&stack.audit_log(), &[]).0);
}

fn public(group: NamedGroup) -> Vec<u8> {
    FAST.key_pair(group, &mut rand::rng()).unwrap().public().to_vec()
}

#[test]
fn nothing_that_the_edge_chose_is_signed() {
    let (stack, edge) = start();
    let identity = identity(KeyType::P256);
    // As near as it gets to what TLS 1.3 signs: 64 spaces in front, and a public value that is any 32 bytes.
    let context = *b"TLS 1.3, server CertificateVerif";
    let request = v1::SignServerKeyExchangeRequest {
        client_random: vec![0x20; 32],
        public: context.to_vec(),
        ..honest(KeyType::P256)
    };
    let mut randoms = Vec::new();
    for _ in 0..64 {
        let reply = edge.sign(request.clone()).unwrap();
        let params = [&[3, 0, 29, 32][..], &context].concat();
        let scheme = SignatureScheme(request.scheme.try_into().unwrap());
        let verifies = |content: &[u8]| FAST.verify(scheme, identity.public_key(), content, &reply.signature).is_ok();
        assert!(verifies(&[&request.client_random[..], &reply.server_random, &params].concat()));
        assert!(!verifies(&[&[0x20; 64][..], &context].concat()));
        assert!(!verifies(&[&[0x20; 64][..], &params].concat()));
        assert!(!randoms.contains(&reply.server_random), "a random came twice");
        randoms.push(reply.server_random);
    }
    is_on_record(&stack, "done", 64);
    nobody_suffers(&stack, &edge);
}

#[test]
fn a_key_of_others_is_as_unknown_as_one_that_is_not_there() {
    let (stack, edge) = start();
    let foreign = edge.sign(honest(KeyType::Rsa2048)).unwrap_err();
    let unknown = edge.sign(v1::SignServerKeyExchangeRequest { key_id: vec![9; 32], ..honest(KeyType::P256) });
    let unknown = unknown.unwrap_err();
    assert_eq!((foreign.code(), foreign.message()), (Code::PermissionDenied, unknown.message()));
    assert_eq!(unknown.code(), Code::PermissionDenied);
    // The foreign key is for RSA key transport, which this edge has no key for.
    assert_eq!(edge.lease(1).unwrap_err().code(), Code::PermissionDenied);
    let key_id = identity(KeyType::Rsa2048).public_key().key_id().0.to_vec();
    for (key_id, outcome) in [
        (key_id, "key_not_allowed"),
        (vec![9; 32], "key_not_allowed"),
        (honest(KeyType::P256).key_id, "key_transport_not_allowed"),
    ] {
        let request = v1::RecoverMasterSecretRequest {
            key_id,
            lease: vec![1; 32],
            handshake_messages: vec![2; 1000],
            finished_record: vec![3; 45],
            server_name: "localhost".to_owned(),
        };
        let before = on_record(&stack, outcome);
        assert_eq!(edge.recover(request).unwrap_err().code(), Code::PermissionDenied);
        wait_until(outcome, || on_record(&stack, outcome) > before);
    }
    is_on_record(&stack, "key_not_allowed", 4);
    nobody_suffers(&stack, &edge);
}

#[test]
fn digests_points_and_schemes_of_its_own_are_refused() {
    let (stack, edge) = start();
    let good = honest(KeyType::P256);
    let with = |change: fn(&mut v1::SignServerKeyExchangeRequest)| {
        let mut request = good.clone();
        change(&mut request);
        request
    };
    let group = |group: NamedGroup, public: Vec<u8>| v1::SignServerKeyExchangeRequest {
        group: group.0.into(),
        public,
        ..good.clone()
    };
    let off_the_curve = |group| {
        let mut point = public(group);
        *point.last_mut().unwrap() ^= 1;
        point
    };
    let mut compressed = public(NamedGroup::SECP256R1);
    compressed.truncate(33);
    compressed[0] = 2;
    let requests = [
        ("no scheme", with(|request| request.scheme = 0)),
        ("a scheme with SHA-1", with(|request| request.scheme = 0x0203)),
        ("a raw digest", with(|request| request.scheme = 0x0003)),
        ("another key's scheme", with(|request| request.scheme = 0x0804)),
        ("a scheme beyond 16 bits", with(|request| request.scheme = 0x1_0403)),
        ("no group", with(|request| request.group = 0)),
        ("finite-field DHE", with(|request| request.group = 0x0100)),
        ("a group beyond 16 bits", with(|request| request.group = 0x1_001d)),
        ("a digest in place of a point", group(NamedGroup::SECP256R1, vec![0xab; 32])),
        ("a point of another curve", group(NamedGroup::SECP256R1, public(NamedGroup::SECP384R1))),
        ("a point off P-256", group(NamedGroup::SECP256R1, off_the_curve(NamedGroup::SECP256R1))),
        ("a point off P-384", group(NamedGroup::SECP384R1, off_the_curve(NamedGroup::SECP384R1))),
        ("the point at infinity", group(NamedGroup::SECP256R1, vec![0])),
        ("a compressed point", group(NamedGroup::SECP256R1, compressed)),
        ("a short x25519 value", group(NamedGroup::X25519, vec![1; 31])),
        ("a long x25519 value", group(NamedGroup::X25519, vec![1; 33])),
        ("no value", group(NamedGroup::X25519, Vec::new())),
        ("a value of 100,000 bytes", group(NamedGroup::X25519, vec![1; 100_000])),
        ("a short random", with(|request| request.client_random = vec![1; 31])),
        ("a long random", with(|request| request.client_random = vec![1; 64])),
        ("a short key id", with(|request| request.key_id.truncate(31))),
    ];
    for (what, request) in requests {
        let refused = edge.sign(request).expect_err(what);
        assert_eq!(refused.code(), Code::InvalidArgument, "{what}: {refused}");
    }
    is_on_record(&stack, "scheme_not_allowed", 4);
    is_on_record(&stack, "unknown_group", 2);
    is_on_record(&stack, "invalid_point", 9);
    is_on_record(&stack, "malformed_request", 5);
    nobody_suffers(&stack, &edge);
}

#[test]
fn messages_that_are_none_end_their_own_call_alone() {
    let (stack, edge) = start();
    let sign = "/keystead.v1.KeyServer/SignServerKeyExchange";
    for (what, bytes, code) in [
        ("no protobuf", vec![0xff; 64], Code::Internal),
        ("a length beyond the end", vec![0x0a, 0xff, 0xff, 0xff, 0x7f], Code::Internal),
        ("over the bound", vec![0x0a; (512 << 10) + 1], Code::OutOfRange),
        ("sixteen megabytes", vec![0; 16 << 20], Code::OutOfRange),
        ("nothing", Vec::new(), Code::InvalidArgument),
    ] {
        let status = edge.send_raw(sign, bytes);
        // A call that is cut off while it still sends sees the reset.
        let seen = [code, Code::Unknown, Code::Internal, Code::Cancelled];
        assert!(seen.contains(&status.code()), "{what}: {status:?}");
    }
    assert_eq!(edge.send_raw("/keystead.v1.KeyServer/Sign", vec![1]).code(), Code::Unimplemented);
    for bytes in [vec![0xff; 64], vec![0; 16 << 20]] {
        edge.send_raw("/keystead.v1.KeyServer/Exchange", bytes);
    }
    // All but the empty one, which can be read, and says nothing.
    let unread = |record: &serde_json::Value| record["outcome"] == "malformed_request" && record["operation"] == "none";
    wait_until("what cannot be read is on record", || of_two_on_record(&stack, unread) >= 7);
    is_on_record(&stack, "malformed_request", 8);
    nobody_suffers(&stack, &edge);
}

#[test]
fn names_and_rates_are_bounded_whatever_the_edge_says() {
    let (stack, edge) = start_with("rate = 50\nburst = 50");
    for name in ["elsewhere.example", "", "localhost.example", "*"] {
        let request = v1::SignServerKeyExchangeRequest { server_name: name.to_owned(), ..honest(KeyType::P256) };
        assert_eq!(edge.sign(request).expect_err(name).code(), Code::OutOfRange);
    }
    is_on_record(&stack, "server_name_not_allowed", 4);
    // Refusals take from the rate too.
    let limited = (0..500)
        .map(|turn| match turn % 2 {
            0 => edge.sign(honest(KeyType::Rsa2048)),
            _ => edge.sign(honest(KeyType::P256)),
        })
        .filter(|answer| answer.as_ref().is_err_and(|status| status.code() == Code::ResourceExhausted));
    let limited = limited.count();
    assert!(limited > 100, "{limited}");
    is_on_record(&stack, "rate_limited", limited);
    assert!(is_served(stack.edge()));
}

#[test]
fn an_edge_that_is_revoked_is_out_at_once() {
    let (stack, edge) = start();
    let mut stream = edge.exchange();
    assert!(stream.ask(1, Operation::SignServerKeyExchange(honest(KeyType::P256))));
    assert_eq!(edge.runtime.block_on(stream.answer()).0, 1);
    stack.edit("keyserver/keyserver.toml", |text| format!("{text}revoked = true\n"));
    // The stream that stands ends by itself.
    let status = edge.runtime.block_on(stream.replies.message()).expect_err("the stream has ended");
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(edge.sign(honest(KeyType::P256)).unwrap_err().code(), Code::PermissionDenied);
    is_on_record(&stack, "unknown_peer", 1);
    assert!(is_served(stack.edge()));
}

#[test]
fn a_flood_of_requests_holds_up_nobody_else() {
    let (stack, edge) = start();
    let mut streams: Vec<_> = (0..8).map(|_| edge.exchange()).collect();
    let (key, foreign) = (honest(KeyType::P256), honest(KeyType::Rsa2048));
    let until = Instant::now() + Duration::from_secs(4);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut answered = 0_u64;
            while Instant::now() < until {
                for stream in &streams {
                    for (id, request) in [(1, &key), (2, &foreign)] {
                        (0..64).for_each(|_| {
                            stream.ask(id, Operation::SignServerKeyExchange(request.clone()));
                        });
                    }
                }
                for stream in &mut streams {
                    let reading = async {
                        while tokio::time::timeout(Duration::from_millis(5), stream.answer()).await.is_ok() {
                            answered += 1;
                        }
                    };
                    edge.runtime.block_on(reading);
                }
            }
            assert!(answered > 100, "{answered} answers");
        });
        while Instant::now() < until {
            assert!(is_served(stack.edge()), "a client of edge one is not served");
        }
    });
    drop(streams);
    is_on_record(&stack, "key_not_allowed", 100);
    nobody_suffers(&stack, &edge);
}

#[test]
fn leases_that_are_not_read_take_little() {
    let (mut stack, edge) = start();
    stack.edit("keyserver/keyserver.toml", |text| {
        text.replace("keys = [{ name = \"p256\",", "keys = [\"rsa\", { name = \"p256\",")
    });
    wait_until("edge two may lease", || edge.lease(1).is_ok());
    let before = stack.key_server().memory("VmRSS");
    let batch = Operation::LeaseRandoms(v1::LeaseRandomsRequest { count: 512 });
    // Two gigabytes of leases, if all of them were kept until they are read.
    let streams: Vec<_> = (0..32).map(|_| edge.exchange()).collect();
    for stream in &streams {
        (0..1024).for_each(|id| {
            stream.ask(id, batch.clone());
        });
    }
    is_on_record(&stack, "too_much_unread", 1024);
    wait_until("all requests were answered", || {
        stack.key_server().metric("keystead_keyserver_queue_length", &[("class", "light")]) == 0
    });
    assert!(is_served(stack.edge()));
    let grown = stack.key_server().memory("VmRSS").saturating_sub(before);
    assert!(grown < 100 << 10, "{grown} KiB more for leases that are not read");
    drop(streams);
    wait_until("there are leases again", || edge.lease(1).is_ok());
    nobody_suffers(&stack, &edge);
}

#[test]
fn answers_that_are_not_read_and_streams_held_open_take_little() {
    let (mut stack, edge) = start();
    let before = stack.key_server().memory("VmRSS");
    let request = Operation::SignServerKeyExchange(honest(KeyType::P256));
    // On each, far more than may be unanswered; nothing is read.
    let streams: Vec<_> = (0..32).map(|_| edge.exchange()).collect();
    for stream in &streams {
        (0..4096).for_each(|id| {
            stream.ask(id, request.clone());
        });
    }
    wait_until("requests were taken in", || {
        stack.key_server().metric("keystead_keyserver_operations_total", &[("key", "p256"), ("outcome", "done")]) > 1000
    });
    for _ in 0..10 {
        assert!(is_served(stack.edge()));
    }
    let grown = stack.key_server().memory("VmRSS").saturating_sub(before);
    assert!(grown < 200 << 10, "{grown} KiB more for 32 streams that are not read");
    is_on_record(&stack, "done", 1000);
    // Edge one finds its way back though the other holds its streams open.
    stack.edge_mut().process.restart();
    assert!(is_served(stack.edge()));
    drop(streams);
    nobody_suffers(&stack, &edge);
}

#[test]
fn ids_that_are_used_twice_and_answers_that_come_late_are_the_edges_own_affair() {
    let (stack, edge) = start();
    let mut stream = edge.exchange();
    for _ in 0..3 {
        assert!(stream.ask(u64::MAX, Operation::SignServerKeyExchange(honest(KeyType::P256))));
    }
    let mut randoms = Vec::new();
    for _ in 0..3 {
        let (id, outcome) = edge.runtime.block_on(stream.answer());
        let Outcome::SignServerKeyExchange(reply) = outcome else { unreachable!("{outcome:?}") };
        assert_eq!(id, u64::MAX);
        assert!(!randoms.contains(&reply.server_random));
        randoms.push(reply.server_random);
    }
    // The opening of the stream among them.
    is_on_record(&stack, "done", 4);
    nobody_suffers(&stack, &edge);
}

#[test]
fn credentials_of_an_edge_that_nobody_configured_open_nothing() {
    let stack = Stack::builder().keys(&[KeyType::P256]).audit().start();
    let stranger = HostileEdge::new(&stack, "two");
    assert_eq!(stranger.sign(honest(KeyType::P256)).unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(stranger.lease(1).unwrap_err().code(), Code::PermissionDenied);
    assert!(pki::directory().join("edge-two/channel.pem").exists());
    is_on_record(&stack, "unknown_peer", 2);
    assert!(is_served(stack.edge()));
}
