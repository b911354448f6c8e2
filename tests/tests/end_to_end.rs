//! The real programs together: what reaches the backend, what happens when a part fails, and what does not leak.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use keystead_tests::memory::Traces;
use keystead_tests::rustls_client::{self, config, connect, connect_to, fetch, is_served};
use keystead_tests::stack::{Edge, Host, KeyType, PATIENCE, Signal, Stack, programs, wait_until};
use keystead_tests::wire::{End, Wire, offer};
use keystead_tests::{backend, tool};
use keystead_tls::{Alert, AlertDescription, ContentType};

/// Connects and hopes for a handshake; gives the alert that came in its place.
fn refusal(edge: &Edge) -> End {
    let mut wire = Wire::connect(edge);
    let hello = wire.client.hello();
    wire.send(&hello);
    wire.end()
}

const INTERNAL_ERROR: End = End::Alert(AlertDescription::INTERNAL_ERROR);

// What the backend sees.

#[test]
fn a_backend_without_proxy_protocol_sees_the_clients_bytes_and_nothing_else() {
    let (address, connections) = backend::manual();
    let stack = Stack::builder().host(Host::new("localhost").backends(&[address])).start();
    let mut client = connect(stack.edge(), config()).unwrap();
    client.write_all(b"first bytes").unwrap();
    client.conn.send_close_notify();
    client.flush().unwrap();
    let mut seen = Vec::new();
    connections.recv_timeout(PATIENCE).unwrap().read_to_end(&mut seen).unwrap();
    assert_eq!(seen, b"first bytes");
}

#[test]
fn proxy_protocol_1_precedes_the_clients_bytes() {
    let (address, connections) = backend::manual();
    let host = Host::new("localhost").backends(&[address]).proxy_protocol("v1");
    let stack = Stack::builder().host(host).start();
    let mut client = connect(stack.edge(), config()).unwrap();
    client.write_all(b"GET").unwrap();
    let local = client.sock.local_addr().unwrap();
    let edge = stack.edge().address;
    let expected = format!("PROXY TCP4 {} {} {} {}\r\nGET", local.ip(), edge.ip(), local.port(), edge.port());
    let mut seen = vec![0; expected.len()];
    connections.recv_timeout(PATIENCE).unwrap().read_exact(&mut seen).unwrap();
    assert_eq!(String::from_utf8(seen).unwrap(), expected);
}

#[test]
fn proxy_protocol_2_tells_what_was_agreed_on() {
    let host = Host::new("localhost").default().alpn(&["http/1.1"]);
    let stack = Stack::builder().host(host).start();
    let suite = rustls::CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384;
    let mut config = rustls_client::config_for(suite, &[rustls::NamedGroup::secp256r1]);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut client = connect_to(stack.edge(), config, "www.keystead.test").unwrap();
    let local = client.sock.local_addr().unwrap();
    let page = fetch(&mut client).unwrap();
    for line in [
        "proxy: version 2\n",
        &format!("source: {local}\n"),
        &format!("destination: {}\n", stack.edge().address),
        "alpn: http/1.1\n",
        "authority: www.keystead.test\n",
        "tls: yes, no client certificate\n",
        "tls-version: TLSv1.2\n",
        "tls-cipher: ECDHE-RSA-AES256-GCM-SHA384\n",
        "key-algorithm: RSA2048\n",
    ] {
        assert!(page.contains(line), "{line}{page}");
    }
    let labels = [("version", "TLSv1.2"), ("suite", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"), ("group", "secp256r1")];
    assert_eq!(stack.edge().metric("keystead_edge_handshakes_total", &labels), 1);
}

#[test]
fn each_name_reaches_its_own_host() {
    let (one, ones) = backend::manual();
    let (two, twos) = backend::manual();
    let one = Host::new("one.keystead.test").backends(&[one]).keys(&[KeyType::P256]);
    let two = Host::new("*.keystead.test").backends(&[two]).keys(&[KeyType::Rsa2048]);
    let stack = Stack::builder().host(one).host(two).start();
    for (name, connections) in [("one.keystead.test", &ones), ("other.keystead.test", &twos)] {
        let mut client = connect_to(stack.edge(), config(), name).unwrap();
        client.write_all(name.as_bytes()).unwrap();
        let mut seen = vec![0; name.len()];
        connections.recv_timeout(PATIENCE).unwrap().read_exact(&mut seen).unwrap();
        assert_eq!(seen, name.as_bytes());
    }
}

#[test]
fn a_chain_may_come_from_a_file_while_the_key_stays_where_it_is() {
    let host = Host::new("localhost").chain_from("../keyserver/localhost-rsa.pem");
    let stack = Stack::builder().host(host).start();
    let mut client = connect(stack.edge(), config()).unwrap();
    assert!(fetch(&mut client).unwrap().contains("key-algorithm: RSA2048\n"));
}

#[test]
fn backends_take_turns_and_one_that_is_down_is_passed_over() {
    let ((one, ones), (two, twos)) = (backend::manual(), backend::manual());
    let (_held, down) = backend::down();
    let stack = Stack::builder().host(Host::new("localhost").backends(&[one, down, two])).start();
    let clients: Vec<_> = (0..6).map(|_| connect(stack.edge(), config()).unwrap()).collect();
    let count = |connections: &mpsc::Receiver<TcpStream>, expected| {
        (0..expected).for_each(|_| drop(connections.recv_timeout(PATIENCE).unwrap()));
    };
    count(&ones, 2);
    count(&twos, 4);
    drop(clients);
}

#[test]
fn a_backend_that_cannot_be_reached_ends_the_connection_in_order() {
    let (_held, down) = backend::down();
    let stack = Stack::builder().host(Host::new("localhost").backends(&[down])).start();
    let mut wire = Wire::connect(stack.edge());
    wire.handshake();
    let records = wire.read_to_end();
    assert_eq!(records.last().unwrap().payload, Alert::warning(AlertDescription::CLOSE_NOTIFY).encode());
    drop(wire);
    wait_until("it is counted", || stack.edge().ended("backend_unreachable") == 1);
}

// The key server.

#[test]
fn a_key_server_that_was_killed_fails_handshakes_until_it_is_back() {
    let mut stack = Stack::builder().key_server_option("timeout", "2s").start();
    let mut established = connect(stack.edge(), config()).unwrap();
    stack.key_server().kill();
    let began = Instant::now();
    assert_eq!(refusal(stack.edge()), INTERNAL_ERROR);
    assert!(began.elapsed() < PATIENCE / 4, "{:?}", began.elapsed());
    assert_eq!(stack.edge().failures("unreachable"), 1);
    assert_eq!(stack.edge().metric("keystead_edge_handshake_failures_total", &[("fault", "key_server")]), 1);
    // Who is connected stays so.
    assert!(fetch(&mut established).unwrap().contains("proxy: version 2"));
    stack.key_server().restart();
    stack.edge().process.wait_ready();
    assert!(is_served(stack.edge()));
}

#[test]
fn a_key_server_that_stands_still_fails_handshakes_in_time() {
    let mut stack = Stack::builder().key_server_option("timeout", "1s").start();
    stack.key_server().stop();
    let began = Instant::now();
    assert_eq!(refusal(stack.edge()), INTERNAL_ERROR);
    assert!((1..PATIENCE.as_secs() / 4).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert_eq!(stack.edge().failures("no_answer"), 1);
    stack.key_server().signal(Signal::CONT);
    wait_until("handshakes work again", || is_served(stack.edge()));
}

#[test]
fn an_edge_starts_without_its_key_server_and_serves_once_it_is_there() {
    let mut stack = Stack::start();
    stack.key_server().kill();
    stack.edge_mut().process.kill();
    let mut stack = stack;
    // What it learnt before the restart tells it whom it may serve, but nobody signs.
    stack.edge_mut().process.start_again();
    wait_until("it accepts", || TcpStream::connect(stack.edge().address).is_ok());
    assert_eq!(refusal(stack.edge()), INTERNAL_ERROR);
    assert!(!stack.edge().process.is_ready());
    stack.key_server().restart();
    stack.edge().process.wait_ready();
    assert!(is_served(stack.edge()));
}

// The programs.

#[test]
fn two_edges_serve_with_one_key_server() {
    let stack = Stack::builder().edges(2).start();
    for edge in stack.edges() {
        assert!(is_served(edge));
        assert_eq!(edge.handshakes(), 1);
    }
}

#[test]
fn edges_can_share_an_address_and_leave_it_to_one_another() {
    let mut stack = Stack::builder().edges(2).share_address().start();
    let served = |stack: &Stack| stack.edges().iter().map(Edge::handshakes).collect::<Vec<_>>();
    wait_until("the kernel has chosen each edge", || is_served(stack.edge()) && !served(&stack).contains(&0));
    stack.edges()[0].process.signal(Signal::TERM);
    assert_eq!(stack.edges_mut()[0].process.wait().code(), Some(0));
    for _ in 0..20 {
        assert!(is_served(&stack.edges()[1]));
    }
}

#[test]
fn the_portable_cryptography_serves_every_kind_of_key() {
    let keys = KeyType::ALL;
    let hosts = keys.map(|key| Host::new(&format!("{}.keystead.test", key.name())).keys(&[key]));
    let builder = Stack::builder().keys(&keys).crypto("portable");
    let stack = hosts.into_iter().fold(builder, |builder, host| builder.host(host)).start();
    for name in ["rsa.keystead.test", "p256.keystead.test", "p384.keystead.test", "ed25519.keystead.test"] {
        let mut client = connect_to(stack.edge(), config(), name).unwrap();
        assert!(fetch(&mut client).unwrap().contains(&format!("authority: {name}\n")));
    }
}

#[test]
fn a_key_server_that_stops_is_left_at_once() {
    let mut stack = Stack::start();
    stack.edge().process.wait_ready();
    let began = Instant::now();
    stack.key_server().signal(Signal::TERM);
    assert!(stack.key_server().wait().success());
    // Its own deadline for edges that stay is ten seconds.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn an_address_that_is_taken_is_a_failed_start() {
    let stack = Stack::start();
    for (program, directory) in
        [("keystead-edge", "edge-one/edge.toml"), ("keystead-keyserver", "keyserver/keyserver.toml")]
    {
        let mut command = Command::new(programs::path(program));
        let output = tool::run(command.args(["serve", "--config"]).arg(stack.directory().join(directory)), b"");
        assert_eq!(output.code, Some(1), "{output}");
        output.assert_contains(&["127."]);
    }
}

#[test]
fn check_tells_what_is_wrong_and_where() {
    let stack = Stack::start();
    for (program, file, change, line, nearest) in [
        ("keystead-edge", "edge-one/edge.toml", ("state_directory", "state_directry"), 2, "state_directory"),
        ("keystead-edge", "edge-one/edge.toml", ("backends", "backend"), 0, "backends"),
        ("keystead-keyserver", "keyserver/keyserver.toml", ("listen =", "lisen ="), 1, "listen"),
    ] {
        let file = stack.directory().join(file);
        let check = |file| tool::run(Command::new(programs::path(program)).args(["check", "--config"]).arg(file), b"");
        check(&file).assert_success();
        let broken = file.with_file_name("broken.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&broken, text.replacen(change.0, change.1, 1)).unwrap();
        let output = check(&broken);
        assert_eq!(output.code, Some(64), "{output}");
        let line = if line == 0 { "broken.toml:".to_owned() } else { format!("broken.toml:{line}:") };
        output.assert_contains(&[&line, "unknown field", &format!("did you mean `{nearest}`?")]);
        let output = tool::run(Command::new(programs::path(program)).args(["serve", "--config"]).arg(&broken), b"");
        assert_eq!(output.code, Some(64), "{output}");
        assert_eq!(check(&file.with_file_name("none.toml")).code, Some(64));
    }
    for program in ["keystead-edge", "keystead-keyserver"] {
        assert_eq!(tool::run(Command::new(programs::path(program)).arg("--nonsense"), b"").code, Some(64));
        tool::run(Command::new(programs::path(program)).arg("--version"), b"").assert_success();
    }
}

// The keys.

#[test]
fn no_private_key_is_in_an_edges_memory_or_files() {
    let keys = KeyType::ALL;
    let hosts = keys.map(|key| Host::new(&format!("{}.keystead.test", key.name())).keys(&[key]));
    let builder = hosts.into_iter().fold(Stack::builder().keys(&keys), |builder, host| builder.host(host));
    let mut stack = builder.start();
    for name in ["rsa.keystead.test", "p256.keystead.test", "p384.keystead.test", "ed25519.keystead.test"] {
        for _ in 0..3 {
            let mut client = connect_to(stack.edge(), config(), name).unwrap();
            fetch(&mut client).unwrap();
        }
    }
    let key_server = stack.key_server().pid();
    let (edge, directory) = (stack.edge().process.pid(), stack.directory());
    let mut traces = Traces::default();
    for key in keys {
        traces.add(key.name(), &directory.join("keyserver").join(key.stem()).with_extension("key"));
    }
    // That the search finds keys, the places where they belong show.
    let all = BTreeSet::from(keys.map(|key| key.name().to_owned()));
    assert_eq!(traces.in_memory(key_server), all);
    assert_eq!(traces.in_directory(&directory.join("keyserver")), all);
    assert_eq!(traces.in_memory(edge), BTreeSet::new());
    assert_eq!(traces.in_directory(&directory.join("edge-one")), BTreeSet::new());
    // And that it finds them in an edge too, the one key that an edge has shows.
    let mut own = Traces::default();
    own.add("channel", &directory.join("edge-one/channel.key"));
    assert_eq!(own.in_memory(edge).len(), 1);
    assert_eq!(own.in_directory(&directory.join("edge-one")).len(), 1);
}

#[test]
fn an_unknown_name_is_refused_where_no_host_is_the_default() {
    let stack = Stack::builder().host(Host::new("localhost")).start();
    let mut offer = offer();
    offer.extensions.server_name = Some("other.test".to_owned());
    let mut wire = Wire::with(stack.edge(), offer);
    let hello = wire.client.hello();
    wire.send(&hello);
    assert_eq!(wire.end(), End::Alert(AlertDescription::UNRECOGNIZED_NAME));
    assert_eq!(stack.edge().failures("unrecognized_name"), 1);
}

#[test]
fn data_right_behind_finished_reaches_the_backend() {
    let stack = Stack::builder().host(Host::new("localhost").backends(&[backend::echo()])).start();
    let mut wire = Wire::connect(stack.edge());
    wire.hello();
    let flight = [wire.client.second_flight(), wire.client.data(b"false start")].concat();
    wire.send(&flight);
    wire.read_finished();
    let record = wire.read();
    assert_eq!((record.content_type, record.payload.as_slice()), (ContentType::APPLICATION_DATA, &b"false start"[..]));
}
