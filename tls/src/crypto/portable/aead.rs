//! AEADs of aes-gcm and chacha20poly1305.

use aes_gcm::aead::consts::{U12, U16};
use aes_gcm::aead::{AeadCore, AeadInOut, KeyInit};
use aes_gcm::{Aes128Gcm, Aes256Gcm};
use chacha20poly1305::ChaCha20Poly1305;

use crate::crypto::{Aead, BadTag, RecordCipher, TAG_LENGTH};

pub(super) fn cipher(aead: Aead, key: &[u8]) -> Box<dyn RecordCipher> {
    match aead {
        Aead::Aes128Gcm => Box::new(Cipher::<Aes128Gcm>::new(key)),
        Aead::Aes256Gcm => Box::new(Cipher::<Aes256Gcm>::new(key)),
        Aead::ChaCha20Poly1305 => Box::new(Cipher::<ChaCha20Poly1305>::new(key)),
    }
}

struct Cipher<A>(A);

impl<A: KeyInit> Cipher<A> {
    #[expect(clippy::expect_used, reason = "the key block is cut by `Aead::key_length`")]
    fn new(key: &[u8]) -> Self {
        Self(A::new_from_slice(key).expect("a key of the AEAD's length"))
    }
}

impl<A: AeadInOut + AeadCore<NonceSize = U12, TagSize = U16> + Send + Sync> RecordCipher for Cipher<A> {
    #[expect(clippy::expect_used, reason = "fails beyond 2^36 bytes, a record has 2^14")]
    fn seal(&self, nonce: [u8; 12], additional_data: &[u8], data: &mut [u8]) -> [u8; TAG_LENGTH] {
        let tag = self.0.encrypt_inout_detached(&nonce.into(), additional_data, data.into());
        tag.expect("a record's length").into()
    }

    fn open<'d>(&self, nonce: [u8; 12], additional_data: &[u8], data: &'d mut [u8]) -> Result<&'d mut [u8], BadTag> {
        let (ciphertext, tag) = data.split_last_chunk_mut::<TAG_LENGTH>().ok_or(BadTag)?;
        let opened =
            self.0.decrypt_inout_detached(&nonce.into(), additional_data, (&mut *ciphertext).into(), &(*tag).into());
        opened.map(|()| ciphertext).map_err(|_| BadTag)
    }
}
