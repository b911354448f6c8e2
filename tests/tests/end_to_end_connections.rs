//! Connections between real programs: many bytes, many clients, those that are slow or leave, and how each ends.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use keystead_tests::backend;
use keystead_tests::rustls_client::{Connection, config, connect, connect_to, is_served};
use keystead_tests::stack::{Edge, Host, PATIENCE, Signal, Stack, wait_until};
use keystead_tests::wire::Wire;
use keystead_tls::{Alert, AlertDescription};

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
    let stack = Stack::builder().limit("idle_timeout", "4s").host(host).start();
    let mut wire = Wire::connect(stack.edge());
    wire.handshake();
    // What moves is not idle.
    let (began, mut last) = (Instant::now(), Instant::now());
    while began.elapsed() < Duration::from_secs(6) {
        last = Instant::now();
        let data = wire.client.data(b"x");
        wire.send(&data);
        assert_eq!(wire.read().payload, b"x");
        thread::sleep(Duration::from_millis(500));
    }
    let records = wire.read_to_end();
    assert!((Duration::from_secs(4)..PATIENCE).contains(&last.elapsed()), "{:?}", last.elapsed());
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

// A drain.

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
fn a_drain_ends_at_its_deadline() {
    let host = Host::new("localhost").backends(&[backend::echo()]);
    let mut stack = Stack::builder().limit("drain_timeout", "500ms").host(host).start();
    let mut client = connect(stack.edge(), config()).unwrap();
    stack.edge().process.signal(Signal::TERM);
    assert_eq!(stack.edge_mut().process.wait().code(), Some(0));
    // Without close_notify, since the client was cut off.
    assert!(client.read(&mut [0]).is_err());
}
