//! Certificate signing requests, signed where the key is.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use keystead_keyserver::config::{Config, KeyConfig, KeyPlace};
use keystead_keyserver::custody::custodian::Custodian;
use keystead_keyserver::custody::material::KeyMaterial;
use keystead_keyserver::custody::protection::KeyProtection;
use keystead_keyserver::custody::token::key::TokenKey;
use keystead_keyserver::custody::token::{ObjectName, Token, Tokens};
use keystead_keyserver::custody::{Custody, Uses, in_memory};
use keystead_program::config;
use keystead_program::crypto::Crypto;
use keystead_program::run::Failure;
use keystead_tls::{KeyKind, PublicKey, SignatureScheme};
use rcgen::{CertificateParams, DistinguishedName, DnType, PublicKeyData, SignatureAlgorithm, SigningKey};

use super::place::InToken;
use super::{Opening, say};

/// What to ask for, and with which key. The key needs no certificate yet.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("place").required(true))]
pub(crate) struct Csr {
    /// A DNS name that the certificate is to have; the first becomes its common name too
    #[arg(long = "dns", value_name = "NAME", required = true)]
    names: Vec<String>,
    /// The private key's file
    #[arg(long, value_name = "FILE", group = "place")]
    private_key: Option<PathBuf>,
    #[command(flatten)]
    opening: Opening,
    /// The name of a [[key]] of the configuration; its certificate need not be there yet
    #[arg(long, value_name = "NAME", group = "place", requires = "config")]
    key: Option<String>,
    #[command(flatten)]
    token: InToken,
}

/// A key that signs a request wherever it lives.
struct Signer {
    custody: Box<dyn Custody>,
    public_key: PublicKey,
}

impl Csr {
    /// Prints the request.
    pub(super) fn make(&self) -> Result<(), Failure> {
        let signer = self.signer()?;
        let mut parameters = CertificateParams::new(self.names.clone()).map_err(Failure::configuration)?;
        parameters.distinguished_name = DistinguishedName::new();
        if let Some(name) = self.names.first() {
            parameters.distinguished_name.push(DnType::CommonName, name.as_str());
        }
        let request = parameters.serialize_request(&signer).map_err(Failure::start)?;
        say(&request.pem().map_err(Failure::start)?)
    }

    fn signer(&self) -> Result<Signer, Failure> {
        if let Some(file) = &self.private_key {
            return Signer::in_memory(&self.opening.read(file)?);
        }
        if let Some(token) = self.token.find()? {
            return Signer::in_token(token, self.token.object()?);
        }
        let (Some(file), Some(name)) = (&self.token.config, &self.key) else {
            return Err(Failure::configuration(anyhow::anyhow!("say which key: --private-key, --key or --token")));
        };
        let configured: Config = config::load(file).map_err(Failure::configuration)?;
        let missing = || Failure::configuration(anyhow::anyhow!("there is no [[key]] of the name {name}"));
        let key = configured.key.iter().find(|key| key.name == *name).ok_or_else(missing)?;
        Signer::configured(key, &configured, config::directory(file))
    }
}

impl Signer {
    fn configured(key: &KeyConfig, configured: &Config, directory: &std::path::Path) -> Result<Self, Failure> {
        match key.place().map_err(Failure::configuration)? {
            KeyPlace::Token { token, object } => {
                let tokens = Tokens::load(&configured.token, directory).map_err(Failure::configuration)?;
                let missing = || Failure::configuration(anyhow::anyhow!("there is no [[token]] of the name {token}"));
                Self::in_token(tokens.find(token).cloned().ok_or_else(missing)?, object)
            }
            KeyPlace::File { .. } => {
                let protection = KeyProtection::load(&configured.key_protection, directory);
                let protection = protection.map_err(Failure::configuration)?;
                let custodian = Custodian { protection, ..Custodian::of_files(configured.crypto, directory) };
                let (private_key, _) = custodian.read(key, None).map_err(Failure::configuration)?;
                Self::in_memory(&KeyMaterial::of(&private_key).map_err(Failure::configuration)?)
            }
        }
    }

    fn in_memory(material: &KeyMaterial) -> Result<Self, Failure> {
        let private_key = material.to_private_key().map_err(Failure::configuration)?;
        let public_key = material.public_key().clone();
        let custody = in_memory(Crypto::Fast, public_key.kind(), &private_key, Uses::Signing);
        Ok(Self { custody: custody.map_err(Failure::configuration)?, public_key })
    }

    fn in_token(token: Arc<Token>, object: ObjectName) -> Result<Self, Failure> {
        let (public_key, _) = token.public_key(&object).map_err(Failure::start)?;
        let custody = Box::new(TokenKey::new(token, object, public_key.kind(), Uses::Signing));
        Ok(Self { custody, public_key })
    }

    fn scheme(&self) -> SignatureScheme {
        match self.public_key.kind() {
            // The one that every authority verifies.
            KeyKind::Rsa { .. } => SignatureScheme::RSA_PKCS1_SHA256,
            KeyKind::EcdsaP256 => SignatureScheme::ECDSA_SECP256R1_SHA256,
            KeyKind::EcdsaP384 => SignatureScheme::ECDSA_SECP384R1_SHA384,
            KeyKind::Ed25519 => SignatureScheme::ED25519,
        }
    }
}

impl PublicKeyData for Signer {
    fn der_bytes(&self) -> &[u8] {
        self.public_key.subject_public_key()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        match self.public_key.kind() {
            KeyKind::Rsa { .. } => &rcgen::PKCS_RSA_SHA256,
            KeyKind::EcdsaP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            KeyKind::EcdsaP384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            KeyKind::Ed25519 => &rcgen::PKCS_ED25519,
        }
    }
}

impl SigningKey for Signer {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.custody.sign(self.scheme(), message, &mut rand::rng()).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}
