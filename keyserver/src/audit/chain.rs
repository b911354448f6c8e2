//! Lines of the log, each with a hash over itself and the hash before it.
//!
//! ```text
//! {"seq":7,"time":"2026-01-31T12:00:00.000Z","event":"…", … ,"hash":"64 hexadecimal digits"}
//! hash = SHA-256(the hash before, as 32 bytes ‖ the line up to and without `,"hash":"`)
//! ```

use std::fmt;
use std::io::Write;
use std::str::FromStr;
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use super::record::Event;

/// Where a chain stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The number of the last record; 0 where there is none.
    pub sequence: u64,
    /// Its hash; zeroes where there is none.
    pub hash: Hash,
}

impl Head {
    /// Appends the line of the next record to `lines`.
    ///
    /// # Errors
    /// Never for the events of this crate, whose values all have a form in JSON.
    pub fn append(&mut self, time: SystemTime, event: &Event, lines: &mut Vec<u8>) -> serde_json::Result<()> {
        let begin = lines.len();
        let sequence = self.sequence + 1;
        let written = serde_json::to_writer(&mut *lines, &event);
        if let Err(cause) = written {
            lines.truncate(begin);
            return Err(cause);
        }
        // `{` of the event makes way for what every line begins with.
        let time = humantime::format_rfc3339_millis(time);
        let prefix = format!("{{\"seq\":{sequence},\"time\":\"{time}\",");
        lines.splice(begin..=begin, prefix.into_bytes());
        lines.pop();
        let hash = self.hash.followed_by(lines.get(begin..).unwrap_or_default());
        // Writing to a vector cannot fail.
        let _ = writeln!(lines, "{SEAL}{hash}\"}}");
        *self = Self { sequence, hash };
        Ok(())
    }
}

const SEAL: &str = ",\"hash\":\"";
const SEAL_END: &[u8] = b"\"}";

/// The content of a line, without its newline, and the hash that stands in it; `None` for what is no line of a log.
pub fn split(line: &[u8]) -> Option<(&[u8], Hash)> {
    let line = line.strip_suffix(SEAL_END)?;
    let (content, hash) = line.split_at_checked(line.len().checked_sub(64)?)?;
    let hash = Hash::from_hex(hash)?;
    Some((content.strip_suffix(SEAL.as_bytes())?, hash))
}

/// A SHA-256.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// The hash of the record whose line begins with `content`, behind the one with this hash.
    #[must_use]
    pub fn followed_by(self, content: &[u8]) -> Self {
        Self(Sha256::new_with_prefix(self.0).chain_update(content).finalize().into())
    }

    fn from_hex(text: &[u8]) -> Option<Self> {
        let mut hash = [0; 32];
        hex_into(text, &mut hash).then_some(Self(hash))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl FromStr for Hash {
    type Err = InvalidHash;

    fn from_str(text: &str) -> Result<Self, InvalidHash> {
        Self::from_hex(text.as_bytes()).ok_or(InvalidHash)
    }
}

/// The text is no hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected 64 hexadecimal digits in lower case")]
pub struct InvalidHash;

/// Hexadecimal digits in lower case.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().unwrap_or_default();
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Reads hexadecimal digits in lower case; whether there are as many as `bytes` takes, and nothing else.
pub(super) fn hex_into(text: &[u8], bytes: &mut [u8]) -> bool {
    let nibble = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_chunks::<2>();
    let is_long_enough = rest.is_empty() && pairs.len() == bytes.len();
    is_long_enough
        && pairs.iter().zip(bytes).all(|([high, low], byte)| {
            nibble(*high).zip(nibble(*low)).map(|(high, low)| *byte = high << 4 | low).is_some()
        })
}
