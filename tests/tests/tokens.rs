//! Real clients on keys that are in a SoftHSM2 token and nowhere else.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use keystead_proto::v1::exchange_request::Operation;
use keystead_tests::hostile_edge::{HostileEdge, honest};
use keystead_tests::stack::{Host, KeyType, Stack, wait_until};
use keystead_tests::tool::{Output, is_installed, run};

const REQUEST: &[u8] = b"GET / HTTP/1.0\r\nhost: localhost\r\n\r\n";

fn s_client(stack: &Stack, suite: &str) -> Output {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &stack.edge().address.to_string(), "-servername", "localhost"]);
    command.args(["-tls1_2", "-cipher", suite, "-verify_return_error", "-CAfile"]).arg(stack.authority());
    run(&mut command, REQUEST)
}

fn is_ready() -> bool {
    is_installed("softhsm2-util", "softhsm2") && is_installed("openssl", "openssl")
}

#[test]
fn clients_are_served_with_keys_of_every_kind_in_a_token() {
    if !is_ready() {
        return;
    }
    let host = Host::new("localhost").default().key_transport();
    let keys = [KeyType::Rsa2048, KeyType::P256];
    let mut stack = Stack::builder().keys(&keys).key_transport().keys_in_token(&keys).host(host).start();
    for key in keys {
        assert!(!stack.directory().join(format!("keyserver/{}.key", key.stem())).exists());
    }
    for suite in ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256", "AES128-GCM-SHA256"] {
        for _ in 0..3 {
            let output = s_client(&stack, suite);
            output.assert_contains(&[&format!("Cipher    : {suite}"), "Verify return code: 0 (ok)", "HTTP/1.0 200 OK"]);
        }
    }
    let server = stack.key_server();
    assert_eq!(server.metric("keystead_keyserver_token_up", &[("token", "hsm")]), 1);
    assert!(server.log().contains("is up to its token"), "{}", server.log());
}

#[test]
fn a_token_that_is_away_at_start_is_served_from_when_it_comes() {
    if !is_ready() {
        return;
    }
    let mut stack = Stack::builder().keys(&[KeyType::P256]).keys_in_token(&[KeyType::P256]).start();
    let (tokens, elsewhere) = (stack.directory().join("tokens"), stack.directory().join("elsewhere"));
    fs::rename(&tokens, &elsewhere).expect("moved");
    fs::create_dir(&tokens).expect("an empty place");
    stack.key_server().restart();
    assert!(stack.key_server().log().contains("the key p256 is not ready"));
    assert_eq!(stack.key_server().metric("keystead_keyserver_token_up", &[("token", "hsm")]), 0);
    fs::remove_dir(&tokens).expect("removed");
    fs::rename(&elsewhere, &tokens).expect("moved back");
    wait_until("clients are served", || {
        s_client(&stack, "ECDHE-ECDSA-AES128-GCM-SHA256").text.contains("HTTP/1.0 200 OK")
    });
    assert_eq!(stack.key_server().metric("keystead_keyserver_token_up", &[("token", "hsm")]), 1);
}

/// Requests that wait for the token at one time.
const FLOOD: usize = 512;

#[test]
fn what_waits_for_a_token_waits_apart_from_keys_in_files() {
    if !is_ready() {
        return;
    }
    let mut stack = Stack::builder().keys_in_token(&[KeyType::Rsa2048]).start();
    stack.edit("keyserver/keyserver.toml", |text| {
        let one_session = text.replace("[[token]]", "[[token]]\nsessions = 1");
        format!("{one_session}[[edge]]\nid = \"spiffe://keystead.local/edge/two\"\nkeys = [\"rsa\"]\n")
    });
    // What a token is opened with is fixed at start.
    stack.key_server().restart();
    let flooding = HostileEdge::new(&stack, "two");
    let waiting =
        |stack: &mut Stack| stack.key_server().metric("keystead_keyserver_queue_length", &[("class", "token_hsm")]);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let _until = Until(&done);
        scope.spawn(|| {
            let mut stream = flooding.exchange();
            let request = Operation::SignServerKeyExchange(honest(KeyType::Rsa2048));
            for _ in 0..FLOOD {
                assert!(stream.ask(0, request.clone()));
            }
            while !done.load(Ordering::Relaxed) {
                flooding.runtime.block_on(stream.answer());
                assert!(stream.ask(0, request.clone()));
            }
        });
        wait_until("requests wait for the token", || waiting(&mut stack) > FLOOD as i64 / 2);
        for _ in 0..5 {
            s_client(&stack, "ECDHE-ECDSA-AES128-GCM-SHA256").assert_contains(&["HTTP/1.0 200 OK"]);
            assert!(waiting(&mut stack) > 0);
        }
    });
}

/// Sets a flag when it is dropped.
struct Until<'f>(&'f AtomicBool);

impl Drop for Until<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
