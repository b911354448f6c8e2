//! Sessions that are not gone on from: each has a full handshake in its place, and a reason in the metric.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "what was measured")]

use std::time::{Duration, Instant};

use keystead_tests::client::plain_record;
use keystead_tests::client_authority::{ClientAuthority, ClientFiles};
use keystead_tests::returning::{Openssl, Returning, Rustls, Scripted};
use keystead_tests::stack::{Builder, CLIENT_AUTHORITIES, Edge, Host, Stack, wait_until};
use keystead_tests::tool::is_installed;
use keystead_tests::wire::Wire;
use keystead_tls::{Alert, AlertDescription, ContentType};
use rcgen::SerialNumber;

/// Two edges with tickets.
fn fleet() -> Builder {
    Stack::builder().edges(2).tickets("1h")
}

fn edges(stack: &Stack) -> [&Edge; 2] {
    let [one, two] = stack.edges() else { panic!("two edges") };
    [one, two]
}

/// A scripted client with a session of the first edge.
fn returning(stack: &Stack) -> Scripted {
    let mut client = Scripted::new("localhost");
    assert!(!client.resumes(stack.edge()));
    client
}

// The client.

#[test]
fn a_ticket_is_good_for_its_own_host_and_name_alone() {
    if !is_installed("openssl", "openssl") {
        return;
    }
    let stack = fleet().host(Host::new("*.keystead.test")).host(Host::new("localhost")).start();
    let mut client = Openssl::new(&stack, "one.keystead.test");
    client.visit(stack.edge());
    for edge in edges(&stack) {
        let mut at_another_host = Openssl::new(&stack, "localhost").with_session_of(&client);
        at_another_host.misses(edge, "unreadable");
        let mut by_another_name = Openssl::new(&stack, "two.keystead.test").with_session_of(&client);
        by_another_name.misses(edge, "other_server_name");
        assert!(client.resumes(edge));
        assert!(at_another_host.resumes(edge) && by_another_name.resumes(edge));
    }
}

#[test]
fn a_ticket_that_was_altered_or_cut_short_is_none() {
    let stack = fleet().start();
    let client = returning(&stack);
    let length = client.clone().ticket().len();
    for edge in edges(&stack) {
        // In the key's name, in the salt, in the session, in the tag.
        for (position, reason) in
            [(0, "unknown_generation"), (20, "unreadable"), (60, "unreadable"), (length - 1, "unreadable")]
        {
            let mut altered = client.clone();
            altered.ticket()[position] ^= 1;
            altered.misses(edge, reason);
            assert!(altered.resumes(edge), "with the ticket that it was given in the altered one's place");
        }
        for (rest, reason) in [
            (1, "unknown_generation"),
            (15, "unknown_generation"),
            (16, "unreadable"),
            (48, "unreadable"),
            (length - 1, "unreadable"),
        ] {
            let mut short = client.clone();
            short.ticket().truncate(rest);
            short.misses(edge, reason);
        }
        let mut long = client.clone();
        long.ticket().extend([0; 40]);
        long.misses(edge, "unreadable");
        assert!(client.clone().resumes(edge));
    }
}

#[test]
fn tickets_of_other_servers_are_none() {
    let (stack, other) = (fleet().start(), fleet().edges(1).start());
    let client = returning(&stack);
    // Of a fleet with a secret of its own.
    let mut of_another_fleet = returning(&other);
    of_another_fleet.misses(stack.edge(), "unknown_generation");
    for length in [1, 16, 192, 16_000] {
        let mut foreign = client.clone();
        *foreign.ticket() = vec![0xa5; length];
        foreign.misses(stack.edge(), "unknown_generation");
    }
}

#[test]
fn a_session_is_gone_on_from_only_with_its_suite() {
    if !is_installed("openssl", "openssl") {
        return;
    }
    let stack = fleet().start();
    let mut client = Openssl::new(&stack, "localhost").with(&["-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"]);
    client.visit(stack.edge());
    let [mut same, mut other] =
        ["ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384"]
            .map(|offered| Openssl::new(&stack, "localhost").with(&["-cipher", offered]).with_session_of(&client));
    let two = edges(&stack)[1];
    assert!(same.resumes(two));
    other.misses(two, "other_suite");
    assert!(other.resumes(two));
}

/// RFC 7627 §5.3.
#[test]
fn a_session_and_its_client_agree_about_the_extended_master_secret() {
    let stack = fleet().start();
    let mut without = Scripted::new("localhost");
    without.offer.extensions.extended_master_secret = false;
    without.visit(stack.edge());
    for edge in edges(&stack) {
        assert!(without.resumes(edge));
        let mut with = without.clone();
        with.offer.extensions.extended_master_secret = true;
        with.misses(edge, "no_extended_master_secret");
        assert!(with.resumes(edge));
        // It had the extension and leaves it out: not a client that may go on at all.
        let before = edge.failures("extended_master_secret_dropped");
        with.offer.extensions.extended_master_secret = false;
        assert_eq!(with.try_visit(edge).unwrap_err(), "alert handshake_failure");
        wait_until("it is counted", || edge.failures("extended_master_secret_dropped") == before + 1);
    }
}

#[test]
fn a_session_lives_from_its_full_handshake_on_however_often_it_is_used() {
    let stack = fleet().sessions("lifetime", "5s").start();
    let mut client = returning(&stack);
    let mut rustls = Rustls::new("localhost");
    rustls.visit(stack.edge());
    let began = Instant::now();
    let mut visits = 0;
    while client.clone().visit(edges(&stack)[visits % 2]).resumed {
        visits += 1;
        assert!(began.elapsed() < Duration::from_secs(20), "it lives on");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(visits > 0);
    let missed = |edge: &Edge| edge.misses("too_old");
    assert_eq!(stack.edges().iter().map(missed).sum::<i64>(), 1);
    client.misses(stack.edge(), "too_old");
    // It was told for how long the ticket is good, and may have thrown it away.
    wait_until("its session is too old as well", || !rustls.resumes(stack.edge()));
}

/// RFC 5246 §7.2.2.
#[test]
fn a_session_ended_by_a_fatal_alert_is_not_gone_on_from() {
    let stack = fleet().start();
    let client = returning(&stack);
    let edge = stack.edge();
    let mut wire = Wire::with(edge, client.offer.clone());
    wire.client = wire.client.coming_back_with(client.saved.as_ref().unwrap());
    assert_eq!(wire.go_on(), Ok(true));
    // No record that this connection's keys have sealed.
    wire.send(&plain_record(ContentType::APPLICATION_DATA, &[0; 64]));
    let end = wire.read_to_end();
    assert_eq!(end.last().unwrap().payload, Alert::fatal(AlertDescription::BAD_RECORD_MAC).encode());
    wait_until("the connection has ended", || edge.ended("bad_record_mac") == 1);
    client.clone().misses(edge, "ended");
}

// The host, and the identity of a client with a certificate.

struct Mutual {
    stack: Stack,
    authority: ClientAuthority,
    alice: ClientFiles,
}

const NUMBER_OF_ALICE: u64 = 77;

impl Mutual {
    fn start() -> Self {
        let authority = ClientAuthority::new("clients");
        let lists = "revocation_lists = [\"clients.crl\"]";
        let stack = fleet()
            .host(Host::new("required.keystead.test").client_auth("required", &[lists]))
            .host(Host::new("optional.keystead.test").client_auth("optional", &[lists]))
            .edge_file(CLIENT_AUTHORITIES, authority.pem.clone())
            .edge_file("clients.crl", authority.revocation_list(&[66]))
            .start();
        let numbered = |parameters: &mut rcgen::CertificateParams| {
            parameters.serial_number = Some(SerialNumber::from(NUMBER_OF_ALICE));
        };
        let alice = authority.certify("alice.test", stack.directory(), numbered);
        Self { stack, authority, alice }
    }

    /// Alice, with a session of the first edge.
    fn alice(&self, host: &str) -> Openssl {
        let mut client = Openssl::new(&self.stack, host).certified(&self.alice);
        assert!(!client.resumes(self.stack.edge()));
        client
    }
}

#[test]
fn the_backend_knows_who_comes_back() {
    if !is_installed("openssl", "openssl") {
        return;
    }
    let mutual = Mutual::start();
    for host in ["required.keystead.test", "optional.keystead.test"] {
        let mut client = mutual.alice(host);
        // Who comes back shows no certificate, and might have none at hand.
        let mut bare = Openssl::new(&mutual.stack, host).with_session_of(&client);
        for edge in edges(&mutual.stack) {
            for client in [&mut client, &mut bare] {
                let visit = client.visit(edge);
                assert!(visit.resumed);
                for fact in ["tls: yes, verified client certificate\n", "client-common-name: alice.test\n"] {
                    assert!(visit.page.contains(fact), "{fact}{}", visit.page);
                }
            }
        }
    }
    let mut anonymous = Openssl::new(&mutual.stack, "optional.keystead.test");
    anonymous.visit(mutual.stack.edge());
    let visit = anonymous.visit(edges(&mutual.stack)[1]);
    assert!(visit.resumed && visit.page.contains("tls: yes, no client certificate\n"), "{}", visit.page);
    assert!(!visit.page.contains("client-common-name"), "{}", visit.page);
}

#[test]
fn a_change_of_the_hosts_client_authentication_ends_its_sessions() {
    if !is_installed("openssl", "openssl") {
        return;
    }
    let mut mutual = Mutual::start();
    let mut client = mutual.alice("required.keystead.test");
    let mut other = mutual.alice("optional.keystead.test");
    let rule = "client_auth = { mode = \"required\", allow = [{ dns = \"alice.test\" }], ";
    mutual.stack.edit("edge-two/edge.toml", |text| text.replacen("client_auth = { mode = \"required\", ", rule, 1));
    mutual.stack.edges_mut()[1].process.restart();
    let [one, two] = edges(&mutual.stack);
    two.wait_for_ticket_keys();
    assert!(client.resumes(one));
    client.misses(two, "other_policy");
    assert!(client.resumes(two));
    // The edge with the policy of before knows as little of the other.
    client.misses(one, "other_policy");
    assert!(other.resumes(one) && other.resumes(two));
}

#[test]
fn a_client_whose_certificate_was_revoked_does_not_come_back() {
    if !is_installed("openssl", "openssl") {
        return;
    }
    let mutual = Mutual::start();
    let [one, two] = edges(&mutual.stack);
    let hosts = ["required.keystead.test", "optional.keystead.test"];
    let mut clients = hosts.map(|host| mutual.alice(host));
    let mut bare = Openssl::new(&mutual.stack, hosts[1]).with_session_of(&clients[1]);
    assert!(clients.iter_mut().all(|client| client.resumes(two)) && bare.visit(two).resumed);
    mutual.stack.edit("edge-two/clients.crl", |_| mutual.authority.revocation_list(&[66, NUMBER_OF_ALICE]));
    for client in &mut clients {
        wait_until("she is kept out", || client.try_visit(two).is_err());
    }
    assert_eq!(two.misses("client_certificate"), 2);
    // In the full handshakes she showed her certificate.
    wait_until("they are counted", || two.failures("certificate_revoked") == 2);
    // Without it she is whoever has none.
    let before = two.misses("client_certificate");
    let visit = bare.visit(two);
    assert!(!visit.resumed && visit.page.contains("tls: yes, no client certificate\n"), "{}", visit.page);
    assert_eq!(two.misses("client_certificate"), before + 1);
    // Nobody has told the other edge.
    assert!(clients.iter_mut().all(|client| client.resumes(one)));
}

// The key.

#[test]
fn a_session_ends_with_the_edges_right_to_its_key() {
    if !is_installed("openssl", "openssl") {
        return;
    }
    let stack = fleet().start();
    let mut clients =
        ["aECDSA:aRSA", "aRSA"].map(|suites| Openssl::new(&stack, "localhost").with(&["-cipher", suites]));
    for (client, algorithm) in clients.iter_mut().zip(["EC256", "RSA2048"]) {
        let page = client.visit(stack.edge()).page;
        assert!(page.contains(&format!("key-algorithm: {algorithm}\n")), "{page}");
    }
    let [ecdsa, rsa] = &mut clients;
    assert!(edges(&stack).into_iter().all(|edge| ecdsa.resumes(edge) && rsa.resumes(edge)));
    stack.edit("keyserver/keyserver.toml", |text| text.replace("keys = [\"rsa\", \"p256\"]", "keys = [\"rsa\"]"));
    let began = Instant::now();
    let [one, two] = edges(&stack);
    for edge in [one, two] {
        // What this one is given in the end is a session with the other key.
        let mut client = Openssl::new(&stack, "localhost").with_session_of(ecdsa);
        wait_until("the session has ended", || !client.visit(edge).resumed);
        assert_eq!(edge.misses("key_gone"), 1);
        assert!(client.resumes(edge) && rsa.resumes(edge));
    }
    within_seconds(began);
}

/// Of a change at the key server until it counts everywhere. Its configuration is read once a second, and taken when it has
/// been the same twice.
#[track_caller]
fn within_seconds(began: Instant) {
    let took = began.elapsed();
    println!("{took:?} from the change of the configuration to the end of the sessions");
    assert!(took < Duration::from_secs(10), "{took:?}");
}

// The edge.

#[test]
fn with_an_edge_its_groups_ticket_keys_are_revoked() {
    let stack = fleet().start();
    let [one, two] = edges(&stack);
    let mut stolen = returning(&stack);
    let name_of_key = stolen.ticket()[..16].to_vec();
    assert!(stolen.resumes(one) && stolen.resumes(two));
    stack.edit("keyserver/keyserver.toml", |text| text.replacen("/edge/one\"\n", "/edge/one\"\nrevoked = true\n", 1));
    let began = Instant::now();
    let mut client = stolen.clone();
    wait_until("the other edge has other keys", || !client.visit(two).resumed);
    within_seconds(began);
    assert_eq!(two.misses("unknown_generation"), 1);
    assert_ne!(client.ticket()[..16], name_of_key);
    assert!(client.resumes(two));
    stolen.clone().misses(two, "unknown_generation");
    // The revoked edge gets no signature and opens no ticket, neither of those keys nor of the other ones.
    wait_until("the revoked edge has no keys", || one.generation() == 0);
    for ticket in [&mut client, &mut stolen] {
        let before = one.misses("unknown_generation");
        ticket.try_visit(one).unwrap_err();
        assert_eq!(one.misses("unknown_generation"), before + 1);
    }
    assert_eq!(one.metric("keystead_edge_handshake_failures_total", &[("fault", "key_server")]), 2);
    wait_until("it says that no key server knows it any longer", || {
        client.clone().try_visit(one).unwrap_err();
        one.failures("not_authorised") > 0
    });
    assert!(client.resumes(two));
}

#[test]
fn groups_of_edges_never_open_each_others_tickets() {
    let stack = fleet().ticket_groups(&["paris", "rome"]).start();
    let [one, two] = edges(&stack);
    let mut clients = [returning(&stack), returning(&stack)];
    clients[1].misses(two, "unknown_generation");
    assert!(clients[0].resumes(one) && clients[1].resumes(two));
    clients[0].clone().misses(two, "unknown_generation");
    clients[1].clone().misses(one, "unknown_generation");
    // One group for both, from a change of the configuration on.
    stack.edit("keyserver/keyserver.toml", |text| text.replace("\"rome\"", "\"paris\""));
    wait_until("the second edge opens the first one's tickets", || clients[0].clone().visit(two).resumed);
    clients[1].misses(two, "unknown_generation");
}
