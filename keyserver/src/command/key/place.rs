//! Where a private key goes: into a file, or into a token.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use keystead_keyserver::config::Config;
use keystead_keyserver::custody::material::{KeyMaterial, KeyType};
use keystead_keyserver::custody::sealed::SealingKey;
use keystead_keyserver::custody::secret::SecretSource;
use keystead_keyserver::custody::token::{ObjectName, Token, Tokens};
use keystead_keyserver::private_file;
use keystead_program::config;
use keystead_program::run::Failure;
use keystead_tls::KeyId;
use zeroize::Zeroizing;

use super::say;

/// Where a key goes.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("place").required(true))]
pub(crate) struct Destination {
    /// The file to make, mode 0600; with one of --sealing-key, --passphrase and --plain
    #[arg(long, value_name = "FILE", group = "place", requires = "protection")]
    out: Option<PathBuf>,
    /// Seals the file: where the sealing key is, as file:PATH, environment:NAME or credential:NAME
    #[arg(long, value_name = "SOURCE", group = "protection", conflicts_with = "token")]
    sealing_key: Option<SecretSource>,
    /// Encrypts the file: where the passphrase is
    #[arg(long, value_name = "SOURCE", group = "protection", conflicts_with = "token")]
    passphrase: Option<SecretSource>,
    /// Leaves the file as it is: whoever reads it has the key
    #[arg(long, group = "protection", conflicts_with = "token")]
    plain: bool,
    #[command(flatten)]
    token: InToken,
    /// Lets the key in the token decrypt too, for RSA key transport
    #[arg(long, requires = "token")]
    key_transport: bool,
}

/// A key in a token.
#[derive(Debug, Args)]
pub(crate) struct InToken {
    /// The configuration file with the [[token]]
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// The name of the [[token]]
    #[arg(long, value_name = "NAME", group = "place", requires = "config")]
    pub(super) token: Option<String>,
    /// The key's label in the token (CKA_LABEL)
    #[arg(long, value_name = "LABEL", requires = "token")]
    object_label: Option<String>,
    /// The key's id in the token (CKA_ID), in hexadecimal digits
    #[arg(long, value_name = "HEX", requires = "token")]
    object_id: Option<String>,
}

impl InToken {
    /// What the key is called there.
    pub(super) fn object(&self) -> Result<ObjectName, Failure> {
        ObjectName::new(self.object_label.as_deref(), self.object_id.as_deref()).map_err(Failure::configuration)
    }

    /// The token, if one is named.
    pub(super) fn find(&self) -> Result<Option<Arc<Token>>, Failure> {
        let (Some(file), Some(name)) = (&self.config, &self.token) else { return Ok(None) };
        let configured: Config = config::load(file).map_err(Failure::configuration)?;
        let tokens = Tokens::load(&configured.token, config::directory(file)).map_err(Failure::configuration)?;
        let missing = || Failure::configuration(anyhow::anyhow!("there is no [[token]] of the name {name}"));
        tokens.find(name).cloned().map(Some).ok_or_else(missing)
    }
}

impl Destination {
    /// Makes a key there.
    pub(super) fn generate(&self, key_type: KeyType) -> Result<(), Failure> {
        let Some(token) = self.token.find()? else {
            let key = KeyMaterial::generate(key_type).map_err(Failure::start)?;
            return self.write(&key);
        };
        let object = self.token.object()?;
        let object = token.generate(key_type, &object, self.key_transport).map_err(Failure::start)?;
        let (public_key, _) = token.public_key(&object).map_err(Failure::start)?;
        done(public_key.key_id(), &format!("token {}, {object}", token.name()))
    }

    /// Puts a key there.
    pub(super) fn put(&self, key: &KeyMaterial) -> Result<(), Failure> {
        let Some(token) = self.token.find()? else { return self.write(key) };
        let object = token.import(key, &self.token.object()?, self.key_transport).map_err(Failure::start)?;
        done(key.key_id(), &format!("token {}, {object}", token.name()))
    }

    fn write(&self, key: &KeyMaterial) -> Result<(), Failure> {
        let missing = || Failure::configuration(anyhow::anyhow!("say where the key goes: --out or --token"));
        let file = self.out.as_ref().ok_or_else(missing)?;
        let text = self.text(key)?;
        private_file::create(file, text.as_bytes()).map_err(|cause| {
            let is_there = cause.kind() == ErrorKind::AlreadyExists;
            let text = if is_there { "is there already, and is not overwritten".to_owned() } else { cause.to_string() };
            Failure::start(anyhow::anyhow!("{}: {text}", file.display()))
        })?;
        done(key.key_id(), &file.display().to_string())
    }

    fn text(&self, key: &KeyMaterial) -> Result<Zeroizing<String>, Failure> {
        let here = Path::new("");
        let mut rng = rand::rng();
        if let Some(source) = &self.sealing_key {
            let secret = source.read(here).map_err(Failure::configuration)?;
            let sealing_key = SealingKey::read(&secret).map_err(Failure::configuration)?;
            return key.to_sealed_pem(&sealing_key, &mut rng).map(Zeroizing::new).map_err(Failure::start);
        }
        if let Some(source) = &self.passphrase {
            let passphrase = source.read(here).map_err(Failure::configuration)?;
            return key.to_encrypted_pem(&passphrase, &mut rng).map(Zeroizing::new).map_err(Failure::start);
        }
        key.to_plain_pem().map_err(Failure::start)
    }
}

fn done(key_id: KeyId, place: &str) -> Result<(), Failure> {
    say(&format!("key {key_id}\nin {place}\n"))
}
