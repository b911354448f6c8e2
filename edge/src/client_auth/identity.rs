//! Whom a client's certificate is for.

use std::fmt::Write;

use x509_parser::oid_registry as oid;
use x509_parser::prelude::{AttributeTypeAndValue, FromDer, GeneralName, X509Certificate, X509Name};

/// Whom a client's certificate is for: as good as the certificate, so only of one that was verified does it mean
/// anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientIdentity {
    /// The subject as RFC 4514 writes it, the innermost part first; characters outside ASCII are escaped.
    pub subject: String,
    /// The subject's common name.
    pub common_name: CommonName,
    /// The subject alternative names that are DNS names.
    pub dns: Vec<String>,
    /// Those that are URIs.
    pub uris: Vec<String>,
    /// Those that are email addresses.
    pub emails: Vec<String>,
}

/// A subject's common name, for whoever tells clients apart by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommonName {
    /// There is none.
    None,
    /// There is one.
    One(String),
    /// There are several, or one that is empty, has control characters or is no UTF-8: whoever reads it might take it for
    /// somebody else's.
    Ambiguous,
}

impl ClientIdentity {
    /// Reads a DER certificate; `None` where it does not parse.
    pub fn of(certificate: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let mut identity = Self {
            subject: subject(certificate.subject()),
            common_name: common_name(certificate.subject()),
            dns: Vec::new(),
            uris: Vec::new(),
            emails: Vec::new(),
        };
        let names = certificate.subject_alternative_name().ok()?;
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            match name {
                GeneralName::DNSName(name) => identity.dns.push((*name).to_owned()),
                GeneralName::URI(name) => identity.uris.push((*name).to_owned()),
                GeneralName::RFC822Name(name) => identity.emails.push((*name).to_owned()),
                // No rule asks for the others.
                GeneralName::OtherName(..)
                | GeneralName::X400Address(_)
                | GeneralName::DirectoryName(_)
                | GeneralName::EDIPartyName(_)
                | GeneralName::IPAddress(_)
                | GeneralName::RegisteredID(_)
                | GeneralName::Invalid(..) => {}
            }
        }
        Some(identity)
    }

    /// Subject and alternative names in one line for the log, cut where they are long.
    pub fn excerpt(&self) -> String {
        let names = self.names().take(LOGGED_NAMES).flat_map(|name| [" ", name]);
        let text = [self.subject.as_str()].into_iter().chain(names).flat_map(str::chars);
        text.take(LOGGED_CHARACTERS).flat_map(char::escape_debug).collect()
    }

    /// Every alternative name.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.dns.iter().chain(&self.uris).chain(&self.emails).map(String::as_str)
    }
}

const LOGGED_NAMES: usize = 8;
const LOGGED_CHARACTERS: usize = 256;

fn common_name(name: &X509Name<'_>) -> CommonName {
    let mut names = name.iter_common_name();
    let Some(first) = names.next() else { return CommonName::None };
    let is_plain = |name: &&str| !name.is_empty() && !name.chars().any(char::is_control);
    match (first.as_str().ok().filter(is_plain), names.next()) {
        (Some(name), None) => CommonName::One(name.to_owned()),
        (_, _) => CommonName::Ambiguous,
    }
}

/// RFC 4514 §2. Every value is escaped, so that no value can look like a further part of the name.
fn subject(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    let parts: Vec<_> = name.iter_rdn().collect();
    for (index, part) in parts.into_iter().rev().enumerate() {
        for (nth, attribute) in part.iter().enumerate() {
            if index + nth > 0 {
                text.push(if nth == 0 { ',' } else { '+' });
            }
            write_attribute(attribute, &mut text);
        }
    }
    text
}

fn write_attribute(attribute: &AttributeTypeAndValue<'_>, text: &mut String) {
    let short = [
        (oid::OID_X509_COMMON_NAME, "CN"),
        (oid::OID_X509_LOCALITY_NAME, "L"),
        (oid::OID_X509_STATE_OR_PROVINCE_NAME, "ST"),
        (oid::OID_X509_ORGANIZATION_NAME, "O"),
        (oid::OID_X509_ORGANIZATIONAL_UNIT, "OU"),
        (oid::OID_X509_COUNTRY_NAME, "C"),
        (oid::OID_X509_STREET_ADDRESS, "street"),
        (oid::OID_X509_SERIALNUMBER, "serialNumber"),
        (oid::OID_PKCS9_EMAIL_ADDRESS, "emailAddress"),
        (oid::OID_DOMAIN_COMPONENT, "DC"),
        (oid::OID_USERID, "UID"),
    ];
    let short = short.into_iter().find(|(known, _)| known == attribute.attr_type());
    match (short, attribute.as_str()) {
        (Some((_, name)), Ok(value)) => {
            text.push_str(name);
            text.push('=');
            write_value(value, text);
        }
        (_, _) => {
            text.push_str(&attribute.attr_type().to_id_string());
            text.push_str("=#");
            attribute.as_slice().iter().for_each(|byte| hex(*byte, text));
        }
    }
}

fn write_value(value: &str, text: &mut String) {
    let last = value.len().saturating_sub(1);
    for (position, byte) in value.bytes().enumerate() {
        match byte {
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' => text.extend(['\\', byte.into()]),
            b'#' if position == 0 => text.push_str("\\#"),
            b' ' if position == 0 || position == last => text.push_str("\\ "),
            b' '..=b'~' => text.push(byte.into()),
            _ => {
                text.push('\\');
                hex(byte, text);
            }
        }
    }
}

fn hex(byte: u8, text: &mut String) {
    // Writing to a string cannot fail.
    let _ = write!(text, "{byte:02X}");
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    fn certificate(parts: &[(DnType, &str)], names: Vec<SanType>) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in parts {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.subject_alt_names = names;
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn subject_of(parts: &[(DnType, &str)]) -> String {
        ClientIdentity::of(&certificate(parts, Vec::new())).unwrap().subject
    }

    #[test]
    fn subjects_are_written_as_rfc_4514_has_them() {
        let parts = [(DnType::CountryName, "DE"), (DnType::OrganizationName, "Bank"), (DnType::CommonName, "teller 7")];
        assert_eq!(subject_of(&parts), "CN=teller 7,O=Bank,C=DE");
    }

    #[test]
    fn no_value_looks_like_another_part() {
        assert_eq!(subject_of(&[(DnType::CommonName, "a,O=Bank")]), "CN=a\\,O=Bank");
        assert_eq!(subject_of(&[(DnType::CommonName, " #a+b\\\n ")]), "CN=\\ #a\\+b\\\\\\0A\\ ");
        assert_eq!(subject_of(&[(DnType::CommonName, "#ä")]), "CN=\\#\\C3\\A4");
    }

    #[test]
    fn names_come_from_the_alternative_names() {
        let names = vec![
            SanType::DnsName("client.example".try_into().unwrap()),
            SanType::URI("spiffe://example/a".try_into().unwrap()),
            SanType::Rfc822Name("a@example".try_into().unwrap()),
            SanType::IpAddress([192, 0, 2, 1].into()),
        ];
        let identity = ClientIdentity::of(&certificate(&[(DnType::CommonName, "a")], names)).unwrap();
        assert_eq!(identity.names().collect::<Vec<_>>(), ["client.example", "spiffe://example/a", "a@example"]);
        assert_eq!(identity.common_name, CommonName::One("a".to_owned()));
    }

    #[test]
    fn a_common_name_is_one_and_plain() {
        let common_name = |parts: &[_]| ClientIdentity::of(&certificate(parts, Vec::new())).unwrap().common_name;
        assert_eq!(common_name(&[(DnType::OrganizationName, "a")]), CommonName::None);
        assert_eq!(common_name(&[(DnType::CommonName, "a\r\nb")]), CommonName::Ambiguous);
        assert_eq!(common_name(&[(DnType::CommonName, "")]), CommonName::Ambiguous);
        let second = DnType::CustomDnType(vec![2, 5, 4, 3]);
        assert_eq!(common_name(&[(DnType::CommonName, "a"), (second, "b")]), CommonName::Ambiguous);
        assert_eq!(common_name(&[(DnType::CommonName, "Ä")]), CommonName::One("Ä".to_owned()));
    }
}
