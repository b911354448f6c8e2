//! From the backend to the client: bytes are read to where their records will stand, and protected there. Records are short
//! where a client waits for the first of them, and as long as they may be in bulk.

use std::io::{self, IoSlice, IoSliceMut};
use std::ops::Range;
use std::time::Duration;

use keystead_tls::Established;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::backend::target::BackendStream;
use crate::buffer::{Buffer, Lent};
use crate::socket;
use crate::telemetry::{Ended, Lost};

/// Records that are read with one call.
const SLOTS: usize = 32;

/// The payload of records at the beginning and after a pause: each fits into one TCP segment of an Ethernet, so that the
/// client can use what has arrived. A record of 16 KiB is more than what TCP sends at first (ten segments, RFC 6928 §2), and
/// nothing of it can be used before its tag is there, a round trip later.
const SHORT_PAYLOAD: usize = 1370;
/// How much goes out in such records: what TCP sends in its first two round trips.
const BEGINNING: usize = 30 * SHORT_PAYLOAD;
/// What has sent nothing for so long begins again, as TCP does (RFC 5681 §4.1).
const PAUSE: Duration = Duration::from_secs(1);

/// The direction from backend to client.
#[derive(Debug, Default)]
pub(super) struct ToClient {
    /// Held while records in it are yet to be sent.
    lent: Option<Lent>,
    /// Where in the buffer they stand.
    records: Range<usize>,
    /// Alerts that go out behind those records. No further record is made before they are gone, so that all go out in
    /// the order in which they were protected.
    pub(super) alerts: Vec<u8>,
    state: State,
    pace: Pace,
}

/// How long records are.
#[derive(Debug, Default)]
struct Pace {
    /// When something was last sent.
    last: Option<Instant>,
    /// Bytes since the beginning, up to [`BEGINNING`].
    sent: usize,
}

impl Pace {
    /// Most bytes of a record's payload at this moment.
    fn payload(&mut self, now: Instant, most: usize) -> usize {
        if self.last.is_none_or(|last| now - last >= PAUSE) {
            self.sent = 0;
        }
        if self.sent < BEGINNING { most.min(SHORT_PAYLOAD) } else { most }
    }
}

/// Bytes that moved.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moved {
    /// Those that the backend gave, in the clear.
    pub(super) given: usize,
    /// Those that the client's kernel took, in records.
    pub(super) taken: usize,
}

/// How far the backend's stream has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// The backend sends no more; close_notify is on its way.
    Closing,
    /// The client has been sent all, and knows that no more follow.
    Ended,
}

impl ToClient {
    /// Moves what can be moved with one read and one write.
    ///
    /// # Errors
    /// That one of the two connections broke, or that this one's keys protect no more.
    pub(super) fn pump(
        &mut self,
        tls: &mut Established,
        client: &TcpStream,
        backend: &BackendStream,
        now: Instant,
    ) -> Result<Moved, Ended> {
        let mut moved = Moved::default();
        if self.state == State::Ended {
            // Nothing follows close_notify, and the socket takes nothing more.
            self.alerts = Vec::new();
        }
        if self.state == State::Open && !self.has_output() {
            moved.given = self.fill(tls, backend, now)?;
        }
        moved.taken = self.write(client)?;
        if moved.taken > 0 {
            self.pace.last = Some(now);
        }
        self.finish(client);
        Ok(moved)
    }

    /// Reads from the backend and protects what came.
    fn fill(&mut self, tls: &mut Established, backend: &BackendStream, now: Instant) -> Result<usize, Ended> {
        let mut lent = Lent::take();
        let Buffer { bytes, .. } = lent.buffer();
        let most = self.pace.payload(now, tls.max_payload());
        let read = read_into_slots(tls, bytes, most, backend).map_err(|_| Ended::Lost(Lost::BackendReset))?;
        match read {
            Some(0) => {
                tls.close(&mut self.alerts);
                self.state = State::Closing;
                Ok(0)
            }
            Some(payload) => {
                self.pace.sent = BEGINNING.min(self.pace.sent + payload);
                self.records = 0..self.seal(tls, bytes, payload, most)?;
                self.lent = Some(lent);
                Ok(payload)
            }
            None => Ok(0),
        }
    }

    /// Protects the `payload` bytes in the slots at the front of `bytes`, which have room for `most` each. All but the last
    /// are full, so each record ends where the next slot begins. Gives the length of all records together.
    fn seal(&mut self, tls: &mut Established, bytes: &mut [u8], payload: usize, most: usize) -> Result<usize, Ended> {
        let overhead = tls.headroom() + tls.tailroom();
        let (mut sealed, mut left) = (0, payload);
        while left > 0 {
            let length = left.min(most);
            let slot = bytes.get_mut(sealed..sealed + overhead + length).unwrap_or_default();
            if let Err(cause) = tls.seal_in_place(slot) {
                tls.abort(cause.into(), &mut self.alerts);
                return Err(Ended::Error(cause.into()));
            }
            sealed += slot.len();
            left -= length;
        }
        Ok(sealed)
    }

    /// Writes records and alerts; how many bytes the client's kernel took.
    fn write(&mut self, client: &TcpStream) -> Result<usize, Ended> {
        if !self.has_output() {
            return Ok(0);
        }
        let (records, alerts) = self.output();
        let length = records.len() + alerts.len();
        let slices = [IoSlice::new(records), IoSlice::new(alerts)];
        let written = socket::write(client, &slices, length).map_err(|_| Ended::Lost(Lost::ClientReset))?;
        let written = written.unwrap_or(0);
        let of_records = written.min(self.records.len());
        self.records.start += of_records;
        self.alerts.drain(..written - of_records);
        if self.records.is_empty() {
            self.lent = None;
        } else if let Some(lent) = &mut self.lent {
            self.records = lent.settle(self.records.clone());
        }
        if self.alerts.is_empty() {
            self.alerts = Vec::new();
        }
        Ok(written)
    }

    /// Tells the client's kernel once all is written that no more follows.
    fn finish(&mut self, client: &TcpStream) {
        if self.state == State::Closing && !self.has_output() {
            // Fails when the client is gone, which reading from it will tell.
            let _: io::Result<()> = socket::shutdown_write(client);
            self.state = State::Ended;
        }
    }

    /// What is yet to be sent: records, and the alerts behind them.
    pub(super) fn output(&mut self) -> (&[u8], &[u8]) {
        let records = match &mut self.lent {
            Some(lent) => lent.buffer().bytes.get(self.records.clone()).unwrap_or_default(),
            None => &[],
        };
        (records, &self.alerts)
    }

    fn has_output(&self) -> bool {
        !self.records.is_empty() || !self.alerts.is_empty()
    }

    /// Whether nothing is left to do.
    pub(super) fn is_done(&self) -> bool {
        self.state == State::Ended && !self.has_output()
    }

    /// Which socket must be ready before there is more to do: the client's to write, the backend's to read, or none.
    pub(super) fn waits_for(&self) -> Option<WaitsFor> {
        match (self.has_output(), self.state) {
            (true, _) => Some(WaitsFor::Client),
            (false, State::Open) => Some(WaitsFor::Backend),
            (false, State::Closing | State::Ended) => None,
        }
    }
}

/// What [`ToClient`] waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaitsFor {
    /// Room in the client's socket.
    Client,
    /// Bytes in the backend's socket.
    Backend,
}

/// Reads into the payloads, of `most` bytes each, of as many slots as `bytes` has, up to [`SLOTS`].
fn read_into_slots(
    tls: &Established,
    bytes: &mut [u8],
    most: usize,
    backend: &BackendStream,
) -> io::Result<Option<usize>> {
    let headroom = tls.headroom();
    let mut slots = bytes.chunks_exact_mut(headroom + most + tls.tailroom());
    let mut payloads: [IoSliceMut<'_>; SLOTS] = std::array::from_fn(|_| {
        let payload = slots.next().and_then(|slot| slot.get_mut(headroom..headroom + most));
        IoSliceMut::new(payload.unwrap_or_default())
    });
    let capacity = payloads.iter().map(|payload| payload.len()).sum();
    let used = payloads.partition_point(|payload| !payload.is_empty());
    socket::read(backend, payloads.get_mut(..used).unwrap_or_default(), capacity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_short_at_the_beginning_and_after_a_pause() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        assert_eq!(pace.payload(now, 16_384), SHORT_PAYLOAD);
        assert_eq!(pace.payload(now, 512), 512, "the client's limit is kept to");
        pace = Pace { last: Some(now), sent: BEGINNING - 1 };
        assert_eq!(pace.payload(now, 16_384), SHORT_PAYLOAD);
        pace.sent = BEGINNING;
        assert_eq!(pace.payload(now + PAUSE - Duration::from_nanos(1), 16_384), 16_384);
        assert_eq!(pace.payload(now + PAUSE, 16_384), SHORT_PAYLOAD);
        assert_eq!(pace.sent, 0, "it has begun again");
    }
}
