//! AEADs of ring.

use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use crate::crypto::{Aead, BadTag, RecordCipher, TAG_LENGTH};

pub(super) struct Cipher(LessSafeKey);

impl Cipher {
    #[expect(clippy::expect_used, reason = "the key block is cut by `Aead::key_length`")]
    pub(super) fn new(aead: Aead, key: &[u8]) -> Self {
        let algorithm = match aead {
            Aead::Aes128Gcm => &AES_128_GCM,
            Aead::Aes256Gcm => &AES_256_GCM,
            Aead::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        };
        Self(LessSafeKey::new(UnboundKey::new(algorithm, key).expect("a key of the AEAD's length")))
    }
}

impl RecordCipher for Cipher {
    #[expect(clippy::expect_used, reason = "fails beyond 2^36 bytes, a record has 2^14")]
    fn seal(&self, nonce: [u8; 12], additional_data: &[u8], data: &mut [u8]) -> [u8; TAG_LENGTH] {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.0.seal_in_place_separate_tag(nonce, Aad::from(additional_data), data);
        let mut bytes = [0; TAG_LENGTH];
        bytes.copy_from_slice(tag.expect("a record's length").as_ref());
        bytes
    }

    fn open<'d>(&self, nonce: [u8; 12], additional_data: &[u8], data: &'d mut [u8]) -> Result<&'d mut [u8], BadTag> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.0.open_in_place(nonce, Aad::from(additional_data), data).map_err(|_| BadTag)
    }
}
