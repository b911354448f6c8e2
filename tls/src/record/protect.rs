//! The protection of one direction's records: a key, the implicit part of the nonce, and the sequence number
//! (RFC 5246 §6.2.3.3, RFC 5288 §3, RFC 7905 §2).

use std::fmt;
use std::ops::Range;

use super::HEADER_LENGTH;
use zeroize::Zeroizing;

use crate::code_point::{ContentType, ProtocolVersion};
use crate::crypto::{Aead, Provider, RecordCipher, TAG_LENGTH, prf};
use crate::error::{Error, InvalidMessage, LocalFailure, PeerMisbehaved};
use crate::secret::MasterSecret;
use crate::suite::Suite;

/// Records that one AES-GCM key may protect: 2^24 full ones keep an attacker's advantage under 2^-57
/// (RFC 8446 §5.5 derives 2^24.5). ChaCha20-Poly1305 is bounded by the sequence number alone.
const AES_GCM_RECORDS: u64 = 1 << 24;

/// Records kept back at the end, so that an alert can always follow.
const RESERVED_RECORDS: u64 = 16;

/// The keys and the state of one direction.
pub struct Protection {
    cipher: Box<dyn RecordCipher>,
    aead: Aead,
    fixed_iv: Zeroizing<[u8; 12]>,
    sequence: u64,
}

/// Both directions, ready to be switched on.
#[derive(Debug)]
pub struct ProtectionPair {
    /// The client writes, the server reads.
    pub client: Protection,
    /// The server writes, the client reads.
    pub server: Protection,
}

impl ProtectionPair {
    /// Expands the master secret and cuts the key block up: client key, server key, client IV, server IV
    /// (RFC 5246 §6.3).
    pub fn derive(
        provider: &dyn Provider,
        suite: &Suite,
        master_secret: &MasterSecret,
        client_random: &[u8; 32],
        server_random: &[u8; 32],
    ) -> Self {
        let Suite { aead, hash, .. } = *suite;
        let (key, iv) = (aead.key_length(), aead.fixed_iv_length());
        let block = prf::key_block(hash, master_secret, server_random, client_random, 2 * (key + iv));
        // The block is as long as the four parts together.
        let (client_key, rest) = block.expose().split_at(key);
        let (server_key, rest) = rest.split_at(key);
        let (client_iv, server_iv) = rest.split_at(iv);
        Self {
            client: Protection::new(provider, aead, client_key, client_iv),
            server: Protection::new(provider, aead, server_key, server_iv),
        }
    }
}

impl Protection {
    fn new(provider: &dyn Provider, aead: Aead, key: &[u8], iv: &[u8]) -> Self {
        let mut fixed_iv = Zeroizing::new([0; 12]);
        fixed_iv.iter_mut().zip(iv).for_each(|(slot, byte)| *slot = *byte);
        Self { cipher: provider.record_cipher(aead, key), aead, fixed_iv, sequence: 0 }
    }

    /// Bytes of the nonce that stand in each record.
    pub const fn explicit_nonce_length(&self) -> usize {
        match self.aead {
            Aead::Aes128Gcm | Aead::Aes256Gcm => 8,
            Aead::ChaCha20Poly1305 => 0,
        }
    }

    /// Whether only the records kept back for alerts are left.
    pub(super) fn exhausted(&self) -> bool {
        let limit = match self.aead {
            Aead::Aes128Gcm | Aead::Aes256Gcm => AES_GCM_RECORDS,
            Aead::ChaCha20Poly1305 => u64::MAX,
        };
        self.sequence >= limit - RESERVED_RECORDS
    }

    /// Protects `fragment` = explicit nonce ‖ plaintext ‖ room for the tag, in place.
    ///
    /// # Errors
    /// [`LocalFailure::KeyExhausted`] when the sequence number is at its end, and for a fragment without that room.
    pub fn seal(
        &mut self,
        content_type: ContentType,
        version: ProtocolVersion,
        fragment: &mut [u8],
    ) -> Result<(), LocalFailure> {
        let sequence = self.sequence;
        self.sequence = sequence.checked_add(1).ok_or(LocalFailure::KeyExhausted)?;
        let explicit = sequence.to_be_bytes();
        let (nonce_room, rest) =
            fragment.split_at_mut_checked(self.explicit_nonce_length()).ok_or(LocalFailure::KeyExhausted)?;
        let (plaintext, tag_room) = rest.split_last_chunk_mut::<TAG_LENGTH>().ok_or(LocalFailure::KeyExhausted)?;
        nonce_room.iter_mut().zip(explicit).for_each(|(slot, byte)| *slot = byte);
        let additional_data = additional_data(sequence, content_type, version, plaintext.len());
        *tag_room = self.cipher.seal(self.nonce(explicit), &additional_data, plaintext);
        Ok(())
    }

    /// Opens a protected fragment in place; returns where in it the plaintext is.
    ///
    /// # Errors
    /// [`PeerMisbehaved::BadRecordMac`] when its tag does not verify or it is too short to have one,
    /// [`InvalidMessage::RecordOverflow`] when it holds more than 2^14 bytes.
    pub fn open(
        &mut self,
        content_type: ContentType,
        version: ProtocolVersion,
        fragment: &mut [u8],
    ) -> Result<Range<usize>, Error> {
        // A fragment too short to hold nonce and tag is one whose tag does not verify.
        let explicit_length = self.explicit_nonce_length();
        let (nonce_part, rest) = fragment.split_at_mut_checked(explicit_length).ok_or(PeerMisbehaved::BadRecordMac)?;
        let plaintext_length = rest.len().checked_sub(TAG_LENGTH).ok_or(PeerMisbehaved::BadRecordMac)?;
        // The client chooses its explicit nonces (RFC 5288 §3); they need not be the sequence number.
        let explicit = match self.aead {
            Aead::Aes128Gcm | Aead::Aes256Gcm => {
                nonce_part.first_chunk().copied().ok_or(PeerMisbehaved::BadRecordMac)?
            }
            Aead::ChaCha20Poly1305 => self.sequence.to_be_bytes(),
        };
        let additional_data = additional_data(self.sequence, content_type, version, plaintext_length);
        self.cipher.open(self.nonce(explicit), &additional_data, rest).map_err(|_| PeerMisbehaved::BadRecordMac)?;
        if plaintext_length > super::MAX_PLAINTEXT {
            return Err(InvalidMessage::RecordOverflow.into());
        }
        self.sequence = self.sequence.checked_add(1).ok_or(LocalFailure::KeyExhausted)?;
        Ok(explicit_length..explicit_length + plaintext_length)
    }

    /// AES-GCM: salt ‖ explicit nonce (RFC 5288 §3). ChaCha20-Poly1305: IV ⊕ padded sequence number (RFC 7905 §2).
    fn nonce(&self, explicit: [u8; 8]) -> [u8; 12] {
        let mut nonce = *self.fixed_iv;
        // AES-GCM's fixed part is four bytes and the rest is zero, so that the exclusive or is both rules at once.
        nonce.iter_mut().skip(4).zip(explicit).for_each(|(slot, byte)| *slot ^= byte);
        nonce
    }
}

impl fmt::Debug for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Protection").field("aead", &self.aead).field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

/// RFC 5246 §6.2.3.3: sequence number, type, version, length of the plaintext.
fn additional_data(sequence: u64, content_type: ContentType, version: ProtocolVersion, length: usize) -> [u8; 13] {
    let [s0, s1, s2, s3, s4, s5, s6, s7] = sequence.to_be_bytes();
    let [v0, v1] = version.0.to_be_bytes();
    // Records hold at most 2^14 + 2048 bytes.
    let [.., l0, l1] = length.to_be_bytes();
    [s0, s1, s2, s3, s4, s5, s6, s7, content_type.0, v0, v1, l0, l1]
}

/// The header of a record that holds `length` bytes.
pub(super) fn header(content_type: ContentType, version: ProtocolVersion, length: usize) -> [u8; HEADER_LENGTH] {
    let [v0, v1] = version.0.to_be_bytes();
    let [.., l0, l1] = length.to_be_bytes();
    [content_type.0, v0, v1, l0, l1]
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::alert::AlertDescription;
    use crate::code_point::CipherSuite;
    use crate::crypto::FAST;
    use crate::record::Sealer;

    /// A sealer that has protected `sequence` records.
    fn sealer_at(sequence: u64, suite: CipherSuite) -> Sealer {
        let secret = MasterSecret::new([1; 48]);
        let pair = ProtectionPair::derive(FAST, Suite::find(suite).unwrap(), &secret, &[2; 32], &[3; 32]);
        let mut sealer = Sealer::default();
        sealer.change_cipher_spec(Protection { sequence, ..pair.server }, &mut Vec::new()).unwrap();
        sealer
    }

    #[test]
    fn a_key_is_not_used_beyond_its_limit_and_still_says_so() {
        for (suite, limit) in [
            (CipherSuite::ECDHE_RSA_WITH_AES_128_GCM_SHA256, 1 << 24),
            (CipherSuite::ECDHE_RSA_WITH_AES_256_GCM_SHA384, 1 << 24),
            (CipherSuite::ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, u64::MAX),
        ] {
            let (mut sealer, mut out) = (sealer_at(limit - 18, suite), Vec::new());
            let two_records = sealer.max_payload() + 1;
            assert_eq!(sealer.seal(ContentType::APPLICATION_DATA, &vec![0; two_records], &mut out), Ok(()));
            let sealed = out.len();
            assert_eq!(
                sealer.seal(ContentType::APPLICATION_DATA, &[0], &mut out),
                Err(LocalFailure::KeyExhausted),
                "{suite}"
            );
            assert_eq!(out.len(), sealed, "nothing of the record is sent");
            sealer.alert(AlertDescription::INTERNAL_ERROR, &mut out);
            assert!(out.len() > sealed, "the alert is sent");
        }
    }

    #[test]
    fn sequence_numbers_do_not_wrap() {
        let suite = Suite::find(CipherSuite::ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256).unwrap();
        let pair = ProtectionPair::derive(FAST, suite, &MasterSecret::new([1; 48]), &[2; 32], &[3; 32]);
        let mut writer = Protection { sequence: u64::MAX, ..pair.server };
        let mut fragment = [0; TAG_LENGTH];
        let sealed = writer.seal(ContentType::ALERT, ProtocolVersion::TLS_1_2, &mut fragment);
        assert_eq!(sealed, Err(LocalFailure::KeyExhausted));
        assert_eq!(fragment, [0; TAG_LENGTH], "the last nonce is never used");
    }

    #[test]
    fn the_nonce_is_the_sequence_number() {
        let suite = Suite::find(CipherSuite::ECDHE_RSA_WITH_AES_128_GCM_SHA256).unwrap();
        let pair = ProtectionPair::derive(FAST, suite, &MasterSecret::new([1; 48]), &[2; 32], &[3; 32]);
        let mut writer = pair.server;
        for sequence in 0..3_u64 {
            let mut fragment = [0; 8 + TAG_LENGTH];
            writer.seal(ContentType::ALERT, ProtocolVersion::TLS_1_2, &mut fragment).unwrap();
            assert!(fragment.starts_with(&sequence.to_be_bytes()));
        }
    }
}
