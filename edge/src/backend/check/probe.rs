//! One check: a connection, or a question over it and the first line of the answer.

use std::future::poll_fn;
use std::io::{self, IoSliceMut};

use strum::{EnumCount, EnumIter, IntoStaticStr};
use tokio::time::{Instant, timeout_at};

use super::{Answer, CheckSettings};
use crate::backend::target::{BackendStream, Target};
use crate::socket::{self, Stream};

/// Why a check failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, EnumIter, EnumCount)]
#[strum(serialize_all = "snake_case")]
pub enum CheckFailure {
    /// No connection.
    Unreachable,
    /// It took too long.
    TimedOut,
    /// The connection broke off before the answer.
    Closed,
    /// An answer that is not HTTP/1.
    NotHttp,
    /// Another status than those that are good.
    WrongStatus,
}

type Failed = (CheckFailure, String);

/// Checks once.
pub(super) async fn probe(target: &Target, settings: &CheckSettings) -> Result<(), Failed> {
    let deadline = Instant::now() + settings.timeout;
    let timed_out = || (CheckFailure::TimedOut, format!("not within {:?}", settings.timeout));
    let connected = timeout_at(deadline, target.connect()).await.map_err(|_| timed_out())?;
    let stream = connected.map_err(|cause| (CheckFailure::Unreachable, cause.to_string()))?;
    let closed = |cause: io::Error| {
        let is_late = cause.kind() == io::ErrorKind::TimedOut;
        if is_late { timed_out() } else { (CheckFailure::Closed, cause.to_string()) }
    };
    socket::write_all(&stream, &settings.question, deadline).await.map_err(closed)?;
    let Answer::Status(good) = &settings.answer else { return Ok(()) };
    let start = timeout_at(deadline, read_start(&stream)).await.map_err(|_| timed_out())?.map_err(closed)?;
    let status = status(&start).ok_or_else(|| (CheckFailure::NotHttp, start.escape_ascii().to_string()))?;
    let is_good = match good {
        Some(good) => good.contains(&status),
        None => (200..300).contains(&status),
    };
    if is_good { Ok(()) } else { Err((CheckFailure::WrongStatus, format!("status {status}"))) }
}

/// As much of an answer as has the status, and one byte behind it: `HTTP/1.1 200 `.
const START: usize = 13;

async fn read_start(stream: &BackendStream) -> io::Result<[u8; START]> {
    let mut start = [0; START];
    let mut filled = 0;
    while let Some(room @ [_, ..]) = start.get_mut(filled..) {
        let capacity = room.len();
        match socket::read(stream, &mut [IoSliceMut::new(room)], capacity)? {
            Some(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Some(read) => filled += read,
            None => poll_fn(|cx| stream.poll_read_ready(cx)).await?,
        }
    }
    Ok(start)
}

/// The status in the first line of an answer (RFC 9112 §4).
fn status(start: &[u8]) -> Option<u16> {
    let [digit, b' ', status @ .., b' ' | b'\r' | b'\n'] = start.strip_prefix(b"HTTP/1.")? else { return None };
    if !digit.is_ascii_digit() || !status.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(status).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    #[test]
    fn statuses_are_read_strictly() {
        for (start, expected) in [
            (&b"HTTP/1.1 200 "[..], Some(200)),
            (b"HTTP/1.0 404\r", Some(404)),
            (b"HTTP/2.0 200 ", None),
            (b"HTTP/1.1 2000", None),
            (b"HTTP/1.1 +20 ", None),
            (b"HTTP/1.1  20 ", None),
            (b"SSH-2.0-OpenS", None),
        ] {
            assert_eq!(status(start), expected, "{}", start.escape_ascii());
        }
    }

    /// What a check finds at a unix socket that gives `answer`, in two parts, and then `silence`.
    async fn found(answer: &'static [u8], good: Option<Vec<u16>>, silence: bool) -> Result<(), CheckFailure> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let serving = tokio::spawn(async move {
            let mut stream = listener.accept().await.unwrap().0;
            let mut question = [0; 5];
            stream.read_exact(&mut question).await.unwrap();
            assert_eq!(&question, b"GET /");
            let (first, second) = answer.split_at(answer.len() / 2);
            // A check leaves when its time is over, or as soon as it knows enough.
            let _ = stream.write_all(first).await;
            tokio::task::yield_now().await;
            let _ = stream.write_all(second).await;
            if silence {
                // Until the check has given up.
                let _ = stream.read(&mut question).await;
            }
        });
        let timeout = if silence { Duration::from_millis(50) } else { Duration::from_secs(20) };
        let settings = CheckSettings {
            interval: timeout,
            timeout,
            rise: 1,
            fall: 1,
            question: b"GET /".to_vec(),
            answer: Answer::Status(good),
        };
        let target = Target::Unix(path.as_path().into());
        let result = probe(&target, &settings).await.map_err(|(failure, _)| failure);
        serving.await.unwrap();
        drop(directory);
        result
    }

    #[tokio::test]
    async fn each_way_to_fail_has_its_name() {
        assert_eq!(found(b"HTTP/1.1 204 No Content\r\n\r\n", None, false).await, Ok(()));
        assert_eq!(found(b"HTTP/1.1 404 Not Found\r\n\r\n", Some(vec![404]), false).await, Ok(()));
        let wrong = Err(CheckFailure::WrongStatus);
        assert_eq!(found(b"HTTP/1.1 204 No Content\r\n\r\n", Some(vec![200]), false).await, wrong);
        assert_eq!(found(b"HTTP/1.1 503 Service Unavailable\r\n\r\n", None, false).await, wrong);
        assert_eq!(found(b"220 mail.example ESMTP\r\n", None, false).await, Err(CheckFailure::NotHttp));
        assert_eq!(found(b"HTTP/1.1", None, false).await, Err(CheckFailure::Closed));
        assert_eq!(found(b"HTTP/1.1", None, true).await, Err(CheckFailure::TimedOut));
    }
}
