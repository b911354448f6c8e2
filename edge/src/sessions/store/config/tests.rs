#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
use super::*;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sample {
    #[serde(default)]
    local: LocalConfig,
    shared: Option<SharedFile>,
}

fn load(directory: &Path, text: &str) -> Result<(LocalConfig, Option<SharedConfig>), String> {
    let file = directory.join("edge.toml");
    fs::write(&file, text).unwrap();
    let Sample { local, shared } = keystead_program::config::load(&file).map_err(|error| error.to_string())?;
    local.check()?;
    Ok((local, shared.map(|shared| shared.check(directory)).transpose()?))
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
    let (local, shared) = load(directory.path(), "").unwrap();
    assert_eq!(local, LocalConfig::default());
    assert!(shared.is_none());
    let text = "[shared]\nkind = \"single\"\naddresses = [\"localhost:6379\"]\n";
    let shared = load(directory.path(), text).unwrap().1.unwrap();
    assert_eq!((shared.timeout, shared.breaker_failures), (Duration::from_millis(20), 5));
    assert_eq!((shared.kind, shared.prefix.as_str()), (SharedKind::Single, "keystead:session:"));
    assert!(shared.tls.is_none() && shared.password.is_none());
}

#[test]
fn secrets_are_read_and_not_shown() {
    let directory = files();
    let text = "[shared]\nkind = \"sentinel\"\nmaster_name = \"main\"\naddresses = [\"a:1\", \"b:2\"]\nusername = \"edge\"\n\
                password_file = \"password\"\nsentinel_password_file = \"password\"\n\
                tls = { trust_roots = \"ca.pem\", certificate = \"own.pem\", private_key = \"own.key\" }\n";
    let shared = load(directory.path(), text).unwrap().1.unwrap();
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
        ("[local]\nmax_entries = 1000\n", "max_entries must be at least 4096"),
        ("[local]\nmax_bytes = 1\n", "max_bytes must be at least"),
        ("[local]\nmemory_bytes = 1\n", "memory_bytes must be at least"),
        ("[local]\nbucket_period = \"1s\"\n", "bucket_period must be 60s to"),
        ("[local]\nlookup_timeout = \"1h\"\n", "lookup_timeout must be 1ms to 5s"),
        ("[local]\nmax_entires = 5000\n", "did you mean `max_entries`?"),
        ("[shared]\naddresses = [\"a:1\"]\n", "missing field `kind`"),
        ("[shared]\nkind = \"one\"\naddresses = [\"a:1\"]\n", "unknown variant `one`"),
        ("[shared]\nkind = \"single\"\naddresses = []\n", "addresses is empty"),
        ("[shared]\nkind = \"single\"\naddresses = [\"a\"]\n", "expected host:port"),
        ("[shared]\nkind = \"single\"\naddresses = [\"a:1\", \"b:1\"]\n", "addresses has several"),
        ("[shared]\nkind = \"sentinel\"\naddresses = [\"a:1\"]\n", "master_name is missing"),
        ("[shared]\nkind = \"single\"\naddresses = [\"a:1\"]\nmaster_name = \"m\"\n", "master_name is for"),
        ("[shared]\nkind = \"cluster\"\naddresses = [\"a:1\"]\ndatabase = 1\n", "database must be 0"),
        ("[shared]\nkind = \"cluster\"\naddresses = [\"a:1\"]\nsentinel_password_file = \"password\"\n", "is for kind"),
        ("[shared]\nkind = \"single\"\naddresses = [\"a:1\"]\nusername = \"edge\"\n", "without password_file"),
        ("[shared]\nkind = \"single\"\naddresses = [\"a:1\"]\npassword_file = \"lost\"\n", "lost: "),
        ("[shared]\nkind = \"single\"\naddresses = [\"a:1\"]\npassword_file = \"empty\"\n", "on one line"),
        ("[shared]\nkind = \"single\"\naddresses = [\"a:1\"]\npassword_file = \"two-lines\"\n", "on one line"),
        ("[shared]\nkind = \"single\"\naddresses = [\"a:1\"]\ntimeout = \"2s\"\n", "timeout must be 1ms to 1s"),
        ("[shared]\nkind = \"single\"\naddresses = [\"a:1\"]\nbreaker_failures = 0\n", "never be asked"),
        (
            "[shared]\nkind = \"single\"\naddresses = [\"a:1\"]\ntls = { trust_roots = \"empty\" }\n",
            "holds no certificate",
        ),
        (
            "[shared]\nkind = \"single\"\naddresses = [\"a:1\"]\ntls = { trust_roots = \"ca.pem\", certificate = \"own.pem\" }\n",
            "without its private_key",
        ),
        (
            "[shared]\nkind = \"single\"\naddresses = [\"a:1\"]\ntls = { trust_roots = \"ca.pem\", private_key = \"own.key\" }\n",
            "without its certificate",
        ),
    ] {
        let error = load(directory.path(), text).map(|_| text).unwrap_err();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}
