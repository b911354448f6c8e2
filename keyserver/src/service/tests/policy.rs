//! What edges may do, over the channel: refused with a reason each, withdrawn at once, and told to edges.

use std::time::SystemTime;

use keystead_tls::handshake::Lease;

use super::key_transport::{Stuck, until};
use super::*;
use crate::config::grant::{GrantConfig, ServerName};
use crate::fixture::key_transport::{Conversation, Form};
use crate::operation::recover_master_secret::RecoverMasterSecret;

const EC: usize = 0;
const RSA: usize = 1;

/// A key server where `entry` is what edge one may do with `rsa`, which is for key transport, beside all that `ec` is
/// for; `further` lines stand in its table.
async fn start(entry: &str, further: &str) -> Running {
    Running::configured(&configuration(entry, further)).await
}

fn configuration(entry: &str, further: &str) -> String {
    let chain = "certificate_chain = \"rsa.pem\"";
    let config = CONFIG.replace(chain, &format!("{chain}\ndanger_rsa_key_transport = true"));
    config.replace(r#"keys = ["ec", "rsa"]"#, &format!("keys = [\"ec\", {entry}]\n{further}"))
}

fn code(refusal: &v1::Refusal) -> Code {
    Code::from_i32(refusal.code.try_into().unwrap())
}

impl Running {
    fn refused(&self, call: Call, key: Option<usize>, reason: Refusal) -> u64 {
        self.metrics.operations(Some(call), key.map(|key| self.keys[key].as_ref()), Err(reason))
    }

    async fn leased(&self) -> Result<Lease, Code> {
        let reply = self.client(EDGE_ONE).lease_randoms(v1::LeaseRandomsRequest { count: 1 }).await;
        let lease = reply.map_err(|status| status.code())?.into_inner().leases.remove(0);
        Ok(Lease { server_random: lease.server_random.try_into().unwrap(), token: lease.token })
    }

    /// What is asked for a client that asks for `localhost`, whatever the edge says.
    fn recovery(&self, lease: &Lease) -> v1::RecoverMasterSecretRequest {
        let RecoverMasterSecret { lease, handshake_messages, finished_record } =
            Conversation::good(Form::PLAIN, &self.keys[RSA], lease).request();
        let (key_id, server_name) = (self.keys[RSA].key_id().0.to_vec(), "www.example.org".to_owned());
        v1::RecoverMasterSecretRequest { key_id, lease, handshake_messages, finished_record, server_name }
    }

    fn load(&self, config: &str) {
        self.files.write_configuration(config);
    }
}

#[tokio::test]
async fn each_thing_that_a_policy_forbids_is_refused_by_its_name() {
    let entry = r#"{ name = "rsa", operations = ["sign_server_key_exchange"], schemes = ["rsa_pss_rsae_sha256"],
        server_names = ["localhost"] }"#;
    let running = start(&entry.replace("\n", ""), "").await;
    let mut stream = running.exchange(EDGE_ONE).await;
    stream.send(1, running.rsa()).await;
    assert!(matches!(stream.receive().await, (1, Reply::SignServerKeyExchange(_))));

    let other_scheme = running.request(RSA, SignatureScheme::RSA_PKCS1_SHA256);
    assert_eq!(stream.refusal(other_scheme).await, Code::InvalidArgument);
    for name in ["example.org", ""] {
        let other_name = v1::SignServerKeyExchangeRequest { server_name: name.to_owned(), ..running.rsa() };
        assert_eq!(stream.refusal(other_name).await, Code::OutOfRange);
    }
    let endless = v1::SignServerKeyExchangeRequest { server_name: "a".repeat(256), ..running.rsa() };
    assert_eq!(stream.refusal(endless).await, Code::InvalidArgument);
    assert_eq!(running.leased().await.err(), Some(Code::PermissionDenied));
    let nobodys = Lease { server_random: [0; 32], token: vec![0; 32] };
    let recovery = running.client(EDGE_ONE).recover_master_secret(running.recovery(&nobodys)).await;
    assert_eq!(recovery.unwrap_err().code(), Code::PermissionDenied);

    let sign = Call::SignServerKeyExchange;
    assert_eq!(running.refused(sign, Some(RSA), Refusal::SchemeNotAllowed), 1);
    assert_eq!(running.refused(sign, Some(RSA), Refusal::ServerNameNotAllowed), 2);
    assert_eq!(running.refused(Call::RecoverMasterSecret, Some(RSA), Refusal::OperationNotAllowed), 1);
    assert_eq!(running.refused(Call::LeaseRandoms, None, Refusal::OperationNotAllowed), 1);
    // What is forbidden with one key is not with another, nor to another edge.
    stream.send(2, v1::SignServerKeyExchangeRequest { server_name: "example.org".to_owned(), ..running.ec() }).await;
    assert!(matches!(stream.receive().await, (2, Reply::SignServerKeyExchange(_))));
    let mut two = running.client(EDGE_TWO);
    let free = two.sign_server_key_exchange(running.request(RSA, SignatureScheme::RSA_PKCS1_SHA256));
    assert!(free.await.is_ok());
}

#[tokio::test]
async fn a_key_for_key_transport_alone_signs_nothing() {
    let running = start(r#"{ name = "rsa", operations = ["recover_master_secret"] }"#, "").await;
    let mut stream = running.exchange(EDGE_ONE).await;
    assert_eq!(stream.refusal(running.rsa()).await, Code::PermissionDenied);
    let request = running.recovery(&running.leased().await.unwrap());
    assert!(running.client(EDGE_ONE).recover_master_secret(request).await.is_ok());
}

#[tokio::test]
async fn the_name_of_a_recovery_is_the_clients_and_its_refusal_like_every_other() {
    let running = start(r#"{ name = "rsa", server_names = ["www.example.org"] }"#, "").await;
    let mut client = running.client(EDGE_ONE);
    // The edge's word is a name that it may have; the client's own is another.
    let request = running.recovery(&running.leased().await.unwrap());
    let foreign = client.recover_master_secret(request.clone()).await.unwrap_err();
    let spent = client.recover_master_secret(request).await.unwrap_err();
    assert_eq!((foreign.code(), foreign.message()), (Code::FailedPrecondition, "the handshake is refused"));
    assert_eq!((foreign.code(), foreign.message()), (spent.code(), spent.message()));
    let recover = Call::RecoverMasterSecret;
    assert_eq!(running.refused(recover, Some(RSA), Refusal::KeyTransportServerName), 1);
    assert_eq!(running.refused(recover, Some(RSA), Refusal::KeyTransportRefused), 1);
}

#[tokio::test]
async fn a_rate_bounds_operations_by_their_cost_and_no_other_edge() {
    // Two signatures with RSA at once, and hours until the next.
    let running = start(r#"{ name = "rsa", rate = 1, burst = 60 }"#, "").await;
    let mut stream = running.exchange(EDGE_ONE).await;
    for id in 0..2 {
        stream.send(id, running.rsa()).await;
        assert!(matches!(stream.receive().await, (_, Reply::SignServerKeyExchange(_))));
    }
    assert_eq!(stream.refusal(running.rsa()).await, Code::ResourceExhausted);
    assert_eq!(running.refused(Call::SignServerKeyExchange, Some(RSA), Refusal::RateLimited), 1);
    // Another key of the same edge, and the same key of another.
    stream.send(3, running.ec()).await;
    assert!(matches!(stream.receive().await, (3, Reply::SignServerKeyExchange(_))));
    assert!(running.client(EDGE_TWO).sign_server_key_exchange(running.rsa()).await.is_ok());
}

#[tokio::test]
async fn leases_and_refusals_are_no_way_around_a_rate() {
    type Ask = fn(&Running) -> Option<Asked>;
    let ways: [(&str, Ask); 5] = [
        ("leases", |_| Some(Asked::LeaseRandoms(v1::LeaseRandomsRequest { count: 1 }))),
        ("nothing", |_| None),
        ("a malformed request", |_| Some(Asked::RecoverMasterSecret(v1::RecoverMasterSecretRequest::default()))),
        ("a foreign key", |running| {
            let request = v1::SignServerKeyExchangeRequest { key_id: vec![1; 32], ..running.ec() };
            Some(Asked::SignServerKeyExchange(request))
        }),
        ("another scheme", |running| Some(Asked::SignServerKeyExchange(running.request(EC, SignatureScheme::ED25519)))),
    ];
    let running = start(r#""rsa""#, "rate = 1\nburst = 60").await;
    let mut stream = running.exchange(EDGE_ONE).await;
    for number in 0.. {
        assert!(number < 1000, "refusals cost nothing");
        let (_, ask) = ways[number % ways.len()];
        let request = v1::ExchangeRequest { id: 1, operation: ask(&running), ..v1::ExchangeRequest::default() };
        stream.requests.send(request).await.unwrap();
        if let (_, Reply::Refusal(refusal)) = stream.receive().await
            && code(&refusal) == Code::ResourceExhausted
        {
            assert!(number >= 60, "{number}");
            break;
        }
    }
    // An emptied rate comes before every other reason, and holds for the other key too. A unit may come in meanwhile.
    for (what, ask) in ways {
        let request = v1::ExchangeRequest { id: 1, operation: ask(&running), ..v1::ExchangeRequest::default() };
        let mut is_refused = false;
        for _ in 0..10 {
            stream.requests.send(request.clone()).await.unwrap();
            if let (_, Reply::Refusal(refusal)) = stream.receive().await {
                is_refused |= code(&refusal) == Code::ResourceExhausted;
            }
        }
        assert!(is_refused, "{what}");
    }
    assert_eq!(stream.refusal(running.rsa()).await, Code::ResourceExhausted);
    let leases = start(r#"{ name = "rsa", rate = 1, burst = 30 }"#, "").await;
    let mut given = 0;
    while leases.leased().await.is_ok() {
        given += 1;
        assert!(given < 300, "leases of a key with a rate cost nothing");
    }
    assert!(given >= 30);
}

/// The identities told, until `wanted` fits.
async fn told(events: &mut Streaming<v1::WatchEvent>, wanted: impl Fn(&[v1::Identity]) -> bool) -> Vec<v1::Identity> {
    let search = async {
        loop {
            if let Event::Identities(told) = events.message().await.unwrap().unwrap().event.unwrap()
                && wanted(&told.identities)
            {
                return told.identities;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), search).await.unwrap()
}

#[tokio::test]
async fn an_edge_is_told_what_its_policy_allows() {
    let entry = r#"{ name = "rsa", operations = ["sign_server_key_exchange"], schemes = ["rsa_pkcs1_sha256"] }"#;
    let running = start(entry, "").await;
    let mut events = running.client(EDGE_ONE).watch(v1::WatchRequest::default()).await.unwrap().into_inner();
    let identities = told(&mut events, |told| told.len() == 2).await;
    let schemes = |identity: &v1::Identity| identity.signature_schemes.clone();
    assert_eq!(schemes(&identities[0]), [u32::from(SignatureScheme::ECDSA_SECP256R1_SHA256.0)]);
    assert_eq!(schemes(&identities[1]), [u32::from(SignatureScheme::RSA_PKCS1_SHA256.0)]);
    assert!(!identities[1].danger_rsa_key_transport);

    running.load(&configuration(r#"{ name = "rsa", operations = ["recover_master_secret"] }"#, ""));
    let identities = told(&mut events, |told| told[1].danger_rsa_key_transport).await;
    assert!(schemes(&identities[1]).is_empty());
}

fn in_time(span: Duration) -> String {
    humantime::format_rfc3339_millis(SystemTime::now() + span).to_string()
}

#[tokio::test]
async fn a_key_is_withdrawn_when_its_time_is_over() {
    let end = in_time(Duration::from_secs(8));
    let running = start(&format!("{{ name = \"rsa\", not_after = \"{end}\" }}"), "").await;
    let mut events = running.client(EDGE_ONE).watch(v1::WatchRequest::default()).await.unwrap().into_inner();
    told(&mut events, |told| told.len() == 2).await;
    let mut stream = running.exchange(EDGE_ONE).await;
    stream.send(1, running.rsa()).await;
    assert!(matches!(stream.receive().await, (1, Reply::SignServerKeyExchange(_))));
    let request = running.recovery(&running.leased().await.unwrap());

    let left = told(&mut events, |told| told.len() == 1).await;
    assert_eq!(left[0].name, "ec");
    assert_eq!(stream.refusal(running.rsa()).await, Code::PermissionDenied);
    assert_eq!(running.refused(Call::SignServerKeyExchange, Some(RSA), Refusal::RightsExpired), 1);
    assert_eq!(running.leased().await.err(), Some(Code::PermissionDenied));
    let recovered = running.client(EDGE_ONE).recover_master_secret(request).await;
    assert_eq!(recovered.unwrap_err().code(), Code::PermissionDenied);
    stream.send(2, running.ec()).await;
    assert!(matches!(stream.receive().await, (2, Reply::SignServerKeyExchange(_))));
}

#[tokio::test]
async fn an_edge_is_sent_away_when_its_time_is_over_and_its_leases_die() {
    let end = in_time(Duration::from_secs(8));
    let running = start(r#""rsa""#, &format!("not_after = \"{end}\"")).await;
    let mut events = running.client(EDGE_ONE).watch(v1::WatchRequest::default()).await.unwrap().into_inner();
    told(&mut events, |told| told.len() == 2).await;
    let mut stream = running.exchange(EDGE_ONE).await;
    let request = running.recovery(&running.leased().await.unwrap());

    // Without a request of its own: it is sent away.
    let ended = tokio::time::timeout(Duration::from_secs(20), stream.replies.message()).await.unwrap();
    let ended = ended.unwrap_err();
    assert_eq!((ended.code(), ended.message()), (Code::PermissionDenied, Refusal::RightsExpired.message()));
    while let Ok(event) = events.message().await {
        assert!(event.is_some(), "its watch ends with the reason");
    }
    assert_eq!(running.leased().await.err(), Some(Code::PermissionDenied));
    assert!(running.client(EDGE_TWO).sign_server_key_exchange(running.rsa()).await.is_ok());

    // An edge that comes back has none of the leases it had.
    running.load(&configuration(r#""rsa""#, ""));
    let mut client = running.client(EDGE_ONE);
    let back = async { while client.sign_server_key_exchange(running.ec()).await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(20), back).await.unwrap();
    let dead = client.recover_master_secret(request).await.unwrap_err();
    assert_eq!(dead.code(), Code::FailedPrecondition);
}

/// What is queued while `change` comes is refused with this reason, whatever it asks for.
async fn queued_is_refused(change: impl Fn(&Running, Grant) -> Authorizations, reason: Refusal) {
    let config = configuration(r#""rsa""#, "").replace("[limits]", "[limits]\nsigning_threads = 1");
    let running = Running::configured(&config).await;
    let files = Files::new();
    files.add_key("stuck", Kind::P256);
    let (stuck, entered, hold) = Stuck::new();
    let light = files.load_key("stuck", keystead_program::crypto::Crypto::Fast, None).unwrap();
    let light = Grant::whole(Arc::new(light.kept_by(|_| Box::new(stuck))));
    let stuck_id = light.key().key_id().0.to_vec();
    let group = || TicketGroup::new(GroupName::default(), []);
    let table = |grants: Vec<Grant>| [(EDGE_ONE.parse().unwrap(), Rights::new(grants, group()))].into_iter().collect();
    let ec = Grant::whole(running.keys[EC].clone());
    running.authorizations.send(Arc::new(table(vec![light.clone(), ec]))).unwrap();

    let stream = running.exchange(EDGE_ONE).await;
    stream.send(0, v1::SignServerKeyExchangeRequest { key_id: stuck_id, ..running.ec() }).await;
    until("the thread is busy", || entered.load(std::sync::atomic::Ordering::SeqCst)).await;
    stream.send(1, running.ec()).await;
    until("the request waits", || running.metrics.lane(&"light".into()).queued.get() == 1).await;
    running.authorizations.send(Arc::new(change(&running, light))).unwrap();
    drop(hold);
    // A removed edge waits for nothing any more, since its stream has ended.
    let reasons = [reason, Refusal::CallerGone];
    let refused = || reasons.iter().any(|reason| running.refused(Call::SignServerKeyExchange, Some(EC), *reason) == 1);
    until("the queued request is refused", refused).await;
    assert_eq!(running.metrics.operations(Some(Call::SignServerKeyExchange), Some(&running.keys[EC]), Ok(())), 0);
}

#[tokio::test]
async fn what_is_queued_of_a_removed_edge_is_not_done() {
    queued_is_refused(|_, _| Authorizations::default(), Refusal::UnknownPeer).await;
}

#[tokio::test]
async fn what_is_queued_for_a_key_that_was_taken_away_is_not_done() {
    let change = |_: &Running, light| {
        let rights = Rights::new([light], TicketGroup::new(GroupName::default(), []));
        [(EDGE_ONE.parse().unwrap(), rights)].into_iter().collect()
    };
    queued_is_refused(change, Refusal::KeyNotAllowed).await;
}

#[tokio::test]
async fn what_is_queued_for_what_is_forbidden_since_is_not_done() {
    let change = |running: &Running, light| {
        let names = Some(vec![ServerName::None]);
        let config = GrantConfig { server_names: names, ..GrantConfig::from("ec") };
        let narrower = Grant::new(&config, running.keys[EC].clone()).unwrap();
        let rights = Rights::new([light, narrower], TicketGroup::new(GroupName::default(), []));
        [(EDGE_ONE.parse().unwrap(), rights)].into_iter().collect()
    };
    queued_is_refused(change, Refusal::ServerNameNotAllowed).await;
}

#[tokio::test]
async fn a_key_taken_from_an_edges_list_is_refused_for_the_next_request() {
    let running = start(r#""rsa""#, "").await;
    let mut events = running.client(EDGE_ONE).watch(v1::WatchRequest::default()).await.unwrap().into_inner();
    let mut stream = running.exchange(EDGE_ONE).await;
    let request = running.recovery(&running.leased().await.unwrap());
    running.load(&configuration(r#""rsa""#, "").replacen(r#"keys = ["ec", "rsa"]"#, r#"keys = ["ec"]"#, 1));
    told(&mut events, |told| told.len() == 1).await;
    assert_eq!(stream.refusal(running.rsa()).await, Code::PermissionDenied);
    let recovered = running.client(EDGE_ONE).recover_master_secret(request).await;
    assert_eq!(recovered.unwrap_err().code(), Code::PermissionDenied);
    stream.send(2, running.ec()).await;
    assert!(matches!(stream.receive().await, (2, Reply::SignServerKeyExchange(_))));
}

#[tokio::test]
async fn loading_the_configuration_again_fills_up_no_rate() {
    let entry = r#"{ name = "rsa", rate = 1, burst = 60 }"#;
    let running = start(entry, "").await;
    let mut stream = running.exchange(EDGE_ONE).await;
    for _ in 0..2 {
        stream.send(0, running.rsa()).await;
        assert!(matches!(stream.receive().await, (0, Reply::SignServerKeyExchange(_))));
    }
    let mut events = running.client(EDGE_ONE).watch(v1::WatchRequest::default()).await.unwrap().into_inner();
    told(&mut events, |told| told.len() == 2).await;
    running.load(&format!("{}\n# loaded again", configuration(entry, "")));
    told(&mut events, |told| told.len() == 2).await;
    assert_eq!(stream.refusal(running.rsa()).await, Code::ResourceExhausted);
}
