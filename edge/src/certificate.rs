//! What a certificate says about itself, beyond what the handshake needs.

use keystead_tls::{Identity, KeyKind};
use rustls_pki_types::{CertificateDer, ServerName};
use webpki::EndEntityCert;
use x509_parser::oid_registry as oid;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;

use crate::proxy_protocol::CertificateWords;
use keystead_program::server_name::NamePattern;

/// The algorithms of an identity's first certificate in OpenSSL's short names.
pub fn words(identity: &Identity) -> CertificateWords {
    CertificateWords {
        signature_algorithm: leaf(identity).map(|leaf| signature_algorithm(&leaf)).unwrap_or_default(),
        key_algorithm: match identity.public_key().kind() {
            KeyKind::Rsa { bits } => format!("RSA{bits}"),
            KeyKind::EcdsaP256 => "EC256".to_owned(),
            KeyKind::EcdsaP384 => "EC384".to_owned(),
            KeyKind::Ed25519 => "ED25519".to_owned(),
        },
    }
}

fn leaf(identity: &Identity) -> Option<X509Certificate<'_>> {
    let (_, leaf) = X509Certificate::from_der(identity.chain().first()?).ok()?;
    Some(leaf)
}

fn signature_algorithm(certificate: &X509Certificate<'_>) -> String {
    let algorithm = &certificate.signature_algorithm.algorithm;
    let words = [
        (oid::OID_PKCS1_SHA256WITHRSA, "RSA-SHA256"),
        (oid::OID_PKCS1_SHA384WITHRSA, "RSA-SHA384"),
        (oid::OID_PKCS1_SHA512WITHRSA, "RSA-SHA512"),
        (oid::OID_PKCS1_SHA1WITHRSA, "RSA-SHA1"),
        (oid::OID_PKCS1_RSASSAPSS, "RSASSA-PSS"),
        (oid::OID_SIG_ECDSA_WITH_SHA256, "ecdsa-with-SHA256"),
        (oid::OID_SIG_ECDSA_WITH_SHA384, "ecdsa-with-SHA384"),
        (oid::OID_SIG_ECDSA_WITH_SHA512, "ecdsa-with-SHA512"),
        (oid::OID_SIG_ED25519, "ED25519"),
    ];
    let known = words.into_iter().find(|(known, _)| known == algorithm);
    known.map_or_else(|| algorithm.to_id_string(), |(_, word)| word.to_owned())
}

/// What clients would object to if shown this identity by a host with these names, one sentence each.
pub fn objections(identity: &Identity, names: &[NamePattern]) -> Vec<String> {
    let mut objections = Vec::new();
    match leaf(identity) {
        Some(leaf) => objections.extend(validity_objection(&leaf, ASN1Time::now())),
        None => objections.push("it is not a readable certificate".to_owned()),
    }
    let uncovered: Vec<_> = names.iter().filter(|name| !covers(identity, name)).map(ToString::to_string).collect();
    if !uncovered.is_empty() {
        objections.push(format!("it does not cover {}", uncovered.join(", ")));
    }
    objections
}

fn validity_objection(certificate: &X509Certificate<'_>, now: ASN1Time) -> Option<String> {
    let validity = certificate.validity();
    if now > validity.not_after {
        return Some(format!("it expired on {}", validity.not_after));
    }
    if now < validity.not_before {
        return Some(format!("it is not valid before {}", validity.not_before));
    }
    None
}

fn covers(identity: &Identity, name: &NamePattern) -> bool {
    let example = name.example();
    let (Some(leaf), Ok(example)) = (identity.chain().first(), ServerName::try_from(example.as_str())) else {
        return false;
    };
    let leaf = CertificateDer::from(leaf.as_slice());
    EndEntityCert::try_from(&leaf).is_ok_and(|leaf| leaf.verify_is_valid_for_subject_name(&example).is_ok())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
    use super::*;
    use keystead_tls::SignatureScheme;

    fn identity(names: &[&str], not_after: i32) -> Identity {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.not_after = rcgen::date_time_ymd(not_after, 1, 1);
        let certificate = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        Identity::new(vec![certificate.der().to_vec()], SignatureScheme::KNOWN, None).unwrap()
    }

    fn patterns(names: &[&str]) -> Vec<NamePattern> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn a_good_certificate_meets_no_objection() {
        let identity = identity(&["a.example", "*.b.example"], 2100);
        assert!(objections(&identity, &patterns(&["a.example", "x.b.example", "*.b.example"])).is_empty());
    }

    #[test]
    fn names_that_are_not_covered_are_told() {
        let identity = identity(&["a.example", "x.b.example"], 2100);
        let objections = objections(&identity, &patterns(&["a.example", "*.b.example", "c.example"]));
        assert_eq!(objections, ["it does not cover *.b.example, c.example"]);
    }

    #[test]
    fn an_expired_certificate_is_told() {
        let objections = objections(&identity(&["a.example"], 2020), &patterns(&["a.example"]));
        assert!(objections.len() == 1 && objections[0].starts_with("it expired on "), "{objections:?}");
    }

    #[test]
    fn algorithms_have_the_words_of_openssl() {
        let words = words(&identity(&["a.example"], 2100));
        assert_eq!(words.signature_algorithm, "ecdsa-with-SHA256");
        assert_eq!(words.key_algorithm, "EC256");
    }
}
