//! Keys in memory, used by aws-lc.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair as RsaKeyPair;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384,
    RSA_PSS_SHA512, RsaEncoding,
};
use keystead_tls::{KeyKind, SignatureScheme};
use pkcs8::PrivateKeyInfoRef;
use rand_core::CryptoRng;
use zeroize::Zeroizing;

use super::pem::{Encoding, PrivateKeyPem};
use super::raw_rsa::RawRsaKey;
use super::{Custody, InvalidPrivateKey, KeyFault, Uses};

/// Takes a key into the memory of aws-lc, which wipes it when it is dropped.
pub(super) fn take(kind: KeyKind, key: &PrivateKeyPem, uses: Uses) -> Result<Box<dyn Custody>, InvalidPrivateKey> {
    match kind {
        KeyKind::Rsa { .. } => Ok(Box::new(rsa(key, uses)?)),
        KeyKind::EcdsaP256 => {
            Ok(Box::new(ecdsa(&ECDSA_P256_SHA256_ASN1_SIGNING, SignatureScheme::ECDSA_SECP256R1_SHA256, key)?))
        }
        KeyKind::EcdsaP384 => {
            Ok(Box::new(ecdsa(&ECDSA_P384_SHA384_ASN1_SIGNING, SignatureScheme::ECDSA_SECP384R1_SHA384, key)?))
        }
        KeyKind::Ed25519 => Ok(Box::new(ed25519(key)?)),
    }
}

struct Rsa {
    pair: RsaKeyPair,
    /// The same key again, where it is for key transport: aws-lc-rs gives nobody the one it holds.
    raw: Option<RawRsaKey>,
}

fn rsa(key: &PrivateKeyPem, uses: Uses) -> Result<Rsa, InvalidPrivateKey> {
    let pair = match key.encoding() {
        Encoding::Pkcs8 => RsaKeyPair::from_pkcs8(key.expose()),
        Encoding::Pkcs1 => RsaKeyPair::from_der(key.expose()),
        Encoding::Sec1 => return Err(InvalidPrivateKey::OtherKind),
    };
    let raw = match uses {
        Uses::Signing => None,
        Uses::KeyTransport => Some(raw_rsa(key)?),
    };
    Ok(Rsa { pair: pair.map_err(|_| InvalidPrivateKey::Malformed)?, raw })
}

fn raw_rsa(key: &PrivateKeyPem) -> Result<RawRsaKey, InvalidPrivateKey> {
    match key.encoding() {
        Encoding::Pkcs8 => {
            let info = PrivateKeyInfoRef::try_from(key.expose()).map_err(|_| InvalidPrivateKey::Malformed)?;
            RawRsaKey::from_pkcs1_der(info.private_key.as_bytes())
        }
        Encoding::Pkcs1 => RawRsaKey::from_pkcs1_der(key.expose()),
        Encoding::Sec1 => Err(InvalidPrivateKey::OtherKind),
    }
}

impl Custody for Rsa {
    /// aws-lc draws blinding and salt from its own generator.
    fn sign(&self, scheme: SignatureScheme, message: &[u8], _: &mut dyn CryptoRng) -> Result<Vec<u8>, KeyFault> {
        let encoding: &'static dyn RsaEncoding = match scheme {
            SignatureScheme::RSA_PKCS1_SHA256 => &RSA_PKCS1_SHA256,
            SignatureScheme::RSA_PKCS1_SHA384 => &RSA_PKCS1_SHA384,
            SignatureScheme::RSA_PKCS1_SHA512 => &RSA_PKCS1_SHA512,
            SignatureScheme::RSA_PSS_RSAE_SHA256 => &RSA_PSS_SHA256,
            SignatureScheme::RSA_PSS_RSAE_SHA384 => &RSA_PSS_SHA384,
            SignatureScheme::RSA_PSS_RSAE_SHA512 => &RSA_PSS_SHA512,
            _ => return Err(KeyFault::Failed),
        };
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair.sign(encoding, &SystemRandom::new(), message, &mut signature).map_err(|_| KeyFault::Failed)?;
        Ok(signature)
    }

    fn raw_rsa(&self, ciphertext: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyFault> {
        self.raw.as_ref().ok_or(KeyFault::Failed)?.transform(ciphertext)
    }
}

struct Ecdsa {
    scheme: SignatureScheme,
    pair: EcdsaKeyPair,
}

fn ecdsa(
    algorithm: &'static EcdsaSigningAlgorithm,
    scheme: SignatureScheme,
    key: &PrivateKeyPem,
) -> Result<Ecdsa, InvalidPrivateKey> {
    let pair = match key.encoding() {
        Encoding::Pkcs8 => EcdsaKeyPair::from_pkcs8(algorithm, key.expose()),
        Encoding::Sec1 => EcdsaKeyPair::from_private_key_der(algorithm, key.expose()),
        Encoding::Pkcs1 => return Err(InvalidPrivateKey::OtherKind),
    };
    pair.map(|pair| Ecdsa { scheme, pair }).map_err(|_| InvalidPrivateKey::Malformed)
}

impl Custody for Ecdsa {
    /// aws-lc draws the nonce from its own generator.
    fn sign(&self, scheme: SignatureScheme, message: &[u8], _: &mut dyn CryptoRng) -> Result<Vec<u8>, KeyFault> {
        if scheme != self.scheme {
            return Err(KeyFault::Failed);
        }
        let signature = self.pair.sign(&SystemRandom::new(), message).map_err(|_| KeyFault::Failed)?;
        Ok(signature.as_ref().to_vec())
    }
}

struct Ed25519(Ed25519KeyPair);

fn ed25519(key: &PrivateKeyPem) -> Result<Ed25519, InvalidPrivateKey> {
    if key.encoding() != Encoding::Pkcs8 {
        return Err(InvalidPrivateKey::OtherKind);
    }
    Ed25519KeyPair::from_pkcs8(key.expose()).map(Ed25519).map_err(|_| InvalidPrivateKey::Malformed)
}

impl Custody for Ed25519 {
    fn sign(&self, scheme: SignatureScheme, message: &[u8], _: &mut dyn CryptoRng) -> Result<Vec<u8>, KeyFault> {
        if scheme != SignatureScheme::ED25519 {
            return Err(KeyFault::Failed);
        }
        let signature = self.0.try_sign(message).map_err(|_| KeyFault::Failed)?;
        Ok(signature.as_ref().to_vec())
    }
}
