//! Certificates of the channel: the authority that signs them, and what an edge or a key server is given.
//!
//! ```text
//! AUTHORITY/channel-ca.pem, channel-ca.key     the authority; no program that runs needs the key
//! OUT/channel.pem, channel.key, channel-ca.pem what the `[channel]` table of one program names
//! ```

pub mod authority;
pub mod holder;
mod request;

pub use authority::{Authority, Certificate};
pub use holder::{EdgeName, Holder, TrustDomain};

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{KeyPair, SubjectPublicKeyInfo};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use zeroize::Zeroizing;

use crate::private_file;

const AUTHORITY: &str = "channel-ca.pem";
const AUTHORITY_KEY: &str = "channel-ca.key";
const CERTIFICATE: &str = "channel.pem";
const KEY: &str = "channel.key";

/// Makes the authority of a channel in `directory`, once.
///
/// # Errors
/// [`EnrolmentError`] when there is one, and when it cannot be written.
pub fn create_authority(directory: &Path) -> Result<PathBuf, EnrolmentError> {
    let (certificate, key) = (directory.join(AUTHORITY), directory.join(AUTHORITY_KEY));
    make_directory(directory)?;
    refuse_existing(&certificate)?;
    let authority = Authority::generate("Keystead channel CA")?;
    create_private(&key, &authority.key_pem())?;
    write_public(&certificate, authority.pem())?;
    Ok(certificate)
}

/// What is to be certified, and for how long.
#[derive(Debug)]
pub struct Enrolment {
    /// Who.
    pub holder: Holder,
    /// How long from now on.
    pub validity: Duration,
    /// Whether the key that is there is certified once more.
    pub renew: bool,
}

impl Enrolment {
    /// Puts certificate, key and authority into `out`. With a certificate request (`csr`, PEM), its key is certified, and
    /// none is made; whatever names it has are ignored.
    ///
    /// # Errors
    /// [`EnrolmentError`]; a key or certificate that is there is never overwritten, but for the certificate of a renewal.
    pub fn issue(&self, authority: &Path, out: &Path, csr: Option<&Path>) -> Result<PathBuf, EnrolmentError> {
        let authority = open_authority(authority)?;
        make_directory(out)?;
        let (certificate, key) = (out.join(CERTIFICATE), out.join(KEY));
        if self.renew {
            self.check_standing(&certificate)?;
        } else {
            refuse_existing(&certificate)?;
        }
        let wanted = Certificate { holder: &self.holder, validity: self.validity };
        let pem = match csr {
            Some(csr) => authority.issue(&wanted, &request::public_key(&read(csr)?, csr)?)?,
            None if self.renew => authority.issue(&wanted, &public_key_of(&key)?)?,
            None => {
                let pair = KeyPair::generate().map_err(EnrolmentError::Certificate)?;
                let pem = authority.issue(&wanted, &pair)?;
                create_private(&key, &Zeroizing::new(pair.serialize_pem()))?;
                pem
            }
        };
        write_public(&out.join(AUTHORITY), authority.pem())?;
        write_public(&certificate, &pem)?;
        Ok(certificate)
    }

    /// A renewal changes nothing but the time.
    fn check_standing(&self, file: &Path) -> Result<(), EnrolmentError> {
        let standing = CertificateDer::from_pem_slice(read(file)?.as_bytes());
        let is_holders = standing.is_ok_and(|der| self.holder.is_named_by(&der));
        if is_holders { Ok(()) } else { Err(EnrolmentError::OtherHolder { file: file.to_owned() }) }
    }
}

fn open_authority(directory: &Path) -> Result<Authority, EnrolmentError> {
    let key = Zeroizing::new(read(&directory.join(AUTHORITY_KEY))?);
    let authority = Authority::from_pem(&read(&directory.join(AUTHORITY))?, &key);
    authority.ok_or_else(|| EnrolmentError::NoAuthority { directory: directory.to_owned() })
}

fn public_key_of(file: &Path) -> Result<SubjectPublicKeyInfo, EnrolmentError> {
    let pem = Zeroizing::new(read(file)?);
    let pair = KeyPair::from_pem(&pem).map_err(|_| EnrolmentError::NoKey { file: file.to_owned() })?;
    let der = rcgen::PublicKeyData::subject_public_key_info(&pair);
    SubjectPublicKeyInfo::from_der(&der).map_err(EnrolmentError::Certificate)
}

fn read(file: &Path) -> Result<String, EnrolmentError> {
    fs::read_to_string(file).map_err(|cause| EnrolmentError::Unreadable { file: file.to_owned(), cause })
}

fn make_directory(directory: &Path) -> Result<(), EnrolmentError> {
    fs::create_dir_all(directory).map_err(|cause| EnrolmentError::Unwritable { file: directory.to_owned(), cause })
}

fn refuse_existing(file: &Path) -> Result<(), EnrolmentError> {
    if file.exists() { Err(EnrolmentError::Exists { file: file.to_owned() }) } else { Ok(()) }
}

fn create_private(file: &Path, pem: &str) -> Result<(), EnrolmentError> {
    private_file::create(file, pem.as_bytes()).map_err(|cause| {
        let (file, exists) = (file.to_owned(), cause.kind() == io::ErrorKind::AlreadyExists);
        if exists { EnrolmentError::Exists { file } } else { EnrolmentError::Unwritable { file, cause } }
    })
}

/// Programs that run read it at any moment, so it appears as a whole.
fn write_public(file: &Path, pem: &str) -> Result<(), EnrolmentError> {
    let beside = file.with_extension(format!("{}.new", std::process::id()));
    let written = || {
        let mut written = OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&beside)?;
        written.write_all(pem.as_bytes())?;
        written.sync_all()?;
        fs::rename(&beside, file)
    };
    written().map_err(|cause| EnrolmentError::Unwritable { file: file.to_owned(), cause })
}

/// Why nothing was certified.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum EnrolmentError {
    #[error("{}: it is there already, and is never overwritten; of an edge or a key server, --renew certifies the same key once more", file.display())]
    Exists { file: PathBuf },
    #[error("{}: {cause}", file.display())]
    Unreadable { file: PathBuf, cause: io::Error },
    #[error("{}: {cause}", file.display())]
    Unwritable { file: PathBuf, cause: io::Error },
    #[error(
        "{}: channel-ca.pem and channel-ca.key are no authority, or not of one another; \
         `keystead-keyserver edge authority --out DIR` makes one",
        directory.display()
    )]
    NoAuthority { directory: PathBuf },
    #[error("{}: no private key in PEM", file.display())]
    NoKey { file: PathBuf },
    #[error("{}: the certificate is not that of whom is to be renewed", file.display())]
    OtherHolder { file: PathBuf },
    #[error("{}: no certificate request in PEM", file.display())]
    MalformedRequest { file: PathBuf },
    #[error("{}: the request is not signed with its own key", file.display())]
    WrongSignature { file: PathBuf },
    #[error("{}: {cause}; use P-256, P-384, Ed25519, or RSA with 2048 to 8192 bits", file.display())]
    WeakKey { file: PathBuf, cause: keystead_tls::IdentityError },
    #[error("the certificate would outlive its authority, which ends at {0}; choose a shorter --validity")]
    OutlivesAuthority(String),
    #[error("--validity must be at least a minute and at most ten years")]
    Validity,
    #[error("certify: {0}")]
    Certificate(rcgen::Error),
}

#[cfg(test)]
mod tests;
