//! RSA key transport between a client of the tests and the key server's own code: leases, and the recovery of master
//! secrets with a key from a file.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::sync::{Arc, LazyLock};

use keystead_keyserver::config::KeyConfig;
use keystead_keyserver::custody::custodian::Custodian;
use keystead_keyserver::key::Key;
use keystead_keyserver::lease::{LeaseLimits, Leases};
use keystead_keyserver::operation::recover_master_secret::RecoverMasterSecret;
use keystead_keyserver::policy::Grant;
use keystead_program::channel::PeerIdentity;
use keystead_program::crypto::Crypto;
use keystead_tls::crypto::{FAST, Provider};
use keystead_tls::handshake::{Lease, MasterSecretRequest};
use keystead_tls::secret::MasterSecret;
use keystead_tls::{CipherSuite, HostParameters, Identity};
use rand::Rng;
use rcgen::{CertificateParams, KeyPair};
use rsa::BoxedUint;
use rsa::pkcs1::{DecodeRsaPublicKey, RsaPublicKeyRef};

use crate::client::{Client, full_offer};
use crate::server::{KeyTransport, Server};
use crate::signer::SERVER_NAME;

/// An RSA-2048 key that the key server recovers pre-master secrets with.
pub static KEY: LazyLock<Arc<Key>> = LazyLock::new(|| {
    let key = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).expect("a key");
    let params = CertificateParams::new([SERVER_NAME.to_owned()]).expect("a DNS name");
    let certificate = params.self_signed(&key).expect("a certificate");
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("key.key"), key.serialize_pem()).expect("written");
    fs::write(directory.path().join("key.pem"), certificate.pem()).expect("written");
    let file = KeyConfig::in_file("key", "key.key", "key.pem");
    let config = KeyConfig { danger_rsa_key_transport: true, ..file };
    let custodian = Custodian::of_files(Crypto::Fast, directory.path());
    let (key, _) = Key::load(&config, &custodian, &mut rand::rng()).expect("a key that loads");
    Arc::new(key)
});

/// Everything that [`KEY`] is for.
pub static GRANT: LazyLock<Grant> = LazyLock::new(|| Grant::whole(KEY.clone()));

/// [`KEY`]'s certificate, with key transport allowed or not.
pub fn identity(allowed: bool) -> Arc<Identity> {
    Arc::new(KEY.identity().clone().with_key_transport(allowed))
}

/// A virtual host with RSA key transport and nothing else.
pub fn host() -> HostParameters {
    let suites = HostParameters::KEY_TRANSPORT_SUITES.to_vec();
    HostParameters { suites, identities: vec![identity(true)], ..HostParameters::default() }
}

/// A client that offers this suite alone.
pub fn client(suite: CipherSuite, extended_master_secret: bool) -> Client {
    let mut client = Client::new(full_offer());
    client.offer.cipher_suites = vec![suite];
    client.offer.extensions.extended_master_secret = extended_master_secret;
    client
}

/// A connection to this host whose key server is one of its own.
pub fn server(provider: &'static dyn Provider, host: HostParameters) -> Server {
    Server::new(provider, host, 1).with_key_transport(KeyServer::default())
}

/// The key server's code, without its network.
pub struct KeyServer {
    leases: Leases,
    edge: PeerIdentity,
}

impl Default for KeyServer {
    fn default() -> Self {
        let limits = LeaseLimits { per_call: 8, outstanding: 64 };
        let edge = "spiffe://keystead.test/edge/one".parse().expect("an identity");
        Self { leases: Leases::new(limits, &mut rand::rng()), edge }
    }
}

impl KeyTransport for KeyServer {
    fn lease(&mut self, _: &Identity) -> Lease {
        let batch = self.leases.lease_if(&self.edge, 1, || Ok(()));
        batch.ok().and_then(|mut batch| batch.leases.pop()).expect("a lease")
    }

    fn recover(&mut self, request: MasterSecretRequest<'_>) -> Option<MasterSecret> {
        let asked = RecoverMasterSecret {
            lease: request.lease.token.clone(),
            handshake_messages: request.handshake_messages.to_vec(),
            finished_record: request.finished_record.to_vec(),
        };
        asked.run(&GRANT, &self.edge, &self.leases, FAST, &mut rand::rng()).ok()
    }
}

/// A block as long as the modulus, with a good padding and pre-master secret: 00 02, 205 bytes that are not zero, 00, and
/// the 48 bytes from [`SECRET`] on, which begin with 03 03.
pub fn good_block() -> [u8; 256] {
    let mut block = [0; 256];
    rand::rng().fill_bytes(&mut block);
    block.iter_mut().for_each(|byte| *byte = (*byte).max(1));
    block[..2].copy_from_slice(&[0, 2]);
    block[207..210].copy_from_slice(&[0, 3, 3]);
    block
}

/// Where in a good block the pre-master secret begins.
pub const SECRET: usize = 208;

/// The raw public operation with [`KEY`], of a block below its modulus.
pub fn encrypt(block: &[u8; 256]) -> Vec<u8> {
    let public = rsa::PublicKey::from_pkcs1_der(KEY.identity().public_key().subject_public_key());
    let number = BoxedUint::from_be_slice(block, 2048).expect("a number");
    rsa::hazmat::rsa_encrypt(&public.expect("a public key"), &number).expect("below the modulus").to_be_bytes().to_vec()
}

/// [`KEY`]'s modulus.
pub fn modulus() -> Vec<u8> {
    let public = RsaPublicKeyRef::try_from(KEY.identity().public_key().subject_public_key());
    public.expect("a public key").modulus.as_bytes().to_vec()
}
