//! Configurations, and the files they name, that change while edge and key server run.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use keystead_tests::client_authority::ClientAuthority;
use keystead_tests::over::TellsOver;
use keystead_tests::rustls_client::{Connection, config, config_with_certificate, connect, connect_to, fetch};
use keystead_tests::stack::pki::{Renewed, renew};
use keystead_tests::stack::{CLIENT_AUTHORITIES, Edge, Host, KeyType, Stack, wait_until};
use rcgen::SerialNumber;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use rustls_pki_types::CertificateDer;

fn reloads(stack: &Stack, outcome: &str) -> i64 {
    stack.edge().metric("keystead_edge_reloads_total", &[("outcome", outcome)])
}

fn shown(connection: &Connection) -> CertificateDer<'static> {
    connection.conn.peer_certificates().unwrap().first().unwrap().clone()
}

/// Runs `meanwhile` while clients make one full handshake after another, each of which must succeed. Returns how many there
/// were behind it, so that what it brought about was in use.
fn while_clients_come<T>(edge: &Edge, meanwhile: impl FnOnce() -> T) -> T {
    let (over, made) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let clients: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        let mut connection = connect(edge, config())?;
                        fetch(&mut connection)?;
                        made.fetch_add(1, Ordering::Relaxed);
                    }
                    std::io::Result::Ok(())
                })
            })
            .collect();
        let more = |count: usize| {
            let before = made.load(Ordering::Relaxed);
            let failed = || clients.iter().any(thread::ScopedJoinHandle::is_finished);
            wait_until("clients come", || failed() || made.load(Ordering::Relaxed) >= before + count);
        };
        let is_over = TellsOver(&over);
        more(20);
        let done = meanwhile();
        more(20);
        drop(is_over);
        clients.into_iter().for_each(|client| client.join().unwrap().unwrap());
        done
    })
}

#[test]
fn an_edge_takes_changed_hosts_and_keeps_the_last_good_ones() {
    let stack = Stack::start();
    let file = stack.directory().join("edge-one/edge.toml");
    let before = fs::read_to_string(&file).unwrap();
    let mut standing = connect(stack.edge(), config()).unwrap();

    fs::write(&file, before.replace("default = true", "default = false")).unwrap();
    wait_until("the change is applied", || reloads(&stack, "applied") == 1);
    assert!(connect_to(stack.edge(), config(), "other.example").is_err());
    assert_eq!(stack.edge().failures("unrecognized_name"), 1);
    assert!(connect(stack.edge(), config()).is_ok());

    fs::write(&file, before.replace("default = true", "defualt = true")).unwrap();
    wait_until("the change is refused", || reloads(&stack, "refused") == 1);
    assert_eq!(stack.edge().metric("keystead_edge_configuration_refused", &[]), 1);
    assert!(stack.edge().process.is_ready());
    assert!(connect(stack.edge(), config()).is_ok());

    // The connection from before goes on.
    assert!(fetch(&mut standing).unwrap().contains("200 OK"));
}

#[test]
fn a_key_is_replaced_with_its_certificate_while_clients_come() {
    let mut stack = Stack::builder().keys(&[KeyType::P256]).start();
    let stem = stack.directory().join("keyserver").join(KeyType::P256.stem());
    let replaced = while_clients_come(stack.edge(), || {
        let certificate = renew(&stem, Renewed::Served);
        wait_until("clients are shown it", || shown(&connect(stack.edge(), config()).unwrap()) == certificate);
        certificate
    });
    assert_eq!(stack.edge().metric("keystead_edge_handshake_failures_total", &[]), 0);

    // A key alone is none of the certificate's: both stay what they were, and it is said which file is wrong.
    let (key, kept) = (stem.with_extension("key"), fs::read(stem.with_extension("key")).unwrap());
    renew(&stack.directory().join("keyserver/other"), Renewed::Served);
    fs::copy(stack.directory().join("keyserver/other.key"), &key).unwrap();
    let refused = |stack: &mut Stack| stack.key_server().metric("keystead_keyserver_configuration_refused", &[]);
    wait_until("it is refused", || refused(&mut stack) == 1);
    assert!(stack.key_server().log().contains(&format!("{} is not the private key of", key.display())));
    assert!(stack.key_server().is_ready());
    assert_eq!(shown(&connect(stack.edge(), config()).unwrap()), replaced);

    fs::write(&key, kept).unwrap();
    wait_until("it is repaired", || refused(&mut stack) == 0);
    assert!(connect(stack.edge(), config()).is_ok());
}

#[test]
fn the_channels_certificates_are_renewed_while_clients_come() {
    let mut stack = Stack::start();
    let standing = || stack.edge().key_server_connections();
    let told = || stack.edge().process.log().matches("connected to the key server").count();
    // Readiness takes one alone.
    wait_until("both connections stand", || standing() == 2 && told() >= 2);
    let before = told();
    let (edge, key_server) = (stack.directory().join("edge-one/channel"), stack.directory().join("keyserver/channel"));
    while_clients_come(stack.edge(), || {
        renew(&key_server, Renewed::KeyServer);
        let applied = || key_server_log(&stack).contains("configuration loaded");
        wait_until("the key server has taken it", applied);
        renew(&edge, Renewed::Edge("one"));
        // Two connections, one after the other, each made with both sides' certificates of now.
        wait_until("the edge's connections have moved over", || told() == before + 2 && standing() == 2);
    });
    assert_eq!(stack.edge().metric("keystead_edge_handshake_failures_total", &[]), 0);
    assert_eq!(stack.edge().metric("keystead_edge_key_server_failures_total", &[]), 0);
    assert_eq!(stack.key_server().metric("keystead_keyserver_reloads_total", &[("outcome", "refused")]), 0);
}

fn key_server_log(stack: &Stack) -> String {
    fs::read_to_string(stack.directory().join("keyserver.log")).unwrap()
}

#[test]
fn a_revocation_that_cannot_be_read_is_applied_once_it_can_be() {
    let mut stack = Stack::start();
    let pid = Pid::from_raw(stack.key_server().pid().try_into().unwrap());
    let none = Rlimit { current: Some(0), ..getrlimit(Resource::Nofile) };
    let before = prlimit(pid, Resource::Nofile, none).unwrap();
    stack.edit("keyserver/keyserver.toml", |text| text.replace("[[edge]]", "[[edge]]\nrevoked = true"));
    let told = || key_server_log(&stack).matches("configuration not loaded").count();
    wait_until("it finds no descriptor to read with", || told() > 0);
    // Tries that come to the same are not told of.
    thread::sleep(Duration::from_secs(4));
    assert_eq!(told(), 1);
    prlimit(pid, Resource::Nofile, before).unwrap();
    wait_until("it is applied, with nothing changed", || key_server_log(&stack).contains("configuration loaded"));
    assert_eq!(told(), 1);
}

#[test]
fn a_replaced_revocation_list_holds_for_the_next_handshake() {
    let authority = ClientAuthority::new("clients");
    let host = Host::new("localhost").default().client_auth("required", &["revocation_lists = [\"clients.crl\"]"]);
    let stack = Stack::builder()
        .host(host)
        .edge_file(CLIENT_AUTHORITIES, authority.pem.clone())
        .edge_file("clients.crl", authority.revocation_list(&[]))
        .start();
    let client = authority.certify("client.example", stack.directory(), |parameters| {
        parameters.serial_number = Some(SerialNumber::from(7));
    });
    let come_in =
        || connect(stack.edge(), config_with_certificate(&client)).and_then(|mut connection| fetch(&mut connection));
    assert!(come_in().unwrap().contains("200 OK"));

    stack.edit("edge-one/clients.crl", |_| authority.revocation_list(&[7]));
    wait_until("the client is refused", || come_in().is_err());
    assert!(stack.edge().failures("certificate_revoked") > 0);
    // Nothing else was loaded for it.
    assert_eq!(reloads(&stack, "applied") + reloads(&stack, "refused"), 0);

    // Whoever another authority certifies comes in as soon as that one is trusted, and nobody else.
    let other = ClientAuthority::new("others");
    let stranger = other.certify("stranger.example", stack.directory(), |_| ());
    stack.edit(&format!("edge-one/{CLIENT_AUTHORITIES}"), |_| other.pem.clone());
    stack.edit("edge-one/clients.crl", |_| other.revocation_list(&[]));
    wait_until("the other authority is trusted", || {
        connect(stack.edge(), config_with_certificate(&stranger))
            .and_then(|mut connection| fetch(&mut connection))
            .is_ok()
    });
    assert!(come_in().is_err());
}
