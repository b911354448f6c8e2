//! Real clients against a real edge: every client with both types of certificate, each suite and each group.
//!
//! What a client says about the connection is checked where it says so; for all of them the page that the backend
//! reports tells the suite, and the edge's metric the group.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use keystead_tests::rustls_client::{self, connect_to, fetch};
use keystead_tests::stack::{Edge, Host, KeyType, Stack, pki};
use keystead_tests::tool::{Output, find, is_installed, run, skipped};
use keystead_tests::{backend, certificate_status};
use keystead_tls::{CipherSuite, NamedGroup};

const REQUEST: &[u8] = b"GET / HTTP/1.0\r\nhost: localhost\r\n\r\n";

/// What one connection shall agree on.
#[derive(Clone, Copy, Debug)]
struct Case {
    key: KeyType,
    cipher: Cipher,
    group: NamedGroup,
}

#[derive(Clone, Copy, Debug)]
enum Cipher {
    Aes128,
    Aes256,
    ChaCha20,
}

impl Case {
    /// Both types of certificate × each suite × each group, and one of each for the rarer keys.
    fn all() -> Vec<Self> {
        let ciphers = [Cipher::Aes128, Cipher::Aes256, Cipher::ChaCha20];
        let groups = [NamedGroup::X25519, NamedGroup::SECP256R1, NamedGroup::SECP384R1];
        let mut cases = Vec::new();
        for key in [KeyType::Rsa2048, KeyType::P256] {
            for cipher in ciphers {
                cases.extend(groups.map(|group| Self { key, cipher, group }));
            }
        }
        cases
    }

    /// The same with P-384 and Ed25519, once each.
    fn rarer() -> Vec<Self> {
        let case = |key| Self { key, cipher: Cipher::Aes256, group: NamedGroup::SECP384R1 };
        vec![case(KeyType::P384), case(KeyType::Ed25519)]
    }

    /// The host with this kind of key and no other group.
    fn host(self) -> String {
        format!("{}-{}.keystead.test", self.key.name(), self.group)
    }

    /// What a client must offer: the group, and the curve of the certificate (RFC 8422 §5.1).
    fn groups(self) -> Vec<NamedGroup> {
        let curve = match self.key {
            KeyType::P256 => NamedGroup::SECP256R1,
            KeyType::P384 => NamedGroup::SECP384R1,
            KeyType::Rsa2048 | KeyType::Ed25519 => self.group,
        };
        let mut groups = vec![self.group, curve];
        groups.dedup();
        groups
    }

    /// Those groups by the names that a client has for x25519, P-256 and P-384, separated by colons.
    fn group_list(self, names: [&str; 3], separator: &str) -> String {
        let name = |group| match group {
            NamedGroup::X25519 => names[0],
            NamedGroup::SECP256R1 => names[1],
            _ => names[2],
        };
        self.groups().into_iter().map(name).collect::<Vec<_>>().join(separator)
    }

    fn suite(self) -> CipherSuite {
        match (self.key, self.cipher) {
            (KeyType::Rsa2048, Cipher::Aes128) => CipherSuite::ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            (KeyType::Rsa2048, Cipher::Aes256) => CipherSuite::ECDHE_RSA_WITH_AES_256_GCM_SHA384,
            (KeyType::Rsa2048, Cipher::ChaCha20) => CipherSuite::ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
            (_, Cipher::Aes128) => CipherSuite::ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            (_, Cipher::Aes256) => CipherSuite::ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            (_, Cipher::ChaCha20) => CipherSuite::ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        }
    }

    /// The suite as OpenSSL calls it.
    fn openssl_suite(self) -> String {
        let authentication = if self.key == KeyType::Rsa2048 { "RSA" } else { "ECDSA" };
        let cipher = match self.cipher {
            Cipher::Aes128 => "AES128-GCM-SHA256",
            Cipher::Aes256 => "AES256-GCM-SHA384",
            Cipher::ChaCha20 => "CHACHA20-POLY1305",
        };
        format!("ECDHE-{authentication}-{cipher}")
    }

    /// The groups as OpenSSL calls them.
    fn openssl_groups(self) -> String {
        self.group_list(["X25519", "P-256", "P-384"], ":")
    }

    /// The page tells of this host and suite, and the edge of this group.
    #[track_caller]
    fn assert_served(self, edge: &Edge, before: i64, page: &str) {
        let suite = format!("tls-cipher: {}\n", self.openssl_suite());
        for line in ["proxy: version 2\n", "tls-version: TLSv1.2\n", &suite] {
            assert!(page.replace("\r\n", "\n").contains(line), "{self:?}: no {line:?} in {page}");
        }
        assert_eq!(self.count(edge), before + 1, "{self:?}");
    }

    /// Handshakes that agreed on this suite and group.
    fn count(self, edge: &Edge) -> i64 {
        let labels = [("suite", self.suite().name().unwrap()), ("group", self.group.name().unwrap())];
        edge.metric("keystead_edge_handshakes_total", &labels)
    }
}

/// A stack with a host for each kind of key, and one for each of them with each group.
fn stack() -> Stack {
    stack_with("fast")
}

/// As [`stack`], with this cryptography.
fn stack_with(crypto: &'static str) -> Stack {
    let mut builder = Stack::builder().keys(&KeyType::ALL).crypto(crypto);
    for key in KeyType::ALL {
        builder = builder.host(Host::new(&format!("{}.keystead.test", key.name())).keys(&[key]));
        for group in ["x25519", "secp256r1", "secp384r1"] {
            let name = format!("{}-{group}.keystead.test", key.name());
            builder = builder.host(Host::new(&name).keys(&[key]).groups(&[group]));
        }
    }
    builder
        .host(Host::new("localhost").alpn(&["http/1.1", "keystead-test"]).keys(&[KeyType::Rsa2048, KeyType::P256]))
        .start()
}

fn path(stack: &Stack, file: &str) -> PathBuf {
    stack.directory().join(file)
}

// OpenSSL.

/// `openssl s_client` that verifies what it sees.
fn s_client(stack: &Stack, host: &str) -> Command {
    let mut command = nameless_s_client(stack);
    command.args(["-servername", host, "-verify_hostname", host]);
    command
}

/// As [`s_client`], for any name.
fn nameless_s_client(stack: &Stack) -> Command {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &stack.edge().address.to_string()]);
    command.args(["-verify_return_error", "-CAfile"]).arg(stack.authority());
    command
}

#[test]
fn openssl_agrees_on_every_suite_and_group() {
    openssl_agrees_with("fast");
}

#[test]
fn openssl_agrees_on_every_suite_and_group_with_the_portable_cryptography() {
    openssl_agrees_with("portable");
}

fn openssl_agrees_with(crypto: &'static str) {
    if !is_installed("openssl", "openssl") {
        return;
    }
    let stack = stack_with(crypto);
    for case in Case::all().into_iter().chain(Case::rarer()) {
        let before = case.count(stack.edge());
        let mut client = s_client(&stack, &case.host());
        client.args(["-tls1_2", "-cipher", &case.openssl_suite(), "-curves", &case.openssl_groups()]);
        let output = run(&mut client, REQUEST);
        let group = match case.group {
            NamedGroup::X25519 => "Server Temp Key: X25519",
            NamedGroup::SECP256R1 => "Server Temp Key: ECDH, prime256v1",
            _ => "Server Temp Key: ECDH, secp384r1",
        };
        let signature = match case.key {
            KeyType::Rsa2048 => "Peer signature type: RSA-PSS",
            KeyType::P256 | KeyType::P384 => "Peer signature type: ECDSA",
            KeyType::Ed25519 => "Peer signature type: ed25519",
        };
        let cipher = format!("Cipher    : {}", case.openssl_suite());
        output.assert_contains(&[&cipher, group, signature, "Verify return code: 0 (ok)"]);
        output.assert_contains(&["Extended master secret: yes", "Secure Renegotiation IS supported"]);
        case.assert_served(stack.edge(), before, &output.text);
    }
}

#[test]
fn openssl_chooses_the_signature_scheme() {
    if !is_installed("openssl", "openssl") {
        return;
    }
    let stack = stack();
    for (scheme, host, kind, digest) in [
        ("RSA+SHA256", "rsa.keystead.test", "RSA", "SHA256"),
        ("RSA+SHA384", "rsa.keystead.test", "RSA", "SHA384"),
        ("RSA+SHA512", "rsa.keystead.test", "RSA", "SHA512"),
        ("RSA-PSS+SHA256", "rsa.keystead.test", "RSA-PSS", "SHA256"),
        ("RSA-PSS+SHA384", "rsa.keystead.test", "RSA-PSS", "SHA384"),
        ("RSA-PSS+SHA512", "rsa.keystead.test", "RSA-PSS", "SHA512"),
        ("ECDSA+SHA256", "p256.keystead.test", "ECDSA", "SHA256"),
        ("ECDSA+SHA384", "p384.keystead.test", "ECDSA", "SHA384"),
    ] {
        // The authority's own signature, ECDSA with SHA-256, must be acceptable too.
        let mut offered = vec![scheme, "ECDSA+SHA256"];
        offered.dedup();
        let offered = offered.join(":");
        let output = run(s_client(&stack, host).args(["-tls1_2", "-sigalgs", &offered]), REQUEST);
        let (kind, digest) = (format!("Peer signature type: {kind}\n"), format!("Peer signing digest: {digest}\n"));
        output.assert_contains(&[&kind, &digest, "Verify return code: 0 (ok)"]);
    }
}

#[test]
fn openssl_that_offers_everything_gets_tls_1_2_and_the_stronger_certificate() {
    if !is_installed("openssl", "openssl") {
        return;
    }
    let stack = stack();
    let output = run(s_client(&stack, "localhost").args(["-alpn", "keystead-test,http/1.1"]), REQUEST);
    output.assert_contains(&["Protocol  : TLSv1.2", "Peer signature type: ECDSA", "alpn: http/1.1"]);
    output.assert_contains(&["ALPN protocol: http/1.1", "Verify return code: 0 (ok)"]);
    // A client that can only verify RSA gets the other certificate.
    let output = run(s_client(&stack, "localhost").args(["-cipher", "aRSA"]), REQUEST);
    output.assert_contains(&["Protocol  : TLSv1.2", "Peer signature type: RSA-PSS", "Verify return code: 0 (ok)"]);
}

#[test]
fn openssl_is_told_why_it_is_refused() {
    if !is_installed("openssl", "openssl") {
        return;
    }
    let stack = stack();
    for (arguments, alert, reason) in [
        (&["-tls1_3"][..], "alert protocol version", "version_too_new"),
        (&["-tls1_1", "-cipher", "DEFAULT:@SECLEVEL=0"], "alert protocol version", "version_too_old"),
        (&["-tls1", "-cipher", "DEFAULT:@SECLEVEL=0"], "alert protocol version", "version_too_old"),
        (&["-tls1_2", "-cipher", "kRSA"], "alert handshake failure", "no_common_suite"),
        (&["-tls1_2", "-alpn", "h3"], "alert no application protocol", "no_common_alpn"),
        (&["-tls1_2", "-curves", "P-521"], "alert handshake failure", "no_common_group"),
        (
            &["-tls1_1", "-cipher", "DEFAULT:@SECLEVEL=0", "-fallback_scsv"],
            "alert inappropriate fallback",
            "inappropriate_fallback",
        ),
    ] {
        let before = stack.edge().failures(reason);
        let output = run(s_client(&stack, "localhost").args(arguments), b"");
        assert_ne!(output.code, Some(0), "{arguments:?}: {output}");
        output.assert_contains(&[alert]);
        assert_eq!(stack.edge().failures(reason), before + 1, "{arguments:?}");
    }
    for name in ["other.keystead.test", "test"] {
        let output = run(s_client(&stack, name).arg("-tls1_2"), b"");
        output.assert_contains(&["unrecognized name"]);
    }
    let output = run(nameless_s_client(&stack).args(["-tls1_2", "-noservername"]), b"");
    output.assert_contains(&["unrecognized name"]);
    assert_eq!(stack.edge().failures("unrecognized_name"), 3);
}

#[test]
fn openssl_sends_fragments_and_coalesced_records() {
    if !is_installed("openssl", "openssl") {
        return;
    }
    let stack = Stack::builder().host(Host::new("localhost").backends(&[backend::echo()])).start();
    let line: String = (b'a'..=b'z').cycle().take(5000).map(char::from).collect();
    let input = format!("{line}\n{line}END\n");
    for fragments in
        [["-max_send_frag", "512", "-split_send_frag", "512"], ["-max_send_frag", "16384", "-split_send_frag", "600"]]
    {
        let mut client = s_client(&stack, "localhost");
        // The echo does not end; the client does with its input.
        client.args(["-tls1_2", "-quiet", "-no_ign_eof"]).args(fragments);
        let mut shell = Command::new("bash");
        // The input does not end before the echo's last line has come.
        let script = "rm -f output; await() { for _ in {1..200}; do grep -qs END output && return; sleep 0.1; done; }
            (cat; await) < input | timeout 20 \"$@\" | tee output";
        shell.args(["-c", script, "bash"]).current_dir(stack.directory());
        fs::write(path(&stack, "input"), &input).unwrap();
        shell.arg(client.get_program()).args(client.get_args());
        let output = run(&mut shell, b"");
        assert!(output.text.contains(&input), "{fragments:?}: {} bytes came back: {output}", output.text.len());
    }
}

#[test]
fn openssl_may_not_renegotiate() {
    if !is_installed("openssl", "openssl") {
        return;
    }
    let stack = stack();
    let output = run(s_client(&stack, "localhost").args(["-tls1_2", "-legacy_renegotiation"]), b"R\n");
    output.assert_contains(&["RENEGOTIATING", "no renegotiation"]);
    assert_eq!(stack.edge().handshakes(), 1);
}

#[test]
fn openssl_sees_the_stapled_response() {
    if !is_installed("openssl", "openssl") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let response = certificate_status::good(KeyType::P256, scratch.path());
    let host = Host::new("localhost").default();
    let stack = Stack::builder().keys(&[KeyType::P256]).host(host).ocsp_response(response).start();
    let output = run(s_client(&stack, "localhost").args(["-tls1_2", "-status"]), REQUEST);
    output.assert_contains(&[
        "OCSP Response Status: successful (0x0)",
        "Cert Status: good",
        "Verify return code: 0 (ok)",
    ]);
    // Who does not ask gets none, and is served too.
    let output = run(s_client(&stack, "localhost").arg("-tls1_2"), REQUEST);
    assert!(!output.text.contains("OCSP Response Status"), "{output}");
    output.assert_contains(&["proxy: version 2"]);
}

// curl.

/// `curl` for the page of `host`.
fn curl(stack: &Stack, host: &str) -> Command {
    let edge = stack.edge().address;
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "20", "--cacert"]).arg(stack.authority());
    command.args(["--resolve", &format!("{host}:{}:{}", edge.port(), edge.ip())]);
    command.arg(format!("https://{host}:{}/", edge.port()));
    command
}

#[test]
fn curl_agrees_on_every_suite_and_group() {
    if !is_installed("curl", "curl") {
        return;
    }
    let stack = stack();
    for case in Case::all().into_iter().chain(Case::rarer()) {
        let before = case.count(stack.edge());
        let mut client = curl(&stack, &case.host());
        client.args(["--ciphers", &case.openssl_suite(), "--curves", &case.openssl_groups()]);
        let output = run(&mut client, b"");
        output.assert_success();
        case.assert_served(stack.edge(), before, &output.text);
    }
}

#[test]
fn curl_with_its_defaults_is_served_and_verifies() {
    if !is_installed("curl", "curl") {
        return;
    }
    let stack = stack();
    run(&mut curl(&stack, "localhost"), b"")
        .assert_success()
        .assert_contains(&["alpn: http/1.1", "authority: localhost"]);
    // 60: the certificate is not trusted. That it is checked at all, this shows.
    let mut untrusting = Command::new("curl");
    let resolve = format!("localhost:{}:{}", stack.edge().address.port(), stack.edge().address.ip());
    untrusting.args([
        "--silent",
        "--resolve",
        &resolve,
        &format!("https://localhost:{}/", stack.edge().address.port()),
    ]);
    assert_eq!(run(&mut untrusting, b"").code, Some(60));
}

// GnuTLS.

fn gnutls(stack: &Stack, host: &str, priority: &str) -> Command {
    let edge = stack.edge().address;
    let mut command = Command::new("gnutls-cli");
    command.arg("--x509cafile").arg(stack.authority()).args(["--priority", priority]);
    command.args(["--sni-hostname", host, "--verify-hostname", host, "--port", &edge.port().to_string()]);
    command.arg(edge.ip().to_string());
    command
}

#[test]
fn gnutls_agrees_on_every_suite_and_group() {
    if !is_installed("gnutls-cli", "gnutls-bin") {
        return;
    }
    let stack = stack();
    for case in Case::all().into_iter().chain(Case::rarer()) {
        let cipher = match case.cipher {
            Cipher::Aes128 => "AES-128-GCM",
            Cipher::Aes256 => "AES-256-GCM",
            Cipher::ChaCha20 => "CHACHA20-POLY1305",
        };
        let groups = case.group_list(["+GROUP-X25519", "+GROUP-SECP256R1", "+GROUP-SECP384R1"], ":");
        let priority = format!("NORMAL:-VERS-ALL:+VERS-TLS1.2:-CIPHER-ALL:+{cipher}:-GROUP-ALL:{groups}");
        let before = case.count(stack.edge());
        let output = run(&mut gnutls(&stack, &case.host(), &priority), REQUEST);
        output.assert_contains(&["Status: The certificate is trusted.", "extended master secret"]);
        case.assert_served(stack.edge(), before, &output.text);
    }
}

#[test]
fn gnutls_with_its_defaults_gets_tls_1_2() {
    if !is_installed("gnutls-cli", "gnutls-bin") {
        return;
    }
    let stack = stack();
    let output = run(gnutls(&stack, "localhost", "NORMAL").args(["--alpn", "http/1.1"]), REQUEST);
    output.assert_contains(&["Status: The certificate is trusted.", "(TLS1.2-X.509)", "alpn: http/1.1"]);
    let output = run(&mut gnutls(&stack, "localhost", "NORMAL:-VERS-ALL:+VERS-TLS1.3"), b"");
    output.assert_contains(&["protocol version"]);
}

// NSS.

/// A certificate database with the authority in it.
fn nss_database(stack: &Stack) -> String {
    let directory = path(stack, "nss");
    fs::create_dir(&directory).unwrap();
    let database = format!("sql:{}", directory.display());
    run(Command::new("certutil").args(["-N", "--empty-password", "-d", &database]), b"").assert_success();
    let mut trust = Command::new("certutil");
    trust.args(["-A", "-n", "authority", "-t", "C,,", "-d", &database, "-i"]).arg(stack.authority());
    run(&mut trust, b"").assert_success();
    database
}

fn nss(stack: &Stack, database: &str, host: &str) -> Command {
    let edge = stack.edge().address;
    fs::write(path(stack, "request"), REQUEST).unwrap();
    let mut command = Command::new("tstclnt");
    command.args(["-d", database, "-h", &edge.ip().to_string(), "-p", &edge.port().to_string(), "-a", host]);
    command.arg("-A").arg(path(stack, "request"));
    command
}

#[test]
fn nss_agrees_on_every_suite_and_group() {
    if !is_installed("tstclnt", "libnss3-tools") || !is_installed("certutil", "libnss3-tools") {
        return;
    }
    let stack = stack();
    let database = nss_database(&stack);
    for case in Case::all() {
        let groups = case.group_list(["x25519", "P256", "P384"], ",");
        let before = case.count(stack.edge());
        let mut client = nss(&stack, &database, &case.host());
        client.args(["-V", "tls1.2:tls1.2", "-c", &format!(":{:04X}", case.suite().0), "-I", &groups]);
        let output = run(&mut client, b"");
        output.assert_success();
        case.assert_served(stack.edge(), before, &output.text);
    }
}

#[test]
fn nss_starts_early() {
    if !is_installed("tstclnt", "libnss3-tools") || !is_installed("certutil", "libnss3-tools") {
        return;
    }
    let stack = stack();
    let database = nss_database(&stack);
    // False Start (RFC 7918), extended master secret, a stapled response asked for.
    let output = run(nss(&stack, &database, "localhost").args(["-V", "tls1.2:tls1.3", "-g", "-G", "-T"]), b"");
    output.assert_success().assert_contains(&["authority: localhost", "tls-version: TLSv1.2"]);
}

// Python.

const PYTHON_CLIENT: &str = r#"
import socket, ssl, sys
address, port, host, authority, cipher, group = sys.argv[1:]
context = ssl.create_default_context(cafile=authority)
if cipher:
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(cipher)
    if group:
        try:
            context.set_ecdh_curve(group)
        except ssl.SSLError:
            # Some versions name only the curves of NIST. X25519 is the first of their own list.
            assert group == "X25519"
with socket.create_connection((address, int(port)), 20) as plain:
    with context.wrap_socket(plain, server_hostname=host) as tls:
        print(tls.version(), tls.cipher()[0])
        tls.sendall(b"GET / HTTP/1.0\r\nhost: localhost\r\n\r\n")
        while part := tls.recv(4096):
            sys.stdout.write(part.decode())
"#;

fn python(stack: &Stack, host: &str, cipher: &str, group: &str) -> Output {
    let edge = stack.edge().address;
    let mut command = Command::new("python3");
    command.args(["-c", PYTHON_CLIENT, &edge.ip().to_string(), &edge.port().to_string(), host]);
    run(command.arg(stack.authority()).args([cipher, group]), b"")
}

#[test]
fn python_agrees_on_every_suite_and_group() {
    if !is_installed("python3", "python3") {
        return;
    }
    let stack = stack();
    for case in Case::all().into_iter().chain(Case::rarer()) {
        // It can name one group or leave all.
        let groups = case.group_list(["X25519", "prime256v1", "secp384r1"], ":");
        let group = if groups.contains(':') { "" } else { &groups };
        let before = case.count(stack.edge());
        let output = python(&stack, &case.host(), &case.openssl_suite(), group);
        output.assert_success().assert_contains(&["TLSv1.2"]);
        case.assert_served(stack.edge(), before, &output.text);
    }
    python(&stack, "localhost", "", "").assert_success().assert_contains(&["TLSv1.2", "authority: localhost"]);
}

// rustls.

#[test]
fn rustls_agrees_on_every_suite_and_group() {
    let stack = stack();
    for case in Case::all().into_iter().chain(Case::rarer()) {
        let before = case.count(stack.edge());
        let groups: Vec<_> = case.groups().into_iter().map(|group| rustls::NamedGroup::from(group.0)).collect();
        let config = rustls_client::config_for(rustls::CipherSuite::from(case.suite().0), &groups);
        let mut client = connect_to(stack.edge(), config, &case.host()).unwrap();
        let page = fetch(&mut client).unwrap();
        case.assert_served(stack.edge(), before, &page);
    }
}

#[test]
fn rustls_with_tls_1_3_gets_tls_1_2() {
    let stack = stack();
    let provider = rustls::crypto::aws_lc_rs::default_provider;
    let both = rustls_client::config_with(provider(), rustls::ALL_VERSIONS);
    let mut client = connect_to(stack.edge(), both, "localhost").unwrap();
    assert_eq!(client.conn.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_2));
    fetch(&mut client).unwrap();
    let newest = rustls_client::config_with(provider(), &[&rustls::version::TLS13]);
    let error = connect_to(stack.edge(), newest, "localhost").unwrap_err();
    assert!(error.to_string().contains("ProtocolVersion"), "{error}");
}

// Chromium.

#[test]
fn chromium_is_served() {
    let Some(chromium) = ["chromium", "chromium-browser", "google-chrome"].into_iter().find(|name| find(name)) else {
        skipped("no Chromium is installed");
        return;
    };
    let stack = stack();
    for case in [KeyType::Rsa2048, KeyType::P256] {
        let case = Case { key: case, cipher: Cipher::Aes128, group: NamedGroup::X25519 };
        let (edge, profile) = (stack.edge().address, tempfile::tempdir().unwrap());
        let mut command = Command::new(chromium);
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--dump-dom"]);
        command.arg(format!("--user-data-dir={}", profile.path().display()));
        command.arg(format!("--host-resolver-rules=MAP {} {}", case.host(), edge.ip()));
        command.arg(format!("--ignore-certificate-errors-spki-list={}", spki_hash(case.key)));
        command.arg(format!("https://{}:{}/", case.host(), edge.port()));
        // For its own files; what it would read of the account that runs this is no part of the test.
        command.env("HOME", profile.path());
        run(&mut command, b"").assert_contains(&["proxy: version 2", "tls-version: TLSv1.2"]);
    }
}

/// SHA-256 of the public key, in base64.
fn spki_hash(key: KeyType) -> String {
    let certificate = pki::directory().join("keyserver").join(key.stem()).with_extension("pem");
    let script = "openssl x509 -pubkey -noout -in \"$1\" | openssl pkey -pubin -outform DER | \
                  openssl dgst -sha256 -binary | openssl enc -base64";
    let output = run(Command::new("bash").args(["-c", script, "bash"]).arg(certificate), b"");
    output.assert_success().text.trim().to_owned()
}
