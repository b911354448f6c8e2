//! Key servers that hold valid credentials and do what they should not: the client gets `internal_error`, the metric
//! names the reason, and the next handshake with an honest key server works.

use std::time::{Duration, Instant};

use keystead_tests::hostile_key_server::{Behaviour, HostileKeyServer};
use keystead_tests::rustls_client::is_served;
use keystead_tests::stack::{Builder, KeyType, Stack, wait_until};
use keystead_tests::wire::{End, Wire};
use keystead_tls::AlertDescription;
use tonic::Code;

fn stack(key_server: &HostileKeyServer) -> Builder {
    Stack::builder().keys(&[KeyType::P256]).key_server(key_server.address).key_server_option("timeout", "1s")
}

/// The handshake fails with internal_error before any other message, within its deadline and for this reason, and the
/// next one works.
#[track_caller]
fn expect(stack: &Stack, key_server: &HostileKeyServer, behaviour: Behaviour, reason: &str) {
    expect_either(stack, key_server, behaviour, &[reason]);
}

/// As [`expect`], for one of these reasons.
#[track_caller]
fn expect_either(stack: &Stack, key_server: &HostileKeyServer, behaviour: Behaviour, reasons: &[&str]) {
    let counted = || {
        reasons
            .iter()
            .map(|reason| {
                stack
                    .edge()
                    .metric("keystead_edge_handshake_failures_total", &[("fault", "key_server"), ("reason", reason)])
            })
            .sum::<i64>()
    };
    let before = counted();
    key_server.behave(behaviour);
    let began = Instant::now();
    let mut wire = Wire::connect(stack.edge());
    let hello = wire.client.hello();
    wire.send(&hello);
    assert_eq!(wire.end(), End::Alert(AlertDescription::INTERNAL_ERROR), "{behaviour:?}");
    assert!(began.elapsed() < Duration::from_secs(4), "{behaviour:?}: {:?}", began.elapsed());
    wait_until(&format!("{behaviour:?} is counted as {reasons:?}"), || counted() == before + 1);
    let is_told =
        |reason: &&str| stack.edge().process.log().contains(&format!("fault=\"key_server\" reason=\"{reason}\""));
    wait_until(&format!("the log says {reasons:?}"), || reasons.iter().any(is_told));
    key_server.behave(Behaviour::Honest);
    wait_until("handshakes work again", || is_served(stack.edge()));
}

#[test]
fn wrong_signatures_never_reach_the_client() {
    let key_server = HostileKeyServer::start(Behaviour::Honest);
    let stack = stack(&key_server).start();
    assert!(is_served(stack.edge()));
    expect(&stack, &key_server, Behaviour::SignsAnotherRandom, "wrong_signature");
    expect(&stack, &key_server, Behaviour::SendsNoSignature, "wrong_signature");
    expect(&stack, &key_server, Behaviour::SendsShortRandom, "refused");
}

#[test]
fn refusals_have_names() {
    let key_server = HostileKeyServer::start(Behaviour::Honest);
    let stack = stack(&key_server).start();
    for (code, reason) in [
        (Code::PermissionDenied, "not_authorised"),
        (Code::InvalidArgument, "refused"),
        (Code::Internal, "refused"),
        (Code::ResourceExhausted, "overloaded"),
        (Code::DeadlineExceeded, "no_answer"),
        (Code::NotFound, "key_unavailable"),
    ] {
        expect(&stack, &key_server, Behaviour::Refuses(code), reason);
    }
}

#[test]
fn silence_ends_at_the_deadline() {
    let key_server = HostileKeyServer::start(Behaviour::Honest);
    let stack = stack(&key_server).start();
    expect(&stack, &key_server, Behaviour::IsSilent, "no_answer");
    expect(&stack, &key_server, Behaviour::AnswersAnother, "no_answer");
}

#[test]
fn a_stream_that_ends_fails_what_waits_for_it() {
    let key_server = HostileKeyServer::start(Behaviour::Honest);
    let stack = stack(&key_server).start();
    // The time may be over while the last of many connections is asked.
    expect_either(&stack, &key_server, Behaviour::Leaves, &["unreachable", "no_answer"]);
}

#[test]
fn a_silent_key_server_holds_up_only_those_who_wait_for_it() {
    let key_server = HostileKeyServer::start(Behaviour::Honest);
    let stack = stack(&key_server).limit("handshake_timeout", "3s").start();
    let mut established = Wire::connect(stack.edge());
    established.handshake();
    key_server.behave(Behaviour::IsSilent);
    let mut waiting: Vec<_> = (0..50).map(|_| Wire::connect(stack.edge())).collect();
    for wire in &mut waiting {
        let hello = wire.client.hello();
        wire.send(&hello);
    }
    let request = established.client.data(b"GET / HTTP/1.0\r\nhost: localhost\r\n\r\n");
    established.send(&request);
    assert!(established.read().payload.starts_with(b"HTTP/1.0 200"));
    for wire in &mut waiting {
        assert_eq!(wire.end(), End::Alert(AlertDescription::INTERNAL_ERROR));
    }
    assert_eq!(stack.edge().failures("no_answer"), 50);
}
