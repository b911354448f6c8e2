#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
use super::*;

fn load(text: &str) -> Result<LocalConfig, String> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("edge.toml");
    std::fs::write(&file, text).unwrap();
    let config: LocalConfig = keystead_program::config::load(&file).map_err(|error| error.to_string())?;
    config.check().map(|()| config)
}

#[test]
fn without_a_word_there_are_defaults() {
    assert_eq!(load(""), Ok(LocalConfig::default()));
}

#[test]
fn what_cannot_stand_is_refused_with_advice() {
    for (text, expected) in [
        ("max_entries = 1000\n", "max_entries must be at least 65536"),
        ("max_bytes = 1\n", "max_bytes must be at least"),
        ("memory_bytes = 1\n", "memory_bytes must be at least"),
        ("bucket_period = \"1s\"\n", "bucket_period must be 60s to"),
        ("lookup_timeout = \"1h\"\n", "lookup_timeout must be 1ms to 5s"),
        ("max_entires = 70000\n", "did you mean `max_entries`?"),
    ] {
        let error = load(text).unwrap_err();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}
