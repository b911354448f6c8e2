//! `keystead-keyserver key`: makes private keys, puts them elsewhere, lists them, and asks for certificates.

mod csr;
mod list;
mod place;

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use keystead_keyserver::custody::material::{KeyMaterial, KeyType};
use keystead_keyserver::custody::protection::{self, KeyProtection};
use keystead_keyserver::custody::sealed::SealingKey;
use keystead_keyserver::custody::secret::SecretSource;
use keystead_keyserver::memory::{self, MemoryLock};
use keystead_program::run::Failure;

use place::Destination;

/// What is done with keys
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Makes a private key, in a file or in a token
    Generate {
        /// The kind of key: rsa-2048, rsa-3072, rsa-4096, p256, p384 or ed25519
        #[arg(long = "type", value_name = "TYPE")]
        key_type: KeyType,
        #[command(flatten)]
        destination: Destination,
    },
    /// Puts a private key, from a PEM file of any kind, into a file that is sealed or encrypted, or into a token
    Import {
        /// The file to read
        #[arg(long = "in", value_name = "FILE")]
        input: PathBuf,
        /// Where the passphrase of an encrypted file is: file:PATH, environment:NAME or credential:NAME
        #[arg(long, value_name = "SOURCE")]
        in_passphrase: Option<SecretSource>,
        /// Where the sealing key of a sealed file is
        #[arg(long, value_name = "SOURCE")]
        in_sealing_key: Option<SecretSource>,
        #[command(flatten)]
        destination: Destination,
    },
    /// Lists the keys of a configuration
    List {
        /// The configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Makes a certificate signing request, in PEM on standard output
    Csr(Box<csr::Csr>),
}

/// What opens a file that is encrypted or sealed.
#[derive(Debug, Args)]
pub(crate) struct Opening {
    /// Where the passphrase of an encrypted private key is: file:PATH, environment:NAME or credential:NAME
    #[arg(long, value_name = "SOURCE")]
    passphrase: Option<SecretSource>,
    /// Where the sealing key of a sealed private key is
    #[arg(long, value_name = "SOURCE", conflicts_with = "passphrase")]
    sealing_key: Option<SecretSource>,
}

/// Does what `command` says.
pub(crate) fn run(command: KeyCommand) -> Result<(), Failure> {
    // A command lives for a moment: what cannot be locked for it is no reason to stop.
    let _ = (memory::forbid_core_dumps(), memory::lock_as(MemoryLock::Try));
    match command {
        KeyCommand::Generate { key_type, destination } => destination.generate(key_type),
        KeyCommand::Import { input, in_passphrase, in_sealing_key, destination } => {
            let opening = Opening { passphrase: in_passphrase, sealing_key: in_sealing_key };
            destination.put(&opening.read(&input)?)
        }
        KeyCommand::List { config, json } => list::list(&config, json),
        KeyCommand::Csr(csr) => csr.make(),
    }
}

impl Opening {
    /// Reads the private key in `file`.
    fn read(&self, file: &std::path::Path) -> Result<KeyMaterial, Failure> {
        let read = |source: &Option<SecretSource>| source.as_ref().map(|source| source.read("".as_ref())).transpose();
        let sealing_key = read(&self.sealing_key).map_err(Failure::configuration)?;
        let sealing_key = sealing_key.as_ref().map(SealingKey::read).transpose().map_err(Failure::configuration)?;
        let passphrase = read(&self.passphrase).map_err(Failure::configuration)?;
        let protection = KeyProtection { sealing_key, passphrase };
        let text = protection::read_file(file).map_err(|cause| in_file(file, cause))?;
        let (key, _) = protection.open(&text, None, None).map_err(|cause| in_file(file, cause))?;
        KeyMaterial::of(&key).map_err(|cause| in_file(file, cause))
    }
}

fn in_file(file: &std::path::Path, cause: impl std::error::Error + Send + Sync + 'static) -> Failure {
    Failure::configuration(anyhow::Error::new(cause).context(file.display().to_string()))
}

fn say(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::start)
}
