//! Reading and writing the presentation language of RFC 5246 §4: big-endian integers and length-prefixed vectors.

use crate::error::InvalidMessage;

/// Reads fields from the front of a message.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next `length` bytes.
    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], InvalidMessage> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(InvalidMessage::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], InvalidMessage> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(InvalidMessage::Truncated)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, InvalidMessage> {
        self.array().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, InvalidMessage> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u24(&mut self) -> Result<usize, InvalidMessage> {
        self.array().map(|[high, middle, low]| u32::from_be_bytes([0, high, middle, low]) as usize)
    }

    /// A vector behind a length of one byte.
    pub(crate) fn vector8(&mut self) -> Result<&'a [u8], InvalidMessage> {
        let length = self.u8()?;
        self.take(length.into())
    }

    /// A vector behind a length of two bytes.
    pub(crate) fn vector16(&mut self) -> Result<&'a [u8], InvalidMessage> {
        let length = self.u16()?;
        self.take(length.into())
    }

    /// A vector behind a length of three bytes.
    pub(crate) fn vector24(&mut self) -> Result<&'a [u8], InvalidMessage> {
        let length = self.u24()?;
        self.take(length)
    }

    /// That nothing is left.
    pub(crate) fn finish(self) -> Result<(), InvalidMessage> {
        if self.0.is_empty() { Ok(()) } else { Err(InvalidMessage::TrailingBytes) }
    }
}

/// Reads a whole message or field: what `read` leaves over is an error.
pub(crate) fn read_all<'a, T>(
    bytes: &'a [u8],
    read: impl FnOnce(&mut Reader<'a>) -> Result<T, InvalidMessage>,
) -> Result<T, InvalidMessage> {
    let mut reader = Reader::new(bytes);
    let value = read(&mut reader)?;
    reader.finish()?;
    Ok(value)
}

/// The items of a vector of 16-bit numbers that may not be empty.
pub(crate) fn u16_list<T>(bytes: &[u8], item: impl Fn(u16) -> T) -> Result<Vec<T>, InvalidMessage> {
    let (pairs, rest) = bytes.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(InvalidMessage::OddListLength);
    }
    if pairs.is_empty() {
        return Err(InvalidMessage::EmptyList);
    }
    Ok(pairs.iter().map(|pair| item(u16::from_be_bytes(*pair))).collect())
}

/// Writes what `content` writes, behind its length in `LENGTH_BYTES` bytes.
///
/// Callers bound the content so that its length fits; the high bytes of one that did not would be lost.
pub(crate) fn write_vector<const LENGTH_BYTES: usize>(out: &mut Vec<u8>, content: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH_BYTES]);
    content(out);
    let length = (out.len() - start - LENGTH_BYTES) as u64;
    debug_assert!(length < 1 << (8 * LENGTH_BYTES), "the caller bounds the content");
    let prefix = out.iter_mut().skip(start).take(LENGTH_BYTES);
    let bytes = length.to_be_bytes();
    prefix.zip(bytes.iter().skip(8 - LENGTH_BYTES)).for_each(|(slot, byte)| *slot = *byte);
}

pub(crate) fn write_u16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_be_bytes());
}
