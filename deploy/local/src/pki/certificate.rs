//! One end-entity certificate and its key, as two files.
use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use keystead_keyserver::enrolment::authority::end_entity;
use rcgen::{
    CertificateParams, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256,
    PublicKeyData, RsaKeySize, SanType,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::authority::Authority;
use super::files::{self, Owner};

const LIFETIME: Duration = Duration::from_secs(90 * 86_400);
/// A certificate with less than this to live is made anew.
const RENEWAL: Duration = Duration::from_secs(30 * 86_400);

/// The kind of key to certify.
#[derive(Debug, Clone, Copy)]
pub(super) enum KeyType {
    Rsa2048,
    P256,
}

impl KeyType {
    fn generate(self) -> Result<KeyPair, rcgen::Error> {
        match self {
            Self::Rsa2048 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048),
            Self::P256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
        }
    }

    fn key_usages(self) -> Vec<KeyUsagePurpose> {
        match self {
            Self::Rsa2048 => vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment],
            Self::P256 => vec![KeyUsagePurpose::DigitalSignature],
        }
    }
}

/// What a certificate shall say.
pub(super) struct Request {
    key_type: KeyType,
    names: Vec<SanType>,
    purpose: ExtendedKeyUsagePurpose,
}

impl Request {
    pub(super) fn new(key_type: KeyType, names: Vec<SanType>, purpose: ExtendedKeyUsagePurpose) -> Self {
        Self { key_type, names, purpose }
    }

    fn parameters(&self) -> CertificateParams {
        let mut parameters = end_entity(self.names.clone(), self.purpose.clone(), LIFETIME);
        parameters.key_usages = self.key_type.key_usages();
        parameters
    }

    fn is_met_by(&self, der: &CertificateDer<'_>, issuer: &Authority) -> bool {
        let (Ok((_, certificate)), Ok((_, authority))) =
            (X509Certificate::from_der(der), X509Certificate::from_der(issuer.der()))
        else {
            return false;
        };
        let wanted: BTreeSet<String> = self.names.iter().map(text).collect();
        certificate.verify_signature(Some(authority.public_key())).is_ok() && names_of(&certificate) == Some(wanted)
    }
}

/// Brings `directory/stem.{pem,key}` to answer the request, and returns the certificate's path if it had to be made.
pub(super) fn provide(
    directory: &Path,
    stem: &str,
    request: &Request,
    issuer: &Authority,
    owner: Option<Owner>,
) -> Result<Option<PathBuf>> {
    let certificate = directory.join(format!("{stem}.pem"));
    let key = directory.join(format!("{stem}.key"));
    if stands(&certificate, &key, request, issuer) {
        files::hand_over(&certificate, owner)?;
        files::hand_over(&key, owner)?;
        return Ok(None);
    }
    let key_pair = request.key_type.generate()?;
    let signed = issuer.issuer().sign(&request.parameters(), &key_pair)?;
    files::write_private(&key, &key_pair.serialize_pem(), owner)?;
    files::write_if_changed(&certificate, &signed, owner)?;
    Ok(Some(certificate))
}

/// Whether a certificate belongs to its key and will still be valid when the next chance to renew it has passed.
fn remains_valid(der: &CertificateDer<'_>, key: &KeyPair) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return false };
    certificate.public_key().raw == key.subject_public_key_info() && outlives_renewal(der)
}

/// Whether a certificate will still be valid when the next chance to renew it has passed.
pub(super) fn outlives_renewal(der: &CertificateDer<'_>) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return false };
    let Ok(since_epoch) = (SystemTime::now() + RENEWAL).duration_since(SystemTime::UNIX_EPOCH) else { return false };
    certificate.validity().not_after.timestamp() > since_epoch.as_secs().cast_signed()
}

fn stands(certificate: &Path, key: &Path, request: &Request, issuer: &Authority) -> bool {
    let (Ok(pem), Ok(key)) = (fs::read(certificate), fs::read_to_string(key)) else { return false };
    let (Ok(der), Ok(key)) = (CertificateDer::from_pem_slice(&pem), KeyPair::from_pem(&key)) else { return false };
    remains_valid(&der, &key) && request.is_met_by(&der, issuer)
}

/// The certificate's subject alternative names; nothing if one is of a kind that no request has.
fn names_of(certificate: &X509Certificate<'_>) -> Option<BTreeSet<String>> {
    let extension = certificate.subject_alternative_name().ok()??;
    extension.value.general_names.iter().map(general_name).collect()
}

fn general_name(name: &GeneralName<'_>) -> Option<String> {
    if let GeneralName::DNSName(text) | GeneralName::URI(text) = name {
        return Some((*text).to_owned());
    }
    let GeneralName::IPAddress(octets) = *name else { return None };
    let address =
        <[u8; 4]>::try_from(octets).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from));
    address.ok().map(|address| address.to_string())
}

fn text(name: &SanType) -> String {
    match name {
        SanType::DnsName(text) | SanType::URI(text) | SanType::Rfc822Name(text) => text.to_string(),
        SanType::IpAddress(address) => address.to_string(),
        SanType::OtherName(_) | _ => format!("{name:?}"),
    }
}
