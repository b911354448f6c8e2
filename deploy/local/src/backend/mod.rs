//! A small HTTP/1.1 backend that tells what it saw: the request, and what the PROXY header says about the client.
//!
//! | Request | Answer |
//! |---|---|
//! | `GET /bytes/N` | `N` bytes, byte `i` is `i mod 251` |
//! | `POST /echo` | the request's body, while it arrives |
//! | `POST /count` | length and SHA-256 of the request's body |
//! | any other | a `text/plain` page with request line, PROXY facts and headers |
mod listener;
mod proxy;

use std::fmt::Write;
use std::io;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Path, Request};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;

use listener::HeaderListener;
pub use proxy::{Arrival, Expect};

/// The pattern of `/bytes/N` repeats after so many bytes: a prime, so that no power of two hides a shift.
const PERIOD: u64 = 251;
const CHUNK: u64 = 256 * PERIOD;

/// Serves until `stop` resolves; then connections that are in use are served to their end.
///
/// # Errors
/// Those of the listener.
pub async fn serve(
    listener: TcpListener,
    expect: Expect,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let service = router().into_make_service_with_connect_info::<Arrival>();
    axum::serve(HeaderListener::new(listener, expect)?, service).with_graceful_shutdown(stop).await
}

fn router() -> Router {
    Router::new()
        .route("/bytes/{length}", get(bytes))
        .route("/echo", post(echo))
        .route("/count", post(count))
        .fallback(report)
}

async fn report(ConnectInfo(arrival): ConnectInfo<Arrival>, request: Request) -> Response {
    let mut page = format!("request: {} {} {:?}\n{arrival}", request.method(), request.uri(), request.version());
    for (name, value) in request.headers() {
        // Writing to a string cannot fail.
        let _ = writeln!(page, "header {name}: {}", String::from_utf8_lossy(value.as_bytes()));
    }
    text(StatusCode::OK, page)
}

async fn bytes(Path(length): Path<u64>) -> Response {
    let headers =
        [(header::CONTENT_TYPE, "application/octet-stream".to_owned()), (header::CONTENT_LENGTH, length.to_string())];
    (headers, Body::from_stream(pattern(length))).into_response()
}

fn pattern(length: u64) -> impl Stream<Item = Result<Bytes, io::Error>> {
    let chunk = Bytes::from_iter((0..CHUNK).map(|position| (position % PERIOD).to_le_bytes()[0]));
    stream::unfold(length, move |left| {
        let now = left.min(CHUNK);
        let part = chunk.slice(..usize::try_from(now).unwrap_or(chunk.len()));
        async move { (now > 0).then_some((Ok(part), left - now)) }
    })
}

async fn echo(request: Request) -> Response {
    request.into_body().into_response()
}

async fn count(request: Request) -> Response {
    let mut body = request.into_body().into_data_stream();
    let (mut length, mut hash) = (0, Sha256::new());
    while let Some(part) = body.next().await {
        let Ok(part) = part else { return text(StatusCode::BAD_REQUEST, "the body broke off\n".into()) };
        length += part.len();
        hash.update(part);
    }
    let digest: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    text(StatusCode::OK, format!("length: {length}\nsha256: {digest}\n"))
}

fn text(status: StatusCode, content: String) -> Response {
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], content).into_response()
}

#[cfg(test)]
mod tests;
