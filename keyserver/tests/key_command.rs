//! `keystead-keyserver key`, and the key of `audit`, held against OpenSSL and SoftHSM2.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
const TYPES: [&str; 4] = ["rsa-2048", "p256", "p384", "ed25519"];

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        place.write("sealing.key", &format!("{}\n", "5a".repeat(32)));
        place.write("passphrase", "correct horse\n");
        place.write("pin", "1357\n");
        place
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_keystead-keyserver"))
            .args(arguments)
            .current_dir(self.0.path())
            .env("SOFTHSM2_CONF", self.path("softhsm2.conf"))
            .output()
            .unwrap()
    }

    fn good(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn bad(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn openssl(&self, arguments: &[&str]) -> String {
        let output = Command::new("openssl").args(arguments).current_dir(self.0.path()).output().expect("openssl");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    /// A certificate for this name, of itself.
    fn certify(&self, key: &str, name: &str, out: &str) {
        let (subject, names) = (format!("/CN={name}"), format!("subjectAltName=DNS:{name}"));
        self.openssl(&["req", "-x509", "-key", key, "-subj", &subject, "-addext", &names, "-out", out]);
    }

    /// The public key in a request, as OpenSSL sees it, once it has verified the request.
    fn verified(&self, request: &str) -> String {
        self.write("request.csr", request);
        let verified = self.openssl(&["req", "-in", "request.csr", "-verify", "-noout", "-text"]);
        assert!(verified.contains("DNS:a.example, DNS:b.example"), "{verified}");
        self.openssl(&["req", "-in", "request.csr", "-pubkey", "-noout"])
    }

    /// Makes a token, unless SoftHSM2 is missing and may be.
    fn token(&self) -> bool {
        if !Path::new(MODULE).exists() {
            let may_skip = std::env::var_os("KEYSTEAD_SKIP_MISSING_CLIENTS").is_some_and(|value| value == "1");
            assert!(may_skip, "install softhsm2, or set KEYSTEAD_SKIP_MISSING_CLIENTS=1");
            let _ = writeln!(std::io::stderr(), "SKIPPED: softhsm2 is not installed");
            return false;
        }
        fs::create_dir(self.path("tokens")).unwrap();
        self.write("softhsm2.conf", &format!("directories.tokendir = {}\n", self.path("tokens").display()));
        let made = Command::new("softhsm2-util")
            .args(["--init-token", "--free", "--label", "test", "--pin", "1357", "--so-pin", "2468"])
            .env("SOFTHSM2_CONF", self.path("softhsm2.conf"))
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        true
    }

    /// A configuration with these tables behind the channel's.
    fn configure(&self, tables: &str) {
        let channel =
            "[channel]\ncertificate = \"channel.pem\"\nprivate_key = \"channel.key\"\ntrust_roots = \"channel.pem\"\n";
        self.write("keyserver.toml", &format!("listen = \"127.0.0.1:0\"\n{channel}{tables}"));
        self.good(&["key", "generate", "--type", "p256", "--out", "channel.key", "--plain"]);
        self.certify("channel.key", "c", "channel.pem");
    }
}

const TOKEN: &str = "[[token]]\nname = \"hsm\"\nmodule = \"/usr/lib/softhsm/libsofthsm2.so\"\nlabel = \"test\"\npin = { file = \"pin\" }\n";

#[test]
fn what_is_made_is_what_openssl_reads() {
    let place = Place::new();
    for key_type in TYPES {
        let (plain, encrypted) = (format!("{key_type}.key"), format!("{key_type}.enc"));
        place.good(&["key", "generate", "--type", key_type, "--out", &plain, "--plain"]);
        assert_eq!(fs::metadata(place.path(&plain)).unwrap().permissions().mode() & 0o777, 0o600);
        place.openssl(&["pkey", "-in", &plain, "-check", "-noout"]);
        place.good(&["key", "import", "--in", &plain, "--out", &encrypted, "--passphrase", "file:passphrase"]);
        let public = place.openssl(&["pkey", "-in", &plain, "-pubout"]);
        let read = place.openssl(&["pkey", "-in", &encrypted, "-passin", "file:passphrase", "-pubout"]);
        assert_eq!(read, public, "{key_type}");
    }
}

#[test]
fn nothing_is_overwritten_and_no_way_to_lie_is_a_default() {
    let place = Place::new();
    place.write("there.key", "mine");
    let text = place.bad(&["key", "generate", "--type", "p256", "--out", "there.key", "--plain"]);
    assert!(text.contains("is there already"), "{text}");
    assert_eq!(fs::read_to_string(place.path("there.key")).unwrap(), "mine");
    assert!(place.bad(&["key", "generate", "--type", "p256", "--out", "new.key"]).contains("--plain"));
    let secret = place.bad(&["key", "generate", "--type", "p256", "--out", "new.key", "--passphrase", "correct horse"]);
    assert!(secret.contains("expected file:PATH"), "{secret}");
    assert!(!place.path("new.key").exists());
    let other = place.bad(&["key", "generate", "--type", "dsa", "--out", "new.key", "--plain"]);
    assert!(other.contains("dsa"), "{other}");
}

#[test]
fn keys_are_sealed_listed_and_served_and_ask_for_certificates() {
    let place = Place::new();
    for key_type in TYPES {
        let (plain, sealed) = (format!("{key_type}.key"), format!("{key_type}.sealed"));
        place.good(&["key", "generate", "--type", key_type, "--out", &plain, "--plain"]);
        let said =
            place.good(&["key", "import", "--in", &plain, "--out", &sealed, "--sealing-key", "file:sealing.key"]);
        assert!(fs::read_to_string(place.path(&sealed)).unwrap().contains("KEYSTEAD SEALED PRIVATE KEY"));
        let public = place.openssl(&["pkey", "-in", &plain, "-pubout"]);
        let csr = ["key", "csr", "--dns", "a.example", "--dns", "b.example", "--private-key", &sealed];
        let request = place.good(&[&csr[..], &["--sealing-key", "file:sealing.key"]].concat());
        assert_eq!(place.verified(&request), public, "{key_type}");
        place.configure(&format!(
            "[key_protection]\nsealing_key = {{ file = \"sealing.key\" }}\n\
             [[key]]\nname = \"k\"\nprivate_key = \"{sealed}\"\ncertificate_chain = \"k.pem\"\n"
        ));
        // By its name too, before there is a certificate.
        let csr =
            ["key", "csr", "--dns", "a.example", "--dns", "b.example", "--config", "keyserver.toml", "--key", "k"];
        assert_eq!(place.verified(&place.good(&csr)), public, "{key_type}");
        place.certify(&plain, "a.example", "k.pem");
        let listed: serde_json::Value =
            serde_json::from_str(&place.good(&["key", "list", "--config", "keyserver.toml", "--json"])).unwrap();
        let key = listed.get(0).unwrap();
        let text = |field: &str| key.get(field).unwrap().as_str().unwrap().to_owned();
        assert_eq!((text("name"), text("kind"), text("protection")), ("k".into(), key_type.into(), "sealed".into()));
        assert!(said.contains(&text("key_id")), "{said}");
        assert_eq!(key.get("names").unwrap(), &serde_json::json!(["a.example"]));
        assert!(text("expires").starts_with("20"), "{key}");
        let people = place.good(&["key", "list", "--config", "keyserver.toml"]);
        assert!(people.contains("certificate for a.example, expires 20"), "{people}");
        for file in ["channel.key", "channel.pem", "k.pem"] {
            fs::remove_file(place.path(file)).unwrap();
        }
    }
}

#[test]
fn keys_in_a_token_are_made_put_listed_and_ask_for_certificates() {
    let place = Place::new();
    if !place.token() {
        return;
    }
    place.configure(TOKEN);
    let in_token = ["--config", "keyserver.toml", "--token", "hsm"];
    for key_type in TYPES {
        let (made, put, plain) = (format!("made-{key_type}"), format!("put-{key_type}"), format!("{key_type}.key"));
        let labelled = |label| [&in_token[..], &["--object-label", label]].concat();
        place.good(&[&["key", "generate", "--type", key_type][..], &labelled(&made)].concat());
        let csr = ["key", "csr", "--dns", "a.example", "--dns", "b.example"];
        place.verified(&place.good(&[&csr[..], &labelled(&made)].concat()));
        assert!(
            place.bad(&[&["key", "generate", "--type", key_type][..], &labelled(&made)].concat()).contains("token")
        );
        place.good(&["key", "generate", "--type", key_type, "--out", &plain, "--plain"]);
        place.good(&[&["key", "import", "--in", &plain][..], &labelled(&put)].concat());
        let public = place.openssl(&["pkey", "-in", &plain, "-pubout"]);
        let request = place.good(&[&csr[..], &labelled(&put)].concat());
        assert_eq!(place.verified(&request), public, "{key_type}");
        place.certify(&plain, "a.example", "k.pem");
    }
    let listed = fs::read_to_string(place.path("keyserver.toml")).unwrap();
    let key = "[[key]]\nname = \"k\"\ntoken = \"hsm\"\nobject_label = \"put-ed25519\"\ncertificate_chain = \"k.pem\"\n";
    place.write("keyserver.toml", &format!("{listed}{key}"));
    let listed = place.good(&["key", "list", "--config", "keyserver.toml"]);
    assert!(
        listed.contains("k: ed25519") && listed.contains("in token hsm, object_label \"put-ed25519\" (token)"),
        "{listed}"
    );
}

#[test]
fn the_public_key_of_an_audit_log_is_printed_as_often_as_it_is_wanted() {
    let place = Place::new();
    let printed = place.good(&["audit", "init", "--signing-key", "audit.key"]);
    assert!(place.bad(&["audit", "init", "--signing-key", "audit.key"]).contains("no key is ever overwritten"));
    assert_eq!(place.good(&["audit", "public-key", "--signing-key", "audit.key"]), printed);
    assert_eq!(place.openssl(&["pkey", "-in", "audit.key", "-pubout"]), printed);
    assert!(place.bad(&["audit", "public-key", "--signing-key", "other.key"]).contains("audit init --signing-key"));
}

/// What the kernel says of a running key server.
#[test]
fn a_key_server_has_no_core_dumps_and_locks_its_memory_where_it_may() {
    let place = Place::new();
    place.configure("[[key]]\nname = \"k\"\nprivate_key = \"k.key\"\ncertificate_chain = \"k.pem\"\n");
    place.good(&["key", "generate", "--type", "p256", "--out", "k.key", "--plain"]);
    place.certify("k.key", "a.example", "k.pem");
    let log = fs::File::create(place.path("log")).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_keystead-keyserver"))
        .args(["serve", "--config", "keyserver.toml"])
        .current_dir(place.path(""))
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    let read = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", child.id())).unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let log = loop {
        let log = fs::read_to_string(place.path("log")).unwrap();
        if log.contains("serving") || log.contains("listening") {
            break log;
        }
        assert!(std::time::Instant::now() < deadline, "{log}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    let core = read("limits").lines().find(|line| line.starts_with("Max core file size")).unwrap().to_owned();
    let locked = read("status").lines().find(|line| line.starts_with("VmLck")).unwrap().to_owned();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    let kilobytes: u64 = locked.split_whitespace().nth(1).unwrap().parse().unwrap();
    // Either it is locked, or it was said what to do about it.
    assert_eq!(kilobytes > 1024, !log.contains("memory is not locked"), "{locked}\n{log}");
}
