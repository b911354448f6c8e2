//! The key server's part, played in memory: certificates with their keys, and signatures made with them.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::{Arc, LazyLock};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, RsaEncoding, RsaKeyPair};
use keystead_tls::handshake::{SignatureRequest, SignedParams};
use keystead_tls::message::server_key_exchange::{ServerEcdhParams, signed_content};
use keystead_tls::{Identity, SignatureScheme};
use rcgen::{CertificateParams, KeyPair};

/// The DNS name in every certificate here.
pub const SERVER_NAME: &str = "server.test";

/// What stands for an OCSPResponse in every identity here; no client in these tests looks inside.
pub const OCSP_RESPONSE: &[u8] = b"a stapled response";

/// An RSA-2048 certificate.
pub static RSA: LazyLock<Signer> = LazyLock::new(|| {
    let key = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048);
    Signer::new(&key.expect("a key"), |der| Key::Rsa(RsaKeyPair::from_pkcs8(der).expect("an RSA key")))
});

/// A P-256 certificate.
pub static P256: LazyLock<Signer> =
    LazyLock::new(|| Signer::ecdsa(&rcgen::PKCS_ECDSA_P256_SHA256, &signature::ECDSA_P256_SHA256_ASN1_SIGNING));

/// A P-384 certificate.
pub static P384: LazyLock<Signer> =
    LazyLock::new(|| Signer::ecdsa(&rcgen::PKCS_ECDSA_P384_SHA384, &signature::ECDSA_P384_SHA384_ASN1_SIGNING));

/// An Ed25519 certificate.
pub static ED25519: LazyLock<Signer> = LazyLock::new(|| {
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
    Signer::new(&key, |der| Key::Ed25519(Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).expect("an Ed25519 key")))
});

/// All of the above.
pub fn signers() -> [&'static Signer; 4] {
    [&RSA, &P256, &P384, &ED25519]
}

/// Signs with the key of the certificate that the request names.
pub fn sign(request: SignatureRequest<'_>, server_random: [u8; 32]) -> SignedParams {
    let key_id = request.identity.public_key().key_id();
    let signer = signers().into_iter().find(|signer| signer.identity.public_key().key_id() == key_id);
    signer.expect("a key of this process").sign(request, server_random)
}

/// A self-signed certificate for [`SERVER_NAME`] and its private key.
pub struct Signer {
    /// The certificate, with every scheme of its key and with [`OCSP_RESPONSE`].
    pub identity: Arc<Identity>,
    /// The private key, as PKCS #8 in DER.
    pub pkcs8: Vec<u8>,
    key: Key,
}

enum Key {
    Rsa(RsaKeyPair),
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Signer {
    fn new(key: &KeyPair, read: impl FnOnce(&[u8]) -> Key) -> Self {
        let params = CertificateParams::new([SERVER_NAME.to_owned()]).expect("a DNS name");
        let certificate = params.self_signed(key).expect("a certificate");
        let chain = vec![certificate.der().to_vec()];
        let identity = Identity::new(chain, SignatureScheme::KNOWN, Some(OCSP_RESPONSE.to_vec()));
        let (identity, pkcs8) = (Arc::new(identity.expect("an identity")), key.serialize_der());
        Self { identity, key: read(&pkcs8), pkcs8 }
    }

    /// Signs these bytes, as a client does in CertificateVerify.
    pub fn sign_bytes(&self, scheme: SignatureScheme, content: &[u8]) -> Vec<u8> {
        self.key.sign(scheme, content)
    }

    fn ecdsa(of: &'static rcgen::SignatureAlgorithm, signing: &'static EcdsaSigningAlgorithm) -> Self {
        let key = KeyPair::generate_for(of).expect("a key");
        Self::new(&key, |der| Key::Ecdsa(EcdsaKeyPair::from_pkcs8(signing, der).expect("an EC key")))
    }

    /// Answers a request for this certificate's key.
    pub fn sign(&self, request: SignatureRequest<'_>, server_random: [u8; 32]) -> SignedParams {
        let params = ServerEcdhParams { group: request.group, public: request.public };
        let content = signed_content(request.client_random, &server_random, &params);
        SignedParams { server_random, signature: self.key.sign(request.scheme, &content) }
    }
}

impl Key {
    fn sign(&self, scheme: SignatureScheme, content: &[u8]) -> Vec<u8> {
        match self {
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(padding(scheme), &SystemRandom::new(), content, &mut signature).expect("a signature");
                signature
            }
            Self::Ecdsa(key) => key.sign(&SystemRandom::new(), content).expect("a signature").as_ref().to_vec(),
            Self::Ed25519(key) => key.sign(content).as_ref().to_vec(),
        }
    }
}

fn padding(scheme: SignatureScheme) -> &'static dyn RsaEncoding {
    let padding: Option<&'static dyn RsaEncoding> = match scheme {
        SignatureScheme::RSA_PKCS1_SHA256 => Some(&signature::RSA_PKCS1_SHA256),
        SignatureScheme::RSA_PKCS1_SHA384 => Some(&signature::RSA_PKCS1_SHA384),
        SignatureScheme::RSA_PKCS1_SHA512 => Some(&signature::RSA_PKCS1_SHA512),
        SignatureScheme::RSA_PSS_RSAE_SHA256 => Some(&signature::RSA_PSS_SHA256),
        SignatureScheme::RSA_PSS_RSAE_SHA384 => Some(&signature::RSA_PSS_SHA384),
        SignatureScheme::RSA_PSS_RSAE_SHA512 => Some(&signature::RSA_PSS_SHA512),
        _ => None,
    };
    padding.expect("a scheme for RSA")
}
