//! Finds the records in what the client sends, checks their headers, and opens them.

use std::ops::Range;

use super::protect::Protection;
use super::{HEADER_LENGTH, MAX_CIPHERTEXT, MAX_PLAINTEXT};
use crate::code_point::{ContentType, ProtocolVersion};
use crate::error::{Error, InvalidMessage, PeerIncompatible, PeerMisbehaved};
use crate::handshake::joiner::MessageBoundary;

/// Empty application data records in a row that are let pass: some clients send one before each record, against
/// attacks on older versions' CBC suites.
const EMPTY_RECORDS: u8 = 16;

/// The reading side of a connection.
#[derive(Debug, Default)]
pub struct Opener {
    protection: Option<Protection>,
    /// The client has sent a whole record header that is TLS.
    started: bool,
    /// The version is agreed on, and records carry no other.
    version_agreed: bool,
    empty_in_a_row: u8,
}

/// What stands at the front of a buffer.
#[derive(Debug, PartialEq, Eq)]
pub enum Deframed {
    /// No whole record: the buffer must hold at least `wanted` bytes.
    Incomplete {
        /// Bytes, header included.
        wanted: usize,
    },
    /// A record, opened.
    Record {
        /// What it carries.
        content_type: ContentType,
        /// Where in the buffer its plaintext is.
        plaintext: Range<usize>,
        /// Bytes it took on the wire.
        consumed: usize,
    },
}

impl Opener {
    /// From here on records carry TLS 1.2's version.
    pub(crate) fn agree_on_version(&mut self) {
        self.version_agreed = true;
    }

    /// From here on records are protected. No handshake message may be in the middle.
    pub(crate) fn protect(&mut self, protection: Protection, _: MessageBoundary) {
        self.protection = Some(protection);
    }

    /// Whether the first record's header has been seen.
    pub(crate) fn started(&self) -> bool {
        self.started
    }

    /// Opens the record at the front of `buffer`, in place.
    ///
    /// # Errors
    /// Headers that are none, lengths over RFC 5246 §6.2's, tags that do not verify, fragments that may not be empty.
    pub fn open(&mut self, buffer: &mut [u8]) -> Result<Deframed, Error> {
        if !self.started {
            refuse_other_protocols(buffer)?;
        }
        let Some((&mut [content_type, v0, v1, l0, l1], body)) = buffer.split_first_chunk_mut::<HEADER_LENGTH>() else {
            return Ok(Deframed::Incomplete { wanted: HEADER_LENGTH });
        };
        let (content_type, version) = (ContentType(content_type), ProtocolVersion(u16::from_be_bytes([v0, v1])));
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        self.check_header(content_type, version, length)?;
        self.started = true;
        let consumed = HEADER_LENGTH + length;
        let Some(fragment) = body.get_mut(..length) else {
            return Ok(Deframed::Incomplete { wanted: consumed });
        };
        let plaintext = match &mut self.protection {
            Some(protection) => protection.open(content_type, version, fragment)?,
            None => 0..length,
        };
        self.bound_empty_records(content_type, plaintext.is_empty())?;
        let plaintext = HEADER_LENGTH + plaintext.start..HEADER_LENGTH + plaintext.end;
        Ok(Deframed::Record { content_type, plaintext, consumed })
    }

    fn check_header(&self, content_type: ContentType, version: ProtocolVersion, length: usize) -> Result<(), Error> {
        if content_type.name().is_none() {
            return Err(InvalidMessage::UnknownContentType.into());
        }
        // Before the version is agreed on any of SSL 3's and TLS's may stand there (RFC 5246 appendix E.1).
        let version_fits = if self.version_agreed { version == ProtocolVersion::TLS_1_2 } else { version.0 >> 8 == 3 };
        if !version_fits {
            return Err(InvalidMessage::WrongRecordVersion.into());
        }
        let longest = if self.protection.is_some() { MAX_CIPHERTEXT } else { MAX_PLAINTEXT };
        if length > longest {
            return Err(InvalidMessage::RecordOverflow.into());
        }
        Ok(())
    }

    fn bound_empty_records(&mut self, content_type: ContentType, empty: bool) -> Result<(), Error> {
        if !empty {
            self.empty_in_a_row = 0;
            return Ok(());
        }
        // Only application data may be empty (RFC 5246 §6.2.1).
        if content_type != ContentType::APPLICATION_DATA {
            return Err(PeerMisbehaved::EmptyFragment.into());
        }
        self.empty_in_a_row += 1;
        if self.empty_in_a_row > EMPTY_RECORDS {
            return Err(PeerMisbehaved::TooManyEmptyFragments.into());
        }
        Ok(())
    }
}

/// Names what the first bytes of a connection are if they are not TLS.
fn refuse_other_protocols(buffer: &[u8]) -> Result<(), Error> {
    const HTTP_METHODS: [&[u8]; 9] = [b"GET ", b"HEAD", b"POST", b"PUT ", b"DELE", b"CONN", b"OPTI", b"TRAC", b"PATC"];
    let Some(first) = buffer.first() else { return Ok(()) };
    if ContentType(*first).name().is_some() {
        return Ok(());
    }
    // Five bytes tell what it is; whatever it is, it is not TLS.
    let Some(start) = buffer.first_chunk::<5>() else { return Ok(()) };
    if HTTP_METHODS.iter().any(|method| start.starts_with(method)) || start == b"PRI *" {
        return Err(PeerIncompatible::PlainHttp.into());
    }
    // RFC 5246 appendix E.2: a length with the high bit set, message type 1, the version.
    if matches!(start, [0x80..=0xff, _, 1, 0 | 2 | 3, _]) {
        return Err(PeerIncompatible::Sslv2Hello.into());
    }
    Err(PeerIncompatible::NotTls.into())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn open(bytes: &[u8]) -> Result<Deframed, Error> {
        Opener::default().open(&mut bytes.to_vec())
    }

    #[test]
    fn says_how_many_bytes_a_record_wants() {
        assert_eq!(open(&[]), Ok(Deframed::Incomplete { wanted: 5 }));
        assert_eq!(open(&[22, 3, 1, 0]), Ok(Deframed::Incomplete { wanted: 5 }));
        assert_eq!(open(&[22, 3, 1, 0, 3, 9, 9]), Ok(Deframed::Incomplete { wanted: 8 }));
    }

    #[test]
    fn finds_the_first_of_several_records() {
        let record = Deframed::Record { content_type: ContentType::HANDSHAKE, plaintext: 5..7, consumed: 7 };
        assert_eq!(open(&[22, 3, 1, 0, 2, 9, 9, 22, 3, 1]), Ok(record));
    }

    #[test]
    fn names_what_is_not_tls() {
        for (bytes, cause) in [
            (&b"GET / HTTP/1.1\r\n"[..], PeerIncompatible::PlainHttp),
            (b"PRI * HTTP/2.0\r\n", PeerIncompatible::PlainHttp),
            (b"\x80\x2e\x01\x03\x01\x00", PeerIncompatible::Sslv2Hello),
            (b"SSH-2.0-OpenSSH", PeerIncompatible::NotTls),
            (b"\0\0\0\0\0", PeerIncompatible::NotTls),
        ] {
            assert_eq!(open(bytes), Err(cause.into()), "{bytes:?}");
        }
    }

    #[test]
    fn headers_are_checked_before_the_record_is_whole() {
        for (bytes, cause) in [
            ([22, 2, 0, 0, 1], InvalidMessage::WrongRecordVersion),
            ([22, 3, 3, 0x40, 1], InvalidMessage::RecordOverflow),
        ] {
            assert_eq!(open(&bytes), Err(cause.into()), "{bytes:?}");
        }
        let mut opener = Opener::default();
        assert!(opener.open(&mut [22, 3, 1, 0, 1, 9]).is_ok());
        assert_eq!(opener.open(&mut [24, 3, 3, 0, 1]), Err(InvalidMessage::UnknownContentType.into()));
        opener.agree_on_version();
        assert_eq!(opener.open(&mut [22, 3, 1, 0, 1]), Err(InvalidMessage::WrongRecordVersion.into()));
    }

    #[test]
    fn empty_fragments_are_bounded() {
        assert_eq!(open(&[22, 3, 3, 0, 0]), Err(PeerMisbehaved::EmptyFragment.into()));
        let mut opener = Opener::default();
        for _ in 0..EMPTY_RECORDS {
            opener.open(&mut [23, 3, 3, 0, 0]).unwrap();
        }
        assert_eq!(opener.open(&mut [23, 3, 3, 0, 0]), Err(PeerMisbehaved::TooManyEmptyFragments.into()));
    }
}
