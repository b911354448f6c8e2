#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
use clap::Parser;

use super::*;

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    stack: Options,
}

fn layout(arguments: &[&str]) -> Layout {
    Layout::new(&Arguments::try_parse_from([&["keystead-local"], arguments].concat()).unwrap().stack).unwrap()
}

#[test]
fn the_addresses_are_the_documented_ones() {
    let addresses = layout(&["--edges", "2"]).ports().into_iter().map(|port| port.address.to_string());
    let expected = ["7443", "9444", "8080", "8443", "9443", "8444", "9445"].map(|port| format!("127.0.0.1:{port}"));
    assert_eq!(addresses.collect::<Vec<_>>(), expected);
}

#[test]
fn eight_edges_have_ports_and_lines_of_their_own() {
    let eight = layout(&["--edges", "8"]);
    let ports: std::collections::BTreeSet<_> = eight.ports().into_iter().map(|port| port.address).collect();
    assert_eq!(ports.len(), 3 + 2 * 8);
    let printed = eight.to_string();
    for (name, port) in eight.edge_names().zip(8443..) {
        assert!(printed.contains(&format!("edge {name:<6} https://localhost:{port} ")), "{printed}");
        assert!(printed.contains(&format!("https://localhost:{port}/\n")), "{printed}");
    }
    for wrong in ["0", "9"] {
        assert!(Arguments::try_parse_from(["keystead-local", "--edges", wrong]).is_err());
    }
}

#[tokio::test]
async fn a_taken_port_is_named_with_the_option_that_moves_it() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let error = probe::ports_are_free(&layout(&["--key-server-port", &port])).await.unwrap_err().to_string();
    assert_eq!(error, format!("key server cannot have 127.0.0.1:{port}: choose another with --key-server-port"));
}

#[tokio::test]
async fn two_parts_cannot_share_a_port() {
    let clash = layout(&["--tls-port", "9444"]);
    assert!(probe::ports_are_free(&clash).await.unwrap_err().to_string().contains("both want"));
}

#[test]
fn a_directory_serves_one_stack_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let first = lock(directory.path()).unwrap();
    assert!(lock(directory.path()).unwrap_err().to_string().starts_with("another stack runs in"));
    drop(first);
    lock(directory.path()).unwrap();
}

#[test]
fn the_printed_command_quotes_what_a_shell_would_split() {
    assert!(layout(&["--dir", "a b"]).to_string().contains("curl --cacert 'a b/pki/ca.pem' https://localhost:8443/\n"));
    assert!(layout(&[]).to_string().contains("curl --cacert .keystead/pki/ca.pem https://localhost:8443/\n"));
}
