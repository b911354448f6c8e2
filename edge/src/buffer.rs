//! Buffers for bytes on their way, lent by each thread to whichever connection moves bytes at the moment. An idle
//! connection holds none.

use std::cell::RefCell;
use std::ops::Range;

use keystead_tls::record::MAX_PLAINTEXT;

/// Bytes of a buffer: four records of the greatest length with AES-GCM's header, explicit nonce and tag.
pub const SIZE: usize = 4 * (MAX_PLAINTEXT + 5 + 8 + 16);

/// Buffers that a thread keeps for the next connection.
const KEPT: usize = 16;

thread_local! {
    static POOL: RefCell<Vec<Buffer>> = const { RefCell::new(Vec::new()) };
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
    /// At least [`SIZE`] bytes, of any content.
    pub bytes: Box<[u8]>,
    /// Parts of `bytes`, in order. Empty when lent.
    pub parts: Vec<Range<usize>>,
}

impl Lent {
    /// A buffer of [`SIZE`] bytes.
    pub fn take() -> Self {
        let kept = POOL.with_borrow_mut(Vec::pop);
        Self { buffer: Some(kept.unwrap_or_default()) }
    }

    /// A buffer that begins with `content`.
    pub fn with(content: &[u8]) -> Self {
        let mut lent = Self::take();
        if let Some(buffer) = &mut lent.buffer {
            match buffer.bytes.get_mut(..content.len()) {
                Some(front) => front.copy_from_slice(content),
                None => buffer.bytes = content.into(),
            }
        }
        lent
    }

    /// The buffer.
    pub fn buffer(&mut self) -> &mut Buffer {
        self.buffer.get_or_insert_default()
    }
}

impl Default for Buffer {
    /// A buffer of [`SIZE`] bytes.
    fn default() -> Self {
        Self { bytes: vec![0; SIZE].into_boxed_slice(), parts: Vec::new() }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(mut buffer) = self.buffer.take() else { return };
        if buffer.bytes.len() != SIZE {
            return;
        }
        buffer.parts.clear();
        // Fails when the thread ends; the buffer is then freed.
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            if pool.len() < KEPT {
                pool.push(buffer);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_lent_again() {
        let mut lent = Lent::take();
        let address = lent.buffer().bytes.as_ptr();
        lent.buffer().parts.push(0..1);
        drop(lent);
        let mut lent = Lent::take();
        assert_eq!(lent.buffer().bytes.as_ptr(), address);
        assert!(lent.buffer().parts.is_empty());
        assert_ne!(Lent::take().buffer().bytes.as_ptr(), address);
    }

    #[test]
    fn content_of_any_length_fits() {
        for length in [0, 1, SIZE, SIZE + 1] {
            let content = vec![7; length];
            let mut lent = Lent::with(&content);
            assert!(lent.buffer().bytes.len() >= SIZE.min(length));
            assert_eq!(lent.buffer().bytes.get(..length), Some(content.as_slice()));
        }
    }
}
