//! Randoms leased beforehand, and the master secrets asked for with them.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use keystead_edge::config::Config;
use keystead_edge::key_client::{KeyClient, Lessor, Recovery};
use keystead_edge::virtual_host::HostTemplate;
use keystead_tls::handshake::{Lease, MasterSecretRequest};
use keystead_tls::{Identity, KeyId, KeyServerFailure, SignatureScheme};
use tokio::time::Instant;
use tonic::Code;

use super::key_server::Conduct;
use super::stack::{Options, Stack};

fn key_client(stack: &Stack) -> &KeyClient {
    &stack.connections.handshakes.key_client
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

async fn lease(stack: &Stack) -> Result<(Lease, Lessor), KeyServerFailure> {
    key_client(stack).lease(stack.key_id(), soon()).await
}

async fn recover(
    stack: &Stack,
    lease: &Lease,
    lessor: &Lessor,
    handshake_messages: &[u8],
) -> Result<Recovery, KeyServerFailure> {
    let certified = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
    let chain = vec![certified.cert.der().to_vec()];
    let identity = Arc::new(Identity::new(chain, SignatureScheme::KNOWN, None).unwrap());
    let (identity, finished_record) = (&identity, &[0; 45]);
    let request = MasterSecretRequest { identity, lease, handshake_messages, finished_record, server_name: None };
    key_client(stack).recover(&request, lessor, soon()).await
}

/// Of hosts with RSA key transport.
fn options() -> Options {
    Options { connections: 1, host_lines: "danger_rsa_key_transport = true".to_owned(), ..Options::default() }
}

#[tokio::test]
async fn leases_are_there_before_the_first_is_needed() {
    let stack = Stack::start(options()).await;
    stack.until_metric("leases_ready", 512).await;
    lease(&stack).await.unwrap();
    assert_eq!((stack.telemetry.leases.taken.get(), stack.telemetry.leases.waited.get()), (1, 0));
}

#[tokio::test]
async fn a_configuration_that_brings_key_transport_brings_leases() {
    let stack = Stack::start(Options { connections: 1, ..Options::default() }).await;
    let file = stack.directory.path().join("edge.toml");
    let text = std::fs::read_to_string(&file).unwrap() + "danger_rsa_key_transport = true\n";
    std::fs::write(&file, text).unwrap();
    let hosts = Config::load(&file).unwrap().hosts;
    stack
        .connections
        .handshakes
        .directory
        .replace(hosts.into_iter().map(|host| HostTemplate::new(host, &stack.pool)).collect());
    stack.until_metric("leases_ready", 512).await;
}

#[tokio::test]
async fn no_leases_are_asked_for_that_no_host_needs() {
    let stack = Stack::start(Options::default()).await;
    let (_client, _backend) = stack.connect().await;
    assert_eq!(stack.telemetry.leases.ready.get(), 0);
}

#[tokio::test]
async fn leases_never_run_dry_and_are_used_once() {
    let stack = Stack::start(options()).await;
    stack.until_metric("leases_ready", 512).await;
    let mut seen = HashSet::new();
    for number in 0..1600 {
        let (lease, _) = lease(&stack).await.unwrap();
        assert!(seen.insert(lease.server_random));
        if number % 4 == 0 {
            // So that the rest of a reserve lasts for a second, though the machine may be busy.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    assert_eq!((stack.telemetry.leases.taken.get(), stack.telemetry.leases.waited.get()), (1600, 0));
}

#[tokio::test]
async fn batches_that_fail_for_a_while_fail_no_handshake_that_has_time() {
    let stack = Arc::new(Stack::start(Options { connections: 1, ..Options::default() }).await);
    stack.key_servers[0].conduct(Conduct::Refuse(Code::ResourceExhausted));
    let begin = |_| {
        let stack = stack.clone();
        tokio::spawn(async move { lease(&stack).await.map(|_| ()) })
    };
    let waiting: Vec<_> = (0..20).map(begin).collect();
    let refused = || stack.key_servers[0].asked.load(Ordering::SeqCst) >= 3;
    stack.until("the batch is asked for again", refused).await;
    stack.key_servers[0].conduct(Conduct::Sign);
    for waited in waiting {
        assert_eq!(waited.await.unwrap(), Ok(()));
    }
    assert!(stack.metrics().contains("lease_failures_total{reason=\"overloaded\"}"));
}

#[tokio::test]
async fn leases_and_signatures_come_from_who_holds_the_key() {
    let stack = Stack::start(Options { key_servers: 3, without_key: 2, connections: 1, ..Options::default() }).await;
    for _ in 0..20 {
        let (lease, lessor) = lease(&stack).await.unwrap();
        assert!(matches!(recover(&stack, &lease, &lessor, &[]).await, Ok(Recovery::MasterSecret(_))));
        stack.connect().await;
    }
    for other in &stack.key_servers[..2] {
        assert_eq!(other.asked.load(Ordering::SeqCst), 0);
    }
    assert_eq!(stack.telemetry.key_server_retries.get(), 0);
}

#[tokio::test]
async fn nobody_is_asked_for_a_lease_for_a_key_that_nobody_holds() {
    let stack = Stack::start(options()).await;
    stack.until_metric("leases_ready", 512).await;
    let failure = key_client(&stack).lease(KeyId([0; 32]), soon()).await.unwrap_err();
    assert_eq!(failure, KeyServerFailure::NotAuthorised);
}

#[tokio::test]
async fn a_lease_that_one_key_server_does_not_give_another_gives() {
    for conduct in [Conduct::Refuse(Code::PermissionDenied), Conduct::Refuse(Code::ResourceExhausted), Conduct::Ignore]
    {
        let stack = Stack::start(Options { key_servers: 2, connections: 1, ..Options::default() }).await;
        stack.key_servers[0].conduct(conduct);
        for _ in 0..4 {
            let (lease, lessor) = lease(&stack).await.unwrap();
            assert!(
                matches!(recover(&stack, &lease, &lessor, &[]).await, Ok(Recovery::MasterSecret(_))),
                "{conduct:?}"
            );
        }
    }
}

#[tokio::test]
async fn leases_are_asked_for_again_no_more_often_than_the_budget_allows() {
    let key_server_lines = "max_in_flight_per_key = 4\nretry_budget = 0.0";
    let options = Options { key_servers: 2, connections: 1, key_server_lines, ..Options::default() };
    let stack = Stack::start(options).await;
    stack.key_servers.iter().for_each(|key_server| key_server.conduct(Conduct::Refuse(Code::PermissionDenied)));
    for leased in join_all((0..10).map(|_| lease(&stack))).await {
        assert_eq!(leased.unwrap_err(), KeyServerFailure::NotAuthorised);
    }
    assert_eq!((stack.telemetry.key_server_retries.get(), stack.telemetry.tries.retries_denied.get()), (4, 6));
}

#[tokio::test]
async fn who_leased_is_asked_for_the_master_secret() {
    let stack = Stack::start(Options { key_servers: 2, connections: 1, ..Options::default() }).await;
    // More than both hold in one reserve each, so that both are used.
    for _ in 0..20 {
        let (lease, lessor) = lease(&stack).await.unwrap();
        let recovered = recover(&stack, &lease, &lessor, &[0; 1000]).await.unwrap();
        let Recovery::MasterSecret(secret) = recovered else { panic!("refused") };
        assert!(secret.expose().starts_with(&lease.server_random));
        assert!(matches!(recover(&stack, &lease, &lessor, &[]).await, Ok(Recovery::Refused)), "spent");
    }
    stack.until_metric("recoveries_total{outcome=\"recovered\"}", 20).await;
    stack.until_metric("recoveries_total{outcome=\"refused\"}", 20).await;
}

#[tokio::test]
async fn an_outage_is_no_refusal() {
    let options = Options { key_server_timeout: Duration::from_secs(2), connections: 1, ..Options::default() };
    let stack = Stack::start(options).await;
    let (lease, lessor) = lease(&stack).await.unwrap();
    stack.key_servers[0].conduct(Conduct::Refuse(Code::ResourceExhausted));
    assert_eq!(recover(&stack, &lease, &lessor, &[]).await.unwrap_err(), KeyServerFailure::Overloaded);
    stack.key_servers[0].conduct(Conduct::Ignore);
    assert_eq!(recover(&stack, &lease, &lessor, &[]).await.unwrap_err(), KeyServerFailure::NoAnswer);
    stack.key_servers[0].conduct(Conduct::Refuse(Code::FailedPrecondition));
    assert!(matches!(recover(&stack, &lease, &lessor, &[]).await, Ok(Recovery::Refused)));
}

#[tokio::test]
async fn a_request_too_long_for_the_key_server_leaves_the_connection_standing() {
    let stack = Stack::start(Options { connections: 1, ..Options::default() }).await;
    let (lease, lessor) = lease(&stack).await.unwrap();
    let messages = vec![0; keystead_proto::MAX_REQUEST];
    assert_eq!(recover(&stack, &lease, &lessor, &messages).await.unwrap_err(), KeyServerFailure::Refused);
    assert!(matches!(recover(&stack, &lease, &lessor, &[]).await, Ok(Recovery::MasterSecret(_))));
}

#[tokio::test]
async fn a_lost_connection_takes_its_leases_along() {
    let mut stack = Stack::start(Options { connections: 1, ..Options::default() }).await;
    let (old, lessor) = lease(&stack).await.unwrap();
    let address = stack.kill_key_server(0).await;
    assert!(stack.telemetry.leases.dropped.get() > 0);
    assert_eq!(lease(&stack).await.unwrap_err(), KeyServerFailure::Unreachable);
    stack.start_key_server(address);
    stack.until("ready", || stack.readiness.is_ready()).await;
    assert_eq!(recover(&stack, &old, &lessor, &[]).await.unwrap_err(), KeyServerFailure::Unreachable);
    let (new, lessor) = lease(&stack).await.unwrap();
    assert!(matches!(recover(&stack, &new, &lessor, &[]).await, Ok(Recovery::MasterSecret(_))));
}

#[tokio::test]
async fn a_key_server_that_leases_nothing_fails_those_who_wait() {
    let stack = Stack::start(Options { connections: 1, ..Options::default() }).await;
    stack.key_servers[0].conduct(Conduct::Refuse(Code::PermissionDenied));
    assert_eq!(lease(&stack).await.unwrap_err(), KeyServerFailure::NotAuthorised);
    stack.key_servers[0].conduct(Conduct::Sign);
    assert!(lease(&stack).await.is_ok());
}

#[tokio::test]
async fn a_key_server_about_to_stop_is_left_once_no_handshake_has_a_lease_of_its() {
    let stack = Stack::start(Options { connections: 1, ..Options::default() }).await;
    let (lease, lessor) = lease(&stack).await.unwrap();
    stack.key_servers[0].announce_drain();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(matches!(recover(&stack, &lease, &lessor, &[]).await, Ok(Recovery::MasterSecret(_))));
    assert_eq!(stack.telemetry.leases.dropped.get(), 0);
    drop(lessor);
    stack.until("it is left", || stack.telemetry.leases.dropped.get() > 0).await;
}
