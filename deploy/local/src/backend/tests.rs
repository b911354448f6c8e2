#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

async fn start(expect: Expect) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, expect, std::future::pending()));
    address
}

/// Sends the parts one segment each and returns head and body of the answer.
async fn exchange(address: SocketAddr, parts: &[&[u8]]) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for part in parts {
        stream.write_all(part).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else {
        return (String::new(), answer);
    };
    let body = answer.split_off(end + 4);
    (String::from_utf8(answer).unwrap(), body)
}

const GET: &[u8] = b"GET /path?query HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
const PROXY: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 8443\r\n";

#[tokio::test]
async fn the_page_tells_request_header_and_proxy_facts() {
    let address = start(Expect::Always).await;
    let (begin, end) = PROXY.split_at(9);
    let (head, body) = exchange(address, &[begin, end, GET]).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let page = String::from_utf8(body).unwrap();
    let expected = "request: GET /path?query HTTP/1.1\nproxy: version 1\nsource: 192.0.2.7:50000\n\
        destination: 198.51.100.1:8443\nheader host: localhost\nheader connection: close\n";
    assert_eq!(page, expected);
}

#[tokio::test]
async fn a_missing_header_is_refused_or_reported() {
    let (head, body) = exchange(start(Expect::Perhaps).await, &[GET]).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(String::from_utf8(body).unwrap().contains("proxy: none"));

    let mut refused = TcpStream::connect(start(Expect::Always).await).await.unwrap();
    refused.write_all(GET).await.unwrap();
    let mut answer = Vec::new();
    // Closed with or without a reset, never with an answer.
    let _ = refused.read_to_end(&mut answer).await;
    assert!(answer.is_empty());
}

#[tokio::test]
async fn bytes_come_in_the_pattern_and_in_full() {
    let address = start(Expect::Never).await;
    for length in [0, 1, 251, CHUNK, CHUNK + 1, 3 * CHUNK - 7] {
        let request = format!("GET /bytes/{length} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        let (head, body) = exchange(address, &[request.as_bytes()]).await;
        assert!(head.to_lowercase().contains(&format!("content-length: {length}\r\n")), "{head}");
        assert_eq!(body.len() as u64, length);
        assert!(body.iter().enumerate().all(|(position, byte)| position % 251 == usize::from(*byte)));
    }
}

#[tokio::test]
async fn bodies_are_echoed_and_counted() {
    let address = start(Expect::Never).await;
    let head = |path| format!("POST {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 3\r\n\r\n");
    let (_, body) = exchange(address, &[head("/echo").as_bytes(), b"a", b"bc"]).await;
    assert_eq!(body, b"abc");
    let (_, body) = exchange(address, &[head("/count").as_bytes(), b"ab", b"c"]).await;
    // FIPS 180-4's example.
    let expected = "length: 3\nsha256: ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n";
    assert_eq!(String::from_utf8(body).unwrap(), expected);
}
