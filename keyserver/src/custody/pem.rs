//! Private keys in PEM.

use pkcs8::SecretDocument;

use super::encrypted;
use super::sealed::{self, SealError, SealedKey};

/// How the DER in a PEM section is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// `PRIVATE KEY`: PrivateKeyInfo (RFC 5958).
    Pkcs8,
    /// `RSA PRIVATE KEY`: RSAPrivateKey (RFC 8017 A.1.2).
    Pkcs1,
    /// `EC PRIVATE KEY`: ECPrivateKey (RFC 5915).
    Sec1,
}

/// A private key as a file holds it, wiped when dropped.
#[derive(Debug)]
pub struct PrivateKeyPem {
    encoding: Encoding,
    der: SecretDocument,
}

/// The one private key of a PEM file.
#[derive(Debug)]
pub enum Section {
    /// In the clear.
    Plain(PrivateKeyPem),
    /// An EncryptedPrivateKeyInfo (RFC 5958 §3).
    Encrypted(SecretDocument),
    /// Under a sealing key.
    Sealed(SealedKey),
}

impl Section {
    /// Reads the one private key in `text`. Other sections, such as `EC PARAMETERS`, and text between them are passed
    /// over.
    ///
    /// # Errors
    /// [`PemError`] when there is none, more than one, or one that does not parse.
    pub fn read(text: &str) -> Result<Self, PemError> {
        let mut sections = private_key_sections(text);
        let section = sections.next().ok_or(PemError::NoPrivateKey)?;
        if sections.next().is_some() {
            return Err(PemError::SeveralPrivateKeys);
        }
        // RFC 1421 §4.6: what OpenSSL wrote under a key that MD5 made of the passphrase.
        if section.contains("\nDEK-Info:") {
            return Err(PemError::Legacy);
        }
        if section.starts_with(&format!("-----BEGIN {}-----", sealed::LABEL)) {
            let (_, bytes) = pkcs8::der::pem::decode_vec(section.as_bytes()).map_err(|_| PemError::Malformed)?;
            return Ok(Self::Sealed(SealedKey::from_bytes(&bytes)?));
        }
        let (label, der) = SecretDocument::from_pem(section).map_err(|_| PemError::Malformed)?;
        let encoding = match label {
            "PRIVATE KEY" => Encoding::Pkcs8,
            "RSA PRIVATE KEY" => Encoding::Pkcs1,
            "EC PRIVATE KEY" => Encoding::Sec1,
            encrypted::LABEL => return Ok(Self::Encrypted(der)),
            _ => return Err(PemError::UnknownLabel),
        };
        Ok(Self::Plain(PrivateKeyPem { encoding, der }))
    }
}

impl PrivateKeyPem {
    /// A PrivateKeyInfo (RFC 5958 §2).
    pub(super) fn from_pkcs8(der: SecretDocument) -> Self {
        Self { encoding: Encoding::Pkcs8, der }
    }

    /// How the bytes are laid out.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// The bytes.
    pub fn expose(&self) -> &[u8] {
        self.der.as_bytes()
    }
}

/// The sections of `text` whose label ends with `PRIVATE KEY`.
fn private_key_sections(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices("-----BEGIN ").filter_map(|(start, _)| {
        let section = text.get(start..)?;
        let label = section.lines().next()?;
        label.trim_end().ends_with("PRIVATE KEY-----").then(|| up_to_its_end(section))
    })
}

/// The front of `text` through the line `-----END …`; all of it where there is none.
fn up_to_its_end(text: &str) -> &str {
    let last_line = text.find("-----END ").unwrap_or(text.len());
    let line_length = text.get(last_line..).and_then(|line| line.find('\n'));
    line_length.and_then(|length| text.get(..=last_line + length)).unwrap_or(text)
}

/// Why a text gives no private key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// There is no section for one.
    #[error("no private key in it")]
    NoPrivateKey,
    /// Which of them counts would be anybody's guess.
    #[error("more than one private key in it")]
    SeveralPrivateKeys,
    /// Encrypted as OpenSSL did before PKCS#8, with MD5.
    #[error(
        "the private key is encrypted in a legacy way (DEK-Info), which protects little; encrypt it anew with `openssl \
         pkcs8 -topk8 -v2 aes256 -scrypt`"
    )]
    Legacy,
    /// It is sealed, and damaged.
    #[error(transparent)]
    Sealed(#[from] SealError),
    /// The section is no PEM (RFC 7468).
    #[error("the private key is malformed PEM")]
    Malformed,
    /// A kind of key that is none of those for TLS.
    #[error(
        "the private key is none of PKCS#8 (PRIVATE KEY, ENCRYPTED PRIVATE KEY), PKCS#1 (RSA PRIVATE KEY), SEC1 (EC \
         PRIVATE KEY) and KEYSTEAD SEALED PRIVATE KEY"
    )]
    UnknownLabel,
}
