//! `keystead-edge check`: a configuration, told back.

use std::fmt::Write;

use keystead_tls::{ClientAuth, Identity};

use crate::certificate;
use crate::config::{Config, HostConfig};
use crate::proxy_protocol::TRUSTS_EVERYBODY;
use crate::serve::channel_material;
use crate::virtual_host::UNTOLD_IDENTITIES;

/// Checks what loading the configuration does not, and tells what was found, for a person to read.
///
/// # Errors
/// What would keep the edge from starting with it.
pub fn check(config: &Config) -> anyhow::Result<String> {
    let material = channel_material(config)?;
    let mut found = String::new();
    writeln!(found, "this edge: {}", material.identity()?)?;
    if let Some(warning) = material.warning() {
        writeln!(found, "warning: {warning}")?;
    }
    let servers: Vec<_> = config.key_server.addresses.iter().map(ToString::to_string).collect();
    writeln!(found, "key servers: {} as {}", servers.join(", "), config.key_server.server_name)?;
    for listener in &config.listeners {
        writeln!(found, "listener: {}", listener.address)?;
        for proxies in listener.proxy_protocol_from.networks() {
            writeln!(found, "  PROXY header expected from: {proxies}")?;
        }
        if listener.proxy_protocol_from.has_everybody() {
            writeln!(found, "  warning: {TRUSTS_EVERYBODY}")?;
        }
    }
    for host in &config.hosts {
        describe(host, &mut found)?;
    }
    if !config.hosts.iter().any(|host| host.default) {
        writeln!(found, "no default: clients that ask for other names, or for none, are refused")?;
    }
    Ok(found)
}

fn describe(host: &HostConfig, found: &mut String) -> std::fmt::Result {
    let names: Vec<_> = host.names.iter().map(ToString::to_string).collect();
    writeln!(found, "virtual host: {}{}", names.join(", "), if host.default { " (default)" } else { "" })?;
    for key in &host.keys {
        writeln!(found, "  key: {key}, certificate from the key server")?;
    }
    for certificate in &host.certificates {
        writeln!(found, "  certificate: {}, {}", certificate.file, key(&certificate.identity))?;
        for objection in certificate::objections(&certificate.identity, &host.names) {
            writeln!(found, "    warning: {objection}")?;
        }
    }
    if host.has_key_transport() {
        writeln!(found, "  warning: danger_rsa_key_transport: sessions may have no forward secrecy")?;
    }
    match &host.parameters.client_auth {
        ClientAuth::None => {}
        ClientAuth::Optional { authorities } => {
            writeln!(found, "  client certificates: optional, authorities: {}", authorities.len())?;
        }
        ClientAuth::Required { authorities } => {
            writeln!(found, "  client certificates: required, authorities: {}", authorities.len())?;
        }
    }
    if host.keeps_identities_to_itself() {
        writeln!(found, "  warning: {UNTOLD_IDENTITIES}")?;
    }
    for backend in &host.backends.addresses {
        writeln!(found, "  backend: {backend}")?;
    }
    if host.backends.addresses.len() > 1 {
        let balance: &'static str = host.backends.balance.into();
        writeln!(found, "  balance: {balance}")?;
    }
    Ok(())
}

fn key(identity: &Identity) -> String {
    format!("{}, key id {}", certificate::words(identity).key_algorithm, identity.public_key().key_id())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
    use super::*;
    use crate::config::tests::GOOD;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
    use std::fs;

    #[test]
    fn it_warns_where_no_backend_hears_of_identities() {
        let directory = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        fs::write(directory.path().join("ca.pem"), authority.pem()).unwrap();
        let told = |config: &str| {
            let file = directory.path().join("edge.toml");
            fs::write(&file, config).unwrap();
            let mut found = String::new();
            describe(&Config::load(&file).unwrap().hosts[0], &mut found).unwrap();
            found
        };
        let client_auth = "client_auth = { mode = \"optional\", authorities = \"ca.pem\" }\n";
        let v1 = format!("{GOOD}proxy_protocol = \"v1\"\n{client_auth}");
        assert!(told(&v1).contains("  warning: client_auth without proxy_protocol = \"v2\": "));
        assert!(!told(&v1.replace("\"v1\"", "\"v2\"")).contains("warning"));
    }
}
