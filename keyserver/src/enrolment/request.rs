//! Certificate requests (RFC 2986), of which the public key alone is taken.

use std::path::Path;

use keystead_tls::PublicKey;
use rcgen::SubjectPublicKeyInfo;
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use super::EnrolmentError;

/// The key of the request in `pem`, which was read from `file`, if whoever made the request has it.
pub(super) fn public_key(pem: &str, file: &Path) -> Result<SubjectPublicKeyInfo, EnrolmentError> {
    let malformed = || EnrolmentError::MalformedRequest { file: file.to_owned() };
    let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).map_err(|_| malformed())?;
    let (rest, request) = X509CertificationRequest::from_der(&der).map_err(|_| malformed())?;
    if !rest.is_empty() {
        return Err(malformed());
    }
    let spki = request.certification_request_info.subject_pki.raw;
    PublicKey::from_spki_der(spki).map_err(|cause| EnrolmentError::WeakKey { file: file.to_owned(), cause })?;
    request.verify_signature().map_err(|_| EnrolmentError::WrongSignature { file: file.to_owned() })?;
    SubjectPublicKeyInfo::from_der(spki).map_err(EnrolmentError::Certificate)
}
