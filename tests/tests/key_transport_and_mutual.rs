//! RSA key transport and client certificates with the real programs: who is served, who is refused with which alert, and
//! what the backend learns of a client.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::process::Command;

use keystead_tests::client_authority::{ClientAuthority, ClientFiles};
use keystead_tests::stack::{CLIENT_AUTHORITIES, Host, Signal, Stack, wait_until};
use keystead_tests::tool::{Output, is_installed, run};
use rcgen::{SerialNumber, date_time_ymd};

const REQUEST: &[u8] = b"GET / HTTP/1.0\r\nhost: localhost\r\n\r\n";
const SUITES: [&str; 2] = ["AES128-GCM-SHA256", "AES256-GCM-SHA384"];

// RSA key transport.

/// `openssl s_client` that offers this suite alone.
fn s_client(stack: &Stack, host: &str, suite: &str) -> Output {
    s_client_with(stack, host, suite, None)
}

/// As [`s_client`], with a certificate to show when asked.
fn s_client_with(stack: &Stack, host: &str, suite: &str, client: Option<&ClientFiles>) -> Output {
    let mut command = Command::new("openssl");
    if let Some(client) = client {
        command.args(["s_client", "-cert"]).arg(&client.certificate).arg("-key").arg(&client.key);
    } else {
        command.arg("s_client");
    }
    command.args(["-connect", &stack.edge().address.to_string(), "-servername", host]);
    command.args(["-verify_return_error", "-CAfile"]).arg(stack.authority());
    run(command.args(["-tls1_2", "-cipher", suite]), REQUEST)
}

#[test]
fn openssl_completes_rsa_key_transport_where_host_and_key_allow_it() {
    if !is_installed("openssl", "openssl") {
        return;
    }
    let legacy = Host::new("legacy.keystead.test").key_transport();
    let modern = Host::new("modern.keystead.test");
    let stack = Stack::builder().key_transport().host(legacy).host(modern).start();
    for suite in SUITES {
        // Each on a lease of its own.
        for _ in 0..3 {
            let output = s_client(&stack, "legacy.keystead.test", suite);
            let cipher = format!("Cipher    : {suite}");
            output.assert_contains(&[&cipher, "Extended master secret: yes", "Verify return code: 0 (ok)"]);
            output.assert_contains(&["HTTP/1.0 200 OK", &format!("tls-cipher: {suite}\n")]);
        }
        let before = stack.edge().failures("no_common_suite");
        s_client(&stack, "modern.keystead.test", suite).assert_contains(&["alert handshake failure"]);
        assert_eq!(stack.edge().failures("no_common_suite"), before + 1);
    }
    let output = s_client(&stack, "legacy.keystead.test", "AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256");
    output.assert_contains(&["Cipher    : ECDHE-RSA-AES128-GCM-SHA256"]);
}

#[test]
fn a_host_alone_does_not_enable_rsa_key_transport() {
    if !is_installed("openssl", "openssl") {
        return;
    }
    let stack = Stack::builder().host(Host::new("localhost").key_transport()).start();
    for suite in SUITES {
        s_client(&stack, "localhost", suite).assert_contains(&["alert handshake failure"]);
    }
    s_client(&stack, "localhost", "ECDHE-RSA-AES128-GCM-SHA256").assert_contains(&["HTTP/1.0 200 OK"]);
}

#[test]
fn a_key_alone_does_not_enable_rsa_key_transport() {
    if !is_installed("openssl", "openssl") {
        return;
    }
    let stack = Stack::builder().key_transport().host(Host::new("localhost")).start();
    for suite in SUITES {
        s_client(&stack, "localhost", suite).assert_contains(&["alert handshake failure"]);
    }
    assert_eq!(stack.edge().failures("no_common_suite"), 2);
}

#[test]
fn without_its_key_server_rsa_key_transport_is_an_internal_error() {
    if !is_installed("openssl", "openssl") {
        return;
    }
    let host = Host::new("localhost").key_transport();
    let mut stack = Stack::builder().key_transport().host(host).start();
    s_client(&stack, "localhost", "AES128-GCM-SHA256").assert_contains(&["HTTP/1.0 200 OK"]);
    stack.key_server().signal(Signal::KILL);
    // Leases that are at hand do not help: the master secret is with the key server.
    for _ in 0..3 {
        let output = s_client(&stack, "localhost", "AES128-GCM-SHA256");
        output.assert_contains(&["alert internal error"]);
    }
}

#[test]
fn many_at_once_never_run_out_of_leases() {
    if !is_installed("openssl", "openssl") {
        return;
    }
    let stack = Stack::builder().key_transport().host(Host::new("localhost").key_transport()).start();
    let connect = || {
        for _ in 0..10 {
            s_client(&stack, "localhost", "AES128-GCM-SHA256").assert_contains(&["HTTP/1.0 200 OK"]);
        }
    };
    std::thread::scope(|scope| (0..8).for_each(|_| drop(scope.spawn(connect))));
    assert_eq!(
        stack.edge().metric("keystead_edge_handshakes_total", &[("suite", "TLS_RSA_WITH_AES_128_GCM_SHA256")]),
        80
    );
    assert_eq!(stack.edge().metric("keystead_edge_handshake_failures_total", &[]), 0);
}

#[test]
fn rsa_key_transport_goes_together_with_a_client_certificate() {
    if !is_installed("openssl", "openssl") {
        return;
    }
    let (authority, other) = (ClientAuthority::new("clients"), ClientAuthority::new("others"));
    let stack = Stack::builder()
        .key_transport()
        .host(Host::new("localhost").key_transport().client_auth("required", &[]))
        .edge_file(CLIENT_AUTHORITIES, authority.pem.clone())
        .start();
    let alice = authority.certify("alice.test", stack.directory(), |_| {});
    let stranger = other.certify("stranger.test", stack.directory(), |_| {});
    for suite in SUITES {
        let output = s_client_with(&stack, "localhost", suite, Some(&alice));
        output.assert_contains(&["verified client certificate\n", "client-common-name: alice.test\n"]);
        output.assert_contains(&[&format!("tls-cipher: {suite}\n")]);
        s_client_with(&stack, "localhost", suite, Some(&stranger)).assert_contains(&["alert unknown ca"]);
        s_client(&stack, "localhost", suite).assert_contains(&["alert handshake failure"]);
    }
    assert_eq!((stack.edge().failures("certificate_unknown_ca"), stack.edge().failures("certificate_missing")), (2, 2));
}

// Client certificates.

struct Mutual {
    stack: Stack,
    authority: ClientAuthority,
}

impl Mutual {
    /// Revokes the certificate with the serial number 66.
    fn start() -> Self {
        let authority = ClientAuthority::new("clients");
        let lists = "revocation_lists = [\"clients.crl\"]";
        let stack = Stack::builder()
            .host(Host::new("required.keystead.test").client_auth("required", &[lists]))
            .host(Host::new("optional.keystead.test").client_auth("optional", &[lists]))
            .host(Host::new("ruled.keystead.test").client_auth("required", &["allow = [{ dns = \"bob.test\" }]"]))
            .host(Host::new("open.keystead.test"))
            .edge_file(CLIENT_AUTHORITIES, authority.pem.clone())
            .edge_file("clients.crl", authority.revocation_list(&[66]))
            .start();
        Self { stack, authority }
    }

    fn client(&self, name: &str) -> ClientFiles {
        self.authority.certify(name, self.stack.directory(), |_| {})
    }

    fn curl(&self, host: &str, client: Option<&ClientFiles>) -> Output {
        let address = self.stack.edge().address;
        let name = format!("{host}.keystead.test");
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--verbose", "--http1.1", "--cacert"]).arg(self.stack.authority());
        command.args(["--resolve", &format!("{name}:{}:{}", address.port(), address.ip())]);
        if let Some(client) = client {
            command.arg("--cert").arg(&client.certificate).arg("--key").arg(&client.key);
        }
        run(command.arg(format!("https://{name}:{}/", address.port())), b"")
    }

    /// The client is refused with this alert, in curl's words, and this reason is counted.
    fn is_refused(&self, host: &str, client: Option<&ClientFiles>, alert: &str, reason: &str) {
        let before = self.stack.edge().failures(reason);
        let output = self.curl(host, client);
        assert_ne!(output.code, Some(0), "{output}");
        output.assert_contains(&[alert]);
        wait_until("it is counted", || self.stack.edge().failures(reason) == before + 1);
    }
}

#[test]
fn a_client_with_a_certificate_is_served_and_the_backend_knows_it() {
    if !is_installed("curl", "curl") {
        return;
    }
    let mutual = Mutual::start();
    let alice = mutual.client("alice.test");
    for host in ["required", "optional"] {
        let output = mutual.curl(host, Some(&alice));
        output.assert_success();
        output.assert_contains(&["tls: yes, verified client certificate\n", "client-common-name: alice.test\n"]);
    }
    let output = mutual.curl("optional", None);
    output.assert_success().assert_contains(&["tls: yes, no client certificate\n"]);
    assert!(!output.text.contains("client-common-name"), "{output}");
    // A host that does not ask does not believe either.
    mutual.curl("open", Some(&alice)).assert_success().assert_contains(&["tls: yes, no client certificate\n"]);
    let bob = mutual.client("bob.test");
    mutual.curl("ruled", Some(&bob)).assert_contains(&["client-common-name: bob.test\n"]);
}

#[test]
fn each_bad_client_certificate_has_its_alert_and_its_reason() {
    if !is_installed("curl", "curl") {
        return;
    }
    let mutual = Mutual::start();
    let directory = mutual.stack.directory();
    let certify =
        |name: &str, adjust: fn(&mut rcgen::CertificateParams)| mutual.authority.certify(name, directory, adjust);
    let expired = certify("expired.test", |parameters| parameters.not_after = date_time_ymd(2020, 1, 1));
    let revoked = certify("revoked.test", |parameters| parameters.serial_number = Some(SerialNumber::from(66)));
    let stranger = ClientAuthority::new("others").certify("stranger.test", directory, |_| {});
    let impostor = ClientAuthority::new("clients").certify("impostor.test", directory, |_| {});
    for host in ["required", "optional"] {
        mutual.is_refused(host, Some(&expired), "TLS alert, certificate expired", "certificate_expired");
        mutual.is_refused(host, Some(&revoked), "TLS alert, certificate revoked", "certificate_revoked");
        mutual.is_refused(host, Some(&stranger), "TLS alert, unknown CA", "certificate_unknown_ca");
        // Of an authority that only has the right one's name.
        mutual.is_refused(host, Some(&impostor), "TLS alert, bad certificate", "certificate_bad");
    }
    mutual.is_refused("required", None, "TLS alert, handshake failure", "certificate_missing");
    let alice = mutual.client("alice.test");
    mutual.is_refused("ruled", Some(&alice), "TLS alert, access denied", "certificate_access_denied");
}

#[test]
fn a_certificate_that_is_revoked_while_the_edge_runs_comes_in_no_more() {
    if !is_installed("curl", "curl") {
        return;
    }
    let mutual = Mutual::start();
    let numbered = |parameters: &mut rcgen::CertificateParams| parameters.serial_number = Some(SerialNumber::from(77));
    let alice = mutual.authority.certify("alice.test", mutual.stack.directory(), numbered);
    mutual.curl("required", Some(&alice)).assert_success();
    let list = mutual.stack.directory().join("edge-one/clients.crl");
    let next = list.with_extension("next");
    fs::write(&next, mutual.authority.revocation_list(&[66, 77])).unwrap();
    fs::rename(&next, &list).unwrap();
    wait_until("the list is read", || mutual.curl("required", Some(&alice)).code != Some(0));
    mutual.is_refused("required", Some(&alice), "TLS alert, certificate revoked", "certificate_revoked");
}
