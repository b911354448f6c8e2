//! Who may come in, of those whose certificate is sound.

use serde::Deserialize;

use super::ClientIdentity;

/// One way in. Names are compared whole: a rule has no wildcards, and a wildcard in a certificate is a name as any.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// This DNS name is among the subject alternative names.
    Dns(String),
    /// This URI is.
    Uri(String),
    /// This email address is.
    Email(String),
    /// The subject is this one, as RFC 4514 and `openssl x509 -nameopt RFC2253` write it.
    Subject(String),
    /// The certificate's SubjectPublicKeyInfo has this SHA-256.
    SpkiSha256(Fingerprint),
    /// That of an authority on the certificate's path has.
    CaSpkiSha256(Fingerprint),
}

impl Rule {
    /// Whether the rule asks for a name, and for one of this client's.
    pub(super) fn names(&self, client: &ClientIdentity) -> bool {
        match self {
            Self::Dns(name) => client.dns.iter().any(|dns| dns.eq_ignore_ascii_case(name)),
            Self::Uri(name) => client.uris.contains(name),
            Self::Email(name) => client.emails.iter().any(|email| is_same_mailbox(email, name)),
            Self::Subject(subject) => client.subject == *subject,
            Self::SpkiSha256(_) | Self::CaSpkiSha256(_) => false,
        }
    }

    /// Whether it can be met at all.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Dns(name) | Self::Uri(name) | Self::Email(name) | Self::Subject(name) => name.is_empty(),
            Self::SpkiSha256(_) | Self::CaSpkiSha256(_) => false,
        }
    }
}

/// The domain's letters have no case, those in front of it do (RFC 5280 §7.5).
fn is_same_mailbox(one: &str, other: &str) -> bool {
    match (one.rsplit_once('@'), other.rsplit_once('@')) {
        (Some((one, one_domain)), Some((other, other_domain))) => {
            one == other && one_domain.eq_ignore_ascii_case(other_domain)
        }
        (_, _) => false,
    }
}

/// A SHA-256, in hexadecimal in configurations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Fingerprint(pub [u8; 32]);

impl TryFrom<String> for Fingerprint {
    type Error = InvalidFingerprint;

    fn try_from(text: String) -> Result<Self, InvalidFingerprint> {
        let digits: Vec<_> = text.chars().filter_map(|digit| digit.to_digit(16)).collect();
        if text.len() != 64 || digits.len() != 64 {
            return Err(InvalidFingerprint);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair.iter().fold(0, |value, digit| value << 4 | digit.to_le_bytes()[0]);
        }
        Ok(Self(bytes))
    }
}

/// A text that is no [`Fingerprint`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a SHA-256 has 64 hexadecimal digits, without anything between them")]
pub struct InvalidFingerprint;

#[cfg(test)]
mod tests {
    use super::super::CommonName;
    use super::*;

    fn client() -> ClientIdentity {
        ClientIdentity {
            subject: "CN=a,O=Bank".to_owned(),
            common_name: CommonName::One("a".to_owned()),
            dns: vec!["Client.example".to_owned(), "*.example".to_owned()],
            uris: vec!["spiffe://example/a".to_owned()],
            emails: vec!["Anna@Example.org".to_owned()],
        }
    }

    #[test]
    fn names_are_compared_whole_in_their_own_way() {
        for (rule, met) in [
            (Rule::Dns("client.EXAMPLE".to_owned()), true),
            (Rule::Dns("other.example".to_owned()), false),
            (Rule::Dns("example".to_owned()), false),
            // The common name is no DNS name.
            (Rule::Dns("a".to_owned()), false),
            (Rule::Uri("spiffe://example/a".to_owned()), true),
            (Rule::Uri("spiffe://example/A".to_owned()), false),
            (Rule::Uri("spiffe://example/".to_owned()), false),
            (Rule::Email("Anna@example.ORG".to_owned()), true),
            (Rule::Email("anna@example.org".to_owned()), false),
            (Rule::Email("example.org".to_owned()), false),
            (Rule::Subject("CN=a,O=Bank".to_owned()), true),
            (Rule::Subject("CN=a".to_owned()), false),
        ] {
            assert_eq!(rule.names(&client()), met, "{rule:?}");
        }
    }

    #[test]
    fn fingerprints_are_hexadecimal() {
        let bytes: [u8; 32] = std::array::from_fn(|index| index as u8 * 8);
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(Fingerprint::try_from(text.clone()), Ok(Fingerprint(bytes)));
        assert_eq!(Fingerprint::try_from(text.to_uppercase()), Ok(Fingerprint(bytes)));
        for wrong in [String::new(), text.replace("08", "0g"), format!("{text}00"), text.replace("08", "0:8")] {
            assert_eq!(Fingerprint::try_from(wrong), Err(InvalidFingerprint));
        }
    }
}
