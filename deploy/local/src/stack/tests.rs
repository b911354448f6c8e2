#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
use clap::Parser;

use super::*;

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    stack: Options,
}

fn layout(arguments: &[&str]) -> Layout {
    layout_with(arguments, Some("/bin/redis-server".into()))
}

fn layout_with(arguments: &[&str], store_server: Option<PathBuf>) -> Layout {
    let arguments = Arguments::try_parse_from([&["keystead-local"], arguments].concat()).unwrap();
    Layout::new(&arguments.stack, store_server).unwrap()
}

fn printed(layout: &Layout) -> String {
    Announcement { layout, processes: vec![("keyserver", 11), ("edge-one", 12)] }.to_string()
}

#[test]
fn the_addresses_are_the_documented_ones() {
    let addresses = layout(&["--edges", "2"]).ports().into_iter().map(|port| port.address.to_string());
    let expected =
        ["7443", "9444", "8080", "8443", "9443", "8444", "9445", "6380"].map(|port| format!("127.0.0.1:{port}"));
    assert_eq!(addresses.collect::<Vec<_>>(), expected);
}

#[test]
fn eight_edges_have_ports_and_lines_of_their_own() {
    let eight = layout(&["--edges", "8"]);
    let ports: std::collections::BTreeSet<_> = eight.ports().into_iter().map(|port| port.address).collect();
    assert_eq!(ports.len(), 4 + 2 * 8);
    let printed = printed(&eight);
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
    let quoted = printed(&layout(&["--dir", "a b", "--edges", "2"]));
    assert!(quoted.contains("curl --cacert 'a b/pki/ca.pem' https://localhost:8443/\n"), "{quoted}");
    assert!(quoted.contains("-sess_in 'a b/id.session' "), "{quoted}");
    assert!(printed(&layout(&[])).contains("curl --cacert .keystead/pki/ca.pem https://localhost:8443/\n"));
}

#[test]
fn several_edges_share_a_store_and_one_has_none() {
    let configured = |layout: &Layout| {
        layout.write_configurations().unwrap();
        layout
            .edges
            .iter()
            .filter(|edge| {
                let text = fs::read_to_string(&edge.configuration).unwrap();
                let address = layout.store.address().map(|address| format!("addresses = [\"{address}\"]\n"));
                address.is_some_and(|line| text.contains(&format!("[sessions.shared]\nkind = \"single\"\n{line}")))
            })
            .count()
    };
    let directory = tempfile::tempdir().unwrap();
    let base = ["--dir", directory.path().to_str().unwrap()];
    let with = |more: &[&str], server: Option<&str>| layout_with(&[&base, more].concat(), server.map(Into::into));

    let two = with(&["--edges", "2"], Some("/bin/valkey-server"));
    assert_eq!(configured(&two), 2);
    assert!(printed(&two).contains("127.0.0.1:6380 (valkey-server)"), "{}", printed(&two));
    let given = with(&["--shared-store", "store.example.org:6379"], Some("/bin/valkey-server"));
    assert_eq!(configured(&given), 1);
    assert!(printed(&given).contains(" store.example.org:6379,"), "{}", printed(&given));
    assert!(given.ports().iter().all(|port| port.option != "--shared-store-port"));

    let alone = with(&[], Some("/bin/valkey-server"));
    assert_eq!((configured(&alone), printed(&alone).contains(" store ")), (0, false));
    let missing = with(&["--edges", "2"], None);
    assert_eq!(configured(&missing), 0);
    assert!(printed(&missing).contains("install valkey-server or redis-server"), "{}", printed(&missing));
    assert!(!printed(&missing).contains("-no_ticket"), "{}", printed(&missing));
}

#[test]
fn a_printed_invocation_is_one_line_for_a_shell() {
    let serve = Invocation::serve(Path::new("/opt/it's here/edge"), Path::new("edge.toml"));
    assert_eq!(serve.to_string(), r"'/opt/it'\''s here/edge' serve --config edge.toml");
    let empty = Invocation { program: "redis-server".into(), arguments: vec!["--save".into(), "".into()] };
    assert_eq!(empty.to_string(), "redis-server --save ''");
}
