//! What goes on record of requests that came to nothing, over the channel.

use std::collections::HashSet;

use keystead_tls::handshake::Lease;
use rand_core::CryptoRng;
use serde_json::Value;

use super::key_transport::until;
use super::*;
use crate::audit::signing_key::SigningKey;
use crate::custody::{Custody, KeyFault};
use crate::fixture::key_transport::{self, Conversation, Form};
use crate::operation::recover_master_secret::RecoverMasterSecret;

/// More than are on record singly of what costs nothing.
const MANY: usize = 100;

/// A key server with an audit log, whose key `rsa` is for key transport.
async fn start() -> Running {
    let chain = "certificate_chain = \"rsa.pem\"";
    let config = CONFIG.replace(chain, &format!("{chain}\ndanger_rsa_key_transport = true"));
    let audit = "[audit]\ndirectory = \"log\"\nsigning_key = \"audit.key\"\n";
    let with_key = |files: &Files| drop(SigningKey::create(&files.path().join("audit.key")).unwrap());
    Running::with(&format!("{audit}{config}"), with_key).await
}

impl Running {
    /// The records of requests with this outcome, sums among them.
    fn recorded(&self, outcome: &str) -> Vec<Value> {
        let files = std::fs::read_dir(self.files.path().join("log")).unwrap().map(|entry| entry.unwrap().path());
        let files = files.filter(|file| file.extension().is_some_and(|end| end == "jsonl"));
        let texts: String = files.map(|file| std::fs::read_to_string(file).unwrap()).collect();
        let records = texts.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        records.filter(|record| record["outcome"] == outcome).collect()
    }

    /// Waits for `count` requests with this outcome to be on record.
    async fn on_record(&self, outcome: &str, count: usize) -> Vec<Value> {
        let all = || self.recorded(outcome).iter().map(|record| record["count"].as_u64().unwrap_or(1)).sum::<u64>();
        until(outcome, || all() >= count as u64).await;
        self.recorded(outcome)
    }

    /// A request that comes to nothing once the private key was used.
    fn in_vain(&self, lease: &v1::Lease) -> v1::RecoverMasterSecretRequest {
        let server_random = lease.server_random.as_slice().try_into().unwrap();
        let lease = Lease { server_random, token: lease.token.clone() };
        let mut request = Conversation::good(Form::PLAIN, &self.keys[1], &lease).request();
        request.finished_record[44] ^= 1;
        let RecoverMasterSecret { lease, handshake_messages, finished_record } = request;
        // The edge's word. What its client asked for stands in the messages.
        let (key_id, server_name) = (self.keys[1].key_id().0.to_vec(), "other.example".to_owned());
        v1::RecoverMasterSecretRequest { key_id, lease, handshake_messages, finished_record, server_name }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn each_use_of_a_private_key_that_came_to_nothing_has_a_record_of_its_own() {
    let running = start().await;
    let mut client = running.client(EDGE_ONE);
    let leases = client.lease_randoms(v1::LeaseRandomsRequest { count: MANY as u32 }).await.unwrap().into_inner();
    for lease in &leases.leases {
        let request = running.in_vain(lease);
        assert_eq!(client.recover_master_secret(request).await.unwrap_err().code(), Code::FailedPrecondition);
    }
    let records = running.on_record("key_transport_refused", MANY).await;
    assert_eq!(records.len(), MANY);
    let randoms: HashSet<_> = records.iter().map(|record| record["server_random"].as_str().unwrap()).collect();
    assert_eq!(
        randoms,
        leases
            .leases
            .iter()
            .map(|lease| hex(&lease.server_random))
            .collect::<Vec<_>>()
            .iter()
            .map(String::as_str)
            .collect()
    );
    for record in &records {
        assert_eq!((&record["key"], &record["server_name"]), (&"rsa".into(), &"localhost".into()), "{record}");
    }

    // What no private key was used for is summed up, for all the places it had.
    let spent = running.in_vain(&leases.leases[0]);
    for _ in 0..MANY {
        assert!(client.recover_master_secret(spent.clone()).await.is_err());
    }
    let records = running.on_record("key_transport_refused", 2 * MANY).await;
    assert!(records.iter().any(|record| record["event"] == "requests"), "a flood is summed up");
}

/// A key that fails.
struct Failing;

impl Custody for Failing {
    fn sign(&self, _: SignatureScheme, _: &[u8], _: &mut dyn CryptoRng) -> Result<Vec<u8>, KeyFault> {
        Err(KeyFault::Failed)
    }

    fn raw_rsa(&self, _: &[u8]) -> Result<zeroize::Zeroizing<Vec<u8>>, KeyFault> {
        Err(KeyFault::Failed)
    }
}

#[tokio::test]
async fn each_failure_of_a_private_key_has_a_record_of_its_own() {
    let running = start().await;
    let failing = Arc::new(key_transport::key().kept_by(|_| Box::new(Failing)));
    let rights = Rights::new([Grant::whole(failing)], TicketGroup::new(GroupName::default(), []));
    running.authorizations.send(Arc::new([(EDGE_ONE.parse().unwrap(), rights)].into_iter().collect())).unwrap();
    let mut client = running.client(EDGE_ONE);
    let leases = client.lease_randoms(v1::LeaseRandomsRequest { count: MANY as u32 }).await.unwrap().into_inner();
    for lease in &leases.leases {
        assert!(client.sign_server_key_exchange(running.rsa()).await.is_err());
        assert!(client.recover_master_secret(running.in_vain(lease)).await.is_err());
    }
    for outcome in ["signing_failed", "recovery_failed"] {
        let records = running.on_record(outcome, MANY).await;
        assert_eq!(records.len(), MANY, "{outcome}");
        let is_whole = |record: &Value| {
            let random = record["server_random"].as_str().is_some_and(|random| random.len() == 64);
            random && record["server_name"] == "localhost" && record["key_id"].is_string()
        };
        assert!(records.iter().all(is_whole), "{outcome}");
    }
}

#[tokio::test]
async fn messages_that_cannot_be_read_are_on_record() {
    let running = start().await;
    let long = || v1::SignServerKeyExchangeRequest { public: vec![4; keystead_proto::MAX_REQUEST], ..running.ec() };
    let mut stream = running.exchange(EDGE_ONE).await;
    stream.send(1, long()).await;
    assert_eq!(stream.replies.message().await.unwrap_err().code(), Code::OutOfRange);
    let records = running.on_record("malformed_request", 1).await;
    assert_eq!((&records[0]["peer"], &records[0]["operation"]), (&EDGE_ONE.into(), &"none".into()));

    // Its status, or the reset of what was still to be sent.
    running.client(EDGE_TWO).sign_server_key_exchange(long()).await.unwrap_err();
    let records = running.on_record("malformed_request", 2).await;
    assert_eq!((&records[1]["peer"], &records[1]["operation"]), (&EDGE_TWO.into(), &"none".into()));
    assert_eq!(running.metrics.operations(None, None, Err(Refusal::MalformedRequest)), 2);

    // What a connection does is nobody's message; what the service has refused is on record once.
    drop(running.exchange(EDGE_ONE).await);
    assert!(running.client(EDGE_TWO).sign_server_key_exchange(running.ec()).await.is_err());
    running.on_record("key_not_allowed", 1).await;
    assert_eq!(running.recorded("malformed_request").len(), 2);
}
