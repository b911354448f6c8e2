//! Padding of the messages of `Exchange`, so that a watcher of the network cannot tell operations and kinds of keys
//! apart by size.

use prost::Message;
use prost::encoding::encoded_len_varint;

use crate::v1::{ExchangeReply, ExchangeRequest};

/// Messages are a multiple of this many bytes long.
pub const SIZE_CLASS: usize = 512;

/// The field `padding` has this number in every message that has one, so its tag takes one byte.
const TAG_LENGTH: usize = 1;

/// A message with a field for padding.
pub trait Pad: Message {
    /// Fills the message up to its size class, in place of whatever padding it has.
    fn pad(&mut self) {
        self.padding().clear();
        let padding = padding_length(self.encoded_len());
        self.padding().resize(padding, 0);
    }

    /// The field.
    #[doc(hidden)]
    fn padding(&mut self) -> &mut Vec<u8>;
}

impl Pad for ExchangeRequest {
    fn padding(&mut self) -> &mut Vec<u8> {
        &mut self.padding
    }
}

impl Pad for ExchangeReply {
    fn padding(&mut self) -> &mut Vec<u8> {
        &mut self.padding
    }
}

/// Bytes of padding that bring a message of `length` bytes to the next size class in reach. Tag and length of the
/// padding count too, so a gap of one or two bytes, or one where the length's own encoding grows, reaches to the class
/// after it.
fn padding_length(length: usize) -> usize {
    let gap = length.next_multiple_of(SIZE_CLASS) - length;
    if gap == 0 {
        return 0;
    }
    fitting(gap).or_else(|| fitting(gap + SIZE_CLASS)).unwrap_or(0)
}

/// The padding that, with its tag and length, takes exactly `gap` bytes.
fn fitting(gap: usize) -> Option<usize> {
    (1..=2)
        .filter_map(|length_bytes| gap.checked_sub(TAG_LENGTH + length_bytes))
        .find(|padding| *padding > 0 && TAG_LENGTH + encoded_len_varint(*padding as u64) + padding == gap)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::exchange_reply::Outcome;
    use crate::v1::{Refusal, SignServerKeyExchangeReply};

    #[test]
    fn every_length_is_filled_to_a_size_class() {
        for length in 0..3 * SIZE_CLASS {
            let operation = vec![7; length];
            let mut reply = ExchangeReply {
                id: 1,
                padding: Vec::new(),
                outcome: Some(Outcome::SignServerKeyExchange(SignServerKeyExchangeReply {
                    server_random: operation,
                    signature: Vec::new(),
                })),
            };
            let bare = reply.encoded_len();
            reply.pad();
            let padded = reply.encoded_len();
            assert_eq!(padded % SIZE_CLASS, 0, "{length}");
            assert!(padded >= bare && padded < bare + SIZE_CLASS + 131, "{length}");
        }
    }

    #[test]
    fn padding_replaces_padding() {
        let mut message = ExchangeRequest { id: 1, padding: vec![0; 1000], ..ExchangeRequest::default() };
        message.pad();
        assert_eq!(message.encoded_len(), SIZE_CLASS);
    }

    #[test]
    fn answers_with_rsa_2048_p256_and_refusals_are_of_one_size() {
        let answer = |outcome| {
            let mut reply = ExchangeReply { id: u64::MAX, padding: Vec::new(), outcome: Some(outcome) };
            reply.pad();
            reply.encoded_len()
        };
        let signed = |length| {
            Outcome::SignServerKeyExchange(SignServerKeyExchangeReply {
                server_random: vec![1; 32],
                signature: vec![2; length],
            })
        };
        let refusal = Outcome::Refusal(Refusal { code: 7, message: "the key is not this edge's to use".to_owned() });
        assert_eq!(answer(signed(256)), SIZE_CLASS);
        assert_eq!(answer(signed(70)), SIZE_CLASS);
        assert_eq!(answer(refusal), SIZE_CLASS);
    }
}
