//! Certificates: those of the local stack, and served ones with the other kinds of keys. They are made once and kept
//! beside the programs, since RSA keys take their time.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use keystead_local::pki::{Deployment, KEY_SERVER_NAME, edge_identity};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls_pki_types::CertificateDer;

use super::{EDGE_NAMES, programs, put};

/// The names in every served certificate. NSS and rustls take no wildcard with fewer than two labels behind it.
const SERVED: [&str; 4] = ["localhost", "*.keystead.test", "127.0.0.1", "::1"];

static DIRECTORY: LazyLock<PathBuf> = LazyLock::new(|| {
    let _lock = programs::lock("pki");
    let directory = programs::target_directory().join("keystead-tests-pki");
    let served = SERVED.map(String::from).to_vec();
    let deployment = Deployment { served, ..Deployment::localhost(EDGE_NAMES) };
    let made = deployment.provide(&directory).expect("certificates");
    for (suffix, algorithm) in [("p384", &rcgen::PKCS_ECDSA_P384_SHA384), ("ed25519", &rcgen::PKCS_ED25519)] {
        if !made.is_empty() || !directory.join(format!("keyserver/localhost-{suffix}.key")).exists() {
            certify(&directory, suffix, algorithm);
        }
    }
    directory
});

/// The directory with everybody's files, in the layout of `keystead-local pki`. To be read, not written.
pub fn directory() -> &'static Path {
    &DIRECTORY
}

/// Whose certificates are renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewed<'n> {
    /// Those that clients are shown, of all stacks' names.
    Served,
    /// The key server's on the channel.
    KeyServer,
    /// This edge's on the channel.
    Edge(&'n str),
}

/// Makes a key and a certificate for it, and puts them in the place of `stem`.key and `stem`.pem, one after the other. Returns
/// the certificate.
pub fn renew(stem: &Path, whose: Renewed<'_>) -> CertificateDer<'static> {
    let (issuing, names) = match whose {
        Renewed::Served => (Issuing::served(), SERVED.map(String::from).to_vec()),
        Renewed::KeyServer => (Issuing::channel(ExtendedKeyUsagePurpose::ServerAuth), vec![KEY_SERVER_NAME.to_owned()]),
        Renewed::Edge(_) => (Issuing::channel(ExtendedKeyUsagePurpose::ClientAuth), Vec::new()),
    };
    let mut parameters = CertificateParams::new(names).expect("names");
    if let Renewed::Edge(name) = whose {
        parameters.subject_alt_names = vec![SanType::URI(edge_identity(name).try_into().expect("a URI"))];
    }
    issuing.put(stem, parameters)
}

/// As [`renew`], for clients that ask for `name`.
pub fn certify_name(stem: &Path, name: &str, issuing: &Issuing) -> CertificateDer<'static> {
    issuing.put(stem, CertificateParams::new([name.to_owned()]).expect("a name"))
}

/// An authority, and what it certifies for.
pub struct Issuing {
    issuer: Issuer<'static, KeyPair>,
    usage: ExtendedKeyUsagePurpose,
}

impl Issuing {
    /// The one that clients trust.
    pub fn served() -> Self {
        Self { issuer: issuer(directory(), "ca"), usage: ExtendedKeyUsagePurpose::ServerAuth }
    }

    fn channel(usage: ExtendedKeyUsagePurpose) -> Self {
        Self { issuer: issuer(directory(), "channel-ca"), usage }
    }

    fn put(&self, stem: &Path, mut parameters: CertificateParams) -> CertificateDer<'static> {
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![self.usage.clone()];
        parameters.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().expect("a key");
        let certificate = parameters.signed_by(&key, &self.issuer).expect("a certificate");
        // Names have dots, so that no extension can be replaced.
        let file = |extension: &str| PathBuf::from(format!("{}.{extension}", stem.display()));
        put(&file("key"), &key.serialize_pem());
        put(&file("pem"), &certificate.pem());
        certificate.der().clone()
    }
}

fn issuer(directory: &Path, authority: &str) -> Issuer<'static, KeyPair> {
    let read = |extension: &str| {
        let file = directory.join("authority").join(authority).with_extension(extension);
        fs::read_to_string(file).expect("the authority")
    };
    let key = KeyPair::from_pem(&read("key")).expect("the authority's key");
    Issuer::from_ca_cert_pem(&read("pem"), key).expect("the authority")
}

fn certify(directory: &Path, suffix: &str, algorithm: &'static rcgen::SignatureAlgorithm) {
    let issuer = issuer(directory, "ca");
    let key = KeyPair::generate_for(algorithm).expect("a key");
    let mut parameters = CertificateParams::new(SERVED.map(String::from)).expect("names");
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    parameters.use_authority_key_identifier_extension = true;
    let certificate = parameters.signed_by(&key, &issuer).expect("a certificate");
    let stem = directory.join(format!("keyserver/localhost-{suffix}"));
    fs::write(stem.with_extension("pem"), certificate.pem()).expect("written");
    // Last, since it is what tells that both are there.
    let key_file = stem.with_extension("key");
    fs::write(&key_file, key.serialize_pem()).expect("written");
    fs::set_permissions(&key_file, Permissions::from_mode(0o600)).expect("nobody else reads it");
}

/// Copies what programs and clients need to `target`: not the authorities' keys.
pub(super) fn copy_into(target: &Path) {
    let copied = fs::copy(directory().join("ca.pem"), target.join("ca.pem"));
    copied.expect("the authority is copied");
    for part in ["keyserver", "edge-one", "edge-two"] {
        fs::create_dir(target.join(part)).expect("a directory");
        for file in fs::read_dir(directory().join(part)).expect("a part of the certificates") {
            let file = file.expect("a file");
            fs::copy(file.path(), target.join(part).join(file.file_name())).expect("a file is copied");
        }
    }
}
