//! The `[virtual_host.client_auth]` tables.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use keystead_program::config::RelativePath;
use keystead_tls::ClientAuth;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use serde::Deserialize;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::client_auth::{ClientVerifier, RevocationLists, Rule};

/// The table, as TOML has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClientAuthFile {
    mode: Mode,
    authorities: Option<RelativePath>,
    #[serde(default)]
    revocation_lists: Vec<RelativePath>,
    #[serde(default)]
    allow: Vec<Rule>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    /// Clients are not asked for a certificate.
    None,
    /// They may come without one.
    Optional,
    /// They may not.
    Required,
}

/// What clients are asked for, and what verifies their answer.
#[derive(Clone, Debug)]
pub(super) struct CheckedClientAuth {
    pub(super) asked: ClientAuth,
    pub(super) verifier: Option<Arc<ClientVerifier>>,
}

impl ClientAuthFile {
    /// The file with the authorities; relative paths start at `directory`.
    pub(super) fn authorities(&self, directory: &Path) -> Option<PathBuf> {
        self.authorities.as_ref().map(|path| path.under(directory))
    }

    /// The revocation lists, which are followed by whoever verifies with them.
    pub(super) fn revocation_lists(&self, directory: &Path) -> impl Iterator<Item = PathBuf> {
        self.revocation_lists.iter().map(|path| path.under(directory))
    }

    pub(super) fn check(self, directory: &Path) -> Result<CheckedClientAuth, String> {
        let Self { mode, authorities, revocation_lists, allow } = self;
        if mode == Mode::None {
            if authorities.is_some() || !revocation_lists.is_empty() || !allow.is_empty() {
                return Err("mode is \"none\", so nothing else may stand beside it".to_owned());
            }
            return Ok(CheckedClientAuth { asked: ClientAuth::None, verifier: None });
        }
        let authorities = authorities.ok_or("authorities is missing: name a PEM file of those to trust")?;
        let Authorities { anchors, names } = Authorities::load(&authorities.under(directory))?;
        if let Some(rule) = allow.iter().find(|rule| rule.is_empty()) {
            return Err(format!("allow: {rule:?} asks for nothing"));
        }
        let lists = RevocationLists::load(revocation_lists.iter().map(|path| path.under(directory)).collect())?;
        let verifier = Some(Arc::new(ClientVerifier::new(anchors, lists, allow)));
        let asked = match mode {
            Mode::None => ClientAuth::None,
            Mode::Optional => ClientAuth::Optional { authorities: names },
            Mode::Required => ClientAuth::Required { authorities: names },
        };
        Ok(CheckedClientAuth { asked, verifier })
    }
}

/// Certificates that clients' may come from.
struct Authorities {
    anchors: Vec<TrustAnchor<'static>>,
    /// Their subjects in DER.
    names: Vec<Vec<u8>>,
}

/// Most bytes of names in a CertificateRequest, each with its length (RFC 5246 §7.4.4).
const LONGEST_NAMES: usize = (1 << 16) - 1;

impl Authorities {
    fn load(path: &Path) -> Result<Self, String> {
        let file = path.display();
        let certificates = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|cause| format!("{file}: {cause}"))?;
        let mut authorities = Self { anchors: Vec::new(), names: Vec::new() };
        for (index, certificate) in certificates.iter().enumerate() {
            authorities.add(certificate).map_err(|problem| format!("{file}: certificate {}: {problem}", index + 1))?;
        }
        if authorities.anchors.is_empty() {
            return Err(format!("{file}: holds no certificate"));
        }
        if authorities.names.iter().map(|name| name.len() + 2).sum::<usize>() > LONGEST_NAMES {
            return Err(format!("{file}: the names of its authorities do not fit into a CertificateRequest"));
        }
        Ok(authorities)
    }

    fn add(&mut self, der: &CertificateDer<'_>) -> Result<(), String> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|cause| cause.to_string())?;
        // Trusted as an issuer, the holder of any other certificate could issue what comes in.
        if !certificate.is_ca() {
            return Err(format!("{} is no certificate authority", certificate.subject()));
        }
        let anchor = webpki::anchor_from_trusted_cert(der).map_err(|cause| cause.to_string())?;
        self.anchors.push(anchor.to_owned());
        let name = certificate.subject().as_raw().to_vec();
        if !self.names.contains(&name) {
            self.names.push(name);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::super::tests::{GOOD, load_in};
    use super::super::{Config, ConfigError};
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};

    fn files() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        let leaf = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let mut pem = params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem();
        params.distinguished_name.push(DnType::CommonName, "another");
        pem += &params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem();
        for (file, content) in [("ca.pem", pem), ("leaf.pem", leaf.pem()), ("none.pem", String::new())] {
            std::fs::write(directory.path().join(file), content).unwrap();
        }
        directory
    }

    fn with(lines: &str) -> Result<Config, ConfigError> {
        load_in(files().path(), &format!("{GOOD}[virtual_host.client_auth]\n{lines}"))
    }

    #[test]
    fn clients_are_asked_for_certificates_of_the_authorities() {
        let lines = "authorities = \"ca.pem\"\nallow = [{ dns = \"a\" }, { spki_sha256 = \"00\" }]\n";
        let lines = lines.replace("00", &"00".repeat(32));
        let host = with(&format!("mode = \"required\"\n{lines}")).unwrap().hosts.remove(0);
        assert!(matches!(&host.parameters.client_auth, ClientAuth::Required { authorities } if authorities.len() == 2));
        assert!(host.client_verifier.is_some());
        let host = with(&format!("mode = \"optional\"\n{lines}")).unwrap().hosts.remove(0);
        assert!(matches!(&host.parameters.client_auth, ClientAuth::Optional { .. }));
        let host = with("mode = \"none\"\n").unwrap().hosts.remove(0);
        assert_eq!(host.parameters.client_auth, ClientAuth::None);
        assert!(host.client_verifier.is_none());
    }

    #[test]
    fn what_cannot_stand_is_refused_with_advice() {
        for (lines, expected) in [
            ("", "missing field `mode`"),
            ("mode = \"on\"\n", "unknown variant `on`"),
            ("mode = \"none\"\nauthorities = \"ca.pem\"\n", "mode is \"none\""),
            ("mode = \"required\"\n", "authorities is missing"),
            ("mode = \"required\"\nauthorities = \"lost.pem\"\n", "lost.pem: "),
            ("mode = \"required\"\nauthorities = \"none.pem\"\n", "none.pem: "),
            ("mode = \"required\"\nauthorities = \"leaf.pem\"\n", "is no certificate authority"),
            ("mode = \"required\"\nauthorities = \"ca.pem\"\nallow = [{ dns = \"\" }]\n", "asks for nothing"),
            ("mode = \"required\"\nauthorities = \"ca.pem\"\nallow = [{ ip = \"\" }]\n", "unknown variant `ip`"),
            ("mode = \"required\"\nauthorities = \"ca.pem\"\nallow = [{ spki_sha256 = \"0\" }]\n", "64 hexadecimal"),
            ("mode = \"optional\"\nauthorities = \"ca.pem\"\nrevocation_lists = [\"ca.pem\"]\n", "ca.pem: "),
        ] {
            let error = with(lines).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }
}
