//! Cuts what is sent into records and protects them.

use super::protect::{Protection, header};
use super::{HEADER_LENGTH, MAX_PLAINTEXT};
use crate::alert::{Alert, AlertDescription};
use crate::code_point::{ContentType, ProtocolVersion};
use crate::crypto::TAG_LENGTH;
use crate::error::LocalFailure;

/// The writing side of a connection.
#[derive(Debug)]
pub struct Sealer {
    protection: Option<Protection>,
    version: ProtocolVersion,
    max_protected: usize,
    /// A close_notify or a fatal alert is sent, and nothing follows one (RFC 5246 §7.2.1).
    ended: bool,
}

impl Default for Sealer {
    fn default() -> Self {
        Self { protection: None, version: ProtocolVersion::TLS_1_2, max_protected: MAX_PLAINTEXT, ended: false }
    }
}

impl Sealer {
    /// Speaks with a client older than TLS 1.2 in its own version's records, so that it understands the refusal.
    pub(crate) fn speak_at_most(&mut self, version: ProtocolVersion) {
        self.version = version.clamp(ProtocolVersion::SSL_3_0, ProtocolVersion::TLS_1_2);
    }

    /// Keeps protected records to the client's record_size_limit (RFC 8449 §4).
    pub(crate) fn limit_records(&mut self, limit: u16) {
        self.max_protected = MAX_PLAINTEXT.min(limit.into());
    }

    /// Appends ChangeCipherSpec and protects everything after it, in one step (RFC 5246 §7.1).
    pub(crate) fn change_cipher_spec(&mut self, protection: Protection, out: &mut Vec<u8>) -> Result<(), LocalFailure> {
        self.seal(ContentType::CHANGE_CIPHER_SPEC, &[1], out)?;
        self.protection = Some(protection);
        Ok(())
    }

    /// Most bytes of plaintext that one record takes.
    pub fn max_payload(&self) -> usize {
        if self.protection.is_some() { self.max_protected } else { MAX_PLAINTEXT }
    }

    /// Bytes in front of a record's payload: header and explicit nonce.
    pub fn headroom(&self) -> usize {
        HEADER_LENGTH + self.protection.as_ref().map_or(0, Protection::explicit_nonce_length)
    }

    /// Bytes behind a record's payload: the tag.
    pub fn tailroom(&self) -> usize {
        if self.protection.is_some() { TAG_LENGTH } else { 0 }
    }

    /// Appends `data` as as few records as hold it; none for no data.
    ///
    /// # Errors
    /// [`LocalFailure::KeyExhausted`] when the key protects no more records.
    pub fn seal(&mut self, content_type: ContentType, data: &[u8], out: &mut Vec<u8>) -> Result<(), LocalFailure> {
        let (headroom, tailroom) = (self.headroom(), self.tailroom());
        for payload in data.chunks(self.max_payload()) {
            let start = out.len();
            out.resize(start + headroom, 0);
            out.extend_from_slice(payload);
            out.resize(out.len() + tailroom, 0);
            let slot = out.get_mut(start..).unwrap_or_default();
            if let Err(failure) = self.seal_in_place(content_type, slot) {
                out.truncate(start);
                return Err(failure);
            }
        }
        Ok(())
    }

    /// Makes `slot` = headroom ‖ payload ‖ tailroom one record, in place. The payload has at most
    /// [`Self::max_payload`] bytes.
    ///
    /// # Errors
    /// [`LocalFailure::KeyExhausted`] when the key protects no more records; alerts still pass then.
    pub fn seal_in_place(&mut self, content_type: ContentType, slot: &mut [u8]) -> Result<(), LocalFailure> {
        debug_assert!(slot.len() <= self.headroom() + self.max_payload() + self.tailroom(), "the payload fits");
        let Some((room, fragment)) = slot.split_first_chunk_mut::<HEADER_LENGTH>() else {
            debug_assert!(false, "a slot has room for a header");
            return Ok(());
        };
        *room = header(content_type, self.version, fragment.len());
        let Some(protection) = &mut self.protection else { return Ok(()) };
        if protection.exhausted() && content_type != ContentType::ALERT {
            return Err(LocalFailure::KeyExhausted);
        }
        protection.seal(content_type, self.version, fragment)
    }

    /// Appends an alert: close_notify and no_renegotiation as warnings, all others as fatal. Behind a close_notify or a
    /// fatal alert it appends nothing.
    pub(crate) fn alert(&mut self, description: AlertDescription, out: &mut Vec<u8>) {
        if self.ended {
            return;
        }
        let alert = match description {
            AlertDescription::CLOSE_NOTIFY | AlertDescription::NO_RENEGOTIATION => Alert::warning(description),
            _ => Alert::fatal(description),
        };
        // A key with no record left even for an alert has nothing more to say.
        let _ = self.seal(ContentType::ALERT, &alert.encode(), out);
        self.ended = description != AlertDescription::NO_RENEGOTIATION;
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn long_data_becomes_several_records() {
        let mut out = Vec::new();
        Sealer::default().seal(ContentType::HANDSHAKE, &[7; MAX_PLAINTEXT + 1], &mut out).unwrap();
        let (first, second) = out.split_at(HEADER_LENGTH + MAX_PLAINTEXT);
        assert!(first.starts_with(&[22, 3, 3, 0x40, 0, 7]));
        assert_eq!(second, [22, 3, 3, 0, 1, 7]);
    }

    #[test]
    fn nothing_follows_the_end() {
        let (mut sealer, mut out) = (Sealer::default(), Vec::new());
        sealer.alert(AlertDescription::NO_RENEGOTIATION, &mut out);
        sealer.alert(AlertDescription::CLOSE_NOTIFY, &mut out);
        sealer.alert(AlertDescription::UNEXPECTED_MESSAGE, &mut out);
        assert_eq!(out, [21, 3, 3, 0, 2, 1, 100, 21, 3, 3, 0, 2, 1, 0]);
    }

    #[test]
    fn an_old_client_is_refused_in_its_own_version() {
        let (mut sealer, mut out) = (Sealer::default(), Vec::new());
        sealer.speak_at_most(ProtocolVersion::TLS_1_0);
        sealer.alert(AlertDescription::PROTOCOL_VERSION, &mut out);
        assert_eq!(out, [21, 3, 1, 0, 2, 2, 70]);
    }
}
