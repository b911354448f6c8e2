//! From the client to the backend: records are opened where they were read, and their contents written from there.

use std::io::{self, IoSlice, IoSliceMut};
use std::ops::Range;

use keystead_tls::{Error, Established, Opened};
use tokio::net::TcpStream;

use crate::backend::target::BackendStream;
use crate::buffer::{Buffer, Lent};
use crate::socket;
use crate::telemetry::{Ended, Lost};

/// Parts of a buffer that are written with one call.
const PARTS: usize = 32;

/// The direction from client to backend.
#[derive(Debug)]
pub(super) struct ToBackend {
    /// Held while there is something in it. Its parts are plaintext that the backend has yet to take.
    lent: Option<Lent>,
    /// Where in the buffer bytes stand that are yet to be opened.
    unopened: Range<usize>,
    input: Input,
    output: Output,
}

/// How far the client's stream has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    Open,
    Closed,
    /// Without a close_notify.
    Truncated(Error),
}

/// How far the stream to the backend has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    Open,
    /// All of the client's bytes are with the backend, and it knows that no more follow.
    Ended,
    /// The backend takes no more bytes. It may still have some to give.
    Refused,
}

impl ToBackend {
    /// `unread` is what the client sent behind its Finished.
    pub(super) fn new(unread: &[u8]) -> Self {
        let lent = (!unread.is_empty()).then(|| Lent::with(unread));
        Self { lent, unopened: 0..unread.len(), input: Input::Open, output: Output::Open }
    }

    /// Moves what can be moved with one read and one write: bytes that the backend took. Alerts to send are appended to
    /// `alerts`.
    ///
    /// # Errors
    /// What the client did wrong, or that its connection broke. What the backend has not taken by then is dropped.
    pub(super) fn pump(
        &mut self,
        tls: &mut Established,
        client: &TcpStream,
        backend: &BackendStream,
        alerts: &mut Vec<u8>,
    ) -> Result<usize, Ended> {
        if self.is_done() {
            return Ok(0);
        }
        if !self.has_plaintext() {
            self.fill(tls, client, alerts)?;
        }
        let moved = self.write(backend);
        self.finish(backend);
        if !self.has_plaintext()
            && let Some(lent) = &mut self.lent
        {
            // The beginning of a record, whose rest may be long in coming.
            self.unopened = lent.settle(self.unopened.clone());
        }
        Ok(moved)
    }

    /// Opens what was read, and if no data comes of it, reads more and opens that.
    fn fill(&mut self, tls: &mut Established, client: &TcpStream, alerts: &mut Vec<u8>) -> Result<(), Ended> {
        self.open(tls, alerts)?;
        if !self.has_plaintext() && self.input == Input::Open && self.read(tls, client)? {
            self.open(tls, alerts)?;
        }
        Ok(())
    }

    /// Reads behind what is yet to be opened: less than a record. Whether bytes came.
    fn read(&mut self, tls: &Established, client: &TcpStream) -> Result<bool, Ended> {
        let mut lent = Lent::take();
        let Buffer { bytes, .. } = lent.buffer();
        let begun = self.unopened.len();
        if let (Some(held), Some(front)) = (&mut self.lent, bytes.get_mut(..begun)) {
            front.copy_from_slice(held.buffer().bytes.get(self.unopened.clone()).unwrap_or_default());
        }
        let room = bytes.get_mut(begun..).unwrap_or_default();
        let capacity = room.len();
        let read = socket::read(client, &mut [IoSliceMut::new(room)], capacity);
        match read.map_err(|_| Ended::Lost(Lost::ClientReset))? {
            Some(0) => self.input = tls.end_of_input().map_or_else(Input::Truncated, |()| Input::Closed),
            Some(bytes) => {
                self.unopened = 0..begun + bytes;
                self.lent = Some(lent);
                return Ok(true);
            }
            None => {}
        }
        Ok(false)
    }

    fn open(&mut self, tls: &mut Established, alerts: &mut Vec<u8>) -> Result<(), Ended> {
        let Some(lent) = &mut self.lent else { return Ok(()) };
        let Buffer { bytes, parts, .. } = lent.buffer();
        while parts.len() < PARTS {
            let start = self.unopened.start;
            match tls.open(bytes.get_mut(self.unopened.clone()).unwrap_or_default(), alerts).map_err(Ended::Error)? {
                Opened::Incomplete { .. } => break,
                Opened::Record { consumed, plaintext } => {
                    self.unopened.start += consumed;
                    if !plaintext.is_empty() {
                        parts.push(start + plaintext.start..start + plaintext.end);
                    }
                }
                Opened::Closed => {
                    self.input = Input::Closed;
                    self.unopened = 0..0;
                    break;
                }
            }
        }
        Ok(())
    }

    fn write(&mut self, backend: &BackendStream) -> usize {
        let Some(lent) = &mut self.lent else { return 0 };
        let Buffer { bytes, parts, .. } = lent.buffer();
        if parts.is_empty() {
            return 0;
        }
        let mut slices = [IoSlice::new(&[]); PARTS];
        for (slice, part) in slices.iter_mut().zip(parts.iter()) {
            *slice = IoSlice::new(bytes.get(part.clone()).unwrap_or_default());
        }
        let used = slices.get(..parts.len()).unwrap_or(&slices);
        let length = parts.iter().map(Range::len).sum();
        let written = match socket::write(backend, used, length) {
            Ok(written) => written.unwrap_or(0),
            Err(_) => {
                self.output = Output::Refused;
                0
            }
        };
        advance(parts, written);
        if self.output == Output::Refused || (parts.is_empty() && self.unopened.is_empty()) {
            self.lent = None;
        }
        written
    }

    /// Tells the backend once all is written that no more follows.
    fn finish(&mut self, backend: &BackendStream) {
        if self.input != Input::Open && self.output == Output::Open && !self.has_plaintext() {
            // Fails when the backend is gone, which reading from it will tell.
            let _: io::Result<()> = socket::shutdown_write(backend);
            self.output = Output::Ended;
            self.lent = None;
        }
    }

    fn has_plaintext(&mut self) -> bool {
        self.lent.as_mut().is_some_and(|lent| !lent.buffer().parts.is_empty())
    }

    /// Whether nothing is left to do.
    pub(super) fn is_done(&self) -> bool {
        self.output != Output::Open
    }

    /// Whether the backend has refused bytes.
    pub(super) fn was_refused(&self) -> bool {
        self.output == Output::Refused
    }

    /// The cause, when the client's stream ended without a close_notify.
    pub(super) fn truncation(&self) -> Option<Error> {
        match self.input {
            Input::Truncated(cause) => Some(cause),
            Input::Open | Input::Closed => None,
        }
    }

    /// Which socket must be ready before there is more to do: the backend's to write, the client's to read, or none.
    pub(super) fn waits_for(&mut self) -> Option<WaitsFor> {
        match (self.is_done(), self.has_plaintext()) {
            (true, _) => None,
            (false, true) => Some(WaitsFor::Backend),
            (false, false) => Some(WaitsFor::Client),
        }
    }
}

/// What [`ToBackend`] waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaitsFor {
    /// Room in the backend's socket.
    Backend,
    /// Bytes in the client's socket.
    Client,
}

/// Takes `written` bytes from the front of `parts`.
fn advance(parts: &mut Vec<Range<usize>>, mut written: usize) {
    let whole = parts
        .iter()
        .take_while(|part| {
            let all = part.len() <= written;
            written -= if all { part.len() } else { 0 };
            all
        })
        .count();
    parts.drain(..whole);
    if let Some(part) = parts.first_mut() {
        part.start += written;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_bytes_leave_the_front() {
        let cases: [(usize, &[Range<usize>]); 5] = [
            (0, &[0..3, 5..9, 10..11]),
            (2, &[2..3, 5..9, 10..11]),
            (3, &[5..9, 10..11]),
            (6, &[8..9, 10..11]),
            (8, &[]),
        ];
        for (written, left) in cases {
            let mut parts = vec![0..3, 5..9, 10..11];
            advance(&mut parts, written);
            assert_eq!(parts, left, "{written}");
        }
    }
}
