//! Clients that connect twice to one address within one process, by their command lines.

#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::thread;

use crate::balancer;
use crate::stack::{Edge, Stack, wait_until};
use crate::tool::{Output, run};

const REQUEST: &[u8] = b"GET / HTTP/1.0\r\nhost: localhost\r\n\r\n";

/// Has a client meet the first edge, and then the same one, where it goes on by `by_same`, and on another run the other,
/// where it goes on by `by_other`.
///
/// # Panics
/// When it does not.
#[track_caller]
pub fn twice(stack: &Stack, [by_same, by_other]: [&str; 2], connect: impl Fn(&Stack, SocketAddr) -> Output + Sync) {
    let [one, two] = stack.edges() else { panic!("two edges") };
    for (then, by) in [(one, by_same), (two, by_other)] {
        let before = (full_handshakes(one), then.resumed_by(by));
        let (address, targets) = balancer::start();
        let output = thread::scope(|scope| {
            let client = scope.spawn(|| connect(stack, address));
            targets.send(one.address).expect("the balancer stands");
            wait_until("the client has been there", || full_handshakes(one) == before.0 + 1);
            stack.wait_for_shared_sessions();
            targets.send(then.address).expect("the balancer stands");
            client.join().expect("the client's output")
        });
        output.assert_contains(&["proxy: version 2", "tls-version: TLSv1.2"]);
        assert_eq!((full_handshakes(one), then.resumed_by(by)), (before.0 + 1, before.1 + 1), "{output}");
    }
    assert_eq!(full_handshakes(two), 0);
}

/// Handshakes that did not go on from a session.
pub fn full_handshakes(edge: &Edge) -> i64 {
    edge.handshakes() - edge.metric("keystead_edge_resumed_total", &[])
}

/// `gnutls-cli` with further keywords behind its priorities.
pub fn gnutls(stack: &Stack, address: SocketAddr, priorities: &str) -> Output {
    let mut client = Command::new("gnutls-cli");
    let priorities = format!("NORMAL:-VERS-ALL:+VERS-TLS1.2{priorities}");
    client.arg("--x509cafile").arg(stack.authority()).args(["--priority", &priorities]);
    client.args(["--sni-hostname", "localhost", "--verify-hostname", "localhost", "--resume"]);
    let output = run(client.args(["--port", &address.port().to_string(), &address.ip().to_string()]), REQUEST);
    output.assert_contains(&["*** This is a resumed session"]);
    output
}

/// `tstclnt` with further arguments.
pub fn nss(stack: &Stack, address: SocketAddr, arguments: &[&str]) -> Output {
    let database = nss_database(stack);
    let request = stack.directory().join("request");
    fs::write(&request, REQUEST).expect("written");
    let mut client = Command::new("tstclnt");
    client.args(["-d", &database, "-h", &address.ip().to_string(), "-p", &address.port().to_string()]);
    // With extended_master_secret, two connections, of which both ask for the page.
    client.args(["-a", "localhost", "-V", "tls1.2:tls1.2", "-G", "-L", "2", "-A"]).arg(request);
    let output = run(client.args(arguments), b"");
    output.assert_success();
    output
}

/// A certificate database with the authority in it.
fn nss_database(stack: &Stack) -> String {
    let directory = stack.directory().join("nss");
    let database = format!("sql:{}", directory.display());
    if directory.exists() {
        return database;
    }
    fs::create_dir(&directory).expect("a directory");
    run(Command::new("certutil").args(["-N", "--empty-password", "-d", &database]), b"").assert_success();
    let mut trust = Command::new("certutil");
    trust.args(["-A", "-n", "authority", "-t", "C,,", "-d", &database, "-i"]).arg(stack.authority());
    run(&mut trust, b"").assert_success();
    database
}

/// `curl`, for two pages on a connection each.
pub fn curl(stack: &Stack, address: SocketAddr) -> Output {
    let mut client = Command::new("curl");
    client.args(["--silent", "--show-error", "--max-time", "20", "--cacert"]).arg(stack.authority());
    client.args(["--resolve", &format!("localhost:{}:{}", address.port(), address.ip())]);
    // What one transfer leaves open, the next would use.
    client.args(["--header", "connection: close"]);
    let page = format!("https://localhost:{}/", address.port());
    let output = run(client.args([&page, &page]), b"");
    output.assert_success();
    output
}
