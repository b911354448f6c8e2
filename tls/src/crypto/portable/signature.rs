//! Signature verification of rsa, p256, p384 and ed25519-dalek.

use rsa::pkcs1::DecodeRsaPublicKey;
use rsa::traits::PublicKeyParts;
use rsa::{PublicKey as RsaPublicKey, pkcs1v15, pss};
use sha2::{Sha256, Sha384, Sha512};
use signature::{Error, Verifier};

use crate::code_point::SignatureScheme;
use crate::crypto::{BadSignature, form};
use crate::identity::PublicKey;

pub(super) fn verify(
    scheme: SignatureScheme,
    key: &PublicKey,
    message: &[u8],
    signature: &[u8],
) -> Result<(), BadSignature> {
    form::check_scheme(scheme, key)?;
    verify_bytes(scheme, key.subject_public_key(), message, signature).map_err(|_| BadSignature)
}

fn verify_bytes(scheme: SignatureScheme, key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), Error> {
    match scheme {
        SignatureScheme::RSA_PKCS1_SHA256 => rsa(pkcs1v15::VerifyingKey::<Sha256>::new, key, message, signature),
        SignatureScheme::RSA_PKCS1_SHA384 => rsa(pkcs1v15::VerifyingKey::<Sha384>::new, key, message, signature),
        SignatureScheme::RSA_PKCS1_SHA512 => rsa(pkcs1v15::VerifyingKey::<Sha512>::new, key, message, signature),
        // The salt is as long as the digest (RFC 8446 §4.2.3).
        SignatureScheme::RSA_PSS_RSAE_SHA256 => rsa(pss::VerifyingKey::<Sha256>::new, key, message, signature),
        SignatureScheme::RSA_PSS_RSAE_SHA384 => rsa(pss::VerifyingKey::<Sha384>::new, key, message, signature),
        SignatureScheme::RSA_PSS_RSAE_SHA512 => rsa(pss::VerifyingKey::<Sha512>::new, key, message, signature),
        SignatureScheme::ECDSA_SECP256R1_SHA256 => p256::ecdsa::VerifyingKey::from_sec1_bytes(key)?
            .verify(message, &p256::ecdsa::Signature::from_der(signature)?),
        SignatureScheme::ECDSA_SECP384R1_SHA384 => p384::ecdsa::VerifyingKey::from_sec1_bytes(key)?
            .verify(message, &p384::ecdsa::Signature::from_der(signature)?),
        SignatureScheme::ED25519 => ed25519(key, message, signature),
        _ => Err(Error::new()),
    }
}

/// `key` is an RSAPublicKey; the crate itself refuses moduli over 8192 bits.
fn rsa<V: Verifier<S>, S: for<'s> TryFrom<&'s [u8], Error = Error>>(
    verifying_key: impl FnOnce(RsaPublicKey) -> V,
    key: &[u8],
    message: &[u8],
    signature: &[u8],
) -> Result<(), Error> {
    let key = RsaPublicKey::from_pkcs1_der(key).map_err(|_| Error::new())?;
    if key.n().bit_width() < 2048 {
        return Err(Error::new());
    }
    verifying_key(key).verify(message, &S::try_from(signature)?)
}

/// A key is refused that is not the one encoding of its point (RFC 8032 §5.1.3), which the crate itself takes.
fn ed25519(key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), Error> {
    let verifying_key = ed25519_dalek::VerifyingKey::try_from(key)?;
    if verifying_key.to_edwards().compress().as_bytes() != key {
        return Err(Error::new());
    }
    verifying_key.verify(message, &ed25519_dalek::Signature::from_slice(signature)?)
}
