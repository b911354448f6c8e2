//! A certificate authority whose key is a file.
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::certificate::{DAY, remains_valid};
use super::files;

const LIFETIME: Duration = Duration::from_secs(3650 * 86_400);

/// Signs certificates.
pub(super) struct Authority {
    pem: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Opens the authority in `directory/stem.{pem,key}`, made with this common name if it is missing or about to expire.
    pub(super) fn provide(directory: &Path, stem: &str, common_name: &str) -> Result<Self> {
        let certificate = directory.join(stem).with_extension("pem");
        let key = directory.join(stem).with_extension("key");
        if let Some(authority) = Self::open(&certificate, &key) {
            return Ok(authority);
        }
        let key_pair = KeyPair::generate()?;
        let pem = parameters(common_name).self_signed(&key_pair)?.pem();
        files::write_private(&key, &key_pair.serialize_pem(), None)?;
        files::write_if_changed(&certificate, &pem, None)?;
        Self::open(&certificate, &key).with_context(|| format!("cannot read back {}", certificate.display()))
    }

    /// The authority's own certificate.
    pub(super) fn pem(&self) -> &str {
        &self.pem
    }

    /// The authority's own certificate.
    pub(super) fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    pub(super) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    fn open(certificate: &Path, key: &Path) -> Option<Self> {
        let pem = fs::read_to_string(certificate).ok()?;
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
        let key_pair = KeyPair::from_pem(&fs::read_to_string(key).ok()?).ok()?;
        if !remains_valid(&der, &key_pair) {
            return None;
        }
        let issuer = Issuer::from_ca_cert_der(&der, key_pair).ok()?;
        Some(Self { pem, der, issuer })
    }
}

fn parameters(common_name: &str) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let begin = SystemTime::now() - DAY;
    parameters.not_before = begin.into();
    parameters.not_after = (begin + LIFETIME).into();
    parameters
}
