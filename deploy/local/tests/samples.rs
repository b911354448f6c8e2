//! The sample configurations say only what the programs understand, in their comments too.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use keystead_edge::config::Config;
use keystead_edge::sessions::SessionTable;
use keystead_keyserver::audit::signing_key::SigningKey;
use keystead_keyserver::settings::Settings;
use keystead_keyserver::ticket_keys::group::GroupName;
use keystead_local::pki::{Deployment, provide_ticket_secret};
use rcgen::{CertificateParams, CertificateRevocationListParams, CertifiedIssuer, KeyIdMethod, KeyPair, date_time_ymd};
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use tempfile::TempDir;

/// A directory with the certificates of `part` and the sample as it would be with every comment that holds a key or a
/// table put into force.
fn in_force(sample: &str, part: &str) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let pki = directory.path().join("all");
    Deployment::localhost(["one"]).provide(&pki).unwrap();
    fs::rename(pki.join(part), directory.path().join("pki")).unwrap();
    fs::write(directory.path().join("pki/localhost-rsa.ocsp"), b"response").unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config").join(sample);
    let lines: Vec<_> = fs::read_to_string(source).unwrap().lines().map(uncommented).collect();
    let file = directory.path().join(sample);
    fs::write(&file, lines.join("\n")).unwrap();
    (directory, file)
}

fn uncommented(line: &str) -> String {
    let Some(rest) = line.strip_prefix("# ") else { return line.to_owned() };
    let key = rest.split_once(" = ").map_or("", |(key, _)| key);
    let is_key = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    if is_key || rest.starts_with('[') { rest.to_owned() } else { line.to_owned() }
}

#[test]
fn the_key_servers_sample_is_understood() {
    let (directory, file) = in_force("keyserver.toml", "keyserver");
    let text = fs::read_to_string(&file).unwrap();
    let state = directory.path().join("ticket-keys.toml");
    // The sample's own place is that of the container.
    fs::write(&file, text.replace("/var/lib/keystead/", "")).unwrap();
    SigningKey::create(&directory.path().join("audit.key")).unwrap();
    provide_ticket_secret(&state, None).unwrap();
    fs::write(directory.path().join("pki/sealing.key"), "5a".repeat(32)).unwrap();
    fs::write(directory.path().join("pki/passphrase"), "correct horse").unwrap();
    let settings = Settings::load(&file).unwrap();
    assert_eq!(settings.tickets.as_ref().map(|tickets| &tickets.state), Some(&state));
    assert!(settings.config.edge.iter().all(|edge| !edge.revoked && edge.ticket_group == GroupName::default()));
    assert_eq!(settings.config.key.len(), 2);
    assert_eq!(settings.config.memory, keystead_keyserver::memory::MemoryConfig::default());
    assert!(settings.config.key_protection.sealing_key.is_some());
    let least = "directory = \"audit\"\nsigning_key = \"audit.key\"";
    assert_eq!(settings.config.audit, Some(toml::from_str(least).unwrap()));
    assert_eq!(settings.config.limits, keystead_keyserver::config::Limits::default());
}

/// The table of a token stands indented, since no module need be there to try it.
#[test]
fn the_samples_token_is_understood() {
    #[derive(serde::Deserialize)]
    struct Tokens {
        token: Vec<keystead_keyserver::custody::token::TokenConfig>,
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/keyserver.toml");
    let text = fs::read_to_string(source).unwrap();
    let lines = text.lines().skip_while(|line| *line != "#     [[token]]");
    let lines = lines.map_while(|line| line.strip_prefix("#     "));
    let table: String = lines.map(|line| format!("{}\n", uncommented(line))).collect();
    let token = &toml::from_str::<Tokens>(&table).unwrap().token[0];
    assert_eq!((token.sessions, token.queue), (4, 512));
    assert_eq!(token.session_wait, std::time::Duration::from_millis(500));
    token.check().unwrap();
}

#[test]
fn the_edges_sample_is_understood() {
    let (directory, file) = in_force("edge.toml", "edge-one");
    let served = directory.path().join("all/keyserver/localhost-rsa.pem");
    fs::copy(served, directory.path().join("pki/localhost.pem")).unwrap();
    fs::write(directory.path().join("pki/localhost.ocsp"), b"response").unwrap();
    fs::write(directory.path().join("pki/clients.crl"), revocation_list()).unwrap();
    store_files(directory.path());
    // Only sentinels take all keys of the table.
    let text = fs::read_to_string(&file).unwrap().replace(r#"kind = "single""#, r#"kind = "sentinel""#);
    fs::write(&file, text).unwrap();
    let config = Config::load(&file).unwrap();
    assert_eq!(config.hosts.len(), 1);
    assert!(config.hosts.iter().all(|host| host.client_verifier.is_some() && !host.has_key_transport()));
    assert_eq!(config.limits, keystead_edge::config::Limits::default());
    assert!(config.sessions.shared.is_some());
    let defaults = SessionTable { shared: config.sessions.table.shared.clone(), ..SessionTable::default() };
    assert_eq!(config.sessions.table, defaults);
}

/// The files that a shared store's table names.
fn store_files(directory: &Path) {
    for (name, channel) in [("ca.pem", "channel-ca.pem"), ("client.pem", "channel.pem"), ("client.key", "channel.key")]
    {
        fs::copy(directory.join("pki").join(channel), directory.join(format!("redis-{name}"))).unwrap();
    }
    for name in ["redis.password", "sentinel.password"] {
        fs::write(directory.join(name), "secret\n").unwrap();
    }
}

/// A fleet's edges differ from others in their shared store alone.
#[test]
fn the_fleets_sample_is_the_edges_with_a_shared_store() {
    let read = |name: &str| -> toml::Table {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config").join(name);
        fs::read_to_string(source).unwrap().parse().unwrap()
    };
    let mut fleet = read("edge.fleet.toml");
    let sessions = fleet.remove("sessions").unwrap();
    assert_eq!(fleet, read("edge.toml"));
    let shared: toml::Table = "[shared]\nkind = \"single\"\naddresses = [\"store:6379\"]".parse().unwrap();
    assert_eq!(sessions, shared.into());
}

fn revocation_list() -> String {
    let authority = CertifiedIssuer::self_signed(CertificateParams::default(), KeyPair::generate().unwrap()).unwrap();
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2024, 1, 1),
        next_update: date_time_ymd(2100, 1, 1),
        crl_number: 1.into(),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    list.signed_by(&authority).unwrap().pem().unwrap()
}

/// The fields of `T`, by their names in a configuration.
fn fields<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    let mut fields: &[_] = &[];
    // It gives no value, and is asked for one of these fields alone.
    assert!(T::deserialize(Fields(&mut fields)).is_err());
    assert!(!fields.is_empty());
    fields
}

/// Takes down what a struct asks for.
struct Fields<'f>(&'f mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Fields<'_> {
    type Error = serde::de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(Self::Error::custom("no struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = fields;
        Err(Self::Error::custom("fields alone"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[test]
fn every_limit_stands_in_its_sample() {
    let (edges, key_servers) =
        (fields::<keystead_edge::config::Limits>(), fields::<keystead_keyserver::config::Limits>());
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/keyserver.toml")).unwrap();
    for field in fields::<keystead_keyserver::config::EdgeConfig>() {
        assert!(text.lines().map(uncommented).any(|line| line.starts_with(&format!("{field} = "))), "[[edge]] {field}");
    }
    for (sample, limits) in [("edge.toml", edges), ("keyserver.toml", key_servers)] {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config").join(sample);
        let text = fs::read_to_string(source).unwrap();
        let table = text.lines().map(uncommented).skip_while(|line| line != "[limits]").skip(1);
        let table: Vec<_> = table.take_while(|line| !line.starts_with('[')).collect();
        for limit in limits {
            let stands = table.iter().any(|line| line.split_once(" = ").is_some_and(|(key, _)| key == *limit));
            assert!(stands, "{sample}: [limits] has no {limit}");
        }
    }
}
