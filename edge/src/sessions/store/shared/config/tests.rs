#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
use super::*;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sample {
    shared: SharedFile,
}

fn load(directory: &Path, text: &str) -> Result<SharedConfig, String> {
    let file = directory.join("edge.toml");
    fs::write(&file, format!("[shared]\n{text}")).unwrap();
    let Sample { shared } = keystead_program::config::load(&file).map_err(|error| error.to_string())?;
    shared.check(directory)
}

fn files() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
    for (file, content) in [
        ("ca.pem", certificate.pem()),
        ("own.pem", certificate.pem()),
        ("own.key", key.serialize_pem()),
        ("password", "letmein\n".to_owned()),
        ("two-lines", "let\nmein\n".to_owned()),
        ("empty", String::new()),
    ] {
        fs::write(directory.path().join(file), content).unwrap();
    }
    directory
}

#[test]
fn defaults_are_good() {
    let directory = files();
    let text = "kind = \"single\"\naddresses = [\"localhost:6379\"]\n";
    let shared = load(directory.path(), text).unwrap();
    assert_eq!((shared.timeout, shared.breaker_failures), (Duration::from_millis(20), 5));
    assert_eq!((shared.kind, shared.prefix.as_str()), (SharedKind::Single, "keystead:session:"));
    assert!(shared.tls.is_none() && shared.password.is_none());
}

#[test]
fn secrets_are_read_and_not_shown() {
    let directory = files();
    let text = "kind = \"sentinel\"\nmaster_name = \"main\"\naddresses = [\"a:1\", \"b:2\"]\nusername = \"edge\"\n\
                password_file = \"password\"\nsentinel_password_file = \"password\"\n\
                tls = { trust_roots = \"ca.pem\", certificate = \"own.pem\", private_key = \"own.key\" }\n";
    let shared = load(directory.path(), text).unwrap();
    assert_eq!(shared.kind, SharedKind::Sentinel { master_name: "main".to_owned() });
    assert_eq!(shared.password.as_ref().unwrap().expose(), "letmein");
    assert!(shared.tls.as_ref().unwrap().own.is_some());
    let shown = format!("{shared:?}");
    assert!(shown.contains("[redacted]") && !shown.contains("letmein"), "{shown}");
}

#[test]
fn what_cannot_stand_is_refused_with_advice() {
    let directory = files();
    for (text, expected) in [
        ("addresses = [\"a:1\"]\n", "missing field `kind`"),
        ("kind = \"one\"\naddresses = [\"a:1\"]\n", "unknown variant `one`"),
        ("kind = \"single\"\naddresses = []\n", "addresses is empty"),
        ("kind = \"single\"\naddresses = [\"a\"]\n", "expected host:port"),
        ("kind = \"single\"\naddresses = [\"a:1\", \"b:1\"]\n", "addresses has several"),
        ("kind = \"sentinel\"\naddresses = [\"a:1\"]\n", "master_name is missing"),
        ("kind = \"single\"\naddresses = [\"a:1\"]\nmaster_name = \"m\"\n", "master_name is for"),
        ("kind = \"cluster\"\naddresses = [\"a:1\"]\ndatabase = 1\n", "database must be 0"),
        ("kind = \"cluster\"\naddresses = [\"a:1\"]\nsentinel_password_file = \"password\"\n", "is for kind"),
        ("kind = \"single\"\naddresses = [\"a:1\"]\nusername = \"edge\"\n", "without password_file"),
        ("kind = \"single\"\naddresses = [\"a:1\"]\npassword_file = \"lost\"\n", "lost: "),
        ("kind = \"single\"\naddresses = [\"a:1\"]\npassword_file = \"empty\"\n", "on one line"),
        ("kind = \"single\"\naddresses = [\"a:1\"]\npassword_file = \"two-lines\"\n", "on one line"),
        ("kind = \"single\"\naddresses = [\"a:1\"]\ntimeout = \"2s\"\n", "timeout must be 1ms to 1s"),
        ("kind = \"single\"\naddresses = [\"a:1\"]\nbreaker_failures = 0\n", "never be asked"),
        ("kind = \"single\"\naddresses = [\"a:1\"]\ntls = { trust_roots = \"empty\" }\n", "holds no certificate"),
        (
            "kind = \"single\"\naddresses = [\"a:1\"]\ntls = { trust_roots = \"ca.pem\", certificate = \"own.pem\" }\n",
            "without its private_key",
        ),
        (
            "kind = \"single\"\naddresses = [\"a:1\"]\ntls = { trust_roots = \"ca.pem\", private_key = \"own.key\" }\n",
            "without its certificate",
        ),
    ] {
        let error = load(directory.path(), text).map(|_| text).unwrap_err();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}
