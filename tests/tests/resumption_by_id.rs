//! Clients without tickets, whose sessions the edges keep: each on its own, and together in a store that they share.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use keystead_tests::client::plain_record;
use keystead_tests::python_client::Python;
use keystead_tests::returning::{Openssl, Returning, Rustls, Scripted};
use keystead_tests::stack::{Builder, Edge, Host, Signal, Stack, wait_until};
use keystead_tests::tool::is_installed;
use keystead_tests::twice::{curl, full_handshakes, gnutls, nss, twice};
use keystead_tests::wire::Wire;
use keystead_tls::ContentType;

/// Two edges, each with its own sessions.
fn fleet() -> Builder {
    // A busy machine is not what these tests are about.
    Stack::builder().edges(2).tickets("1h").session_line("local = { lookup_timeout = \"2s\" }")
}

/// Two edges that share their sessions; `None` without a server for it.
fn sharing_fleet() -> Option<Builder> {
    is_installed("redis-server", "redis-server").then(|| fleet().share_sessions())
}

fn edges(stack: &Stack) -> [&Edge; 2] {
    let [one, two] = stack.edges() else { panic!("two edges") };
    [one, two]
}

/// A client of each kind that can wait between visits.
fn clients(stack: &Stack) -> Vec<Box<dyn Returning>> {
    let mut clients: Vec<Box<dyn Returning>> =
        vec![Box::new(Rustls::without_tickets("localhost")), Box::new(Scripted::without_tickets("localhost"))];
    if is_installed("python3", "python3") {
        clients.push(Box::new(Python::without_tickets(stack, "localhost")));
    }
    if is_installed("openssl", "openssl") {
        clients.push(Box::new(Openssl::new(stack, "localhost").with(&["-no_ticket"])));
    }
    clients
}

/// Clients with a session of the first edge each.
fn returning(stack: &Stack) -> Vec<Box<dyn Returning>> {
    let mut clients = clients(stack);
    for client in &mut clients {
        assert_eq!(client.resumes_by(stack.edge()), None);
    }
    stack.wait_for_shared_sessions();
    clients
}

// Each client, on the same edge and on the other.

#[test]
fn clients_come_back_to_the_edge_that_knows_them_and_are_strangers_at_the_other() {
    let stack = fleet().start();
    let [one, two] = edges(&stack);
    two.wait_for_local_sessions();
    for client in &mut clients(&stack) {
        assert_eq!(client.resumes_by(one), None);
        assert_eq!(client.resumes_by(one), Some("id"));
        client.misses(two, "not_found");
        assert_eq!(client.resumes_by(two), Some("id"));
    }
}

#[test]
fn clients_come_back_to_every_edge_that_shares_its_sessions() {
    let Some(fleet) = sharing_fleet() else { return };
    let stack = fleet.start();
    for client in &mut returning(&stack) {
        for _ in 0..2 {
            assert_eq!(client.resumes_by(&stack.edges()[0]), Some("id"));
            assert_eq!(client.resumes_by(&stack.edges()[1]), Some("shared"));
        }
    }
    assert_eq!(full_handshakes(&stack.edges()[1]), 0);
}

#[test]
fn curl_comes_back_to_both_edges() {
    if !is_installed("curl", "curl") {
        return;
    }
    // Its OpenSSL takes no tickets, since 2009.
    let Some(fleet) = sharing_fleet() else { return };
    twice(&fleet.start(), ["id", "shared"], curl);
}

#[test]
fn gnutls_comes_back_to_both_edges() {
    if !is_installed("gnutls-cli", "gnutls-bin") {
        return;
    }
    let Some(fleet) = sharing_fleet() else { return };
    twice(&fleet.start(), ["id", "shared"], |stack, address| gnutls(stack, address, ":%NO_TICKETS"));
}

#[test]
fn nss_comes_back_to_both_edges() {
    if !is_installed("tstclnt", "libnss3-tools") || !is_installed("certutil", "libnss3-tools") {
        return;
    }
    let Some(fleet) = sharing_fleet() else { return };
    twice(&fleet.start(), ["id", "shared"], |stack, address| nss(stack, address, &[]));
}

// After restarts, and without others.

#[test]
fn an_edge_that_was_stopped_in_order_still_knows_its_clients() {
    let mut stack = fleet().start();
    let mut clients = returning(&stack);
    stack.edge_mut().process.signal(Signal::TERM);
    assert!(stack.edge_mut().process.wait().success());
    stack.edge_mut().process.restart();
    stack.edge().wait_for_ticket_keys();
    stack.edge().wait_for_local_sessions();
    for client in &mut clients {
        assert_eq!(client.resumes_by(stack.edge()), Some("id"));
    }
    assert_eq!(full_handshakes(stack.edge()), 0);
}

#[test]
fn an_edge_that_was_killed_loses_sessions_at_the_most() {
    let mut stack = fleet().start();
    for _ in 0..3 {
        let mut clients = returning(&stack);
        stack.edge_mut().process.restart();
        stack.edge().wait_for_ticket_keys();
        for client in &mut clients {
            client.resumes_by(stack.edge());
            assert_eq!(client.resumes_by(stack.edge()), Some("id"));
        }
        assert_eq!(stack.edge().metric("keystead_edge_state_rebuilt_total", &[]), 0);
    }
}

#[test]
fn clients_of_an_edge_that_was_killed_come_back_to_the_other() {
    let Some(fleet) = sharing_fleet() else { return };
    let mut stack = fleet.start();
    let mut clients = returning(&stack);
    stack.edge_mut().process.kill();
    for client in &mut clients {
        assert_eq!(client.resumes_by(&stack.edges()[1]), Some("shared"));
    }
    stack.restart_with_session_store(0);
    stack.edge().wait_for_ticket_keys();
    for client in &mut clients {
        assert!(client.resumes_by(stack.edge()).is_some());
    }
}

#[test]
fn resumption_by_id_does_not_need_the_key_server() {
    let Some(fleet) = sharing_fleet() else { return };
    let mut stack = fleet.start();
    let mut clients = returning(&stack);
    stack.key_server().kill();
    for visit in 0..40 {
        let client = visit % clients.len();
        let by = clients[client].resumes_by(&stack.edges()[visit / 4 % 2]);
        assert_eq!(by, Some(["id", "shared"][visit / 4 % 2]), "visit {visit}");
    }
}

#[test]
fn sessions_outlive_a_restart_of_the_key_server() {
    let Some(fleet) = sharing_fleet() else { return };
    let mut stack = fleet.start();
    let mut clients = returning(&stack);
    stack.key_server().restart();
    stack.restart_with_session_store(1);
    stack.edges()[1].wait_for_ticket_keys();
    for client in &mut clients {
        assert_eq!(client.resumes_by(&stack.edges()[0]), Some("id"));
        assert_eq!(client.resumes_by(&stack.edges()[1]), Some("shared"));
    }
}

#[test]
fn without_the_shared_store_clients_of_other_edges_have_full_handshakes() {
    let Some(fleet) = sharing_fleet() else { return };
    let mut stack = fleet.start();
    let mut clients = returning(&stack);
    // It takes connections and answers nothing, which takes the time that a lookup has.
    stack.session_store().stop();
    let began = Instant::now();
    clients[0].misses(&stack.edges()[1], "shared_slow");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    stack.session_store().signal(Signal::CONT);
    stack.session_store().kill();
    let began = Instant::now();
    for client in clients.iter_mut().skip(1) {
        assert_eq!(client.resumes_by(&stack.edges()[1]), None);
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    // Each edge knows its own.
    for client in &mut clients {
        assert_eq!(client.resumes_by(&stack.edges()[1]), Some("id"));
    }
    // It begins anew, with what comes from then on.
    stack.session_store().restart();
    let mut client = Scripted::without_tickets("localhost");
    wait_until("sessions are shared again", || {
        client.saved = None;
        client.visit(&stack.edges()[0]);
        client.visit(&stack.edges()[1]).resumed
    });
}

// What ends.

#[test]
fn an_id_is_good_for_its_own_host_and_group_alone() {
    if !is_installed("openssl", "openssl") {
        return;
    }
    let Some(fleet) = sharing_fleet() else { return };
    let hosts = fleet.host(Host::new("one.keystead.test")).host(Host::new("two.keystead.test"));
    let stack = hosts.ticket_groups(&["paris", "rome"]).start();
    let [one, two] = edges(&stack);
    let mut client = Openssl::new(&stack, "one.keystead.test").with(&["-no_ticket"]);
    client.visit(one);
    stack.wait_for_shared_sessions();
    let mut elsewhere = Openssl::new(&stack, "two.keystead.test").with(&["-no_ticket"]).with_session_of(&client);
    elsewhere.misses(one, "unreadable");
    let mut in_rome = Openssl::new(&stack, "one.keystead.test").with(&["-no_ticket"]).with_session_of(&client);
    in_rome.misses(two, "foreign_id");
    assert_eq!(client.resumes_by(one), Some("id"));
}

#[test]
fn ids_that_no_edge_gave_are_none() {
    let stack = fleet().start();
    let mut client = Scripted::without_tickets("localhost");
    client.visit(stack.edge());
    for position in [0, 16, 31] {
        let mut other = client.clone();
        other.saved.as_mut().unwrap().session_id[position] ^= 0xa5;
        other.misses(stack.edge(), "foreign_id");
    }
    assert_eq!(client.resumes_by(stack.edge()), Some("id"));
}

/// RFC 5246 §7.2.2.
#[test]
fn a_session_ended_by_a_fatal_alert_is_not_gone_on_from_anywhere() {
    let Some(fleet) = sharing_fleet() else { return };
    let stack = fleet.start();
    let [one, two] = edges(&stack);
    let mut client = Scripted::without_tickets("localhost");
    client.visit(one);
    stack.wait_for_shared_sessions();
    let mut wire = Wire::with(one, client.offer.clone());
    wire.client = wire.client.coming_back_with(client.saved.as_ref().unwrap());
    assert_eq!(wire.go_on(), Ok(true));
    // No record that this connection's keys have sealed.
    wire.send(&plain_record(ContentType::APPLICATION_DATA, &[0; 64]));
    wire.read_to_end();
    wait_until("the connection has ended", || one.ended("bad_record_mac") == 1);
    client.clone().misses(one, "ended");
    wait_until("the other edge does not go on from it either", || !client.clone().visit(two).resumed);
}

#[test]
fn a_session_ends_with_its_generation() {
    let stack = fleet().tickets("4s").start();
    let mut client = Scripted::without_tickets("localhost");
    let first = stack.edge().within_a_generation(|| {
        client = Scripted::without_tickets("localhost");
        client.visit(stack.edge());
    });
    wait_until("the next generation", || stack.edge().generation() > first);
    assert_eq!(client.clone().resumes_by(stack.edge()), Some("id"));
    wait_until("the generation after it", || stack.edge().generation() > first + 1);
    assert_eq!(client.resumes_by(stack.edge()), None);
    assert_eq!(client.resumes_by(stack.edge()), Some("id"));
}
