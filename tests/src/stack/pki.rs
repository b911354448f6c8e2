//! Certificates: those of the local stack, and served ones with the other kinds of keys. They are made once and kept
//! beside the programs, since RSA keys take their time.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use keystead_local::pki::Deployment;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose};

use super::{EDGE_NAMES, programs};

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

fn certify(directory: &Path, suffix: &str, algorithm: &'static rcgen::SignatureAlgorithm) {
    let read = |file: &str| fs::read_to_string(directory.join("authority").join(file)).expect("the authority");
    let key = KeyPair::from_pem(&read("ca.key")).expect("the authority's key");
    let issuer = Issuer::from_ca_cert_pem(&read("ca.pem"), key).expect("the authority");

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
