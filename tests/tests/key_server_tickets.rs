//! The key server's process with tickets: how the secret is made, what a kill leaves of it, and how an edge is revoked.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use keystead_tests::rustls_client::is_served;
use keystead_tests::stack::{KeyType, Signal, Stack, programs, wait_until};

fn init(file: &Path, period: &str) -> Output {
    let mut command = Command::new(programs::path("keystead-keyserver"));
    command.args(["init", "--rotation-period", period, "--state"]).arg(file).output().unwrap()
}

/// Two edges, and a key server that has tickets on. Returns its configuration too.
fn stack(period: &str) -> (Stack, PathBuf) {
    let mut stack = Stack::builder().keys(&[KeyType::P256]).edges(2).start();
    let configuration = stack.directory().join("keyserver/keyserver.toml");
    assert!(init(&secret(&stack), period).status.success());
    let text = fs::read_to_string(&configuration).unwrap();
    fs::write(&configuration, text.replace("[[key]]", "[tickets]\nstate = \"tickets.toml\"\n[[key]]")).unwrap();
    stack.key_server().restart();
    wait_until("the edges are served again", || stack.edges().iter().all(is_served));
    (stack, configuration)
}

fn secret(stack: &Stack) -> PathBuf {
    stack.directory().join("keyserver/tickets.toml")
}

#[test]
fn init_makes_a_secret_once_and_serve_wants_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tickets.toml");
    assert!(init(&file, "1h").status.success());
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let made = fs::read(&file).unwrap();
    let again = init(&file, "1h");
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("there is a ticket secret already"));
    assert_eq!(fs::read(&file).unwrap(), made);
    for period in ["0s", "1500ms", "8days", "often"] {
        assert_eq!(init(&directory.path().join("other.toml"), period).status.code(), Some(64), "{period}");
    }

    let (mut stack, _) = stack("1h");
    fs::remove_file(secret(&stack)).unwrap();
    stack.key_server().start_again();
    assert_eq!(stack.key_server().wait().code(), Some(64));
    assert!(stack.key_server().log().contains("make it with `keystead-keyserver init"));
}

#[test]
fn a_key_server_killed_among_rotations_starts_and_goes_on() {
    let (mut stack, _) = stack("1s");
    let generation = |stack: &mut Stack| stack.key_server().metric("keystead_keyserver_ticket_generation", &[]);
    let mut last = generation(&mut stack);
    for pause in [0, 330, 770, 990, 1210, 1730] {
        thread::sleep(Duration::from_millis(pause));
        stack.key_server().kill();
        stack.key_server().restart();
        let resumed = generation(&mut stack);
        assert!(resumed >= last, "from {last} back to {resumed}");
        last = resumed;
    }
    wait_until("the next rotation", || generation(&mut stack) > last);
    assert_eq!(fs::metadata(secret(&stack)).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(stack.key_server().metric("keystead_keyserver_ticket_state_write_failures_total", &[]), 0);
}

#[test]
fn an_edge_is_revoked_by_a_change_of_the_file_or_by_sighup() {
    for by_signal in [false, true] {
        let (mut stack, configuration) = stack("1h");
        let text = fs::read_to_string(&configuration).unwrap();
        // The last entry is the second edge's.
        fs::write(&configuration, format!("{text}revoked = true\n")).unwrap();
        if by_signal {
            stack.key_server().signal(Signal::HUP);
        }
        wait_until("the second edge is sent away", || {
            stack.key_server().metric("keystead_keyserver_unknown_peers_total", &[]) > 0
        });
        assert!(stack.edges().first().is_some_and(is_served));
        wait_until("nobody answers it", || !stack.edges().last().is_some_and(is_served));
        let log = stack.key_server().log();
        assert!(log.contains("configuration loaded") && log.contains("edges_removed="), "{log}");

        fs::write(&configuration, &text).unwrap();
        wait_until("the second edge is served again", || stack.edges().last().is_some_and(is_served));
    }
}
