//! The `[[virtual_host]]` tables.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use keystead_program::channel::HostPort;
use keystead_program::config::RelativePath;
use keystead_tls::{CipherSuite, ClientAuth, HostParameters, Identity, NamedGroup, SignatureScheme};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::client_auth::{CheckedClientAuth, ClientAuthFile};
use super::{ConfigError, first_duplicate};
use crate::client_auth::ClientVerifier;
use crate::proxy_protocol::ProxyProtocol;
use crate::sessions::record::Policy;
use keystead_program::server_name::NamePattern;

/// Whom clients may ask for, what they are shown, and where their bytes go.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// The names clients ask for, at least one; the first names the host in log and metrics.
    pub names: Vec<NamePattern>,
    /// Whether clients that ask for an unknown name, or for none, come here.
    pub default: bool,
    /// The key server's names of the keys whose certificates are shown.
    pub keys: Vec<String>,
    /// Certificates from files.
    pub certificates: Vec<FileIdentity>,
    /// Where the bytes go, at least one.
    pub backends: Vec<HostPort>,
    /// What precedes them there.
    pub proxy_protocol: ProxyProtocol,
    /// What TLS may agree on. Without identities: those come from `keys` and `certificates`.
    pub parameters: HostParameters,
    /// What verifies clients' certificates, if `parameters` asks for them.
    pub client_verifier: Option<Arc<ClientVerifier>>,
}

impl HostConfig {
    /// The host's name in log and metrics.
    pub fn name(&self) -> String {
        self.names.first().map(ToString::to_string).unwrap_or_default()
    }

    /// A digest of how clients are authenticated: whether they are asked for a certificate, from whom it must come, and
    /// who may come in. Revocation lists, which come and go, are no part of it.
    pub fn policy(&self) -> Policy {
        let mode = match self.parameters.client_auth {
            ClientAuth::None => "none",
            ClientAuth::Optional { .. } => "optional",
            ClientAuth::Required { .. } => "required",
        };
        let mut digest = Sha256::new_with_prefix(mode);
        if let Some(verifier) = &self.client_verifier {
            verifier.digest(&mut digest);
        }
        digest.finalize().into()
    }

    /// Whether clients are asked for certificates that no backend hears of. Not an error: the edge may be the only gate,
    /// and its log has the identities too, as one who introduces certificates wants it at first.
    pub fn keeps_identities_to_itself(&self) -> bool {
        let asks = match self.parameters.client_auth {
            ClientAuth::None => false,
            ClientAuth::Optional { .. } | ClientAuth::Required { .. } => true,
        };
        asks && self.proxy_protocol != ProxyProtocol::V2
    }

    /// Whether sessions may be agreed on without forward secrecy.
    pub fn has_key_transport(&self) -> bool {
        HostParameters::KEY_TRANSPORT_SUITES.iter().any(|suite| self.parameters.suites.contains(suite))
    }
}

/// A certificate chain read from a file.
#[derive(Clone, Debug)]
pub struct FileIdentity {
    /// The file, as configured.
    pub file: String,
    /// What it holds.
    pub identity: Arc<Identity>,
}

/// A `[[virtual_host]]` table, as TOML has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HostFile {
    names: Vec<NamePattern>,
    #[serde(default)]
    default: bool,
    #[serde(default)]
    keys: Vec<String>,
    #[serde(default)]
    certificates: Vec<CertificateFile>,
    backends: Vec<HostPort>,
    #[serde(default)]
    proxy_protocol: ProxyProtocol,
    #[serde(default)]
    alpn: Vec<String>,
    suites: Option<Vec<String>>,
    groups: Option<Vec<String>>,
    schemes: Option<Vec<String>>,
    #[serde(default)]
    danger_rsa_key_transport: bool,
    client_auth: Option<ClientAuthFile>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CertificateFile {
    chain: RelativePath,
    ocsp_response: Option<RelativePath>,
}

/// Checks all tables, each by itself and together.
pub(super) fn check(tables: Vec<HostFile>, directory: &Path) -> Result<Vec<HostConfig>, ConfigError> {
    if tables.is_empty() {
        return Err(ConfigError::at("[[virtual_host]]", "missing: add one with `names`, `keys` and `backends`"));
    }
    let mut hosts: Vec<HostConfig> = Vec::with_capacity(tables.len());
    for (index, table) in tables.into_iter().enumerate() {
        let place = match table.names.first() {
            Some(name) => format!("[[virtual_host]] `{name}`"),
            None => format!("[[virtual_host]] number {}", index + 1),
        };
        let host = table.check(directory).map_err(|problem| ConfigError::at(place.as_str(), problem))?;
        check_beside(&host, &hosts).map_err(|problem| ConfigError::at(place, problem))?;
        hosts.push(host);
    }
    Ok(hosts)
}

fn check_beside(host: &HostConfig, others: &[HostConfig]) -> Result<(), String> {
    for other in others {
        if let Some(name) = host.names.iter().find(|name| other.names.contains(name)) {
            return Err(format!("the name {name} belongs to the host `{}` too; give it to one of them", other.name()));
        }
        if host.default && other.default {
            return Err(format!("the host `{}` is the default too; only one can be", other.name()));
        }
    }
    Ok(())
}

impl HostFile {
    fn check(mut self, directory: &Path) -> Result<HostConfig, String> {
        if self.names.is_empty() {
            return Err("names is empty: write the DNS names that clients ask for".to_owned());
        }
        if let Some(name) = first_duplicate(&self.names) {
            return Err(format!("names has {name} twice"));
        }
        if self.keys.is_empty() && self.certificates.is_empty() {
            return Err("neither `keys` nor `certificates`: name a key of the key server, or a chain file".to_owned());
        }
        if let Some(key) = first_duplicate(&self.keys) {
            return Err(format!("keys has `{key}` twice"));
        }
        if self.backends.is_empty() {
            return Err("backends is empty: name at least one as host:port".to_owned());
        }
        if self.danger_rsa_key_transport && self.keys.is_empty() {
            return Err("danger_rsa_key_transport: only a key in `keys` can be used for it".to_owned());
        }
        let certificates = self.certificates.iter().map(|files| files.load(directory)).collect::<Result<_, _>>()?;
        let CheckedClientAuth { asked, verifier } = match self.client_auth.take() {
            Some(table) => table.check(directory).map_err(|problem| format!("client_auth: {problem}"))?,
            None => CheckedClientAuth { asked: ClientAuth::None, verifier: None },
        };
        Ok(HostConfig {
            parameters: HostParameters { client_auth: asked, ..self.parameters()? },
            client_verifier: verifier,
            names: self.names,
            default: self.default,
            keys: self.keys,
            certificates,
            backends: self.backends,
            proxy_protocol: self.proxy_protocol,
        })
    }

    fn parameters(&self) -> Result<HostParameters, String> {
        let all = HostParameters::default();
        Ok(HostParameters {
            suites: self.suites(all.suites)?,
            groups: chosen("groups", self.groups.as_deref(), all.groups, NamedGroup::name)?,
            schemes: chosen("schemes", self.schemes.as_deref(), all.schemes, SignatureScheme::name)?,
            identities: Vec::new(),
            alpn: self.alpn.iter().map(|protocol| alpn_protocol(protocol)).collect::<Result<_, _>>()?,
            client_auth: ClientAuth::None,
        })
    }

    /// Those without forward secrecy stand behind all others, whatever the list's order.
    fn suites(&self, mut all: Vec<CipherSuite>) -> Result<Vec<CipherSuite>, String> {
        let is_danger = |suite: &CipherSuite| HostParameters::KEY_TRANSPORT_SUITES.contains(suite);
        if self.danger_rsa_key_transport {
            all.extend(HostParameters::KEY_TRANSPORT_SUITES);
        }
        let mut suites = chosen("suites", self.suites.as_deref(), all, CipherSuite::name)?;
        if self.danger_rsa_key_transport && !suites.iter().any(is_danger) {
            return Err("danger_rsa_key_transport is on, and suites lists none that use it".to_owned());
        }
        suites.sort_by_key(is_danger);
        Ok(suites)
    }
}

/// Those of `all` that `names` lists, in its order; `all` without a list.
fn chosen<T: Copy>(
    field: &str,
    names: Option<&[String]>,
    all: Vec<T>,
    name_of: impl Fn(T) -> Option<&'static str>,
) -> Result<Vec<T>, String> {
    let Some(names) = names else {
        return Ok(all);
    };
    if names.is_empty() {
        return Err(format!("{field} is empty: leave it out to allow all"));
    }
    if let Some(name) = first_duplicate(names) {
        return Err(format!("{field} has {name} twice"));
    }
    let find = |name: &String| {
        all.iter().copied().find(|value| name_of(*value) == Some(name)).ok_or_else(|| {
            let known: Vec<_> = all.iter().filter_map(|value| name_of(*value)).collect();
            format!("{field}: `{name}` is none of {}", known.join(", "))
        })
    };
    names.iter().map(find).collect()
}

/// One to 255 bytes (RFC 7301 §3.1).
fn alpn_protocol(protocol: &str) -> Result<Vec<u8>, String> {
    if protocol.is_empty() || protocol.len() > 255 {
        return Err("alpn: a protocol's name has 1 to 255 bytes".to_owned());
    }
    Ok(protocol.as_bytes().to_vec())
}

impl CertificateFile {
    fn load(&self, directory: &Path) -> Result<FileIdentity, String> {
        let path = self.chain.under(directory);
        let file = path.display().to_string();
        let chain = CertificateDer::pem_file_iter(&path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|cause| format!("{file}: {cause}"))?;
        let chain = chain.into_iter().map(|certificate| certificate.to_vec()).collect();
        let ocsp_response = match &self.ocsp_response {
            Some(path) => {
                let path = path.under(directory);
                Some(fs::read(&path).map_err(|cause| format!("{}: {cause}", path.display()))?)
            }
            None => None,
        };
        // Which of them the key server allows for the key is for it to say.
        let schemes = SignatureScheme::KNOWN;
        let identity = Identity::new(chain, schemes, ocsp_response).map_err(|cause| format!("{file}: {cause}"))?;
        Ok(FileIdentity { file, identity: Arc::new(identity) })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
    use super::super::tests::{GOOD, load, load_in};
    use super::*;

    fn with(lines: &str) -> Result<HostConfig, String> {
        load(&format!("{GOOD}{lines}"))
            .map(|config| config.hosts.into_iter().next_back().unwrap())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn lists_are_chosen_by_the_names_of_the_rfcs() {
        let host = with("suites = [\"TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256\"]\ngroups = [\"secp384r1\", \"x25519\"]\nschemes = [\"rsa_pkcs1_sha256\"]\nalpn = [\"http/1.1\"]\nproxy_protocol = \"v2\"\n").unwrap();
        assert_eq!(host.parameters.suites, [CipherSuite::ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256]);
        assert_eq!(host.parameters.groups, [NamedGroup::SECP384R1, NamedGroup::X25519]);
        assert_eq!(host.parameters.schemes, [SignatureScheme::RSA_PKCS1_SHA256]);
        assert_eq!(host.parameters.alpn, [b"http/1.1".to_vec()]);
        assert_eq!(host.proxy_protocol, ProxyProtocol::V2);
    }

    #[test]
    fn unknown_names_are_refused_with_the_known_ones() {
        let error = with("groups = [\"x448\"]\n").unwrap_err();
        assert!(error.contains("[[virtual_host]] `localhost`: groups: `x448` is none of x25519"), "{error}");
        // A value that signals is no suite one can choose.
        let error = with("suites = [\"TLS_FALLBACK_SCSV\"]\n").unwrap_err();
        assert!(error.contains("is none of TLS_ECDHE_"), "{error}");
    }

    #[test]
    fn identities_reach_the_backend_by_proxy_v2_alone() {
        let directory = tempfile::tempdir().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        fs::write(directory.path().join("ca.pem"), authority.pem()).unwrap();
        for (mode, proxy_protocol, expected) in [
            ("required", "none", true),
            ("required", "v1", true),
            ("required", "v2", false),
            ("optional", "v1", true),
            ("optional", "v2", false),
        ] {
            let lines = format!(
                "proxy_protocol = \"{proxy_protocol}\"\nclient_auth = {{ mode = \"{mode}\", authorities = \"ca.pem\" }}\n"
            );
            let config = load_in(directory.path(), &format!("{GOOD}{lines}")).unwrap();
            assert_eq!(config.hosts[0].keeps_identities_to_itself(), expected, "{mode} {proxy_protocol}");
        }
        assert!(!with("").unwrap().keeps_identities_to_itself());
    }

    #[test]
    fn key_transport_is_off_unless_asked_for_and_the_last_choice_then() {
        assert!(!with("").unwrap().has_key_transport());
        let host = with("danger_rsa_key_transport = true\n").unwrap();
        let (first, last) = host.parameters.suites.split_at(HostParameters::FORWARD_SECRET_SUITES.len());
        assert_eq!(first, HostParameters::FORWARD_SECRET_SUITES);
        assert_eq!(last, HostParameters::KEY_TRANSPORT_SUITES);
        let suites = "suites = [\"TLS_RSA_WITH_AES_128_GCM_SHA256\", \"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256\"]\n";
        let host = with(&format!("danger_rsa_key_transport = true\n{suites}")).unwrap();
        let expected = [CipherSuite::ECDHE_RSA_WITH_AES_128_GCM_SHA256, CipherSuite::RSA_WITH_AES_128_GCM_SHA256];
        assert_eq!(host.parameters.suites, expected);

        let error = with(suites).unwrap_err();
        assert!(error.contains("`TLS_RSA_WITH_AES_128_GCM_SHA256` is none of"), "{error}");
        let error = with(&format!("danger_rsa_key_transport = true\n{}", suites.replace("TLS_RSA", "TLS_ECDHE_ECDSA")));
        assert!(error.unwrap_err().contains("suites lists none that use it"));
    }

    #[test]
    fn hosts_that_cannot_stand_are_refused_with_advice() {
        let second = "[[virtual_host]]\nnames = [\"a.example\"]\nkeys = [\"a\"]\nbackends = [\"127.0.0.1:1\"]\n";
        assert!(with(second).is_ok());
        for ((old, new), expected) in [
            (("keys = [\"a\"]\n", ""), "neither `keys` nor `certificates`"),
            (("[\"127.0.0.1:1\"]", "[]"), "backends is empty"),
            (("[\"a.example\"]", "[]"), "number 2: names is empty"),
            (("[\"a.example\"]", "[\"a.example\", \"A.EXAMPLE\"]"), "names has a.example twice"),
            (("[\"a.example\"]", "[\"*.localhost\"]"), "the name *.localhost belongs to the host `localhost` too"),
            (("keys", "default = true\nkeys"), "the host `localhost` is the default too"),
            (("keys", "alpn = [\"\"]\nkeys"), "alpn: a protocol's name has 1 to 255 bytes"),
            (("keys", "suites = []\nkeys"), "suites is empty: leave it out"),
            (
                ("keys = [\"a\"]", "danger_rsa_key_transport = true\ncertificates = [{ chain = \"a\" }]"),
                "only a key in `keys`",
            ),
            (("keys = [\"a\"]", "certificates = [{ chain = \"none.pem\" }]"), "none.pem"),
            (("a.example", "192.0.2.1"), "serve it with `default = true`"),
        ] {
            let error = with(&second.replace(old, new)).unwrap_err();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }

    #[test]
    fn chains_come_from_files() {
        let directory = tempfile::tempdir().unwrap();
        let certified = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
        fs::write(directory.path().join("a.pem"), certified.cert.pem()).unwrap();
        fs::write(directory.path().join("a.ocsp"), b"response").unwrap();
        let files = CertificateFile { chain: "a.pem".into(), ocsp_response: Some("a.ocsp".into()) };
        let loaded = files.load(directory.path()).unwrap();
        assert_eq!(loaded.identity.chain(), [certified.cert.der().to_vec()]);
        assert_eq!(loaded.identity.ocsp_response(), Some(b"response".as_slice()));

        fs::write(directory.path().join("a.pem"), "no certificate").unwrap();
        let error = files.load(directory.path()).unwrap_err();
        assert!(error.contains("a.pem: "), "{error}");
    }
}
