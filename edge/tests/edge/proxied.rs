//! Clients behind a load balancer that says who they are.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream, copy_bidirectional, duplex};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::client::TlsStream;

use super::stack::{Options, Stack};
use super::traffic::ping_pong;

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 443\r\n";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc6\x33\x64\x01\xc3\x50\x01\xbb";
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
/// What the backend is told of the client in those headers.
const TOLD: &str = "PROXY TCP4 192.0.2.7 198.51.100.1 50000 443\r\n";

/// A stack that believes headers from 127.0.0.1 alone.
async fn stack() -> Stack {
    let mut options = Options {
        listener_lines: "proxy_protocol_from = [\"127.0.0.1\", \"::1/128\"]".to_owned(),
        host_lines: "proxy_protocol = \"v1\"".to_owned(),
        ..Options::default()
    };
    options.limits.handshake_timeout = Duration::from_secs(20);
    Stack::start(options).await
}

/// A connection from this address, of any port.
async fn connect_from(stack: &Stack, address: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{address}:0").parse().unwrap()).unwrap();
    let stream = socket.connect(stack.edge).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// A client whose first bytes go in one segment with the header.
async fn try_behind(stack: &Stack, mut socket: TcpStream, header: &[u8]) -> std::io::Result<TlsStream<DuplexStream>> {
    let (near, mut far) = duplex(1 << 16);
    let header = header.to_vec();
    tokio::spawn(async move {
        let mut first = vec![0; 4096];
        let length = far.read(&mut first).await.unwrap();
        let segment = [&header, &first[..length]].concat();
        // Ends with an error where the edge closes the connection.
        if socket.write_all(&segment).await.is_ok() {
            let _ = copy_bidirectional(&mut far, &mut socket).await;
        }
    });
    stack.try_connect_over(near).await
}

/// What the backend is told of the next connection, and whether bytes pass.
async fn told(stack: &Stack, client: TlsStream<impl AsyncReadWrite>) -> String {
    let mut backend = BufReader::new(stack.backend.accept().await.unwrap().0);
    let mut header = String::new();
    backend.read_line(&mut header).await.unwrap();
    ping_pong(client, backend).await;
    header
}

trait AsyncReadWrite: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin {}
impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> AsyncReadWrite for S {}

/// What the backend is told when the edge was told nothing.
fn direct(client: SocketAddr, edge: SocketAddr) -> String {
    format!("PROXY TCP4 {} {} {} {}\r\n", client.ip(), edge.ip(), client.port(), edge.port())
}

#[tokio::test]
async fn a_trusted_proxy_says_who_the_client_is() {
    let stack = stack().await;
    for header in [V1, V2] {
        let socket = connect_from(&stack, "127.0.0.1").await;
        let client = try_behind(&stack, socket, header).await.unwrap();
        assert_eq!(told(&stack, client).await, TOLD);

        let mut socket = connect_from(&stack, "127.0.0.1").await;
        for byte in header.chunks(1) {
            socket.write_all(byte).await.unwrap();
        }
        let client = stack.try_connect_over(socket).await.unwrap();
        assert_eq!(told(&stack, client).await, TOLD);
    }
}

#[tokio::test]
async fn a_proxy_that_speaks_for_itself_is_the_client() {
    let stack = stack().await;
    for header in [LOCAL, b"PROXY UNKNOWN\r\n"] {
        let socket = connect_from(&stack, "127.0.0.1").await;
        let address = socket.local_addr().unwrap();
        let client = try_behind(&stack, socket, header).await.unwrap();
        assert_eq!(told(&stack, client).await, direct(address, stack.edge));
    }
}

#[tokio::test]
async fn nobody_else_can_claim_an_address() {
    let stack = stack().await;
    let socket = connect_from(&stack, "127.0.0.2").await;
    let address = socket.local_addr().unwrap();
    let client = stack.try_connect_over(socket).await.unwrap();
    assert_eq!(told(&stack, client).await, direct(address, stack.edge));
    for header in [V1, V2] {
        let socket = connect_from(&stack, "127.0.0.2").await;
        assert!(try_behind(&stack, socket, header).await.is_err());
    }
    stack.until_metric("handshake_failures_total{fault=\"client\",reason=\"not_tls\"}", 2).await;
}

#[tokio::test]
async fn a_trusted_connection_that_begins_otherwise_is_closed_without_a_word() {
    let stack = stack().await;
    let hello = b"\x16\x03\x01\x00\x05hello";
    let long = format!("PROXY UNKNOWN {}", "f".repeat(107));
    for (bytes, reason) in [
        (&hello[..], "missing"),
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 99999\r\n", "malformed"),
        (long.as_bytes(), "too_long"),
        (&V2[..20], "truncated"),
    ] {
        let mut socket = connect_from(&stack, "127.0.0.1").await;
        socket.write_all(bytes).await.unwrap();
        if reason == "truncated" {
            socket.shutdown().await.unwrap();
        }
        let mut answer = Vec::new();
        // Bytes of the client's that nobody read make it a reset.
        let _ = socket.read_to_end(&mut answer).await;
        assert!(answer.is_empty(), "{reason}");
        let labels = format!("{{fault=\"own\",reason=\"proxy_header_{reason}\"}}");
        stack.until_metric(&format!("handshake_failures_total{labels}"), 1).await;
    }
    drop(connect_from(&stack, "127.0.0.1").await);
    stack.until_metric("probes_total", 1).await;
}

#[tokio::test]
async fn a_header_that_does_not_come_to_its_end_has_the_handshakes_time() {
    let mut options =
        Options { listener_lines: "proxy_protocol_from = [\"127.0.0.0/8\"]".to_owned(), ..Options::default() };
    options.limits.handshake_timeout = Duration::from_millis(200);
    let stack = Stack::start(options).await;
    let mut socket = connect_from(&stack, "127.0.0.1").await;
    socket.write_all(&V1[..10]).await.unwrap();
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer).await;
    assert!(answer.is_empty());
    stack.until_metric("handshake_failures_total{fault=\"own\",reason=\"proxy_header_timed_out\"}", 1).await;
}
