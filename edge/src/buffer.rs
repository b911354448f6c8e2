//! Buffers for bytes on their way, lent by each thread to whichever connection moves bytes at the moment. An idle
//! connection holds none.
//!
//! Most are small. The few large ones are for bulk: longer reads and writes wake the other sides less often, which is much
//! of what a byte costs. A connection whose peer takes its time holds its buffer until what is left fits into a small one;
//! when all large ones are held so, small ones do.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::available_parallelism;

use keystead_tls::record::MAX_PLAINTEXT;

/// A record of the greatest length with AES-GCM's header, explicit nonce and tag.
const RECORD: usize = MAX_PLAINTEXT + 5 + 8 + 16;

/// Bytes of a small buffer.
pub const SMALL: usize = 4 * RECORD;
/// Bytes of a large buffer.
const LARGE: usize = 32 * RECORD;

/// Buffers that a thread keeps for the next connection.
const SMALL_KEPT: usize = 16;
const LARGE_KEPT: usize = 4;

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { small: Vec::new(), large: Vec::new() }) };
}

#[derive(Debug)]
struct Pool {
    small: Vec<Buffer>,
    large: Vec<Buffer>,
}

/// A buffer on loan. It returns to the pool of the thread that drops it.
#[derive(Debug)]
pub struct Lent {
    /// `None` only while being dropped.
    buffer: Option<Buffer>,
}

/// Bytes, and which of them matter. What they are is the borrower's to say.
#[derive(Debug)]
pub struct Buffer {
    /// At least [`SMALL`] bytes, of any content.
    pub bytes: Box<[u8]>,
    /// Parts of `bytes`, in order. Empty when lent.
    pub parts: Vec<Range<usize>>,
    large: Option<Large>,
}

impl Lent {
    /// A buffer, large if there is one.
    pub fn take() -> Self {
        let kept = POOL.with_borrow_mut(|pool| pool.large.pop());
        let large = kept.or_else(|| Large::claim().map(Buffer::large));
        large.map_or_else(Self::small, |buffer| Self { buffer: Some(buffer) })
    }

    /// A buffer of [`SMALL`] bytes.
    pub fn small() -> Self {
        let kept = POOL.with_borrow_mut(|pool| pool.small.pop());
        Self { buffer: Some(kept.unwrap_or_default()) }
    }

    /// A buffer that begins with `content`.
    pub fn with(content: &[u8]) -> Self {
        let mut lent = Self::small();
        let buffer = lent.buffer();
        match buffer.bytes.get_mut(..content.len()) {
            Some(front) => front.copy_from_slice(content),
            None => buffer.bytes = content.into(),
        }
        lent
    }

    /// The buffer.
    pub fn buffer(&mut self) -> &mut Buffer {
        self.buffer.get_or_insert_default()
    }

    /// Gives a large buffer back for a small one, if `rest` is all that is left in it and fits. Returns where that stands.
    pub fn settle(&mut self, rest: Range<usize>) -> Range<usize> {
        let buffer = self.buffer();
        match buffer.bytes.get(rest.clone()) {
            Some(content) if buffer.large.is_some() && content.len() <= SMALL => {
                *self = Self::with(content);
                0..rest.len()
            }
            Some(_) | None => rest,
        }
    }
}

impl Buffer {
    fn large(large: Large) -> Self {
        Self { bytes: vec![0; LARGE].into_boxed_slice(), parts: Vec::new(), large: Some(large) }
    }
}

impl Default for Buffer {
    /// A buffer of [`SMALL`] bytes.
    fn default() -> Self {
        Self { bytes: vec![0; SMALL].into_boxed_slice(), parts: Vec::new(), large: None }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(mut buffer) = self.buffer.take() else { return };
        if ![SMALL, LARGE].contains(&buffer.bytes.len()) {
            return;
        }
        buffer.parts.clear();
        // Fails when the thread ends; the buffer is then freed.
        let _ = POOL.try_with(|pool| {
            let Pool { small, large } = &mut *pool.borrow_mut();
            let (kept, most) = if buffer.large.is_some() { (large, LARGE_KEPT) } else { (small, SMALL_KEPT) };
            if kept.len() < most {
                kept.push(buffer);
            }
        });
    }
}

/// One of the large buffers that there may be.
#[derive(Debug)]
struct Large;

/// Large buffers that there are.
static LARGE_THERE: AtomicUsize = AtomicUsize::new(0);
/// As many as all threads together keep.
static MOST_LARGE: LazyLock<usize> = LazyLock::new(|| LARGE_KEPT * available_parallelism().map_or(1, usize::from));

impl Large {
    fn claim() -> Option<Self> {
        let more = |there| (there < *MOST_LARGE).then_some(there + 1);
        LARGE_THERE.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Self)
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        LARGE_THERE.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_small_buffer_is_lent_again() {
        let mut lent = Lent::small();
        let address = lent.buffer().bytes.as_ptr();
        lent.buffer().parts.push(0..1);
        drop(lent);
        let mut lent = Lent::small();
        assert_eq!(lent.buffer().bytes.as_ptr(), address);
        assert!(lent.buffer().parts.is_empty());
        assert_ne!(Lent::small().buffer().bytes.as_ptr(), address);
    }

    /// One test, since what large ones there are is one number of the process.
    #[test]
    fn large_ones_are_few_and_come_back() {
        let length = |lent: &mut Lent| lent.buffer().bytes.len();
        for _ in 0..3 {
            let mut all: Vec<_> = std::iter::repeat_with(Lent::take).take(*MOST_LARGE).collect();
            assert!(all.iter_mut().all(|lent| length(lent) == LARGE));
            assert_eq!(length(&mut Lent::take()), SMALL, "small ones take their place");
            let last = all.last_mut().unwrap();
            last.buffer().bytes[7..10].copy_from_slice(b"end");
            assert_eq!(last.settle(7..8 + SMALL), 7..8 + SMALL, "it fits into none");
            assert_eq!(last.settle(7..10), 0..3);
            assert_eq!((length(last), &last.buffer().bytes[..3]), (SMALL, &b"end"[..]));
            assert_eq!(length(&mut Lent::take()), LARGE, "what settled gave its own back");
            // Where they come back to ends with the thread.
            std::thread::spawn(move || drop(all)).join().unwrap();
        }
    }

    #[test]
    fn content_of_any_length_fits() {
        for length in [0, 1, SMALL, SMALL + 1] {
            let content = vec![7; length];
            let mut lent = Lent::with(&content);
            assert!(lent.buffer().bytes.len() >= SMALL.min(length));
            assert_eq!(lent.buffer().bytes.get(..length), Some(content.as_slice()));
        }
    }
}
