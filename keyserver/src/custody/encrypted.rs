//! Private keys under a passphrase: `ENCRYPTED PRIVATE KEY` (RFC 5958), PBES2 (RFC 8018 §6.2) with scrypt or PBKDF2 and
//! AES, as `openssl pkcs8` writes it.

use pkcs8::der::{Decode, Encode};
use pkcs8::pkcs5::EncryptionScheme;
use pkcs8::pkcs5::pbes2::{Kdf, Parameters, Pbkdf2Prf};
use pkcs8::{EncryptedPrivateKeyInfoRef, LineEnding, SecretDocument};
use rand_core::CryptoRng;

use super::secret::Secret;

/// The label of the PEM section.
pub const LABEL: &str = "ENCRYPTED PRIVATE KEY";

/// Bytes that scrypt may take (128 · N · r), and its operations on such blocks (N · r · p): a second or two. A file is not
/// to hang the start.
const MOST_SCRYPT_MEMORY: u64 = 256 << 20;
const MOST_SCRYPT_WORK: u64 = 1 << 23;
/// Hashes of PBKDF2, a few seconds; and what is no protection (NIST SP 800-132 §5.2).
const MOST_ITERATIONS: u32 = 10_000_000;
const LEAST_ITERATIONS: u32 = 1000;

/// Opens an EncryptedPrivateKeyInfo.
///
/// # Errors
/// [`EncryptionError`] for schemes that are weak, unknown or too costly, and for a wrong passphrase.
pub fn open(der: &[u8], passphrase: &Secret) -> Result<SecretDocument, EncryptionError> {
    let info = EncryptedPrivateKeyInfoRef::from_der(der).map_err(|_| EncryptionError::Scheme)?;
    let EncryptionScheme::Pbes2(parameters) = &info.encryption_algorithm else { return Err(EncryptionError::Scheme) };
    check_cost(&parameters.kdf)?;
    info.decrypt(passphrase.expose()).map_err(|_| EncryptionError::Wrong)
}

/// Encrypts a PKCS#8 document as PEM: scrypt with 16 MiB, which OpenSSL reads too, and AES-256-CBC.
///
/// # Errors
/// [`EncryptionError::Scheme`] when the library fails.
pub fn seal(pkcs8: &SecretDocument, passphrase: &Secret, rng: &mut dyn CryptoRng) -> Result<String, EncryptionError> {
    let failed = |_| EncryptionError::Scheme;
    let parameters = Parameters::generate_scrypt(&mut &mut *rng).map_err(failed)?;
    let encrypted = parameters.encrypt(passphrase.expose(), pkcs8.as_bytes()).map_err(failed)?;
    let data = pkcs8::der::asn1::OctetStringRef::new(&encrypted).map_err(|_| EncryptionError::Scheme)?;
    let info = EncryptedPrivateKeyInfoRef { encryption_algorithm: parameters.into(), encrypted_data: data };
    let der = info.to_der().map_err(|_| EncryptionError::Scheme)?;
    pkcs8::der::pem::encode_string(LABEL, LineEnding::LF, &der).map_err(|_| EncryptionError::Scheme)
}

fn check_cost(kdf: &Kdf) -> Result<(), EncryptionError> {
    if let Some(scrypt) = kdf.scrypt() {
        let blocks = scrypt.cost_parameter.saturating_mul(scrypt.block_size.into());
        let memory = blocks.saturating_mul(128);
        let work = blocks.saturating_mul(scrypt.parallelization.into());
        return match memory > MOST_SCRYPT_MEMORY || work > MOST_SCRYPT_WORK {
            true => Err(EncryptionError::Cost),
            false => Ok(()),
        };
    }
    let pbkdf2 = kdf.pbkdf2().ok_or(EncryptionError::Scheme)?;
    let is_strong =
        matches!(pbkdf2.prf, Pbkdf2Prf::HmacWithSha256 | Pbkdf2Prf::HmacWithSha384 | Pbkdf2Prf::HmacWithSha512);
    if !is_strong {
        return Err(EncryptionError::Scheme);
    }
    match pbkdf2.iteration_count {
        count if count > MOST_ITERATIONS => Err(EncryptionError::Cost),
        count if count < LEAST_ITERATIONS => Err(EncryptionError::Weak),
        _ => Ok(()),
    }
}

/// Why an encrypted key does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncryptionError {
    /// Broken or unknown ways to encrypt, such as DES, RC2, MD5 and SHA-1.
    #[error(
        "the private key is encrypted in a way that is weak or unknown here; encrypt it anew with \
         `openssl pkcs8 -topk8 -v2 aes256 -scrypt` or `keystead-keyserver key import`"
    )]
    Scheme,
    /// It would take too long to open.
    #[error(
        "opening the private key would cost more than 256 MiB or some seconds; encrypt it anew with `openssl pkcs8 \
         -topk8 -v2 aes256 -scrypt`"
    )]
    Cost,
    /// A passphrase that is hardly stretched.
    #[error(
        "the private key is encrypted with fewer than 1000 iterations of PBKDF2; encrypt it anew with `openssl pkcs8 \
         -topk8 -v2 aes256 -scrypt`"
    )]
    Weak,
    /// It does not open.
    #[error("the private key does not open: the passphrase is wrong, or the file is damaged")]
    Wrong,
}
