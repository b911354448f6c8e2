//! Several backends, of several kinds, that come and go.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_rustls::client::TlsStream;

use super::relaying::ORDERLY;
use super::stack::{Options, Stack};
use super::traffic::{megabytes_both_ways, pattern, receive, receive_slowly, send};

/// A stack whose backend is a unix socket in the directory of its files.
async fn with_unix(host_lines: &str) -> (Stack, UnixListener) {
    let options =
        Options { backends: "[\"unix:app.sock\"]".to_owned(), host_lines: host_lines.to_owned(), ..Options::default() };
    let listener = UnixListener::bind(options.directory.path().join("app.sock")).unwrap();
    (Stack::start(options).await, listener)
}

async fn connect(stack: &Stack, listener: &UnixListener) -> (TlsStream<TcpStream>, UnixStream) {
    let (client, accepted) = tokio::try_join!(stack.try_connect(), listener.accept()).unwrap();
    (client, accepted.0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn megabytes_pass_a_unix_socket_both_ways_at_once() {
    let (stack, listener) = with_unix("").await;
    for chunk in [1 << 20, 16_384, 1000] {
        let (client, backend) = connect(&stack, &listener).await;
        megabytes_both_ways(client, backend, chunk).await;
    }
    stack.until_metric(ORDERLY, 3).await;
}

#[tokio::test]
async fn each_side_of_a_unix_socket_ends_by_itself() {
    let (stack, listener) = with_unix("").await;
    let (mut client, mut backend) = connect(&stack, &listener).await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(receive(&mut backend).await, b"question");
    backend.write_all(b"answer").await.unwrap();
    drop(backend);
    assert_eq!(receive(&mut client).await, b"answer");

    let (mut client, mut backend) = connect(&stack, &listener).await;
    backend.write_all(b"greeting").await.unwrap();
    backend.shutdown().await.unwrap();
    assert_eq!(receive(&mut client).await, b"greeting");
    client.write_all(b"answer").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(receive(&mut backend).await, b"answer");
    stack.until_metric(ORDERLY, 2).await;
}

#[tokio::test]
async fn a_reader_behind_a_unix_socket_slows_the_client_and_loses_nothing() {
    let (stack, listener) = with_unix("").await;
    let (client, mut backend) = connect(&stack, &listener).await;
    let up = pattern(8 << 20, 3);
    let sending = tokio::spawn(send(client, up.clone(), 1 << 20));
    assert!(receive_slowly(&mut backend, up.len(), 30_001).await == up);
    drop(backend);
    sending.await.unwrap();
}

#[tokio::test]
async fn a_backend_behind_a_unix_socket_hears_who_the_client_is() {
    let (stack, listener) = with_unix("proxy_protocol = \"v1\"").await;
    let (client, mut backend) = connect(&stack, &listener).await;
    let (from, to) = (client.get_ref().0.local_addr().unwrap(), stack.edge);
    let expected = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n", from.port(), to.port());
    let mut header = vec![0; expected.len()];
    backend.read_exact(&mut header).await.unwrap();
    assert_eq!(header, expected.into_bytes());
}

#[tokio::test]
async fn a_unix_backend_that_is_not_there_is_named() {
    let (stack, listener) = with_unix("").await;
    let path = stack.directory.path().join("app.sock");
    drop(listener);
    std::fs::remove_file(&path).unwrap();
    let mut client = stack.try_connect().await.unwrap();
    assert!(receive(&mut client).await.is_empty());
    let labels = format!("{{host=\"www.test\",backend=\"unix:{}\",reason=\"no_socket\"}}", path.display());
    stack.until_metric(&format!("backend_connect_failures_total{labels}"), 1).await;
    stack.until_metric("connections_ended_total{fault=\"own\",reason=\"backend_unreachable\"}", 1).await;
}

/// Tells its clients which of two it is.
async fn answers(mut client: TlsStream<TcpStream>) -> u8 {
    client.read_u8().await.unwrap()
}

fn tell(listener: TcpListener, name: u8) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            let mut stream = listener.accept().await.unwrap().0;
            stream.write_u8(name).await.unwrap();
        }
    })
}

#[tokio::test]
async fn a_backend_that_dies_is_passed_over_and_comes_back() {
    let (one, two) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let (one_address, two_address) = (one.local_addr().unwrap(), two.local_addr().unwrap());
    let backends = format!("[\"{one_address}\", \"{two_address}\"]");
    let stack = Stack::start(Options { backends, ..Options::default() }).await;
    let (_one, two) = (tell(one, 1), tell(two, 2));
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(answers(stack.try_connect().await.unwrap()).await);
    }
    assert_eq!(seen, [1, 2, 1, 2]);

    two.abort();
    assert!(two.await.unwrap_err().is_cancelled());
    for _ in 0..8 {
        assert_eq!(answers(stack.try_connect().await.unwrap()).await, 1);
    }
    let up = format!("backend_up{{host=\"www.test\",backend=\"{two_address}\"}}");
    stack.until_metric(&up, 0).await;
    let refused = format!("{{host=\"www.test\",backend=\"{two_address}\",reason=\"refused\"}}");
    assert!(stack.metrics().contains(&format!("backend_connect_failures_total{refused}")));

    let _two = tell(TcpListener::bind(two_address).await.unwrap(), 2);
    while answers(stack.try_connect().await.unwrap()).await != 2 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stack.until_metric(&up, 1).await;
}

#[tokio::test]
async fn the_least_busy_backend_is_chosen() {
    let listeners = [TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap()];
    let addresses = listeners.each_ref().map(|listener| listener.local_addr().unwrap());
    let stack = Stack::start(Options {
        backends: format!("[\"{}\", \"{}\"]", addresses[0], addresses[1]),
        host_lines: "balance = \"least_connections\"".to_owned(),
        ..Options::default()
    })
    .await;
    // The first stays. Each that follows leaves again, and goes to the other.
    let first = stack.try_connect().await.unwrap();
    let (first_at, first_backend) = accept(&listeners).await;
    for _ in 0..5 {
        let mut client = stack.try_connect().await.unwrap();
        let (at, backend) = accept(&listeners).await;
        assert_ne!(at, first_at);
        client.shutdown().await.unwrap();
        drop(backend);
        let standing = format!("backend_connections{{host=\"www.test\",backend=\"{}\"}}", addresses[at]);
        stack.until_metric(&standing, 0).await;
    }
    drop((first, first_backend));
}

async fn accept(listeners: &[TcpListener; 2]) -> (usize, TcpStream) {
    tokio::select! {
        accepted = listeners[0].accept() => (0, accepted.unwrap().0),
        accepted = listeners[1].accept() => (1, accepted.unwrap().0),
    }
}

/// Answers each request with the status of the moment, and every other connection with `name`.
async fn serve_http(mut stream: impl AsyncRead + AsyncWrite + Unpin, status: Arc<AtomicU16>) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => request.push(byte),
            Err(_) => return,
        }
    }
    let request = String::from_utf8(request).unwrap();
    let expected = "GET /health HTTP/1.1\r\nHost: app.example\r\n";
    let status = if request.starts_with(expected) { status.load(Ordering::Relaxed) } else { 400 };
    let _ = stream.write_all(format!("HTTP/1.1 {status} Whatever\r\ncontent-length: 0\r\n\r\n").as_bytes()).await;
}

#[tokio::test]
async fn checks_find_a_backend_that_is_ill_before_clients_do() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ill.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let status = Arc::new(AtomicU16::new(200));
    let of_moment = status.clone();
    tokio::spawn(async move {
        loop {
            let stream = listener.accept().await.unwrap().0;
            tokio::spawn(serve_http(stream, of_moment.clone()));
        }
    });
    let stack = Stack::start(Options {
        backends: format!("[\"unix:{}\"]", path.display()),
        host_lines: "[virtual_host.health_check]\nkind = \"http\"\npath = \"/health\"\nhost = \"app.example\"\n\
            interval = \"20ms\"\ntimeout = \"5s\"\nrise = 2\nfall = 2\n"
            .to_owned(),
        directory,
        ..Options::default()
    })
    .await;
    let backend = format!("host=\"www.test\",backend=\"unix:{}\"", path.display());
    let up = format!("backend_up{{{backend}}}");
    stack.until_metric(&up, 1).await;
    for _ in 0..2 {
        status.store(503, Ordering::Relaxed);
        stack.until_metric(&up, 0).await;
        // The only one that there is serves all the same.
        let mut client = stack.try_connect().await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        assert!(receive(&mut client).await.starts_with(b"HTTP/1.1 400"));
        status.store(204, Ordering::Relaxed);
        stack.until_metric(&up, 1).await;
    }
    let failures = format!("keystead_edge_backend_check_failures_total{{{backend},reason=\"wrong_status\"}} ");
    assert!(stack.metrics().contains(&failures), "{}", stack.metrics());
}

#[tokio::test]
async fn a_backend_that_its_check_finds_down_gets_no_connection() {
    let (down, up) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let (down_address, up_address) = (down.local_addr().unwrap(), up.local_addr().unwrap());
    let answer = |listener: TcpListener, status: u16| {
        tokio::spawn(async move {
            loop {
                let stream = listener.accept().await.unwrap().0;
                tokio::spawn(serve_http(stream, Arc::new(AtomicU16::new(status))));
            }
        })
    };
    let (_down, _up) = (answer(down, 500), answer(up, 200));
    let stack = Stack::start(Options {
        backends: format!("[\"{down_address}\", \"{up_address}\"]"),
        host_lines: "health_check = { kind = \"http\", path = \"/health\", host = \"app.example\", timeout = \"20s\" }"
            .to_owned(),
        ..Options::default()
    })
    .await;
    stack.until_metric(&format!("backend_up{{host=\"www.test\",backend=\"{down_address}\"}}"), 0).await;
    for _ in 0..6 {
        let mut client = stack.try_connect().await.unwrap();
        client.write_all(b"GET /health HTTP/1.1\r\nHost: app.example\r\n\r\n").await.unwrap();
        assert!(receive(&mut client).await.starts_with(b"HTTP/1.1 200"));
    }
    stack.until_metric(&format!("backend_connects_total{{host=\"www.test\",backend=\"{down_address}\"}}"), 0).await;
}

#[tokio::test]
async fn names_stand_for_their_addresses() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let stack = Stack::start(Options { backends: format!("[\"localhost:{port}\"]"), ..Options::default() }).await;
    let _telling = tell(listener, 7);
    for _ in 0..4 {
        assert_eq!(answers(stack.try_connect().await.unwrap()).await, 7);
    }
    // It may have an IPv6 address too, at which nobody listens.
    stack.until_metric(&format!("backend_up{{host=\"www.test\",backend=\"127.0.0.1:{port}\"}}"), 1).await;
}
