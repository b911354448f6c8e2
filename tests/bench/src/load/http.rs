//! As much of HTTP/1.1 as measuring takes.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A request that is sent again and again, and room for its answers.
pub(super) struct Exchange {
    head: Vec<u8>,
    /// Bytes of its body, whatever they are.
    body: u64,
    buffer: Vec<u8>,
}

/// Why an answer is none.
pub(super) enum Unanswered {
    Broken(io::Error),
    /// It is no HTTP with a Content-Length, or another status than 2xx.
    Unsuitable(&'static str),
}

impl From<io::Error> for Unanswered {
    fn from(cause: io::Error) -> Self {
        Self::Broken(cause)
    }
}

/// What one TLS record holds, four times over.
const BUFFER: usize = 64 * 1024;

impl Exchange {
    /// A request with a body of as many bytes; without any, it is a GET.
    pub(super) fn new(host: &str, path: &str, body: u64) -> Self {
        let (method, length) = match body {
            0 => ("GET", String::new()),
            _ => ("POST", format!("content-length: {body}\r\n")),
        };
        let head = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n{length}\r\n").into_bytes();
        Self { head, body, buffer: vec![0; BUFFER] }
    }

    /// Sends the request and reads the answer. Bytes of its body, and of the answer, are told to `passed` as they go and
    /// come.
    pub(super) async fn once(
        &mut self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        mut passed: impl FnMut(u64),
    ) -> Result<(), Unanswered> {
        stream.write_all(&self.head).await?;
        let mut unsent = self.body;
        while unsent > 0 {
            let next = usize::try_from(unsent).unwrap_or(BUFFER).min(BUFFER);
            let sent = stream.write(self.buffer.get(..next).unwrap_or_default()).await? as u64;
            unsent -= sent;
            passed(sent);
        }
        stream.flush().await?;
        let (expected, mut there) = self.head(stream).await?;
        passed(there);
        while there < expected {
            let read = stream.read(&mut self.buffer).await?;
            if read == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            there += read as u64;
            passed(read as u64);
        }
        if there > expected { Err(Unanswered::Unsuitable("answer_too_long")) } else { Ok(()) }
    }

    /// How long the answer is, its head included, and how much of it is there.
    async fn head(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> Result<(u64, u64), Unanswered> {
        let mut filled = 0;
        loop {
            let room = self.buffer.get_mut(filled..).unwrap_or_default();
            let read = stream.read(room).await?;
            if read == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            filled += read;
            if let Some(length) = parse(self.buffer.get(..filled).unwrap_or_default())? {
                return Ok((length, filled as u64));
            }
        }
    }
}

/// The length of a whole answer whose beginning this is; `None` while its head is not complete.
fn parse(beginning: &[u8]) -> Result<Option<u64>, Unanswered> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(beginning).map_err(|_| Unanswered::Unsuitable("answer_no_http"))?;
    let httparse::Status::Complete(head) = parsed else { return Ok(None) };
    if !response.code.is_some_and(|code| (200..300).contains(&code)) {
        return Err(Unanswered::Unsuitable("answer_of_other_status"));
    }
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.parse::<u64>().ok());
    // RFC 9110 §8.6.
    let length = if response.code == Some(204) { Some(0) } else { length };
    match length {
        Some(length) => Ok(Some(length.saturating_add(head as u64))),
        None => Err(Unanswered::Unsuitable("answer_without_length")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_is_read_to_its_end_however_it_is_cut() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_vec();
        for cut in 1..answer.len() {
            let (first, rest) = answer.split_at(cut);
            let mut stream = tokio_test::io::Builder::new()
                .write(b"GET /x HTTP/1.1\r\nhost: localhost\r\n\r\n")
                .read(first)
                .read(rest)
                .build();
            let mut bytes = 0;
            let done = Exchange::new("localhost", "/x", 0).once(&mut stream, |more| bytes += more).await;
            assert!(done.is_ok() && bytes == answer.len() as u64, "{cut}");
        }
    }

    #[tokio::test]
    async fn a_body_is_sent_whole_and_counted() {
        let body = BUFFER as u64 + 3;
        let mut stream = tokio_test::io::Builder::new()
            .write(format!("POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: {body}\r\n\r\n").as_bytes())
            .write(&[0; BUFFER + 3])
            .read(b"HTTP/1.1 204 No Content\r\n\r\n")
            .build();
        let mut bytes = 0;
        let done = Exchange::new("localhost", "/", body).once(&mut stream, |more| bytes += more).await;
        assert!(done.is_ok() && bytes == body + 27, "{bytes}");
    }

    #[test]
    fn what_cannot_be_measured_has_a_reason() {
        let reason = |answer: &[u8]| match parse(answer) {
            Err(Unanswered::Unsuitable(reason)) => reason,
            Ok(_) | Err(Unanswered::Broken(_)) => "none",
        };
        assert_eq!(reason(b"SSH-2.0\r\n\r\n"), "answer_no_http");
        assert_eq!(reason(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"), "answer_of_other_status");
        assert_eq!(reason(b"HTTP/1.1 200 OK\r\n\r\n"), "answer_without_length");
    }
}
