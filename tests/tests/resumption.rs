//! Real clients that come back with a ticket: to the same edge and to another one, after restarts, across rotations, and
//! while no key server answers.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "what was measured")]

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use keystead_tests::over::TellsOver;
use keystead_tests::python_client::Python;
use keystead_tests::returning::{Openssl, Returning, Rustls, Scripted};
use keystead_tests::stack::{Builder, Edge, Host, PATIENCE, Signal, Stack, connect, wait_until};
use keystead_tests::tool::is_installed;
use keystead_tests::twice::{full_handshakes, gnutls, nss, twice};

/// Two edges with tickets.
fn fleet() -> Builder {
    Stack::builder().edges(2).tickets("1h").host(Host::new("localhost").default().alpn(&["http/1.1"]))
}

/// A client of each kind that can wait between visits.
fn clients(stack: &Stack) -> Vec<Box<dyn Returning>> {
    let mut clients: Vec<Box<dyn Returning>> =
        vec![Box::new(Rustls::new("localhost")), Box::new(Scripted::new("localhost"))];
    if is_installed("python3", "python3") {
        clients.push(Box::new(Python::start(stack, "localhost")));
    }
    clients
}

/// Those, and one that keeps only what a full handshake gave it.
fn clients_with_openssl(stack: &Stack) -> Vec<Box<dyn Returning>> {
    let mut clients = clients(stack);
    if is_installed("openssl", "openssl") {
        clients.push(Box::new(Openssl::new(stack, "localhost")));
    }
    clients
}

// Each client, on the same edge and on the other.

#[test]
fn openssl_python_rustls_and_the_scripted_client_come_back_to_both_edges() {
    let stack = fleet().start();
    for client in &mut clients_with_openssl(&stack) {
        assert!(!client.resumes(&stack.edges()[0]));
        for _ in 0..2 {
            assert!(client.resumes(&stack.edges()[0]));
            assert!(client.resumes(&stack.edges()[1]));
        }
    }
    let missed = |edge: &Edge| edge.metric("keystead_edge_session_misses_total", &[]);
    assert_eq!(stack.edges().iter().map(missed).sum::<i64>(), 0);
    assert_eq!(full_handshakes(&stack.edges()[1]), 0);
}

#[test]
fn gnutls_comes_back_to_both_edges() {
    if !is_installed("gnutls-cli", "gnutls-bin") {
        return;
    }
    twice(&fleet().start(), ["ticket"; 2], |stack, address| gnutls(stack, address, ""));
}

#[test]
fn nss_comes_back_to_both_edges() {
    if !is_installed("tstclnt", "libnss3-tools") || !is_installed("certutil", "libnss3-tools") {
        return;
    }
    twice(&fleet().start(), ["ticket"; 2], |stack, address| nss(stack, address, &["-u"]));
}

// After restarts.

#[test]
fn clients_come_back_to_an_edge_that_was_killed_and_started_again() {
    let mut stack = fleet().start();
    let mut clients = clients_with_openssl(&stack);
    clients.iter_mut().for_each(|client| drop(client.visit(stack.edge())));
    restart(stack.edge_mut());
    for client in &mut clients {
        assert!(client.resumes(stack.edge()));
    }
    assert_eq!(full_handshakes(stack.edge()), 0);
}

/// With SIGKILL.
fn restart(edge: &mut Edge) {
    edge.process.restart();
    edge.wait_for_ticket_keys();
}

#[test]
fn clients_come_back_after_a_restart_of_the_key_server() {
    let mut stack = fleet().start();
    let mut clients = clients_with_openssl(&stack);
    clients.iter_mut().for_each(|client| drop(client.visit(stack.edge())));
    stack.key_server().restart();
    // This edge has its keys from the key server as it is after its restart, and the other may have them from before.
    restart(&mut stack.edges_mut()[1]);
    for client in &mut clients {
        assert!(client.resumes(&stack.edges()[0]));
        assert!(client.resumes(&stack.edges()[1]));
    }
    wait_until("the first edge finds the key server again", || stack.edge().key_server_connections() == 2);
    assert!(!Rustls::new("localhost").resumes(stack.edge()));
    for client in &mut clients {
        assert!(client.resumes(stack.edge()));
    }
}

#[test]
fn an_edge_killed_under_load_is_back_at_once_and_goes_on_from_its_sessions() {
    let mut stack = fleet().start();
    let address = stack.edge().address;
    let (stop, resumed) = (AtomicBool::new(false), AtomicU32::new(0));
    let load = || {
        let client = Rustls::new("localhost");
        while !stop.load(Ordering::Relaxed) {
            if let Ok(visit) = client.visit_at(address) {
                resumed.fetch_add(visit.resumed.into(), Ordering::Relaxed);
            } else {
                // Whoever is refused waits a little before the next try.
                thread::sleep(Duration::from_millis(10));
            }
        }
    };
    let mut regular = Scripted::new("localhost");
    regular.visit(stack.edge());
    thread::scope(|scope| {
        let _over = TellsOver(&stop);
        (0..4).for_each(|_| drop(scope.spawn(load)));
        for round in 0..3 {
            let before = resumed.load(Ordering::Relaxed);
            wait_until("there is load", || resumed.load(Ordering::Relaxed) > before + 100);
            stack.edge_mut().process.kill();
            let began = Instant::now();
            stack.edge_mut().process.start_again();
            wait_until("the edge accepts", || connect(address).is_ok());
            wait_until("the edge goes on from the first session", || {
                // Each time from that one: a clone's is forgotten with it.
                regular.clone().try_visit(stack.edge()).is_ok_and(|visit| visit.resumed)
            });
            let took = began.elapsed();
            println!("round {round}: {took:?} from the start of the process to the first resumed handshake");
            assert!(took < PATIENCE / 2, "{took:?}");
        }
    });
    assert_eq!(stack.edge().metric("keystead_edge_state_rebuilt_total", &[]), 0);
    assert!(Rustls::new("localhost").try_visit(stack.edge()).is_ok());
}

// Without a key server.

#[test]
fn resumption_does_not_need_the_key_server() {
    let mut stack = fleet().start();
    let mut clients = clients_with_openssl(&stack);
    clients.iter_mut().for_each(|client| drop(client.visit(stack.edge())));
    stack.key_server().kill();
    for edge in stack.edges() {
        wait_until("the edge has noticed", || edge.key_server_connections() == 0);
    }
    let visits = 50;
    for number in 0..visits {
        let client = number % clients.len();
        assert!(clients[client].resumes(&stack.edges()[number % 2]), "visit {number}");
    }
    for (edge, client) in stack.edges().iter().flat_map(|edge| (0..5).map(move |_| (edge, Rustls::new("localhost")))) {
        let before = edge.failures("unreachable");
        let began = Instant::now();
        let refused = client.visit_at(edge.address).unwrap_err();
        let took = began.elapsed();
        assert!(refused.to_string().contains("InternalError"), "{refused}");
        assert!(took < Duration::from_secs(5), "a full handshake failed after {took:?}");
        wait_until("it is counted", || edge.failures("unreachable") == before + 1);
    }
    assert!(clients[0].resumes(stack.edge()));
}

#[test]
fn resumption_does_not_wait_for_a_key_server_that_does_not_answer() {
    let mut stack = fleet().key_server_option("timeout", "3s").start();
    let mut clients = clients_with_openssl(&stack);
    clients.iter_mut().for_each(|client| drop(client.visit(stack.edge())));
    stack.key_server().stop();
    let edge = stack.edge();
    thread::scope(|scope| {
        // They wait for as long as they may, and nobody behind them does.
        let waiting: Vec<_> =
            (0..10).map(|_| scope.spawn(|| Rustls::new("localhost").visit_at(edge.address))).collect();
        for client in &mut clients {
            assert!(client.visit(edge).resumed);
        }
        for full in waiting {
            assert!(full.join().unwrap().is_err());
        }
    });
    let failed = edge.failures("no_answer") + edge.failures("unreachable");
    assert_eq!(failed, 10);
    stack.key_server().signal(Signal::CONT);
    wait_until("full handshakes work again", || Rustls::new("localhost").visit_at(stack.edge().address).is_ok());
}

// Across rotations.

#[test]
fn a_client_that_keeps_coming_never_misses_a_rotation_and_an_idle_one_does() {
    const PERIOD: &str = "8s";
    let stack = fleet().tickets(PERIOD).start();
    let mut clients = clients(&stack);
    clients.iter_mut().for_each(|client| drop(client.visit(stack.edge())));
    let mut idle = Scripted::new("localhost");
    idle.visit(stack.edge());
    let (first, mut visits) = (stack.edge().generation(), 0);
    while stack.edge().generation() < first + 3 {
        for client in &mut clients {
            assert!(client.resumes(&stack.edges()[visits % 2]), "visit {visits}");
        }
        visits += 1;
        thread::sleep(Duration::from_secs(1));
    }
    idle.misses(stack.edge(), "unknown_generation");
    assert!(idle.resumes(&stack.edges()[1]));
    assert_eq!(stack.edges()[1].metric("keystead_edge_session_misses_total", &[]), 0);
}

#[test]
fn a_key_server_that_was_down_for_a_rotation_catches_up() {
    let mut stack = fleet().tickets("4s").start();
    let mut client = Scripted::new("localhost");
    client.visit(stack.edge());
    stack.key_server().kill();
    wait_until("the edge has noticed", || stack.edge().key_server_connections() == 0);
    let first = stack.edge().generation();
    // The edge does not know of a next one, and gives no tickets once its own are old.
    wait_until("the ticket keys are too old", || {
        client.try_visit(stack.edge()).is_err_and(|refused| refused.contains("internal_error"))
    });
    assert_eq!(stack.edge().generation(), first);
    stack.key_server().restart();
    wait_until("both edges have the next generations", || {
        stack.edges().iter().all(|edge| edge.generation() >= first + 2)
    });
    wait_until("full handshakes work again", || client.try_visit(stack.edge()).is_ok());
    assert!(client.resumes(&stack.edges()[1]));
}

#[test]
fn openssl_comes_back_in_the_next_generation_and_not_in_the_one_after_it() {
    if !is_installed("openssl", "openssl") {
        return;
    }
    let stack = fleet().tickets("6s").start();
    let mut client = Openssl::new(&stack, "localhost");
    let first = stack.edge().within_a_generation(|| {
        client = Openssl::new(&stack, "localhost");
        client.visit(stack.edge());
    });
    wait_until("the next generation", || stack.edge().generation() > first);
    assert!(client.resumes(stack.edge()));
    wait_until("the generation after it", || stack.edge().generation() > first + 1);
    client.misses(stack.edge(), "unknown_generation");
    assert!(client.resumes(stack.edge()));
}
