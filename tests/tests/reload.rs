//! A configuration that changes while an edge runs.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use keystead_tests::rustls_client::{config, connect, connect_to, fetch};
use keystead_tests::stack::{Stack, wait_until};

fn reloads(stack: &Stack, outcome: &str) -> i64 {
    stack.edge().metric("keystead_edge_reloads_total", &[("outcome", outcome)])
}

#[test]
fn an_edge_takes_changed_hosts_and_keeps_the_last_good_ones() {
    let stack = Stack::start();
    let file = stack.directory().join("edge-one/edge.toml");
    let before = fs::read_to_string(&file).unwrap();
    let mut standing = connect(stack.edge(), config()).unwrap();

    fs::write(&file, before.replace("default = true", "default = false")).unwrap();
    wait_until("the change is applied", || reloads(&stack, "applied") == 1);
    assert!(connect_to(stack.edge(), config(), "other.example").is_err());
    assert_eq!(stack.edge().failures("unrecognized_name"), 1);
    assert!(connect(stack.edge(), config()).is_ok());

    fs::write(&file, before.replace("default = true", "defualt = true")).unwrap();
    wait_until("the change is refused", || reloads(&stack, "refused") == 1);
    assert!(connect(stack.edge(), config()).is_ok());

    // The connection from before goes on.
    assert!(fetch(&mut standing).unwrap().contains("200 OK"));
}
