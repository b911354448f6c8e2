//! Files of a key server for tests: real keys and certificates, in a directory that goes away.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

pub(crate) mod key_transport;
pub(crate) mod woken;

use std::path::Path;
use std::sync::OnceLock;

use keystead_program::channel::{ChannelConfig, ChannelMaterial};
use keystead_program::crypto::Crypto;
use keystead_tls::SignatureScheme;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, RsaKeySize, SanType};
use tempfile::TempDir;

use crate::config::{KeyConfig, SchemeName};
use crate::custody::custodian::Custodian;
use crate::custody::pem::{PrivateKeyPem, Section};
use crate::key::{Key, KeyError};
use crate::settings::{Settings, SettingsError};

pub(crate) const EDGE_ONE: &str = "spiffe://keystead.test/edge/one";
pub(crate) const EDGE_TWO: &str = "spiffe://keystead.test/edge/two";

/// The kinds of keys that tests sign with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Rsa2048,
    P256,
    P384,
    Ed25519,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Rsa2048, Self::P256, Self::P384, Self::Ed25519];

    pub(crate) fn generate(self) -> KeyPair {
        match self {
            Self::Rsa2048 => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048),
            Self::P256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            Self::P384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
            Self::Ed25519 => KeyPair::generate_for(&rcgen::PKCS_ED25519),
        }
        .unwrap()
    }
}

/// A directory with files of keys and channel.
pub(crate) struct Files {
    directory: TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Files {
    /// A directory with the key server's side of the channel.
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let files = Self { directory: tempfile::tempdir().unwrap(), authority };
        files.write("ca.pem", files.authority.pem());
        files.issue("channel", SanType::DnsName("localhost".try_into().unwrap()));
        files
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.path().join(name), text).unwrap();
    }

    /// Writes NAME.pem and NAME.key for the channel.
    fn issue(&self, name: &str, holder: SanType) {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![holder];
        let key = KeyPair::generate().unwrap();
        self.write(&format!("{name}.pem"), params.signed_by(&key, &self.authority).unwrap().pem());
        self.write(&format!("{name}.key"), key.serialize_pem());
    }

    /// What an edge of that identity shows and trusts.
    pub(crate) fn edge(&self, identity: &str) -> ChannelMaterial {
        self.issue("edge", SanType::URI(identity.try_into().unwrap()));
        let config = ChannelConfig {
            certificate: "edge.pem".into(),
            private_key: "edge.key".into(),
            trust_roots: "ca.pem".into(),
        };
        ChannelMaterial::load(&config, self.path()).unwrap()
    }

    /// Writes NAME.pem, a certificate for the public part of `pair`, and NAME.key with `private_key`.
    pub(crate) fn write_key(&self, name: &str, pair: &KeyPair, private_key: &str) {
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        self.write(&format!("{name}.pem"), params.self_signed(pair).unwrap().pem());
        self.write(&format!("{name}.key"), private_key);
    }

    pub(crate) fn add_key(&self, name: &str, kind: Kind) {
        let pair = kind.generate();
        self.write_key(name, &pair, &pair.serialize_pem());
    }

    /// Loads the key from NAME.pem and NAME.key.
    pub(crate) fn load_key(
        &self,
        name: &str,
        crypto: Crypto,
        schemes: Option<&[SignatureScheme]>,
    ) -> Result<Key, KeyError> {
        let schemes = schemes.map(|schemes| schemes.iter().copied().map(SchemeName).collect());
        self.load(&KeyConfig { schemes, ..self.key_config(name) }, crypto)
    }

    /// A key in NAME.pem and NAME.key.
    pub(crate) fn key_config(&self, name: &str) -> KeyConfig {
        KeyConfig::in_file(name, &format!("{name}.key"), &format!("{name}.pem"))
    }

    pub(crate) fn load(&self, config: &KeyConfig, crypto: Crypto) -> Result<Key, KeyError> {
        Key::load(config, &Custodian::of_files(crypto, self.path()), &mut rand::rng()).map(|(key, _)| key)
    }

    /// Reads a configuration that consists of the channel and `rest`.
    pub(crate) fn settings(&self, rest: &str) -> Result<Settings, SettingsError> {
        self.write_configuration(rest);
        Settings::load(&self.path().join("keyserver.toml"))
    }

    /// Writes a configuration that consists of the channel and `rest`.
    pub(crate) fn write_configuration(&self, rest: &str) {
        let channel = "certificate = \"channel.pem\"\nprivate_key = \"channel.key\"\ntrust_roots = \"ca.pem\"";
        let text = format!("listen = \"127.0.0.1:0\"\n{rest}\n[channel]\n{channel}\n");
        self.write("keyserver.toml", text);
    }
}

/// One RSA private key for all tests, since it takes long to make.
pub(crate) fn rsa() -> &'static KeyPair {
    static KEY: OnceLock<KeyPair> = OnceLock::new();
    KEY.get_or_init(|| Kind::Rsa2048.generate())
}

/// The private key of `pair` as a file would hold it.
pub(crate) fn pem(pair: &KeyPair) -> PrivateKeyPem {
    plain(&pair.serialize_pem())
}

/// The private key in `text`, which is not encrypted.
pub(crate) fn plain(text: &str) -> PrivateKeyPem {
    match Section::read(text).unwrap() {
        Section::Plain(key) => key,
        other @ (Section::Encrypted(_) | Section::Sealed(_)) => panic!("{other:?}"),
    }
}
