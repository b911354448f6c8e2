//! Bytes through a connection and back, each of which can be told from all others.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::time::{interval, timeout};

use super::client::reason;
use super::ledger::Bytes;

/// How long nothing may come back.
const STALL: Duration = Duration::from_secs(20);

/// How much, and how fast.
#[derive(Clone, Copy, Debug)]
pub(super) struct Volume {
    /// Tells the bytes of one connection from those of others.
    pub(super) seed: u64,
    /// Bytes of one piece.
    pub(super) piece: usize,
    /// How many there are.
    pub(super) pieces: u32,
    /// The time between them.
    pub(super) pause: Duration,
}

/// Sends everything, ends its own direction, reads everything back to the other side's orderly end, and compares.
pub(super) async fn there_and_back(stream: impl AsyncRead + AsyncWrite, volume: Volume) -> Bytes {
    let (mut from, mut to) = split(stream);
    let mut bytes = Bytes::default();
    let (mut sent, mut back) = (0, Back::default());
    let outcome = {
        let sending = send(&mut to, volume, &mut sent);
        let reading = read(&mut from, volume.seed, &mut back);
        tokio::pin!(sending, reading);
        // A direction that breaks ends the connection; that of the edge's end tells more, and comes last.
        tokio::select! {
            read = &mut reading => read,
            written = &mut sending => match written {
                Ok(()) => reading.await,
                Err(reason) => Err(reason),
            },
        }
    };
    (bytes.sent, bytes.echoed, bytes.altered) = (sent, back.length, back.altered);
    bytes.broken = outcome.err();
    if bytes.broken.is_none() && (sent != back.length || sent != volume.length()) {
        bytes.broken = Some("ended_early");
    }
    bytes
}

impl Volume {
    fn length(&self) -> u64 {
        self.piece as u64 * u64::from(self.pieces)
    }
}

async fn send(to: &mut (impl AsyncWrite + Unpin), volume: Volume, sent: &mut u64) -> Result<(), &'static str> {
    // At least a moment, which is what the timer of tokio can tell.
    let mut pace = interval(volume.pause.max(Duration::from_millis(1)));
    for _ in 0..volume.pieces {
        pace.tick().await;
        let piece: Vec<u8> = (*sent..).take(volume.piece).map(|position| pattern(volume.seed, position)).collect();
        // Counted first: what was written in part may have arrived.
        *sent += piece.len() as u64;
        to.write_all(&piece).await.map_err(|cause| reason(&cause))?;
        to.flush().await.map_err(|cause| reason(&cause))?;
    }
    to.shutdown().await.map_err(|cause| reason(&cause))
}

/// What has come back.
#[derive(Default)]
struct Back {
    length: u64,
    altered: bool,
}

async fn read(from: &mut (impl AsyncRead + Unpin), seed: u64, back: &mut Back) -> Result<(), &'static str> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let reading = timeout(STALL, from.read(&mut buffer)).await.map_err(|_| "stalled")?;
        let length = reading.map_err(|cause| reason(&cause))?;
        if length == 0 {
            return Ok(());
        }
        for byte in buffer.iter().take(length) {
            if *byte != pattern(seed, back.length) {
                back.altered = true;
                return Err("altered");
            }
            back.length += 1;
        }
    }
}

/// The byte at `position`: one that is lost, doubled or moved does not fit its neighbours.
fn pattern(seed: u64, position: u64) -> u8 {
    // The mixing of splitmix64.
    let mut word = seed.wrapping_add((position / 8).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let [a, b, c, d, e, f, g, h] = (word ^ (word >> 31)).to_le_bytes();
    match position % 8 {
        0 => a,
        1 => b,
        2 => c,
        3 => d,
        4 => e,
        5 => f,
        6 => g,
        _ => h,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::indexing_slicing, reason = "a test fails by panicking")]
    use super::*;
    use tokio::io::duplex;

    const VOLUME: Volume = Volume { seed: 7, piece: 1000, pieces: 5, pause: Duration::ZERO };

    /// What a client finds whose bytes are sent back after `change`.
    async fn through(change: impl Fn(Vec<u8>) -> Vec<u8> + Send + 'static) -> Bytes {
        let (client, mut server) = duplex(1 << 16);
        let serving = tokio::spawn(async move {
            let mut all = Vec::new();
            server.read_to_end(&mut all).await?;
            server.write_all(&change(all)).await
        });
        let bytes = there_and_back(client, VOLUME).await;
        drop(serving);
        bytes
    }

    #[tokio::test]
    async fn whole_bytes_are_found_whole() {
        let bytes = through(|all| all).await;
        assert_eq!((bytes.sent, bytes.echoed, bytes.altered, bytes.broken), (5000, 5000, false, None));
    }

    #[tokio::test]
    async fn one_bit_is_found() {
        let flip = |mut all: Vec<u8>| {
            all.iter_mut().skip(4321).take(1).for_each(|byte| *byte ^= 1);
            all
        };
        let bytes = through(flip).await;
        assert_eq!((bytes.echoed, bytes.altered), (4321, true));
    }

    #[tokio::test]
    async fn a_piece_that_is_lost_moved_or_doubled_is_found() {
        for range in [4000..5000, 0..1000] {
            let bytes = through(move |mut all| {
                all.drain(range.clone());
                all
            });
            let bytes = bytes.await;
            assert!(bytes.broken.is_some() && bytes.echoed <= 4000, "{bytes:?}");
        }
        let swapped = through(|all| all.chunks(1000).rev().flatten().copied().collect()).await;
        assert!(swapped.altered);
        let doubled = through(|all| [&all[..], &all[..8]].concat()).await;
        assert!(doubled.altered);
    }
}
