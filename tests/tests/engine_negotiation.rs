//! What client and host agree on: suite, group, scheme and certificate, each limiting the others.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use keystead_tests::client::{Client, full_offer};
use keystead_tests::server::{Server, host};
use keystead_tests::signer::{ED25519, P256, P384, RSA, Signer};
use keystead_tls::crypto::FAST;
use keystead_tls::{CipherSuite, Error, HostParameters, Identity, NamedGroup, PeerIncompatible, SignatureScheme};

/// A host with this certificate alone.
fn host_of(signer: &Signer) -> HostParameters {
    HostParameters { identities: vec![signer.identity.clone()], ..HostParameters::default() }
}

/// What a client with this offer and this host agree on: suite, scheme, group and kind of certificate.
fn agreed(
    alter: impl FnOnce(&mut Client),
    host: HostParameters,
) -> Result<(CipherSuite, SignatureScheme, NamedGroup, &'static str), Error> {
    let (mut client, mut server) = (Client::default(), Server::new(FAST, host, 1));
    alter(&mut client);
    server.feed(&client.hello())?;
    let flight = client.read_flight(&server.take_output());
    let certificates = [("RSA", &RSA), ("P-256", &P256), ("P-384", &P384), ("Ed25519", &ED25519)];
    let certificate = certificates.iter().find(|(_, signer)| signer.identity.chain() == flight.chain);
    let share = flight.share.unwrap();
    Ok((flight.hello.cipher_suite, share.scheme, share.group, certificate.unwrap().0))
}

const ECDSA_AES_128: CipherSuite = CipherSuite::ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;
const RSA_AES_128: CipherSuite = CipherSuite::ECDHE_RSA_WITH_AES_128_GCM_SHA256;
const RSA_AES_256: CipherSuite = CipherSuite::ECDHE_RSA_WITH_AES_256_GCM_SHA384;

#[test]
fn the_certificate_follows_suites_curves_and_schemes_together() {
    use SignatureScheme as Scheme;
    let both = || HostParameters {
        identities: vec![RSA.identity.clone(), P256.identity.clone()],
        ..HostParameters::default()
    };
    let certificate = |alter: &dyn Fn(&mut Client)| agreed(alter, both()).map(|(.., certificate)| certificate);
    assert_eq!(certificate(&|_| {}), Ok("P-256"));
    // By suites.
    assert_eq!(certificate(&|client| client.offer.cipher_suites = vec![RSA_AES_128, RSA_AES_256]), Ok("RSA"));
    assert_eq!(certificate(&|client| client.offer.cipher_suites = vec![RSA_AES_128, ECDSA_AES_128]), Ok("P-256"));
    // By curves: one that the client did not offer cannot be in its certificate (RFC 8422 §5.1).
    let x25519_only = Some(vec![NamedGroup::X25519]);
    assert_eq!(certificate(&|client| client.offer.extensions.supported_groups = x25519_only.clone()), Ok("RSA"));
    // By schemes.
    let schemes = |schemes: &[Scheme]| {
        let schemes = Some(schemes.to_vec());
        certificate(&|client| client.offer.extensions.signature_algorithms = schemes.clone())
    };
    assert_eq!(schemes(&[Scheme::RSA_PSS_RSAE_SHA256]), Ok("RSA"));
    assert_eq!(schemes(&[Scheme::RSA_PSS_RSAE_SHA256, Scheme::ECDSA_SECP256R1_SHA256]), Ok("P-256"));
    assert_eq!(schemes(&[Scheme::ECDSA_SECP384R1_SHA384]), Err(PeerIncompatible::NoCommonScheme.into()));
    // By suites and curves together: no certificate is left.
    let outcome = certificate(&|client| {
        client.offer.cipher_suites = vec![ECDSA_AES_128];
        client.offer.extensions.supported_groups = x25519_only.clone();
    });
    assert_eq!(outcome, Err(PeerIncompatible::NoSuitableCertificate.into()));
}

#[test]
fn a_client_without_curves_in_its_offer_may_have_any_ecdsa_certificate() {
    for (signer, expected) in [(&P256, "P-256"), (&P384, "P-384"), (&ED25519, "Ed25519")] {
        let outcome = agreed(|client| client.offer.extensions.supported_groups = None, host_of(signer));
        let (_, _, group, certificate) = outcome.unwrap();
        assert_eq!((group, certificate), (NamedGroup::SECP256R1, expected));
    }
}

#[test]
fn the_client_orders_schemes_and_the_host_suites_and_groups() {
    use SignatureScheme as Scheme;
    let client_order = [Scheme::RSA_PKCS1_SHA512, Scheme::RSA_PSS_RSAE_SHA256, Scheme::RSA_PKCS1_SHA256];
    let reorder = |client: &mut Client| {
        client.offer.extensions.signature_algorithms = Some(client_order.to_vec());
        client.offer.extensions.supported_groups = Some(vec![NamedGroup::SECP384R1, NamedGroup::X25519]);
        client.offer.cipher_suites = vec![RSA_AES_256, RSA_AES_128];
    };
    let (suite, scheme, group, _) = agreed(reorder, host_of(&RSA)).unwrap();
    assert_eq!((suite, scheme, group), (RSA_AES_128, Scheme::RSA_PKCS1_SHA512, NamedGroup::X25519));

    let host = HostParameters {
        suites: vec![RSA_AES_256, RSA_AES_128],
        groups: vec![NamedGroup::SECP384R1, NamedGroup::X25519],
        schemes: vec![Scheme::RSA_PKCS1_SHA256, Scheme::RSA_PSS_RSAE_SHA256],
        ..host_of(&RSA)
    };
    let (suite, scheme, group, _) = agreed(reorder, host).unwrap();
    assert_eq!((suite, scheme, group), (RSA_AES_256, Scheme::RSA_PSS_RSAE_SHA256, NamedGroup::SECP384R1));
}

#[test]
fn schemes_are_those_that_the_key_server_allows() {
    let chain = RSA.identity.chain().to_vec();
    let identity = Identity::new(chain, &[SignatureScheme::RSA_PKCS1_SHA384], None).unwrap();
    let host = || HostParameters { identities: vec![Arc::new(identity.clone())], ..HostParameters::default() };
    assert_eq!(agreed(|_| {}, host()).map(|(_, scheme, ..)| scheme), Ok(SignatureScheme::RSA_PKCS1_SHA384));
    let pss_only = |client: &mut Client| {
        client.offer.extensions.signature_algorithms = Some(vec![SignatureScheme::RSA_PSS_RSAE_SHA256]);
    };
    assert_eq!(agreed(pss_only, host()), Err(PeerIncompatible::NoCommonScheme.into()));
}

#[test]
fn too_little_in_common_has_a_name_and_handshake_failure() {
    type Alter = fn(&mut Client);
    let cases: [(Alter, PeerIncompatible); 5] = [
        (|client| client.offer.cipher_suites = vec![CipherSuite(0x002f)], PeerIncompatible::NoCommonSuite),
        (|client| client.offer.cipher_suites = vec![CipherSuite(0x1301)], PeerIncompatible::NoCommonSuite),
        (
            |client| client.offer.extensions.supported_groups = Some(vec![NamedGroup(25)]),
            PeerIncompatible::NoCommonGroup,
        ),
        (
            |client| client.offer.extensions.signature_algorithms = Some(vec![SignatureScheme(0x0201)]),
            PeerIncompatible::NoCommonScheme,
        ),
        // Which means SHA-1 (RFC 5246 §7.4.1.4.1).
        (|client| client.offer.extensions.signature_algorithms = None, PeerIncompatible::NoCommonScheme),
    ];
    for (alter, cause) in cases {
        let (mut client, mut server) = (Client::default(), Server::default());
        alter(&mut client);
        assert_eq!(server.feed(&client.hello()), Err(cause.into()));
        assert_eq!(server.take_output(), [21, 3, 3, 0, 2, 2, 40], "{cause:?}");
    }
    let mut client = Client::new(full_offer());
    client.offer.extensions.supported_groups = None;
    let mut server = Server::new(FAST, HostParameters { groups: vec![NamedGroup::X25519], ..host() }, 1);
    assert_eq!(server.feed(&client.hello()), Err(PeerIncompatible::NoCommonGroup.into()));
}
