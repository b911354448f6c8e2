#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::sync::Arc;

use keystead_tls::crypto::{FAST, PORTABLE};
use keystead_tls::handshake::Lease;
use keystead_tls::message::{certificate, certificate_status, server_hello_done};
use keystead_tls::{CipherSuite, SignatureScheme};

use super::*;
use crate::config::grant::GrantConfig;
use crate::custody::{Custody, KeyFault};
use crate::fixture::key_transport::{self, ClientCertificate, Conversation, Form, WRONG_KEY_EXCHANGES, Wrong};
use crate::fixture::{EDGE_ONE, EDGE_TWO};
use crate::lease::LeaseLimits;

mod timing;

const LIMITS: LeaseLimits = LeaseLimits { per_call: 64, outstanding: 1024 };

/// A key and a process that leases randoms.
struct KeyServer {
    grant: Grant,
    leases: Leases,
}

impl KeyServer {
    fn new() -> Self {
        Self::with(key_transport::key())
    }

    fn with(key: Key) -> Self {
        Self { grant: Grant::whole(Arc::new(key)), leases: Leases::new(LIMITS, &mut rand::rng()) }
    }

    fn key(&self) -> &Key {
        self.grant.key()
    }

    fn lease(&self) -> Lease {
        self.leases.lease(&edge(EDGE_ONE), 1).remove(0)
    }

    fn good(&self, form: Form) -> Conversation {
        Conversation::good(form, self.key(), &self.lease())
    }

    /// The hellos of two handshakes in one, whose Finished is by the rule of a third.
    fn mixed(&self, client: Form, server: Form, rule: Form) -> RecoverMasterSecret {
        let lease = self.lease();
        let mut conversation = Conversation::good(rule, self.key(), &lease);
        conversation.messages[0] = Conversation::good(client, self.key(), &lease).messages[0].clone();
        conversation.messages[1] = Conversation::good(server, self.key(), &lease).messages[1].clone();
        conversation.adopt_client_random();
        conversation.request()
    }

    fn ask(&self, request: &RecoverMasterSecret) -> Result<MasterSecret, Refusal> {
        let recovered = request.run(&self.grant, &edge(EDGE_ONE), &self.leases, FAST, &mut rand::rng());
        recovered.map_err(|failed| failed.reason)
    }

    fn refuses(&self, request: &RecoverMasterSecret, what: &str) {
        assert_eq!(self.ask(request).err(), Some(Refusal::KeyTransportRefused), "{what}");
    }
}

fn edge(id: &str) -> PeerIdentity {
    id.parse().unwrap()
}

#[test]
fn the_master_secret_of_every_form_of_handshake_is_recovered() {
    let key_server = KeyServer::new();
    for form in Form::all() {
        for provider in [FAST, PORTABLE] {
            let conversation = key_server.good(form);
            let request = conversation.request();
            let recovered =
                request.run(&key_server.grant, &edge(EDGE_ONE), &key_server.leases, provider, &mut rand::rng());
            assert_eq!(recovered.unwrap().expose(), conversation.master_secret().expose(), "{form:?}");
        }
    }
}

#[test]
fn every_wrong_key_exchange_is_refused_alike() {
    let key_server = KeyServer::new();
    for form in [Form::PLAIN, Form { extended_master_secret: true, ..Form::PLAIN }] {
        for (what, wrong) in WRONG_KEY_EXCHANGES {
            key_server.refuses(&wrong(form, key_server.key(), &key_server.lease()).request(), what);
        }
    }
}

#[test]
fn a_finished_that_is_wrong_is_refused_alike() {
    let key_server = KeyServer::new();
    let asked_with = |spoil: &dyn Fn(&Conversation) -> Vec<u8>| {
        let conversation = key_server.good(Form::PLAIN);
        RecoverMasterSecret { finished_record: spoil(&conversation), ..conversation.request() }
    };
    for place in 0..16 {
        let sealed = asked_with(&|conversation| {
            let mut finished = conversation.finished();
            finished[place] ^= 1;
            conversation.seal(&finished)
        });
        key_server.refuses(&sealed, &format!("byte {place} of the message"));
    }
    for place in 0..45 {
        let sealed = asked_with(&|conversation| {
            let mut record = conversation.request().finished_record;
            record[place] ^= 1;
            record
        });
        key_server.refuses(&sealed, &format!("byte {place} of the record"));
    }
    for length in [0, 12, 15, 17, 32, 100] {
        let resized = asked_with(&|conversation| {
            let mut finished = conversation.finished();
            finished.resize(length, 0);
            conversation.seal(&finished)
        });
        key_server.refuses(&resized, &format!("{length} bytes"));
    }
    let twice = asked_with(&|conversation| conversation.seal(&conversation.finished().repeat(2)));
    key_server.refuses(&twice, "two messages in a record");
    let two_records = asked_with(&|conversation| conversation.request().finished_record.repeat(2));
    key_server.refuses(&two_records, "two records");
    key_server.refuses(&asked_with(&|_| Vec::new()), "no record");
    key_server.refuses(&asked_with(&|conversation| conversation.finished()), "in the clear");
}

#[test]
fn it_is_told_for_which_random_the_key_was_used_in_vain() {
    let key_server = KeyServer::new();
    let tried_for = |request: &RecoverMasterSecret| {
        let recovered = request.run(&key_server.grant, &edge(EDGE_ONE), &key_server.leases, FAST, &mut rand::rng());
        recovered.unwrap_err().tried_for
    };
    let lease = key_server.lease();
    let mut request = Conversation::good(Form::PLAIN, key_server.key(), &lease).request();
    request.finished_record[44] ^= 1;
    assert_eq!(tried_for(&request), Some(lease.server_random));
    assert_eq!(tried_for(&request), None, "the lease is spent, which is known without the key");
}

#[test]
fn a_handshake_is_not_opened_twice() {
    let key_server = KeyServer::new();
    let request = key_server.good(Form::PLAIN).request();
    assert!(key_server.ask(&request).is_ok());
    key_server.refuses(&request, "the same again");
}

#[test]
fn an_attempt_that_fails_spends_the_lease() {
    let key_server = KeyServer::new();
    type Spoil = fn(&mut RecoverMasterSecret);
    let spoils: [Spoil; 3] = [
        |request| request.finished_record[44] ^= 1,
        |request| request.handshake_messages.clear(),
        |request| request.finished_record.clear(),
    ];
    for spoil in spoils {
        let good = key_server.good(Form::PLAIN).request();
        let mut spoilt = good.clone();
        spoil(&mut spoilt);
        key_server.refuses(&spoilt, "the attempt");
        key_server.refuses(&good, "the handshake itself, afterwards");
    }
}

#[test]
fn a_handshake_of_another_edge_is_not_opened_and_stays_good() {
    let key_server = KeyServer::new();
    let request = key_server.good(Form::PLAIN).request();
    key_server.leases.lease(&edge(EDGE_TWO), 64);
    let stolen = request.run(&key_server.grant, &edge(EDGE_TWO), &key_server.leases, FAST, &mut rand::rng());
    assert_eq!(stolen.err(), Some(Refusal::KeyTransportRefused.into()));
    assert!(key_server.ask(&request).is_ok());
}

#[test]
fn a_handshake_from_before_a_restart_is_not_opened() {
    let mut key_server = KeyServer::new();
    let request = key_server.good(Form::PLAIN).request();
    key_server.leases = Leases::new(LIMITS, &mut rand::rng());
    key_server.leases.lease(&edge(EDGE_ONE), 64);
    key_server.refuses(&request, "another process's lease");
}

#[test]
fn a_handshake_on_record_is_not_opened_under_another_lease() {
    let key_server = KeyServer::new();
    let recorded = key_server.good(Form::PLAIN);
    assert!(key_server.ask(&recorded.request()).is_ok());
    let fresh = key_server.lease();
    let replayed = RecoverMasterSecret { lease: fresh.token.clone(), ..recorded.request() };
    key_server.refuses(&replayed, "the recorded ServerHello");
    // With the leased random written into ServerHello, the ciphertext is good and the Finished is not.
    let fresh = key_server.lease();
    let mut messages = recorded.messages.concat();
    let random_at = recorded.messages[0].len() + 6;
    messages[random_at..random_at + 32].copy_from_slice(&fresh.server_random);
    let rewritten = RecoverMasterSecret { lease: fresh.token, handshake_messages: messages, ..recorded.request() };
    key_server.refuses(&rewritten, "a rewritten ServerHello");
}

#[test]
fn every_byte_of_every_message_counts() {
    let key_server = KeyServer::new();
    let form = Form { status: true, client_certificate: ClientCertificate::Sent, ..Form::PLAIN };
    let mut place = 0;
    loop {
        let mut request = key_server.good(form).request();
        let Some(byte) = request.handshake_messages.get_mut(place) else { break };
        *byte ^= 1;
        key_server.refuses(&request, &format!("byte {place}"));
        place += 1;
    }
    assert!(place > 900, "{place} bytes");
}

/// Handshakes that client and edge make up together: the Finished is right for the messages as they stand.
#[test]
fn messages_that_are_no_handshake_are_refused_also_with_a_finished_to_match() {
    let key_server = KeyServer::new();
    let full = Form { status: true, client_certificate: ClientCertificate::Sent, ..Form::PLAIN };
    let names = [0, 1, 2, 3, 4, 5, 6, 7, 8];
    assert_eq!(key_server.good(full).messages.len(), names.len());
    for place in names {
        // CertificateStatus may be left out (RFC 6066 §8).
        if place != 3 {
            let mut without = key_server.good(full);
            without.messages.remove(place);
            key_server.refuses(&without.request(), &format!("without message {place}"));
        }
        let mut twice = key_server.good(full);
        twice.messages.insert(place, twice.messages[place].clone());
        key_server.refuses(&twice.request(), &format!("message {place} twice"));
        if place + 1 < names.len() {
            let mut swapped = key_server.good(full);
            swapped.messages.swap(place, place + 1);
            key_server.refuses(&swapped.request(), &format!("messages {place} and the next swapped"));
        }
        let mut longer = key_server.good(full);
        longer.messages[place].push(0);
        key_server.refuses(&longer.request(), &format!("a byte behind message {place}"));
        for kind in [0, 4, 12, 20, 99] {
            let mut more = key_server.good(full);
            more.messages.insert(place + 1, vec![kind, 0, 0, 0]);
            key_server.refuses(&more.request(), &format!("type {kind} behind message {place}"));
        }
    }
}

#[test]
fn what_does_not_fit_together_is_refused_also_with_a_finished_to_match() {
    let key_server = KeyServer::new();
    type Spoil = fn(&mut Conversation);
    let other_certificate = |conversation: &mut Conversation| {
        let pair = crate::fixture::Kind::P256.generate();
        let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let chain = [params.self_signed(&pair).unwrap().der().to_vec()];
        conversation.messages[2].clear();
        certificate::write(&chain, &mut conversation.messages[2]);
    };
    let cases: [(&str, Spoil); 8] = [
        ("ServerHello of TLS 1.1", |conversation| conversation.messages[1][5] = 2),
        ("a suite of ECDHE", |conversation| conversation.messages[1][39..41].copy_from_slice(&[0xc0, 0x2f])),
        ("an unknown suite", |conversation| conversation.messages[1][39..41].copy_from_slice(&[0x0a, 0x0a])),
        ("another certificate", other_certificate),
        ("no certificate", |conversation| {
            conversation.messages[2].clear();
            certificate::write(&[], &mut conversation.messages[2]);
        }),
        ("a certificate that is none", |conversation| {
            conversation.messages[2].clear();
            certificate::write(&[vec![1, 2, 3]], &mut conversation.messages[2]);
        }),
        ("a status that was not announced", |conversation| {
            let mut status = Vec::new();
            certificate_status::write(&[0x30, 0], &mut status);
            conversation.messages.insert(3, status);
        }),
        ("a certificate nobody asked for", |conversation| {
            let mut chain = Vec::new();
            certificate::write(&[], &mut chain);
            conversation.messages.insert(4, chain);
        }),
    ];
    for (what, spoil) in cases {
        let mut conversation = key_server.good(Form::PLAIN);
        spoil(&mut conversation);
        key_server.refuses(&conversation.request(), what);
    }
    let mut done = Vec::new();
    server_hello_done::write(&mut done);
    assert_eq!(key_server.good(Form::PLAIN).messages[3], done, "the places above are as meant");
}

#[test]
fn extended_master_secret_is_not_taken_away() {
    let key_server = KeyServer::new();
    let mixed = |client, server, rule| key_server.ask(&key_server.mixed(client, server, rule)).map(|_| ());
    let (without, with) = (Form::PLAIN, Form { extended_master_secret: true, ..Form::PLAIN });
    for rule in [without, with] {
        assert_eq!(mixed(rule, rule, rule), Ok(()));
        assert_eq!(mixed(with, without, rule), Err(Refusal::KeyTransportRefused));
        assert_eq!(mixed(without, with, rule), Err(Refusal::KeyTransportRefused));
    }
    assert_eq!(mixed(with, with, without), Err(Refusal::KeyTransportRefused));
    assert_eq!(mixed(without, without, with), Err(Refusal::KeyTransportRefused));
}

#[test]
fn a_suite_that_was_not_offered_is_refused() {
    let key_server = KeyServer::new();
    let other = Form { suite: CipherSuite::RSA_WITH_AES_256_GCM_SHA384, ..Form::PLAIN };
    assert!(key_server.ask(&key_server.mixed(other, other, other)).is_ok());
    key_server.refuses(&key_server.mixed(Form::PLAIN, other, other), "the other suite");
}

#[test]
fn a_client_that_does_not_speak_tls_1_2_is_refused() {
    let key_server = KeyServer::new();
    for (minor, spoken) in [(3, true), (2, false)] {
        let mut block = key_transport::good_block();
        block[209] = minor;
        let mut conversation = Conversation::with_block(Form::PLAIN, key_server.key(), &key_server.lease(), &block);
        conversation.messages[0][5] = minor;
        assert_eq!(key_server.ask(&conversation.request()).is_ok(), spoken, "03 0{minor}");
    }
}

/// A key of which every ciphertext decrypts to the same good block.
struct AlwaysGood(Vec<u8>);

impl Custody for AlwaysGood {
    fn sign(&self, _: SignatureScheme, _: &[u8], _: &mut dyn CryptoRng) -> Result<Vec<u8>, KeyFault> {
        Err(KeyFault::Failed)
    }

    fn raw_rsa(&self, ciphertext: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyFault> {
        assert_eq!(ciphertext.len(), self.0.len());
        Ok(Zeroizing::new(self.0.clone()))
    }
}

#[test]
fn what_stands_in_for_a_ciphertext_out_of_range_never_counts() {
    let block = key_transport::good_block();
    let same = block.clone();
    let key_server = KeyServer::with(key_transport::key().kept_by(|_| Box::new(AlwaysGood(same))));
    for (ciphertext, counts) in [(vec![5; 256], true), (vec![5; 255], false), (vec![0; 256], false), (vec![], false)] {
        let (key, lease) = (key_server.key(), key_server.lease());
        let conversation = Conversation::with_ciphertext(Form::PLAIN, key, &lease, &ciphertext, &block[208..]);
        assert_eq!(key_server.ask(&conversation.request()).is_ok(), counts, "{ciphertext:?}");
    }
}

#[test]
fn a_name_that_is_not_the_edges_is_refused_and_its_lease_spent() {
    // What the conversations' clients ask for.
    for (name, served) in [("localhost", true), ("*.example.org", false), ("", false)] {
        let names = vec![name.to_owned().try_into().unwrap()];
        let config = GrantConfig { server_names: Some(names), ..GrantConfig::from("key") };
        let grant = Grant::new(&config, Arc::new(key_transport::key())).unwrap();
        let mut key_server = KeyServer { grant, leases: Leases::new(LIMITS, &mut rand::rng()) };
        let request = key_server.good(Form::PLAIN).request();
        let expected = if served { None } else { Some(Refusal::KeyTransportServerName) };
        assert_eq!(key_server.ask(&request).err(), expected, "{name:?}");
        key_server.grant = Grant::whole(key_server.grant.key().clone());
        key_server.refuses(&request, "the lease is spent");
    }
}

#[test]
fn a_key_for_signing_has_no_raw_operation() {
    let files = crate::fixture::Files::new();
    files.write_key("key", crate::fixture::rsa(), &crate::fixture::rsa().serialize_pem());
    let signing = files.load_key("key", keystead_program::crypto::Crypto::Fast, None).unwrap();
    assert!(signing.raw_rsa(&[5; 256], &mut rand::rng()).is_err());
    let key_server = KeyServer::with(signing);
    let request = key_server.good(Form::PLAIN).request();
    assert_eq!(key_server.ask(&request).err(), Some(Refusal::RecoveryFailed));
}

#[test]
fn numbers_in_range_are_those_from_2_to_the_modulus_less_2() {
    let modulus = [0x80, 0, 5];
    let cases: [(&[u8], bool); 12] = [
        (&[0, 0, 0], false),
        (&[0, 0, 1], false),
        (&[0, 0, 2], true),
        (&[0, 1, 0], true),
        (&[0x7f, 0xff, 0xff], true),
        (&[0x80, 0, 3], true),
        (&[0x80, 0, 4], false),
        (&[0x80, 0, 5], false),
        (&[0x80, 0, 6], false),
        (&[0xff, 0xff, 0xff], false),
        (&[5, 5], false),
        (&[0, 0, 5, 5], false),
    ];
    for (ciphertext, expected) in cases {
        assert_eq!(is_in_range(ciphertext, &modulus), expected, "{ciphertext:?}");
    }
    assert!(!is_in_range(&[], &modulus) && !is_in_range(&[], &[]));
}
