//! The raw private operation of RSA in aws-lc: blinded, in constant time, checked for faults before its result leaves.
//!
//! aws-lc-rs does not offer it, and says of a PKCS #1 padding whether it is good, which nobody may learn
//! (RFC 5246 §7.4.7.1). So this calls aws-lc itself, in the one module of the key server that holds unsafe code.
#![expect(unsafe_code, reason = "aws-lc is C, and aws-lc-rs has no raw RSA operation")]

use std::ptr::NonNull;

use aws_lc_sys::{RSA, RSA_NO_PADDING, RSA_decrypt, RSA_free, RSA_private_key_from_bytes, RSA_size};
use zeroize::Zeroizing;

use super::{InvalidPrivateKey, KeyFault};

/// An RSA private key in the memory of aws-lc, which wipes it when it is freed.
pub(super) struct RawRsaKey(NonNull<RSA>);

// SAFETY: an RSA object may be freed by another thread than the one that made it; it is bound to none.
unsafe impl Send for RawRsaKey {}
// SAFETY: an RSA object may be used by several threads at a time as long as nobody changes it (openssl/rsa.h); the one
// function called with it, `RSA_decrypt`, takes locks for what it caches, and there is no way to change it from here.
unsafe impl Sync for RawRsaKey {}

impl RawRsaKey {
    /// Reads a DER RSAPrivateKey (RFC 8017 A.1.2). aws-lc checks that its parts agree.
    pub(super) fn from_pkcs1_der(der: &[u8]) -> Result<Self, InvalidPrivateKey> {
        // SAFETY: the pointer and the length are those of one slice, which is only read, during the call.
        let key = unsafe { RSA_private_key_from_bytes(der.as_ptr(), der.len()) };
        NonNull::new(key).map(Self).ok_or(InvalidPrivateKey::Malformed)
    }

    /// Raises `input` to the private exponent (RFC 8017 §5.1.2); the result is as long as the modulus.
    ///
    /// # Errors
    /// [`KeyFault`] for an input that is not as long as the modulus or not between 2 and the modulus - 2, where aws-lc
    /// does nothing, and for a fault.
    pub(super) fn transform(&self, input: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyFault> {
        let mut output = Zeroizing::new(vec![0; self.modulus_length()]);
        let mut length = 0;
        // SAFETY: the key lives as long as `self`. Each buffer's pointer and length are those of one slice; `input` is
        // only read, `output` is written up to the length given, and neither overlaps the other. `length` outlives the
        // call.
        let done = unsafe {
            RSA_decrypt(
                self.0.as_ptr(),
                &mut length,
                output.as_mut_ptr(),
                output.len(),
                input.as_ptr(),
                input.len(),
                RSA_NO_PADDING,
            )
        };
        if done == 1 && length == output.len() { Ok(output) } else { Err(KeyFault::Failed) }
    }

    fn modulus_length(&self) -> usize {
        // SAFETY: the key lives as long as `self`, and is only read.
        (unsafe { RSA_size(self.0.as_ptr()) }) as usize
    }
}

impl Drop for RawRsaKey {
    fn drop(&mut self) {
        // SAFETY: the pointer is the one reference to the object, made by `from_pkcs1_der`, and is not used again.
        unsafe { RSA_free(self.0.as_ptr()) }
    }
}
