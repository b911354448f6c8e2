//! Many names, each with a key and a certificate of its own: they are served, one is replaced, and both programs start with
//! them.
//!
//! `KEYSTEAD_NAMES=10000 cargo test --release -p keystead-tests --test many_names -- --nocapture` prints times and memory.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking, and prints what it measured")]

use std::time::{Duration, Instant};

use keystead_tests::many_names::{ManyNames, name};
use keystead_tests::rustls_client::{config, connect_to};
use keystead_tests::stack::{KeyType, Process, Stack, programs, wait_until};
use rustls_pki_types::CertificateDer;

fn shown(stack: &Stack, name: &str) -> Option<CertificateDer<'static>> {
    let connection = connect_to(stack.edge(), config(), name).ok()?;
    connection.conn.peer_certificates()?.first().cloned()
}

fn count() -> usize {
    std::env::var("KEYSTEAD_NAMES").map_or(300, |count| count.parse().unwrap())
}

/// Megabytes now, and at the most.
fn memory(process: &Process) -> String {
    format!("{} MB, at the most {} MB", process.memory("VmRSS") / 1024, process.memory("VmHWM") / 1024)
}

/// How long `check` takes with the configuration of this part.
fn check(stack: &Stack, program: &str, part: &str, file: &str) -> Duration {
    let began = Instant::now();
    let mut command = programs::command(program);
    let output = command.args(["check", "--config"]).arg(stack.directory().join(part).join(file)).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    began.elapsed()
}

#[test]
fn each_of_many_names_is_served_and_one_is_replaced() {
    let mut stack = Stack::builder().keys(&[KeyType::P256]).start();
    let identities = |stack: &Stack| stack.edge().metric("keystead_edge_identities", &[]);
    let bare = |stack: &Stack| stack.edge().metric("keystead_edge_hosts_without_identity", &[]);
    let began = Instant::now();
    let many = ManyNames::add(&stack, count());
    println!("{} names: made in {:?}", many.count, began.elapsed());
    let expected = i64::try_from(many.count + 1).unwrap();

    let began = Instant::now();
    wait_until("the edge knows every key", || identities(&stack) == expected);
    wait_until("the edge serves every host", || bare(&stack) == 0 && shown(&stack, &name(many.count - 1)).is_some());
    println!("loaded by running programs, told and served: {:?}", began.elapsed());

    println!("check of the key server: {:?}", check(&stack, "keystead-keyserver", "keyserver", "keyserver.toml"));
    println!("check of the edge: {:?}", check(&stack, "keystead-edge", "edge-one", "edge.toml"));

    let began = Instant::now();
    stack.key_server().restart();
    println!("key server, from start to ready: {:?}; {}", began.elapsed(), memory(stack.key_server()));
    let began = Instant::now();
    stack.edge_mut().process.restart();
    println!("edge, from start to ready: {:?}; {}", began.elapsed(), memory(&stack.edge().process));
    wait_until("the edge is told every key", || identities(&stack) == expected && bare(&stack) == 0);
    println!("both, all told: key server {}; edge {}", memory(stack.key_server()), memory(&stack.edge().process));

    let number = many.count / 2;
    let before = shown(&stack, &name(number)).unwrap();
    let replaced = many.certify(number);
    assert_ne!(before, replaced);
    let began = Instant::now();
    wait_until("the new one is shown", || shown(&stack, &name(number)) == Some(replaced.clone()));
    println!("one replaced, from its file to a client: {:?}", began.elapsed());
    println!("then: key server {}; edge {}", memory(stack.key_server()), memory(&stack.edge().process));
    let other = shown(&stack, &name(0)).unwrap();
    assert!(other != replaced && other != before);
    assert_eq!(identities(&stack), expected);
    assert_eq!(stack.key_server().metric("keystead_keyserver_reloads_total", &[("outcome", "refused")]), 0);
}
