//! A certificate authority whose key is a file.
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use keystead_keyserver::enrolment;
use rustls_pki_types::CertificateDer;

use super::certificate::outlives_renewal;
use super::files;

/// Signs certificates.
pub(super) struct Authority(enrolment::Authority);

impl Authority {
    /// Opens the authority in `directory/stem.{pem,key}`, made with this common name if it is missing or about to expire.
    pub(super) fn provide(directory: &Path, stem: &str, common_name: &str) -> Result<Self> {
        let certificate = directory.join(stem).with_extension("pem");
        let key = directory.join(stem).with_extension("key");
        if let Some(authority) = Self::open(&certificate, &key) {
            return Ok(authority);
        }
        let made = enrolment::Authority::generate(common_name)?;
        files::write_private(&key, &made.key_pem(), None)?;
        files::write_if_changed(&certificate, made.pem(), None)?;
        Self::open(&certificate, &key).with_context(|| format!("cannot read back {}", certificate.display()))
    }

    /// The authority's own certificate.
    pub(super) fn pem(&self) -> &str {
        self.0.pem()
    }

    /// The authority's own certificate.
    pub(super) fn der(&self) -> &CertificateDer<'static> {
        self.0.der()
    }

    pub(super) fn issuer(&self) -> &enrolment::Authority {
        &self.0
    }

    fn open(certificate: &Path, key: &Path) -> Option<Self> {
        let (certificate, key) = (fs::read_to_string(certificate).ok()?, fs::read_to_string(key).ok()?);
        let authority = enrolment::Authority::from_pem(&certificate, &key)?;
        outlives_renewal(authority.der()).then_some(Self(authority))
    }
}
