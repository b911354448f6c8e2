//! An edge and a key server with certificates that the key server's own commands made, in the place of the stack's.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use keystead_tests::rustls_client::is_served;
use keystead_tests::stack::{Signal, Stack, programs, wait_until};

/// Runs `keystead-keyserver edge` with these words, and gives what it prints.
#[track_caller]
fn edge(words: &[&str]) -> String {
    let output = programs::command("keystead-keyserver").arg("edge").args(words).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn install(from: &Path, to: &Path) {
    for file in ["channel.pem", "channel.key", "channel-ca.pem"] {
        if from.join(file).exists() {
            let next = to.join(file).with_extension("next");
            fs::copy(from.join(file), &next).unwrap();
            fs::rename(next, to.join(file)).unwrap();
        }
    }
}

#[test]
fn an_enrolled_edge_serves_and_a_renewal_takes_no_restart() {
    let mut stack = Stack::start();
    let root = stack.directory().join("enrolled");
    let at = |name: &str| root.join(name).to_str().unwrap().to_owned();
    let (authority, keys, one) = (at("authority"), at("keys"), at("one"));
    edge(&["authority", "--out", &authority]);
    let name = keystead_local::pki::KEY_SERVER_NAME;
    edge(&["enroll-key-server", "--dns", name, "--authority", &authority, "--out", &keys]);
    let enroll = ["enroll", "one", "--trust-domain", "keystead.local", "--authority", &authority, "--out", &one];
    let said = edge(&enroll);
    assert!(said.contains("[[edge]]\nid = \"spiffe://keystead.local/edge/one\"\n"), "{said}");

    let (key_server, first) = (stack.directory().join("keyserver"), stack.directory().join("edge-one"));
    install(Path::new(&keys), &key_server);
    install(Path::new(&one), &first);
    stack.key_server().restart();
    stack.edge_mut().process.restart();
    assert!(is_served(stack.edge()), "with certificates of another authority");

    let ends = |stack: &mut Stack| {
        let name = "channel_certificate_not_after_timestamp_seconds";
        let key_server = stack.key_server().metric(&format!("keystead_keyserver_{name}"), &[]);
        (key_server, stack.edge().metric(&format!("keystead_edge_{name}"), &[]))
    };
    let before = ends(&mut stack);
    edge(&[&enroll[..], &["--renew", "--validity", "30days"]].concat());
    let renewal = ["enroll-key-server", "--dns", name, "--authority", &authority, "--out", &keys];
    edge(&[&renewal[..], &["--renew", "--validity", "40days"]].concat());
    install(Path::new(&keys), &key_server);
    install(Path::new(&one), &first);
    stack.key_server().signal(Signal::HUP);
    stack.edge().process.signal(Signal::HUP);
    wait_until("both have the certificates in use", || {
        let now = ends(&mut stack);
        now.0 < before.0 && now.1 < before.1
    });
    assert!(is_served(stack.edge()));
    // What is shown in handshakes from here on is what was renewed.
    stack.key_server().restart();
    wait_until("handshakes work again", || is_served(stack.edge()));
}
