//! Whether a client's certificate lets it in: its chain is verified (RFC 5280 §6), it may be used for this, and one of
//! the virtual host's rules is met.
//!
//! That the client has the certificate's key is the engine's to see (RFC 5246 §7.4.8).

mod identity;
mod revocation;
mod rule;
mod verification;

use std::sync::Arc;
use std::time::Duration;

use keystead_tls::{ClientCertificateRefusal, Error, LocalFailure};
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};
use webpki::{ALL_VERIFICATION_ALGS, Cert, EndEntityCert, KeyUsage, VerifiedPath, spki_for_anchor};
use x509_parser::prelude::{FromDer, X509Certificate};

pub use identity::{ClientIdentity, CommonName};
pub use revocation::RevocationLists;
pub use rule::{Fingerprint, Rule};
pub use verification::Verifications;

use crate::telemetry::Telemetry;

/// Verifies the certificates of one virtual host's clients.
#[derive(Debug)]
pub struct ClientVerifier {
    anchors: Vec<TrustAnchor<'static>>,
    revocation_lists: RevocationLists,
    rules: Vec<Rule>,
}

impl ClientVerifier {
    /// Lets in whom one of `anchors` certifies, and whom one of `rules`, if there are any, is met by.
    pub fn new(anchors: Vec<TrustAnchor<'static>>, revocation_lists: RevocationLists, rules: Vec<Rule>) -> Self {
        Self { anchors, revocation_lists, rules }
    }

    /// Adds the authorities and the rules to a digest.
    pub fn digest(&self, digest: &mut Sha256) {
        for TrustAnchor { subject, subject_public_key_info, name_constraints } in &self.anchors {
            let constraints: &[u8] = name_constraints.as_deref().unwrap_or_default();
            for part in [subject.as_ref(), subject_public_key_info.as_ref(), constraints] {
                digest.update(part.len().to_be_bytes());
                digest.update(part);
            }
        }
        // Debug quotes every string, so that no two lists of rules read alike.
        digest.update(format!("{:?}", self.rules));
    }

    /// Whether the chain of DER certificates, the client's own first, lets it in at this time. A hostile chain costs up
    /// to a hundred signature checks, so this is no work for the reactor.
    ///
    /// An extended key usage must hold clientAuth, and a key usage digitalSignature, where the certificate has them.
    /// Once there are revocation lists, each certificate of the path must be covered by one that is not past its
    /// nextUpdate: a missing list must not let in whom it would have kept out. That one is missing is no fault of the
    /// client's.
    ///
    /// # Errors
    /// [`Objection`].
    pub fn verify(&self, chain: &[Vec<u8>], now: UnixTime) -> Result<(), Objection> {
        let (leaf, intermediates) = chain.split_first().ok_or(Objection::Unreadable)?;
        let leaf_der = CertificateDer::from(leaf.as_slice());
        let intermediates: Vec<_> = intermediates.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
        let end_entity = EndEntityCert::try_from(&leaf_der)?;
        let path = self.revocation_lists.with_options(|revocation| {
            let (algorithms, usage) = (ALL_VERIFICATION_ALGS, KeyUsage::client_auth());
            end_entity.verify_for_usage(algorithms, &self.anchors, &intermediates, now, usage, revocation, None)
        })?;
        check_key_usage(leaf, &path)?;
        self.check_rules(leaf, &path)
    }

    fn check_rules(&self, leaf: &[u8], path: &VerifiedPath<'_>) -> Result<(), Objection> {
        if self.rules.is_empty() {
            return Ok(());
        }
        let identity = ClientIdentity::of(leaf).ok_or(Objection::Unreadable)?;
        let issuers = path.intermediate_certificates().map(Cert::subject_public_key_info);
        let issuers: Vec<_> =
            issuers.chain([spki_for_anchor(path.anchor())]).map(|spki| fingerprint(spki.as_ref())).collect();
        let own = fingerprint(path.end_entity().subject_public_key_info().as_ref());
        let met = |rule: &Rule| match rule {
            Rule::SpkiSha256(expected) => *expected == own,
            Rule::CaSpkiSha256(expected) => issuers.contains(expected),
            Rule::Dns(_) | Rule::Uri(_) | Rule::Email(_) | Rule::Subject(_) => rule.names(&identity),
        };
        if self.rules.iter().any(met) { Ok(()) } else { Err(Objection::NoRule) }
    }
}

fn fingerprint(spki: &[u8]) -> Fingerprint {
    Fingerprint(Sha256::digest(spki).into())
}

/// The bits of key usage (RFC 5280 §4.2.1.3), which webpki leaves alone.
fn check_key_usage(leaf: &[u8], path: &VerifiedPath<'_>) -> Result<(), Objection> {
    if !key_usage_has(leaf, |usage| usage.digital_signature())? {
        return Err(Objection::KeyUsage);
    }
    for issuer in path.intermediate_certificates() {
        if !key_usage_has(&issuer.der(), |usage| usage.key_cert_sign())? {
            return Err(Objection::IssuerKeyUsage);
        }
    }
    Ok(())
}

/// A certificate without the extension leaves every use open.
fn key_usage_has(
    certificate: &[u8],
    bit: impl Fn(&x509_parser::extensions::KeyUsage) -> bool,
) -> Result<bool, Objection> {
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|_| Objection::Unreadable)?;
    let usage = certificate.key_usage().map_err(|_| Objection::Unreadable)?;
    Ok(usage.is_none_or(|usage| bit(usage.value)))
}

/// Why a client's certificate does not let it in, in words for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Objection {
    /// No path to an authority verifies.
    #[error("{0}")]
    Path(#[from] webpki::Error),
    /// Its key usage leaves signing out (RFC 5246 §7.4.6).
    #[error("its key usage does not allow to sign")]
    KeyUsage,
    /// An issuer's key usage leaves signing certificates out.
    #[error("the key usage of one of its issuers does not allow to sign certificates")]
    IssuerKeyUsage,
    /// It cannot be read.
    #[error("it is not a readable certificate")]
    Unreadable,
    /// None of the rules is met.
    #[error("no rule lets it in")]
    NoRule,
    /// Its verification broke off, or did not end in time.
    #[error("its verification came to no end")]
    NoVerdict,
}

impl Objection {
    /// What the client is told, and what is counted.
    pub fn cause(&self) -> Error {
        match self {
            Self::Path(cause) if is_of_the_lists(cause) => LocalFailure::RevocationUnknown.into(),
            Self::Path(cause) => path_cause(cause).into(),
            Self::KeyUsage => ClientCertificateRefusal::Unsupported.into(),
            Self::IssuerKeyUsage | Self::Unreadable => ClientCertificateRefusal::Bad.into(),
            Self::NoRule => ClientCertificateRefusal::AccessDenied.into(),
            Self::NoVerdict => LocalFailure::NoVerdict.into(),
        }
    }
}

/// Whether the revocation lists are what is at fault: none covers a certificate of the path, or the one that does is past
/// its nextUpdate, or cannot be used. webpki asks about a certificate when it has found its signature and its time right.
fn is_of_the_lists(cause: &webpki::Error) -> bool {
    use webpki::Error as Cause;
    matches!(
        cause,
        Cause::UnknownRevocationStatus
            | Cause::CrlExpired { .. }
            | Cause::InvalidCrlNumber
            | Cause::InvalidCrlSignatureForPublicKey
            | Cause::IssuerNotCrlSigner
            | Cause::UnsupportedCrlIssuingDistributionPoint
            | Cause::UnsupportedCrlVersion
            | Cause::UnsupportedDeltaCrl
            | Cause::UnsupportedIndirectCrl
            | Cause::UnsupportedRevocationReason
            | Cause::UnsupportedRevocationReasonsPartitioning
            | Cause::UnsupportedCrlSignatureAlgorithmContext(_)
            | Cause::UnsupportedCrlSignatureAlgorithmForPublicKeyContext(_)
    )
}

/// Of webpki's causes, those that RFC 5246 §7.2.2 has a word for. An issuer that may not be one counts as unknown, as
/// OpenSSL has it.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the enum is open, and every cause without a word of its own is one"
)]
fn path_cause(cause: &webpki::Error) -> ClientCertificateRefusal {
    use webpki::Error as Cause;
    match cause {
        Cause::CertExpired { .. } | Cause::CertNotValidYet { .. } => ClientCertificateRefusal::Expired,
        Cause::CertRevoked => ClientCertificateRefusal::Revoked,
        Cause::UnknownIssuer | Cause::EndEntityUsedAsCa | Cause::PathLenConstraintViolated => {
            ClientCertificateRefusal::UnknownCa
        }
        Cause::RequiredEkuNotFoundContext(_)
        | Cause::EmptyEkuExtension
        | Cause::CaUsedAsEndEntity
        | Cause::UnsupportedCertVersion
        | Cause::UnsupportedCriticalExtension
        | Cause::UnsupportedSignatureAlgorithmContext(_)
        | Cause::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => ClientCertificateRefusal::Unsupported,
        // Malformed, not signed by whom it names, against a constraint, or too costly.
        _ => ClientCertificateRefusal::Bad,
    }
}

/// Reads the revocation lists of the verifiers there are anew as their files change, looking at them once in each `period`.
/// Ends only by being dropped.
pub async fn keep_fresh(verifiers: impl Fn() -> Vec<Arc<ClientVerifier>>, period: Duration, telemetry: Arc<Telemetry>) {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let verifiers = verifiers();
        let reloaded = spawn_blocking(move || {
            verifiers.iter().map(|verifier| verifier.revocation_lists.reload(UnixTime::now())).sum::<u64>()
        });
        telemetry.revocation_list_failures.inc_by(reloaded.await.unwrap_or_default());
    }
}

#[cfg(test)]
mod tests;
