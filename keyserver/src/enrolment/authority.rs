//! An authority, and what it certifies. Nothing here reads or writes a file.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::EnrolmentError;
use super::holder::Holder;

const DAY: Duration = Duration::from_secs(86_400);
const LIFETIME: Duration = Duration::from_secs(3650 * 86_400);
const LEAST_VALIDITY: Duration = Duration::from_secs(60);
const MOST_VALIDITY: Duration = LIFETIME;

/// Signs certificates.
pub struct Authority {
    pem: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// What a certificate of the channel shall say.
#[derive(Clone, Copy, Debug)]
pub struct Certificate<'h> {
    /// Whom it is for.
    pub holder: &'h Holder,
    /// How long from now on.
    pub validity: Duration,
}

impl Authority {
    /// An authority for ten years, with a key of its own.
    ///
    /// # Errors
    /// [`EnrolmentError::Certificate`] when the system gives no randomness.
    pub fn generate(common_name: &str) -> Result<Self, EnrolmentError> {
        let key = KeyPair::generate().map_err(EnrolmentError::Certificate)?;
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, common_name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let begin = SystemTime::now() - DAY;
        parameters.not_before = begin.into();
        parameters.not_after = (begin + LIFETIME).into();
        let certificate = parameters.self_signed(&key).map_err(EnrolmentError::Certificate)?;
        let (pem, der) = (certificate.pem(), certificate.der().clone());
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(EnrolmentError::Certificate)?;
        Ok(Self { pem, der, issuer })
    }

    /// The authority of this certificate and key; `None` where they are none, or not of one another.
    pub fn from_pem(certificate: &str, key: &str) -> Option<Self> {
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).ok()?;
        let key = KeyPair::from_pem(key).ok()?;
        let (_, parsed) = X509Certificate::from_der(&der).ok()?;
        let is_pair = parsed.is_ca() && parsed.public_key().raw == key.subject_public_key_info();
        let issuer = is_pair.then(|| Issuer::from_ca_cert_der(&der, key))?.ok()?;
        Some(Self { pem: certificate.to_owned(), der, issuer })
    }

    /// Its own certificate.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Its own certificate.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// Its private key.
    pub fn key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.issuer.key().serialize_pem())
    }

    /// Certifies a key of the channel; PEM.
    ///
    /// # Errors
    /// [`EnrolmentError`] for a time that is no use, or beyond that of this authority.
    pub fn issue(&self, wanted: &Certificate<'_>, key: &impl PublicKeyData) -> Result<String, EnrolmentError> {
        if !(LEAST_VALIDITY..=MOST_VALIDITY).contains(&wanted.validity) {
            return Err(EnrolmentError::Validity);
        }
        let names = wanted.holder.names().map_err(EnrolmentError::Certificate)?;
        let mut parameters = end_entity(names, wanted.holder.purpose(), wanted.validity);
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let end = not_after(&self.der);
        if end.is_none_or(|end| end < parameters.not_after.unix_timestamp()) {
            return Err(EnrolmentError::OutlivesAuthority(date(end.unwrap_or_default())));
        }
        self.sign(&parameters, key).map_err(EnrolmentError::Certificate)
    }

    /// Certifies what `parameters` say; PEM.
    ///
    /// # Errors
    /// rcgen's, for what cannot stand in a certificate.
    pub fn sign(&self, parameters: &CertificateParams, key: &impl PublicKeyData) -> Result<String, rcgen::Error> {
        Ok(parameters.signed_by(key, &self.issuer)?.pem())
    }
}

/// What every certificate of an end entity has; the first of `names` is its common name too.
pub fn end_entity(names: Vec<SanType>, purpose: ExtendedKeyUsagePurpose, validity: Duration) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    if let Some(SanType::DnsName(text) | SanType::URI(text)) = names.first() {
        parameters.distinguished_name.push(DnType::CommonName, text.as_str());
    }
    parameters.subject_alt_names = names;
    parameters.is_ca = IsCa::ExplicitNoCa;
    parameters.extended_key_usages = vec![purpose];
    parameters.use_authority_key_identifier_extension = true;
    // The same key may be certified often, and no two certificates of an authority have one number (RFC 5280 §4.1.2.2).
    let mut serial: [u8; 16] = rand::random();
    serial[0] &= 0x7f;
    parameters.serial_number = Some(SerialNumber::from_slice(&serial));
    let now = SystemTime::now();
    // Clocks differ.
    parameters.not_before = (now - DAY).into();
    parameters.not_after = (now + validity).into();
    parameters
}

fn not_after(der: &CertificateDer<'_>) -> Option<i64> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

fn date(seconds: i64) -> String {
    let since_epoch = Duration::from_secs(seconds.try_into().unwrap_or_default());
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + since_epoch).to_string()
}
