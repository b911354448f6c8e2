//! The real programs together: what reaches the backend, what happens when a part fails, and what does not leak.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use keystead_tests::memory::Traces;
use keystead_tests::rustls_client::{self, Connection, config, connect, connect_to, fetch, is_served};
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

// Bytes in number.

/// Bytes that repeat after a prime number of them.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|position| (position % 251).to_le_bytes()[0]).collect()
}

fn digest(context: aws_lc_rs::digest::Context) -> Vec<u8> {
    context.finish().as_ref().to_vec()
}

/// Reads to the end; gives the number of bytes and their SHA-256.
fn read_digest(mut stream: impl Read) -> (usize, Vec<u8>) {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let (mut buffer, mut total) = (vec![0; 64 << 10], 0);
    loop {
        let length = stream.read(&mut buffer).expect("bytes or the end");
        if length == 0 {
            return (total, digest(context));
        }
        total += length;
        context.update(&buffer[..length]);
    }
}

/// Writes `pattern` again and again; gives the SHA-256 of it all.
fn write_digest(mut stream: impl Write, pattern: &[u8], times: usize) -> Vec<u8> {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for _ in 0..times {
        stream.write_all(pattern).expect("bytes are taken");
        context.update(pattern);
    }
    digest(context)
}

const MEGABYTE: usize = 1 << 20;

#[test]
fn a_hundred_megabytes_arrive_intact_at_the_backend() {
    let (sender, receiver) = mpsc::channel();
    let address = backend::start(move |stream| sender.send(read_digest(stream)).unwrap());
    let stack = Stack::builder().host(Host::new("localhost").backends(&[address])).start();
    let mut client = connect(stack.edge(), config()).unwrap();
    let sent = write_digest(&mut client, &pattern(MEGABYTE), 100);
    client.conn.send_close_notify();
    client.flush().unwrap();
    assert_eq!(receiver.recv_timeout(PATIENCE * 3).unwrap(), (100 * MEGABYTE, sent));
    wait_until("the bytes are counted", || {
        stack.edge().metric("keystead_edge_bytes_to_backend_total", &[]) == 100 * MEGABYTE as i64
    });
}

#[test]
fn a_hundred_megabytes_arrive_intact_at_the_client() {
    let (sender, receiver) = mpsc::channel();
    let address = backend::start(move |stream| sender.send(write_digest(&stream, &pattern(MEGABYTE), 100)).unwrap());
    let stack = Stack::builder().host(Host::new("localhost").backends(&[address])).start();
    let client = connect(stack.edge(), config()).unwrap();
    let (length, received) = read_digest(client);
    assert_eq!(length, 100 * MEGABYTE);
    assert_eq!(receiver.recv_timeout(PATIENCE).unwrap(), received);
}

#[test]
fn bytes_arrive_intact_while_both_sides_send() {
    let stack = Stack::builder().host(Host::new("localhost").backends(&[backend::echo()])).start();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (mut reader, mut writer) = tokio::io::split(concurrent::connect(stack.edge()).await);
        let (sent, received) = tokio::join!(
            concurrent::send(&mut writer, pattern(MEGABYTE), 50),
            concurrent::receive(&mut reader, 50 * MEGABYTE),
        );
        assert_eq!(sent, received);
    });
}

#[test]
fn a_thousand_clients_at_once_are_served() {
    let host = Host::new("localhost").backends(&[backend::echo()]);
    // The first of them may wait for the last.
    let stack =
        Stack::builder().limit("handshake_timeout", "60s").key_server_option("timeout", "20s").host(host).start();
    drop(connect(stack.edge(), config()).unwrap());
    wait_until("the first client has left", || stack.edge().connections() == 0);
    let before = stack.edge().settled_descriptors();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let connecting: Vec<_> = (0..1000).map(|_| tokio::spawn(concurrent::connect(stack.edge()))).collect();
        let mut clients = Vec::new();
        for client in connecting {
            clients.push(client.await.unwrap());
        }
        assert_eq!(stack.edge().connections(), 1000);
        let talking: Vec<_> = clients.into_iter().zip(0..).map(|(c, n)| tokio::spawn(concurrent::talk(c, n))).collect();
        for talk in talking {
            talk.await.unwrap();
        }
    });
    assert_eq!(stack.edge().handshakes(), 1001);
    wait_until("every connection has ended", || stack.edge().connections() == 0);
    wait_until("nothing is left", || stack.edge().process.descriptors() <= before);
}

/// Clients that do several things at once.
mod concurrent {
    use super::{Edge, config};
    use aws_lc_rs::digest::{Context, SHA256};
    use keystead_tests::stack::PATIENCE;
    use std::sync::Arc;
    use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream;

    pub(super) fn connect(edge: &Edge) -> impl Future<Output = TlsStream<TcpStream>> + use<> {
        let (address, config) = (edge.address, config());
        async move {
            let connecting = async {
                let stream = TcpStream::connect(address).await.unwrap();
                TlsConnector::from(Arc::new(config)).connect("localhost".try_into().unwrap(), stream).await.unwrap()
            };
            // A thousand handshakes with RSA take their time in a build without optimisation.
            tokio::time::timeout(PATIENCE * 4, connecting).await.expect("a handshake")
        }
    }

    pub(super) async fn send(stream: &mut (impl AsyncWrite + Unpin), pattern: Vec<u8>, times: usize) -> Vec<u8> {
        let mut context = Context::new(&SHA256);
        for _ in 0..times {
            stream.write_all(&pattern).await.unwrap();
            context.update(&pattern);
        }
        stream.shutdown().await.unwrap();
        super::digest(context)
    }

    pub(super) async fn receive(stream: &mut (impl AsyncRead + Unpin), length: usize) -> Vec<u8> {
        let (mut context, mut buffer, mut total) = (Context::new(&SHA256), vec![0; 64 << 10], 0);
        while let read @ 1.. = stream.read(&mut buffer).await.unwrap() {
            context.update(&buffer[..read]);
            total += read;
        }
        assert_eq!(total, length);
        super::digest(context)
    }

    /// Sends what only this client sends, and gets it back.
    pub(super) async fn talk(mut client: TlsStream<TcpStream>, number: usize) {
        let message = format!("client {number} ").repeat(100);
        client.write_all(message.as_bytes()).await.unwrap();
        let mut echo = vec![0; message.len()];
        client.read_exact(&mut echo).await.unwrap();
        assert_eq!(echo, message.as_bytes());
        client.shutdown().await.unwrap();
        assert_eq!(client.read(&mut echo).await.unwrap(), 0);
    }
}

// Clients that are slow, or leave.

#[test]
fn a_client_that_sends_byte_by_byte_is_served() {
    let stack = Stack::builder().host(Host::new("localhost").backends(&[backend::echo()])).start();
    let mut wire = Wire::connect(stack.edge());
    let hello = wire.client.hello();
    hello.chunks(1).for_each(|byte| wire.send(byte));
    wire.read_flight();
    let flight = wire.client.second_flight();
    flight.chunks(1).for_each(|byte| wire.send(byte));
    wire.read_finished();
    let data = wire.client.data(b"slowly");
    data.chunks(1).for_each(|byte| wire.send(byte));
    assert_eq!(wire.read().payload, b"slowly");
}

#[test]
fn a_client_that_does_not_read_holds_up_nobody_else() {
    let flood = backend::start(|mut stream| {
        let chunk = pattern(MEGABYTE);
        // Ends when the client leaves.
        while stream.write_all(&chunk).is_ok() {}
    });
    let host = Host::new("localhost").default();
    let stack = Stack::builder().host(host).host(Host::new("flood.keystead.test").backends(&[flood])).start();
    let silent: Vec<_> = (0..20).map(|_| connect_to(stack.edge(), config(), "flood.keystead.test").unwrap()).collect();
    assert!(is_served(stack.edge()));
    let sent = || stack.edge().metric("keystead_edge_bytes_to_client_total", &[]);
    // What the kernel takes is bounded, and so is what the edge does.
    let mut before = sent();
    wait_until("backpressure holds the backends up", || {
        thread::sleep(Duration::from_millis(100));
        std::mem::replace(&mut before, sent()) == before
    });
    assert!(is_served(stack.edge()));
    drop(silent);
    wait_until("every connection has ended", || stack.edge().connections() == 0);
}

/// Closes with a reset.
fn reset(stream: &TcpStream) {
    socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
}

#[test]
fn clients_that_vanish_leave_nothing_behind() {
    let stack = Stack::builder().host(Host::new("localhost").backends(&[backend::echo()])).start();
    let mut bystander = connect(stack.edge(), config()).unwrap();
    let (descriptors, connections) = (stack.edge().settled_descriptors(), stack.edge().connections());
    assert_eq!(connections, 1);
    for round in 0..60 {
        let mut wire = Wire::connect(stack.edge());
        // At every point of a connection's life: before a byte, in the middle of ClientHello, before and in the
        // second flight, with data under way.
        match round % 6 {
            0 => {}
            1 => {
                let hello = wire.client.hello();
                wire.send(&hello[..hello.len() / 2]);
            }
            2 => {
                let hello = wire.client.hello();
                wire.send(&hello);
            }
            3 => {
                wire.hello();
                let flight = wire.client.second_flight();
                wire.send(&flight[..flight.len() - 7]);
            }
            4 => wire.handshake(),
            _ => {
                wire.handshake();
                let data = wire.client.data(&pattern(MEGABYTE));
                wire.send(&data[..data.len() / 2 + 3]);
            }
        }
        if round % 2 == 0 {
            reset(&wire.stream);
        }
    }
    bystander.write_all(b"still here").unwrap();
    let mut echo = [0; 10];
    bystander.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"still here");
    wait_until("only the bystander is left", || stack.edge().connections() == connections);
    wait_until("no descriptor is left", || stack.edge().process.descriptors() <= descriptors);
    assert!(stack.edge().metric("keystead_edge_probes_total", &[]) > 0);
}

// Ends.

/// Sends close_notify and FIN, and keeps reading.
fn half_close(client: &mut Connection) {
    client.conn.send_close_notify();
    client.flush().unwrap();
    client.sock.shutdown(Shutdown::Write).unwrap();
}

#[test]
fn a_client_that_has_ended_still_receives() {
    let address = backend::start(|mut stream| {
        let mut request = Vec::new();
        stream.read_to_end(&mut request).unwrap();
        stream.write_all(&request.repeat(1000)).unwrap();
    });
    let stack = Stack::builder().host(Host::new("localhost").backends(&[address])).start();
    let mut client = connect(stack.edge(), config()).unwrap();
    client.write_all(&pattern(1000)).unwrap();
    half_close(&mut client);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, pattern(1000).repeat(1000));
    wait_until("it ended in order", || stack.edge().ended("orderly") == 1);
}

#[test]
fn a_backend_that_has_ended_still_receives() {
    let (address, connections) = backend::manual();
    let stack = Stack::builder().host(Host::new("localhost").backends(&[address])).start();
    let mut wire = Wire::connect(stack.edge());
    wire.handshake();
    let mut backend = connections.recv_timeout(PATIENCE).unwrap();
    backend.write_all(b"done").unwrap();
    backend.shutdown(Shutdown::Write).unwrap();
    let records = wire.read_to_end();
    assert_eq!(records[0].payload, b"done");
    assert_eq!(records[1].payload, Alert::warning(AlertDescription::CLOSE_NOTIFY).encode());
    let data = wire.client.data(&pattern(MEGABYTE));
    wire.send(&data);
    let close = wire.client.alert(Alert::warning(AlertDescription::CLOSE_NOTIFY));
    wire.send(&close);
    let mut received = Vec::new();
    backend.read_to_end(&mut received).unwrap();
    assert_eq!(received, pattern(MEGABYTE));
    wait_until("it ended in order", || stack.edge().ended("orderly") == 1);
}

#[test]
fn a_client_without_close_notify_is_told_from_one_with() {
    let stack = Stack::builder().host(Host::new("localhost").backends(&[backend::echo()])).start();
    let client = connect(stack.edge(), config()).unwrap();
    client.sock.shutdown(Shutdown::Write).unwrap();
    wait_until("the truncation is seen", || stack.edge().ended("connection_truncated") == 1);
}

#[test]
fn a_backend_that_breaks_off_is_told_from_one_that_ends() {
    let address = backend::start(|mut stream| {
        stream.write_all(b"not all").unwrap();
        // The edge must have read it before the reset throws it away.
        stream.read_exact(&mut [0]).unwrap();
        reset(&stream);
    });
    let stack = Stack::builder().host(Host::new("localhost").backends(&[address])).start();
    let mut client = connect(stack.edge(), config()).unwrap();
    let mut part = [0; 7];
    client.read_exact(&mut part).unwrap();
    client.write_all(b"!").unwrap();
    let error = client.read(&mut part).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    drop(client);
    wait_until("the reset is seen", || stack.edge().ended("backend_reset") == 1);
}

// Bounds.

#[test]
fn a_connection_without_a_byte_ends_at_the_idle_timeout() {
    let host = Host::new("localhost").backends(&[backend::echo()]);
    let stack = Stack::builder().limit("idle_timeout", "2s").host(host).start();
    let mut wire = Wire::connect(stack.edge());
    wire.handshake();
    // What moves is not idle.
    let (began, mut last) = (Instant::now(), Instant::now());
    while began.elapsed() < Duration::from_secs(4) {
        last = Instant::now();
        let data = wire.client.data(b"x");
        wire.send(&data);
        assert_eq!(wire.read().payload, b"x");
        thread::sleep(Duration::from_millis(500));
    }
    let records = wire.read_to_end();
    assert!((Duration::from_secs(2)..PATIENCE / 2).contains(&last.elapsed()), "{:?}", last.elapsed());
    assert!(records.is_empty(), "no close_notify, for more might have come: {records:?}");
    drop(wire);
    wait_until("it is counted", || stack.edge().ended("idle_timeout") == 1);
}

#[test]
fn the_handshake_deadline_is_absolute() {
    let stack = Stack::builder().limit("handshake_timeout", "700ms").start();
    let mut wire = Wire::connect(stack.edge());
    let hello = wire.client.hello();
    let began = Instant::now();
    // A byte now and then gains no time.
    for byte in &hello[..hello.len() - 1] {
        if wire.stream.write_all(&[*byte]).is_err() || began.elapsed() > PATIENCE {
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    assert!(began.elapsed() < Duration::from_millis(700) + PATIENCE / 4, "{:?}", began.elapsed());
    wait_until("it is counted", || stack.edge().failures("timed_out") == 1);
    drop(wire);
    wait_until("it is gone", || stack.edge().connections() == 0);
}

#[test]
fn connections_beyond_the_limit_wait_for_a_place() {
    let host = Host::new("localhost").backends(&[backend::echo()]);
    let stack = Stack::builder().limit("max_connections", "3").host(host).start();
    let mut clients: Vec<_> = (0..3).map(|_| connect(stack.edge(), config()).unwrap()).collect();
    let mut waiting = Wire::connect(stack.edge());
    let hello = waiting.client.hello();
    waiting.send(&hello);
    waiting.stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let error = waiting.stream.read(&mut [0]).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
    assert_eq!(stack.edge().connections(), 3);
    waiting.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    drop(clients.pop());
    waiting.read_flight();
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
fn sigterm_lets_a_transfer_finish() {
    let address = backend::start(|mut stream| {
        stream.read_exact(&mut [0; 5]).unwrap();
        // Ends with an error where the edge does not drain, which the client then sees.
        let _ = stream.write_all(&pattern(20 * MEGABYTE));
    });
    let mut stack = Stack::builder().host(Host::new("localhost").backends(&[address])).start();
    let mut client = connect(stack.edge(), config()).unwrap();
    let mut idle = connect(stack.edge(), config()).unwrap();
    stack.edge().process.signal(Signal::TERM);
    wait_until("it says that it drains", || stack.edge().process.get("/readyz").0 == 503);
    wait_until("it accepts nobody else", || TcpStream::connect(stack.edge().address).is_err());
    client.write_all(b"begin").unwrap();
    let mut received = Vec::new();
    client.read_to_end(&mut received).unwrap();
    assert!(received == pattern(20 * MEGABYTE), "{} bytes", received.len());
    assert!(stack.edge_mut().process.is_running());
    half_close(&mut client);
    idle.write_all(b"begin").unwrap();
    half_close(&mut idle);
    assert_eq!(read_digest(&mut idle).0, 20 * MEGABYTE);
    assert_eq!(stack.edge_mut().process.wait().code(), Some(0));
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
fn a_drain_ends_at_its_deadline() {
    let host = Host::new("localhost").backends(&[backend::echo()]);
    let mut stack = Stack::builder().limit("drain_timeout", "500ms").host(host).start();
    let mut client = connect(stack.edge(), config()).unwrap();
    stack.edge().process.signal(Signal::TERM);
    assert_eq!(stack.edge_mut().process.wait().code(), Some(0));
    // Without close_notify, since the client was cut off.
    assert!(client.read(&mut [0]).is_err());
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
