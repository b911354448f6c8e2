//! The keys of a configuration, for people and for programs.

use std::path::Path;

use keystead_keyserver::config::{KeyConfig, KeyPlace};
use keystead_keyserver::key::Key;
use keystead_keyserver::settings::Settings;
use keystead_program::config;
use keystead_program::run::Failure;
use keystead_tls::KeyKind;
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::say;

/// Prints what there is.
pub(super) fn list(file: &Path, as_json: bool) -> Result<(), Failure> {
    let settings = Settings::load(file).map_err(Failure::configuration)?;
    let directory = config::directory(file);
    let described = settings.config.key.iter().zip(&settings.keys);
    let keys: Vec<Value> = described.map(|(config, key)| describe(config, key, directory)).collect();
    if as_json {
        return say(&format!("{:#}\n", Value::from(keys)));
    }
    say(&keys.iter().map(line).collect::<String>())
}

fn describe(config: &KeyConfig, key: &Key, directory: &Path) -> Value {
    let place = match config.place() {
        Ok(KeyPlace::File { file }) => file.under(directory).display().to_string(),
        Ok(KeyPlace::Token { token, object }) => format!("token {token}, {object}"),
        Err(cause) => cause.to_string(),
    };
    let protection: &'static str = key.protected().map_or("token", Into::into);
    let leaf = key.identity().chain().first();
    let certificate = leaf.and_then(|der| X509Certificate::from_der(der).ok()).map(|(_, certificate)| certificate);
    let names: Vec<String> = certificate.iter().flat_map(names).collect();
    let expiry = certificate.as_ref().map(|certificate| certificate.validity().not_after.timestamp());
    let expiry = expiry.and_then(|seconds| u64::try_from(seconds).ok()).map(date);
    json!({
        "name": &**key.name(), "kind": kind(key), "key_id": key.key_id().to_string(), "place": place,
        "protection": protection, "names": names, "expires": expiry,
    })
}

fn line(key: &Value) -> String {
    let text = |field: &str| key.get(field).and_then(Value::as_str).unwrap_or("?").to_owned();
    let names = key.get("names").and_then(Value::as_array).into_iter().flatten();
    let names = names.filter_map(Value::as_str).collect::<Vec<_>>().join(" ");
    format!(
        "{}: {}, id {}\n  in {} ({})\n  certificate for {names}, expires {}\n",
        text("name"),
        text("kind"),
        text("key_id"),
        text("place"),
        text("protection"),
        text("expires")
    )
}

fn kind(key: &Key) -> String {
    match key.identity().public_key().kind() {
        KeyKind::Rsa { bits } => format!("rsa-{bits}"),
        KeyKind::EcdsaP256 => "p256".to_owned(),
        KeyKind::EcdsaP384 => "p384".to_owned(),
        KeyKind::Ed25519 => "ed25519".to_owned(),
    }
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    let text = |name: &GeneralName<'_>| {
        if let GeneralName::DNSName(text) | GeneralName::URI(text) = name { Some((*text).to_owned()) } else { None }
    };
    extension.value.general_names.iter().filter_map(text).collect()
}

/// A moment as RFC 3339 has it.
fn date(seconds: u64) -> String {
    let moment = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    humantime::format_rfc3339_seconds(moment).to_string()
}
