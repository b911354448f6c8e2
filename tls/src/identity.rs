//! A certificate chain and what the handshake needs to know of it.

use std::fmt;

use sha2::{Digest, Sha256};
use x509_parser::prelude::*;

use crate::code_point::{NamedGroup, SignatureScheme};
use crate::crypto::form::is_public_key;

/// SHA-256 of a key's SubjectPublicKeyInfo: the name of a key between edge and key server.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 32]);

impl fmt::Display for KeyId {
    /// Lower-case hexadecimal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// The kind of a certificate's key, of those that sign a ServerKeyExchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// rsaEncryption, with the modulus's length.
    Rsa {
        /// Bits of the modulus.
        bits: usize,
    },
    /// id-ecPublicKey on secp256r1.
    EcdsaP256,
    /// id-ecPublicKey on secp384r1.
    EcdsaP384,
    /// RFC 8410.
    Ed25519,
}

impl KeyKind {
    /// The schemes such a key can sign with, best first.
    pub fn schemes(self) -> &'static [SignatureScheme] {
        match self {
            Self::Rsa { .. } => &[
                SignatureScheme::RSA_PSS_RSAE_SHA256,
                SignatureScheme::RSA_PSS_RSAE_SHA384,
                SignatureScheme::RSA_PSS_RSAE_SHA512,
                SignatureScheme::RSA_PKCS1_SHA256,
                SignatureScheme::RSA_PKCS1_SHA384,
                SignatureScheme::RSA_PKCS1_SHA512,
            ],
            Self::EcdsaP256 => &[SignatureScheme::ECDSA_SECP256R1_SHA256],
            Self::EcdsaP384 => &[SignatureScheme::ECDSA_SECP384R1_SHA384],
            Self::Ed25519 => &[SignatureScheme::ED25519],
        }
    }

    /// The curve that a client must have offered to be sent such a certificate (RFC 8422 §5.1): `None` where the
    /// curve is no named group.
    pub fn curve(self) -> Option<NamedGroup> {
        match self {
            Self::EcdsaP256 => Some(NamedGroup::SECP256R1),
            Self::EcdsaP384 => Some(NamedGroup::SECP384R1),
            Self::Rsa { .. } | Self::Ed25519 => None,
        }
    }
}

/// A public key of a kind this engine verifies with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    kind: KeyKind,
    key_id: KeyId,
    subject_public_key: Vec<u8>,
}

impl PublicKey {
    /// Reads a DER SubjectPublicKeyInfo (RFC 5280 §4.1.2.7).
    ///
    /// # Errors
    /// [`IdentityError`] for what is not one, and for keys of other kinds or RSA moduli outside 2048 to 8192 bits.
    pub fn from_spki_der(der: &[u8]) -> Result<Self, IdentityError> {
        let (rest, spki) = SubjectPublicKeyInfo::from_der(der).map_err(|_| IdentityError::MalformedKey)?;
        if !rest.is_empty() {
            return Err(IdentityError::MalformedKey);
        }
        let kind = key_kind(&spki)?;
        if !is_public_key(kind, &spki.subject_public_key.data) {
            return Err(IdentityError::MalformedKey);
        }
        Ok(Self {
            kind,
            key_id: KeyId(Sha256::digest(der).into()),
            subject_public_key: spki.subject_public_key.data.to_vec(),
        })
    }

    /// The key of a DER X.509 certificate.
    ///
    /// # Errors
    /// [`IdentityError`] for what is none, and as [`Self::from_spki_der`].
    pub fn of_certificate(der: &[u8]) -> Result<Self, IdentityError> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| IdentityError::MalformedCertificate)?;
        Self::from_spki_der(certificate.public_key().raw)
    }

    /// The key's kind.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// SHA-256 of the SubjectPublicKeyInfo.
    pub fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// The content of the subjectPublicKey bit string: an RSAPublicKey in DER (RFC 8017 A.1.1), an uncompressed point,
    /// or 32 bytes of Ed25519.
    pub fn subject_public_key(&self) -> &[u8] {
        &self.subject_public_key
    }
}

fn key_kind(spki: &SubjectPublicKeyInfo<'_>) -> Result<KeyKind, IdentityError> {
    use x509_parser::oid_registry as oid;
    let algorithm = &spki.algorithm.algorithm;
    if *algorithm == oid::OID_SIG_ED25519 {
        return Ok(KeyKind::Ed25519);
    }
    if *algorithm == oid::OID_PKCS1_RSAENCRYPTION {
        let Ok(public_key::PublicKey::RSA(rsa)) = spki.parsed() else {
            return Err(IdentityError::MalformedKey);
        };
        let bits = rsa.key_size();
        if !(2048..=8192).contains(&bits) {
            return Err(IdentityError::UnsupportedKey);
        }
        return Ok(KeyKind::Rsa { bits });
    }
    if *algorithm == oid::OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = spki.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
        if curve == Some(oid::OID_EC_P256) {
            return Ok(KeyKind::EcdsaP256);
        }
        if curve == Some(oid::OID_NIST_EC_P384) {
            return Ok(KeyKind::EcdsaP384);
        }
    }
    Err(IdentityError::UnsupportedKey)
}

/// Most bytes of a chain with its OCSP response, each certificate with the 3 bytes of its length (RFC 5246 §7.4.2). OpenSSL's
/// clients refuse chains over 100 KiB.
pub const LONGEST_CHAIN: usize = 1 << 17;

/// A certificate chain that a handshake may choose, with the schemes its key server signs with.
#[derive(Clone, Debug)]
pub struct Identity {
    chain: Vec<Vec<u8>>,
    public_key: PublicKey,
    schemes: Vec<SignatureScheme>,
    ocsp_response: Option<Vec<u8>>,
    allows_key_transport: bool,
}

impl Identity {
    /// A chain of DER certificates, the server's own first. `schemes` are those the key server allows for this key;
    /// those that do not fit it are left out. `ocsp_response` is a DER OCSPResponse to staple (RFC 6066 §8).
    ///
    /// # Errors
    /// [`IdentityError`] when the chain is empty or too long, its first certificate does not parse, its key is of
    /// another kind, or no scheme is left.
    pub fn new(
        chain: Vec<Vec<u8>>,
        schemes: &[SignatureScheme],
        ocsp_response: Option<Vec<u8>>,
    ) -> Result<Self, IdentityError> {
        let identity = Self::without_schemes(chain, ocsp_response)?;
        let fitting = identity.public_key.kind().schemes();
        let schemes: Vec<_> = schemes.iter().copied().filter(|scheme| fitting.contains(scheme)).collect();
        if schemes.is_empty() {
            return Err(IdentityError::NoScheme);
        }
        Ok(Self { schemes, ..identity })
    }

    /// The same for a key that the key server makes no signatures with, and recovers pre-master secrets alone.
    ///
    /// # Errors
    /// [`IdentityError`] when the chain cannot serve.
    pub fn for_key_transport_alone(chain: Vec<Vec<u8>>, ocsp_response: Option<Vec<u8>>) -> Result<Self, IdentityError> {
        Ok(Self::without_schemes(chain, ocsp_response)?.with_key_transport(true))
    }

    fn without_schemes(chain: Vec<Vec<u8>>, ocsp_response: Option<Vec<u8>>) -> Result<Self, IdentityError> {
        let leaf = chain.first().ok_or(IdentityError::EmptyChain)?;
        let length = chain.iter().chain(&ocsp_response).map(|der| der.len() + 3).sum::<usize>();
        if length > LONGEST_CHAIN {
            return Err(IdentityError::ChainTooLong);
        }
        let public_key = PublicKey::of_certificate(leaf)?;
        Ok(Self { chain, public_key, schemes: Vec::new(), ocsp_response, allows_key_transport: false })
    }

    /// The same, and the key server recovers pre-master secrets with this key: RSA key transport, which has no forward
    /// secrecy, may be negotiated where the virtual host has its suites.
    pub fn with_key_transport(self, allowed: bool) -> Self {
        Self { allows_key_transport: allowed, ..self }
    }

    /// The DER certificates, the server's own first.
    pub fn chain(&self) -> &[Vec<u8>] {
        &self.chain
    }

    /// The key of the first certificate.
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// The schemes the key server signs with for this key; none for one that is for key transport alone.
    pub fn schemes(&self) -> &[SignatureScheme] {
        &self.schemes
    }

    /// Whether the key server recovers pre-master secrets with this key.
    pub fn allows_key_transport(&self) -> bool {
        self.allows_key_transport
    }

    /// The OCSPResponse to staple.
    pub fn ocsp_response(&self) -> Option<&[u8]> {
        self.ocsp_response.as_deref()
    }
}

/// Why a chain or a key cannot serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// No certificate in the chain.
    #[error("the chain holds no certificate")]
    EmptyChain,
    /// More than [`LONGEST_CHAIN`].
    #[error("the chain and its OCSP response are longer than 128 KiB; leave out what clients have or do not need")]
    ChainTooLong,
    /// The first certificate is no X.509 certificate.
    #[error("the first certificate is not a DER X.509 certificate")]
    MalformedCertificate,
    /// The SubjectPublicKeyInfo does not parse.
    #[error("the public key is malformed, or a compressed point")]
    MalformedKey,
    /// The key is of a kind no handshake here can use.
    #[error("the key is none of RSA (2048 to 8192 bits), P-256, P-384 and Ed25519")]
    UnsupportedKey,
    /// None of the schemes allowed fits the key.
    #[error("none of the signature schemes allowed for this key fits its kind")]
    NoScheme,
}
