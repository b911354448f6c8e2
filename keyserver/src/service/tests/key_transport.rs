//! RSA key transport over the channel: randoms leased, master secrets recovered, and one refusal for everything else.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};

use keystead_tls::handshake::Lease;
use keystead_tls::identity::LONGEST_CHAIN;
use keystead_tls::message::{certificate, certificate_request, certificate_verify, client_hello, client_key_exchange};
use rand_core::CryptoRng;
use zeroize::Zeroizing;

use super::*;
use crate::custody::{Custody, KeyFault};
use crate::fixture::key_transport::{self, ClientCertificate, Conversation, Form, WRONG_KEY_EXCHANGES};
use crate::operation::recover_master_secret::RecoverMasterSecret;

const RSA: usize = 1;

async fn start() -> Running {
    start_with("").await
}

/// With further lines of `[limits]`.
async fn start_with(limits: &str) -> Running {
    let chain = "certificate_chain = \"rsa.pem\"";
    let edge_three = "[[edge]]\nid = \"spiffe://keystead.test/edge/three\"\nkeys = [\"ec\"]\n";
    let config = CONFIG.replace(chain, &format!("{chain}\ndanger_rsa_key_transport = true"));
    let config = config.replace("[limits]", &format!("[limits]\n{limits}"));
    Running::configured(&format!("{config}{edge_three}")).await
}

impl Running {
    async fn lease(&self, edge: &str) -> Lease {
        let request = v1::LeaseRandomsRequest { count: 1 };
        let reply = self.client(edge).lease_randoms(request).await.unwrap().into_inner();
        lease(&reply.leases[0])
    }

    fn recover(&self, request: RecoverMasterSecret) -> v1::RecoverMasterSecretRequest {
        let RecoverMasterSecret { lease, handshake_messages, finished_record } = request;
        let key_id = self.keys[RSA].key_id().0.to_vec();
        v1::RecoverMasterSecretRequest {
            key_id,
            lease,
            handshake_messages,
            finished_record,
            server_name: "localhost".to_owned(),
        }
    }

    /// Edge one may use these keys, and nobody any other.
    fn allow(&self, keys: impl IntoIterator<Item = Arc<Key>>) {
        let ticket_group = TicketGroup::new(GroupName::default(), []);
        let rights = Rights::new(keys.into_iter().map(Grant::whole), ticket_group);
        let allowed = [(EDGE_ONE.parse().unwrap(), rights)];
        self.authorizations.send(Arc::new(allowed.into_iter().collect())).unwrap();
    }

    /// The key `rsa` with its private part elsewhere.
    fn rsa_kept_by(custody: impl FnOnce(Box<dyn Custody>) -> Box<dyn Custody>) -> Arc<Key> {
        Arc::new(key_transport::key().kept_by(custody))
    }

    async fn until(&self, what: &str, condition: impl Fn() -> bool) {
        until(what, condition).await;
    }

    fn good(&self, lease: &Lease) -> Conversation {
        Conversation::good(Form::PLAIN, &self.keys[RSA], lease)
    }
}

/// Waits for what nobody tells of.
pub(super) async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..2000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within 20 s: {what}");
}

fn lease(message: &v1::Lease) -> Lease {
    Lease { server_random: message.server_random.as_slice().try_into().unwrap(), token: message.token.clone() }
}

impl Stream {
    async fn leases(&mut self, count: u32) -> Vec<Lease> {
        self.ask(0, Asked::LeaseRandoms(v1::LeaseRandomsRequest { count })).await;
        match self.receive().await {
            (0, Reply::LeaseRandoms(reply)) => reply.leases.iter().map(lease).collect(),
            other => panic!("no leases: {other:?}"),
        }
    }

    /// The reply to a request for a master secret, as it is on the wire.
    async fn recovery(&mut self, request: v1::RecoverMasterSecretRequest) -> Vec<u8> {
        self.ask(7, Asked::RecoverMasterSecret(request)).await;
        self.replies.message().await.unwrap().unwrap().encode_to_vec()
    }
}

#[tokio::test]
async fn a_batch_is_leased_and_each_master_secret_recovered_once() {
    let running = start().await;
    let mut stream = running.exchange(EDGE_ONE).await;
    let leases = stream.leases(5).await;
    assert_eq!(leases.len(), 5);
    for lease in &leases {
        let conversation = running.good(lease);
        let request = running.recover(conversation.request());
        stream.ask(1, Asked::RecoverMasterSecret(request.clone())).await;
        let (1, Reply::RecoverMasterSecret(reply)) = stream.receive().await else { panic!("not recovered") };
        assert_eq!(reply.master_secret, conversation.master_secret().expose());
        let again = stream.recovery(request).await;
        let Some(Reply::Refusal(refusal)) = v1::ExchangeReply::decode(&again[..]).unwrap().outcome else {
            panic!("recovered twice");
        };
        assert_eq!(refusal.code, Code::FailedPrecondition as u32);
    }
    let recovered = running.metrics.operations(Some(Call::RecoverMasterSecret), Some(&running.keys[RSA]), Ok(()));
    assert_eq!(recovered, 5);
    assert_eq!(running.metrics.operations(Some(Call::LeaseRandoms), None, Ok(())), 1);
}

#[tokio::test]
async fn the_unary_twins_do_the_same() {
    let running = start().await;
    let conversation = running.good(&running.lease(EDGE_TWO).await);
    let request = running.recover(conversation.request());
    let mut client = running.client(EDGE_TWO);
    let reply = client.recover_master_secret(request.clone()).await.unwrap().into_inner();
    assert_eq!(reply.master_secret, conversation.master_secret().expose());
    let again = client.recover_master_secret(request).await.unwrap_err();
    assert_eq!((again.code(), again.message()), (Code::FailedPrecondition, "the handshake is refused"));
}

#[tokio::test]
async fn a_call_gives_as_many_as_it_may() {
    let running = start().await;
    let mut stream = running.exchange(EDGE_ONE).await;
    assert_eq!(stream.leases(u32::MAX).await.len(), 512);
    assert!(stream.leases(0).await.is_empty());
}

/// What an edge, hostile or unlucky, may ask for beyond what the operation's own tests try.
#[tokio::test]
async fn every_cause_of_refusal_gives_the_same_bytes() {
    let running = start().await;
    let key = &running.keys[RSA];
    let mut stream = running.exchange(EDGE_ONE).await;
    let mut refusals = Vec::new();
    for (what, wrong) in WRONG_KEY_EXCHANGES {
        let lease = stream.leases(1).await.remove(0);
        let request = running.recover(wrong(Form::PLAIN, key, &lease).request());
        refusals.push((*what, stream.recovery(request).await));
    }
    type Spoil = fn(&mut v1::RecoverMasterSecretRequest);
    let spoils: [(&str, Spoil); 7] = [
        ("Finished wrong", |request| request.finished_record[44] ^= 1),
        ("no Finished", |request| request.finished_record.clear()),
        ("a long Finished", |request| request.finished_record.resize(60_000, 0)),
        ("no messages", |request| request.handshake_messages.clear()),
        ("long messages", |request| request.handshake_messages.resize(100_000, 0)),
        ("no lease", |request| request.lease.clear()),
        ("long lease", |request| request.lease.resize(1000, 0)),
    ];
    for (what, spoil) in spoils {
        let mut request = running.recover(running.good(&stream.leases(1).await[0]).request());
        spoil(&mut request);
        refusals.push((what, stream.recovery(request).await));
    }
    let foreign = running.lease(EDGE_TWO).await;
    let request = running.recover(running.good(&foreign).request());
    refusals.push(("another edge's lease", stream.recovery(request).await));
    let elsewhere = start().await.lease(EDGE_ONE).await;
    let request = running.recover(running.good(&elsewhere).request());
    refusals.push(("another process's lease", stream.recovery(request).await));
    let request = running.recover(running.good(&stream.leases(1).await[0]).request());
    stream.recovery(request.clone()).await;
    refusals.push(("spent lease", stream.recovery(request).await));

    let (_, first) = &refusals[0];
    assert_eq!(first.len(), SIZE_CLASS);
    for (what, refusal) in &refusals {
        assert_eq!(refusal, first, "{what}");
    }
    let counted =
        running.metrics.operations(Some(Call::RecoverMasterSecret), Some(key), Err(Refusal::KeyTransportRefused));
    assert_eq!(counted, refusals.len() as u64);
}

#[tokio::test]
async fn keys_and_edges_without_key_transport_are_refused() {
    let running = start().await;
    let mut three = running.exchange("spiffe://keystead.test/edge/three").await;
    three.ask(1, Asked::LeaseRandoms(v1::LeaseRandomsRequest { count: 1 })).await;
    let (1, Reply::Refusal(refusal)) = three.receive().await else { panic!("leased") };
    assert_eq!(refusal.code, Code::PermissionDenied as u32);

    let mut one = running.exchange(EDGE_ONE).await;
    let good = running.recover(running.good(&one.leases(1).await[0]).request());
    let key_ids = [
        (running.keys[0].key_id().0.to_vec(), Code::PermissionDenied),
        (vec![0; 32], Code::PermissionDenied),
        (vec![0; 31], Code::InvalidArgument),
    ];
    for (key_id, code) in key_ids {
        let request = v1::RecoverMasterSecretRequest { key_id, ..good.clone() };
        one.ask(1, Asked::RecoverMasterSecret(request)).await;
        let (1, Reply::Refusal(refusal)) = one.receive().await else { panic!("recovered") };
        assert_eq!(refusal.code, code as u32);
    }
}

#[tokio::test]
async fn leases_die_when_their_edge_is_removed() {
    let running = start().await;
    let request = running.recover(running.good(&running.lease(EDGE_TWO).await).request());
    let before = running.authorizations.borrow().clone();
    running.authorizations.send(Arc::default()).unwrap();
    let removed = running.client(EDGE_TWO).lease_randoms(v1::LeaseRandomsRequest { count: 1 }).await.unwrap_err();
    assert_eq!(removed.code(), Code::PermissionDenied);
    running.authorizations.send(before).unwrap();
    let refused = running.client(EDGE_TWO).recover_master_secret(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let conversation = running.good(&running.lease(EDGE_TWO).await);
    let request = running.recover(conversation.request());
    let recovered = running.client(EDGE_TWO).recover_master_secret(request).await.unwrap().into_inner();
    assert_eq!(recovered.master_secret, conversation.master_secret().expose());
}

/// A key that holds up whoever uses it until it is let go, and then fails.
pub(super) struct Stuck {
    entered: Arc<AtomicBool>,
    until_let_go: Mutex<Receiver<()>>,
}

impl Stuck {
    /// The key, whether anybody is held up, and what lets go when dropped.
    pub(super) fn new() -> (Self, Arc<AtomicBool>, Sender<()>) {
        let (hold, until_let_go) = std::sync::mpsc::channel();
        let entered = Arc::new(AtomicBool::new(false));
        (Self { entered: entered.clone(), until_let_go: Mutex::new(until_let_go) }, entered, hold)
    }
}

impl Custody for Stuck {
    fn sign(&self, _: SignatureScheme, _: &[u8], _: &mut dyn CryptoRng) -> Result<Vec<u8>, KeyFault> {
        self.entered.store(true, Ordering::SeqCst);
        let _ = self.until_let_go.lock().unwrap().recv();
        Err(KeyFault::Failed)
    }
}

#[tokio::test]
async fn leases_and_light_keys_do_not_wait_behind_rsa() {
    let running = start_with("signing_threads = 1\nqueue_medium = 1").await;
    let (stuck, entered, _hold) = Stuck::new();
    running.allow([running.keys[0].clone(), Running::rsa_kept_by(|_| Box::new(stuck))]);
    let mut flood = running.exchange(EDGE_ONE).await;
    flood.send(1, running.rsa()).await;
    running.until("the thread for RSA is busy", || entered.load(Ordering::SeqCst)).await;
    flood.send(2, running.rsa()).await;
    assert_eq!(flood.refusal(running.rsa()).await, Code::ResourceExhausted);

    let mut stream = running.exchange(EDGE_ONE).await;
    for _ in 0..20 {
        assert_eq!(stream.leases(512).await.len(), 512);
        stream.send(1, running.ec()).await;
        assert!(matches!(stream.receive().await, (1, Reply::SignServerKeyExchange(_))));
    }
    assert_eq!(flood.refusal(running.rsa()).await, Code::ResourceExhausted);
}

#[tokio::test]
async fn a_lease_that_waited_while_its_edge_was_removed_is_none() {
    let running = start_with("signing_threads = 1").await;
    let files = Files::new();
    files.add_key("stuck", Kind::P256);
    let light = files.load_key("stuck", keystead_program::crypto::Crypto::Fast, None).unwrap();
    let (stuck, entered, hold) = Stuck::new();
    let light = Arc::new(light.kept_by(|_| Box::new(stuck)));
    running.allow([light.clone(), running.keys[RSA].clone()]);

    let mut stream = running.exchange(EDGE_ONE).await;
    stream.send(1, v1::SignServerKeyExchangeRequest { key_id: light.key_id().0.to_vec(), ..running.ec() }).await;
    running.until("the thread is busy", || entered.load(Ordering::SeqCst)).await;
    stream.ask(2, Asked::LeaseRandoms(v1::LeaseRandomsRequest { count: 1 })).await;
    running.until("the lease waits", || running.metrics.lane(&"light".into()).queued.get() == 1).await;
    running.authorizations.send(Arc::default()).unwrap();
    drop(hold);
    // The stream ends with the removal. What it still brings is no lease.
    while let Ok(Some(reply)) = stream.replies.message().await {
        assert!(matches!(reply.outcome, Some(Reply::Refusal(_))), "{reply:?}");
    }

    running.allow([running.keys[RSA].clone()]);
    let first = running.lease(EDGE_ONE).await;
    // Of the first ledger of all, and in it the first.
    assert_eq!(first.token[16..], [1_u64.to_be_bytes(), 0_u64.to_be_bytes()].concat());
}

/// A key whose raw operation gives a wrong result, as a fault in the hardware would.
struct Faulty(Box<dyn Custody>);

impl Custody for Faulty {
    fn sign(&self, _: SignatureScheme, _: &[u8], _: &mut dyn CryptoRng) -> Result<Vec<u8>, KeyFault> {
        Err(KeyFault::Failed)
    }

    fn raw_rsa(&self, ciphertext: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyFault> {
        let mut block = self.0.raw_rsa(ciphertext)?;
        block[250] ^= 0x10;
        Ok(block)
    }
}

/// A key that finds a fault of its own, and gives nothing.
struct Failing;

impl Custody for Failing {
    fn sign(&self, _: SignatureScheme, _: &[u8], _: &mut dyn CryptoRng) -> Result<Vec<u8>, KeyFault> {
        Err(KeyFault::Failed)
    }

    fn raw_rsa(&self, _: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyFault> {
        Err(KeyFault::Failed)
    }
}

#[tokio::test]
async fn a_faulty_key_gives_what_every_refusal_gives() {
    let running = start().await;
    let mut stream = running.exchange(EDGE_ONE).await;
    let lease = stream.leases(1).await.remove(0);
    let (_, wrong) = WRONG_KEY_EXCHANGES[0];
    let wrong = wrong(Form::PLAIN, &running.keys[RSA], &lease).request();
    let ordinary = stream.recovery(running.recover(wrong)).await;

    let faulty = Running::rsa_kept_by(|custody| Box::new(Faulty(custody)));
    let failing = Running::rsa_kept_by(|_| Box::new(Failing));
    for (key, reason) in [(faulty, Refusal::KeyTransportRefused), (failing, Refusal::RecoveryFailed)] {
        running.allow([key.clone()]);
        let counted = || running.metrics.operations(Some(Call::RecoverMasterSecret), Some(&key), Err(reason));
        let before = counted();
        let good = running.good(&stream.leases(1).await[0]).request();
        assert_eq!(stream.recovery(running.recover(good)).await, ordinary, "{reason:?}");
        assert_eq!(counted(), before + 1, "{reason:?}");
    }
}

/// Every message as long as the engine lets it be.
fn largest(running: &Running, lease: &Lease) -> Conversation {
    let form = Form { client_certificate: ClientCertificate::Sent, ..Form::PLAIN };
    let mut conversation = Conversation::good(form, &running.keys[RSA], lease);
    let [client_hello, _, chain, request, _, client_chain, _, verify] = &mut conversation.messages[..] else {
        panic!("the places are as meant");
    };
    let suites = form.suite.0.to_be_bytes().repeat(0xfffe / 2);
    let fields: [&[u8]; 11] = [
        &[3, 3],
        &[9; 32],
        &[32],
        &[8; 32],
        &[0xff, 0xfe],
        &suites,
        &[255],
        &[0; 255],
        // Padding (RFC 7685), which fills the extensions.
        &[0xff, 0xff],
        &[0, 21, 0xff, 0xfb],
        &[0; 0xfffb],
    ];
    let body = fields.concat();
    assert_eq!(body.len(), client_hello::MAX_LENGTH);
    *client_hello = [&[1], &(body.len() as u32).to_be_bytes()[1..], &body].concat();
    let leaf = running.keys[RSA].identity().chain()[0].clone();
    let rest = vec![0x30; LONGEST_CHAIN - 3 - leaf.len() - 3];
    let write = |message: &mut Vec<u8>, write: &dyn Fn(&mut Vec<u8>)| {
        message.clear();
        write(message);
    };
    write(chain, &|out| certificate::write(&[leaf.clone(), rest.clone()], out));
    let authorities = [vec![0x30; 0xffff - 2]];
    write(request, &|out| certificate_request::write(SignatureScheme::KNOWN, &authorities, out));
    write(client_chain, &|out| certificate::write(&[vec![0x30; certificate::MAX_LENGTH - 6]], out));
    write(verify, &|out| certificate_verify::write(SignatureScheme::ED25519, &[5; 1024], out));
    conversation.adopt_client_random();
    conversation
}

#[tokio::test]
async fn the_longest_handshake_that_an_edge_accepts_is_recovered() {
    let running = start().await;
    let mut stream = running.exchange(EDGE_ONE).await;
    let lease = stream.leases(1).await.remove(0);
    let conversation = largest(&running, &lease);
    let mut request = running.recover(conversation.request());
    request.server_name = "n".repeat(255);
    // The ciphertext is that of a key of 2048 bits, where it might be of 8192.
    let longer = client_key_exchange::MAX_LENGTH - 2 - 256;
    assert!(request.encoded_len() + longer + SIZE_CLASS < keystead_proto::MAX_REQUEST, "{}", request.encoded_len());
    stream.ask(1, Asked::RecoverMasterSecret(request)).await;
    let (1, Reply::RecoverMasterSecret(reply)) = stream.receive().await else { panic!("not recovered") };
    assert_eq!(reply.master_secret, conversation.master_secret().expose());
}

#[tokio::test]
async fn edges_are_told_which_keys_are_for_key_transport() {
    let running = start().await;
    let mut events = running.client(EDGE_ONE).watch(v1::WatchRequest::default()).await.unwrap().into_inner();
    let Some(Event::Identities(identities)) = events.message().await.unwrap().unwrap().event else {
        panic!("the identities come first");
    };
    let told: Vec<_> = identities
        .identities
        .iter()
        .map(|identity| (identity.name.as_str(), identity.danger_rsa_key_transport))
        .collect();
    assert_eq!(told, [("ec", false), ("rsa", true)]);
}
