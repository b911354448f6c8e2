//! The keys that are measured, as the key server, gokeyless and the raw primitive have them.

use std::fs;
use std::path::Path;

use anyhow::{Result, anyhow};
use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use keystead_tls::{Identity, SignatureScheme};
use rcgen::{CertificateParams, KeyPair, RsaKeySize};
use strum::{Display, EnumIter};

use super::SERVED;
use crate::gokeyless::{Opcode, Request};

/// The keys that are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Display, EnumIter)]
pub(super) enum Kind {
    #[strum(serialize = "P-256")]
    P256,
    #[strum(serialize = "Ed25519")]
    Ed25519,
    #[strum(serialize = "RSA-2048")]
    Rsa2048,
    #[strum(serialize = "RSA-3072")]
    Rsa3072,
    #[strum(serialize = "RSA-4096")]
    Rsa4096,
}

/// A key, as the key server and the raw primitive have it.
pub(super) struct Key {
    pub(super) identity: Identity,
    /// The SHA-1 of its subjectPublicKey.
    subject_key_identifier: [u8; 20],
    pub(super) raw: Raw,
}

pub(super) enum Raw {
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

impl Kind {
    pub(super) fn scheme(self) -> SignatureScheme {
        match self {
            Self::P256 => SignatureScheme::ECDSA_SECP256R1_SHA256,
            Self::Ed25519 => SignatureScheme::ED25519,
            Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 => SignatureScheme::RSA_PKCS1_SHA256,
        }
    }

    /// Makes a key, and a certificate for it, in files named after it.
    pub(super) fn make(self, directory: &Path) -> Result<Key> {
        let rsa = |size| KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, size);
        let pair = match self {
            Self::P256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            Self::Ed25519 => KeyPair::generate_for(&rcgen::PKCS_ED25519),
            Self::Rsa2048 => rsa(RsaKeySize::_2048),
            Self::Rsa3072 => rsa(RsaKeySize::_3072),
            Self::Rsa4096 => rsa(RsaKeySize::_4096),
        }?;
        let certificate = CertificateParams::new([SERVED.to_owned()])?.self_signed(&pair)?;
        fs::write(directory.join(format!("{self}.key")), pair.serialize_pem())?;
        fs::write(directory.join(format!("{self}.pem")), certificate.pem())?;
        let der = pair.serialize_der();
        let raw = match self {
            Self::P256 => EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &der).map(Raw::Ecdsa),
            Self::Ed25519 => Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map(Raw::Ed25519),
            Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 => RsaKeyPair::from_pkcs8(&der).map(Raw::Rsa),
        };
        let subject_key_identifier = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, pair.public_key_raw());
        let subject_key_identifier = subject_key_identifier.as_ref().try_into()?;
        let identity = Identity::new(vec![certificate.der().to_vec()], SignatureScheme::KNOWN, None)?;
        Ok(Key { identity, subject_key_identifier, raw: raw.map_err(|cause| anyhow!("{self}: {cause}"))? })
    }
}

impl Key {
    /// What gokeyless is asked for: signatures with the keys that most sites have.
    pub(super) fn gokeyless_request(&self, kind: Kind) -> Option<Request> {
        let digest = digest::digest(&digest::SHA256, &SIGNED).as_ref().to_vec();
        let (opcode, payload) = match kind {
            Kind::P256 => (Opcode::ECDSA_SIGN_SHA256, digest),
            Kind::Rsa2048 => (Opcode::RSA_SIGN_SHA256, digest),
            Kind::Ed25519 => (Opcode::ED25519_SIGN, SIGNED.to_vec()),
            Kind::Rsa3072 | Kind::Rsa4096 => return None,
        };
        Some(Request { opcode, key: self.subject_key_identifier, payload })
    }
}

/// As long as what is signed of ServerKeyExchange with X25519: two randoms, the curve, the point.
const SIGNED: [u8; 100] = [0x5a; 100];

impl Raw {
    pub(super) fn sign(&self) {
        let random = SystemRandom::new();
        match self {
            Self::Ecdsa(key) => drop(std::hint::black_box(key.sign(&random, &SIGNED))),
            Self::Ed25519(key) => drop(std::hint::black_box(key.sign(&SIGNED))),
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                let done = key.sign(&RSA_PKCS1_SHA256, &random, &SIGNED, &mut signature);
                let _ = std::hint::black_box((done, signature));
            }
        }
    }
}
