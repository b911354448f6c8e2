//! From the name a client asks for to everything that belongs to it, in one lookup.

use std::collections::HashMap;
use std::sync::Arc;

use keystead_tls::{HostParameters, Identity, KeyId};

use crate::backend::{Backends, Pool};
use crate::certificate;
use crate::client_auth::ClientVerifier;
use crate::config::HostConfig;
use crate::identity::{IdentitySet, KnownIdentity};
use crate::proxy_protocol::{CertificateWords, ProxyProtocol};
use crate::sessions::record::Policy;
use keystead_program::server_name::NamePattern;

/// What clients that ask for a name get. All of it comes from one lookup, so that no two parts can come from
/// different hosts.
#[derive(Debug)]
pub struct VirtualHost {
    /// In log and metrics.
    pub name: String,
    /// What TLS may agree on, with the certificates there are at this moment: maybe none.
    pub parameters: Arc<HostParameters>,
    /// Where the bytes go.
    pub backends: Arc<Backends>,
    /// What precedes them there.
    pub proxy_protocol: ProxyProtocol,
    /// What verifies clients' certificates, if `parameters` asks for them.
    pub client_verifier: Option<Arc<ClientVerifier>>,
    /// How clients are authenticated, in short: sessions of another policy are not gone on from.
    pub policy: Policy,
    known: Vec<Arc<KnownIdentity>>,
}

impl VirtualHost {
    /// What a backend may be told about the certificate with this key.
    pub fn certificate_words(&self, key_id: KeyId) -> CertificateWords {
        let shown = self.known.iter().find(|known| known.key_id() == key_id);
        shown.map(|known| known.words.clone()).unwrap_or_default()
    }

    /// The keys of the certificates there are.
    pub fn key_ids(&self) -> impl Iterator<Item = KeyId> {
        self.known.iter().map(|known| known.key_id())
    }

    /// Whether there is a certificate to show.
    pub fn has_identity(&self) -> bool {
        !self.known.is_empty()
    }
}

/// A virtual host as configured: what stays when identities change.
#[derive(Debug)]
pub struct HostTemplate {
    config: HostConfig,
    from_files: Vec<Arc<KnownIdentity>>,
    backends: Arc<Backends>,
}

impl HostTemplate {
    /// The template of a checked configuration, whose backends are `pool`'s from here on. Within a runtime where they are
    /// to be checked.
    pub fn new(config: HostConfig, pool: &Arc<Pool>) -> Self {
        let known = |identity| Arc::new(KnownIdentity::new(identity));
        Self {
            from_files: config.certificates.iter().map(|file| known(file.identity.clone())).collect(),
            backends: Backends::new(config.name(), config.backends.clone(), pool),
            config,
        }
    }

    fn fill(&self, identities: &IdentitySet) -> VirtualHost {
        let by_name = self.config.keys.iter().filter_map(|key| identities.get(key));
        let known: Vec<_> = by_name.chain(&self.from_files).cloned().collect();
        let identities = known.iter().map(|known| known.identity.clone()).collect();
        let parameters = Arc::new(HostParameters { identities, ..self.config.parameters.clone() });
        VirtualHost {
            name: self.config.name(),
            parameters,
            backends: self.backends.clone(),
            proxy_protocol: self.config.backends.proxy_protocol,
            client_verifier: self.config.client_verifier.clone(),
            policy: self.config.policy(),
            known,
        }
    }

    /// Whether handshakes by RSA key transport may come that use an identity of `identities`.
    pub fn needs_leases(&self, identities: &IdentitySet) -> bool {
        let mut known = self.config.keys.iter().filter_map(|key| identities.get(key));
        self.config.has_key_transport() && known.any(|known| known.identity.allows_key_transport())
    }

    /// Has the suites of RSA key transport added.
    #[cfg(test)]
    pub(crate) fn allow_key_transport(&mut self) {
        self.config.parameters.suites.extend(HostParameters::KEY_TRANSPORT_SUITES);
    }

    /// Logs what the configuration gives up, and what clients would object to in certificates from files.
    pub fn warn_of_config(&self) {
        if self.config.has_key_transport() {
            tracing::warn!(
                host = self.config.name(),
                "danger_rsa_key_transport: without forward secrecy; whoever gets the key later reads what was recorded"
            );
        }
        if self.config.keeps_identities_to_itself() {
            tracing::warn!(host = self.config.name(), "{UNTOLD_IDENTITIES}");
        }
        for certificate in &self.config.certificates {
            self.warn_of(&certificate.file, &certificate.identity);
        }
    }

    /// Logs what clients would object to in the identities that `identities` has and `before` had not.
    pub fn warn_of_keys(&self, identities: &IdentitySet, before: &IdentitySet) {
        for key in &self.config.keys {
            let Some(known) = identities.get(key) else { continue };
            if !before.get(key).is_some_and(|before| Arc::ptr_eq(before, known)) {
                self.warn_of(key, &known.identity);
            }
        }
    }

    fn warn_of(&self, source: &str, identity: &Identity) {
        for objection in certificate::objections(identity, &self.config.names) {
            tracing::warn!(host = self.config.name(), source, objection, "certificate that clients will refuse");
        }
    }
}

/// What is wrong with [`HostConfig::keeps_identities_to_itself`].
pub(crate) const UNTOLD_IDENTITIES: &str =
    "client_auth without proxy_protocol = \"v2\": the backend is not told whose certificate came in";

/// Every virtual host by name. Immutable: a change makes another.
#[derive(Debug, Default)]
pub struct Table {
    exact: HashMap<String, Arc<VirtualHost>>,
    /// By the name behind the one label that the wildcard stands for.
    wildcard: HashMap<String, Arc<VirtualHost>>,
    default: Option<Arc<VirtualHost>>,
    hosts: Vec<Arc<VirtualHost>>,
}

impl Table {
    /// Fills each template with the identities it names.
    pub fn build(templates: &[HostTemplate], identities: &IdentitySet) -> Self {
        let mut table = Self::default();
        for template in templates {
            let host = Arc::new(template.fill(identities));
            for name in &template.config.names {
                match name {
                    NamePattern::Exact(name) => table.exact.insert(name.clone(), host.clone()),
                    NamePattern::Wildcard(parent) => table.wildcard.insert(parent.clone(), host.clone()),
                };
            }
            if template.config.default {
                table.default = Some(host.clone());
            }
            table.hosts.push(host);
        }
        table
    }

    /// The host that answers to `server_name`, a lower-case DNS name: by this name, or by a wildcard for its first
    /// label, or else the default. `None` where there is no default: the client is to be refused.
    pub fn find(&self, server_name: Option<&str>) -> Option<&Arc<VirtualHost>> {
        server_name.and_then(|name| self.find_name(name)).or(self.default.as_ref())
    }

    fn find_name(&self, name: &str) -> Option<&Arc<VirtualHost>> {
        self.exact.get(name).or_else(|| {
            let (label, parent) = name.split_once('.')?;
            (!label.is_empty()).then(|| self.wildcard.get(parent)).flatten()
        })
    }

    /// Every host once.
    pub fn hosts(&self) -> &[Arc<VirtualHost>] {
        &self.hosts
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
    use super::*;
    use crate::backend::config::BackendsConfig;
    use crate::identity::tests::entry;
    use keystead_proto::v1;

    pub(crate) fn template(names: &[&str], default: bool, keys: &[&str]) -> HostTemplate {
        let config = HostConfig {
            names: names.iter().map(|name| name.parse().unwrap()).collect(),
            default,
            keys: keys.iter().map(|key| (*key).to_owned()).collect(),
            certificates: Vec::new(),
            backends: BackendsConfig::new(vec!["127.0.0.1:1".parse().unwrap()]),
            parameters: HostParameters::default(),
            client_verifier: None,
        };
        HostTemplate::new(config, &Arc::default())
    }

    fn table(default: bool) -> Table {
        let templates = [
            template(&["a.example", "*.a.example"], false, &["a"]),
            template(&["www.a.example"], false, &["www"]),
            template(&["other.example"], default, &[]),
        ];
        let identities = vec![entry("a", "a.example"), entry("unused", "a.example")];
        Table::build(&templates, &IdentitySet::read(v1::Identities { identities }, &IdentitySet::default()))
    }

    #[test]
    fn exact_names_go_before_wildcards_and_those_before_the_default() {
        let table = table(true);
        let find = |name| table.find(name).map(|host| host.name.as_str());
        for (name, expected) in [
            (Some("a.example"), "a.example"),
            (Some("www.a.example"), "www.a.example"),
            (Some("x.a.example"), "a.example"),
            // A wildcard stands for exactly one label.
            (Some("x.y.a.example"), "other.example"),
            (Some(".a.example"), "other.example"),
            (Some("example"), "other.example"),
            (None, "other.example"),
        ] {
            assert_eq!(find(name), Some(expected), "{name:?}");
        }
    }

    #[test]
    fn without_a_default_unknown_and_absent_names_find_nothing() {
        let table = table(false);
        assert!(table.find(Some("a.example")).is_some());
        assert!(table.find(Some("unknown.example")).is_none());
        assert!(table.find(None).is_none());
    }

    #[test]
    fn hosts_hold_the_identities_they_name() {
        let table = table(false);
        let with_identity: Vec<_> = table.hosts().iter().map(|host| host.has_identity()).collect();
        assert_eq!(with_identity, [true, false, false]);
        let host = table.find(Some("a.example")).unwrap();
        assert_eq!(host.parameters.identities.len(), 1);
        let key_id = host.parameters.identities[0].public_key().key_id();
        assert_eq!(host.certificate_words(key_id).key_algorithm, "EC256");
        assert_eq!(host.certificate_words(KeyId([0; 32])), CertificateWords::default());
    }
}
