//! Configuration files: TOML read into a typed value, or an error with file, line and, for a misspelt key, the key that
//! was probably meant.
//!
//! Configuration types carry `#[serde(deny_unknown_fields)]`. Durations are written `"10s"`, with
//! `#[serde(with = "humantime_serde")]`. Paths are [`RelativePath`]s.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Reads the TOML file at `path`.
///
/// # Errors
/// [`ConfigError`] for a file that cannot be read, is not TOML, or does not fit `T`.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let text =
        std::fs::read_to_string(path).map_err(|cause| ConfigError::Unreadable { file: path.to_owned(), cause })?;
    parse(&text).map_err(|error| ConfigError::invalid(path, &text, &error))
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T, toml::de::Error> {
    toml::from_str(text)
}

/// The directory that the paths in the configuration file `path` are relative to: its own.
pub fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A path as it stands in a configuration file. It is of use only together with that file's directory.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct RelativePath(PathBuf);

impl RelativePath {
    /// The path as seen from where `directory` is; an absolute path stays what it is.
    pub fn under(&self, directory: &Path) -> PathBuf {
        directory.join(&self.0)
    }
}

impl<P: Into<PathBuf>> From<P> for RelativePath {
    fn from(path: P) -> Self {
        Self(path.into())
    }
}

/// Why a configuration file was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {cause}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        cause: std::io::Error,
    },
    /// The file is not TOML, or not of the shape the program expects.
    #[error("{}{position}: {message}{}", file.display(), DidYouMean(suggestion))]
    Invalid {
        /// The file.
        file: PathBuf,
        /// Where in it.
        position: Position,
        /// What is wrong there.
        message: String,
        /// The known key or value nearest to an unknown one.
        suggestion: Option<String>,
    },
}

impl ConfigError {
    fn invalid(file: &Path, text: &str, error: &toml::de::Error) -> Self {
        Self::Invalid {
            file: file.to_owned(),
            position: Position::of(text, error.span()),
            message: error.message().to_owned(),
            suggestion: nearest_expected(error.message()),
        }
    }
}

/// A place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Counted from 1; 0 when the place is not known.
    pub line: usize,
    /// Characters, counted from 1; 0 when the place is not known.
    pub column: usize,
}

impl Position {
    fn of(text: &str, span: Option<std::ops::Range<usize>>) -> Self {
        let Some(before) = span.and_then(|span| text.get(..span.start)) else {
            return Self { line: 0, column: 0 };
        };
        let start_of_line = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self {
            line: before.matches('\n').count() + 1,
            column: before.chars().count() - before.get(..start_of_line).map_or(0, |lines| lines.chars().count()) + 1,
        }
    }
}

impl fmt::Display for Position {
    /// `:3:1`, or nothing when the place is not known.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            return Ok(());
        }
        write!(f, ":{}:{}", self.line, self.column)
    }
}

struct DidYouMean<'s>(&'s Option<String>);

impl fmt::Display for DidYouMean<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(suggestion) => write!(f, "; did you mean `{suggestion}`?"),
            None => Ok(()),
        }
    }
}

/// The expected name most like the unknown one, from a message of serde: "unknown field `x`, expected one of `y`, `z`"
/// and its like for values. serde gives the names in this message and nowhere else.
fn nearest_expected(message: &str) -> Option<String> {
    if !message.starts_with("unknown field") && !message.starts_with("unknown variant") {
        return None;
    }
    let mut quoted = message.split('`').skip(1).step_by(2);
    let unknown = quoted.next()?;
    let (distance, nearest) = quoted.map(|known| (strsim::osa_distance(unknown, known), known)).min()?;
    // Beyond a third of the word it is another word.
    (distance <= (unknown.chars().count() / 3).max(1)).then(|| nearest.to_owned())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use std::time::Duration;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        #[expect(dead_code, reason = "its type is what is tested")]
        listen: std::net::SocketAddr,
        #[serde(default)]
        limits: Limits,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Limits {
        #[serde(with = "humantime_serde")]
        timeout: Duration,
        crypto: Crypto,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Crypto {
        #[default]
        Fast,
        Portable,
    }

    fn error_of(text: &str) -> String {
        let error = parse::<Sample>(text).unwrap_err();
        ConfigError::invalid(Path::new("sample.toml"), text, &error).to_string()
    }

    #[test]
    fn a_misspelt_key_is_named_with_line_and_nearest_key() {
        let error = error_of("listen = \"127.0.0.1:1\"\n\n[limits]\n  timeuot = \"1s\"\n");
        assert!(error.starts_with("sample.toml:4:3: unknown field `timeuot`"), "{error}");
        assert!(error.ends_with("did you mean `timeout`?"), "{error}");
    }

    #[test]
    fn a_key_like_no_other_gets_no_suggestion() {
        let error = error_of("listen = \"127.0.0.1:1\"\nbanana = 1\n");
        assert!(error.starts_with("sample.toml:2:1: unknown field `banana`"), "{error}");
        assert!(!error.contains("did you mean"), "{error}");
    }

    #[test]
    fn an_unknown_value_gets_a_suggestion() {
        let error = error_of("listen = \"127.0.0.1:1\"\n[limits]\ncrypto = \"portabel\"\n");
        assert!(error.starts_with("sample.toml:3:10: unknown variant `portabel`"), "{error}");
        assert!(error.ends_with("did you mean `portable`?"), "{error}");
    }

    #[test]
    fn a_wrong_type_and_a_missing_key_are_named() {
        let error = error_of("# ä\nlisten = 7443\n");
        assert!(error.starts_with("sample.toml:2:10: invalid type"), "{error}");
        let error = error_of("[limits]\n");
        assert!(error.contains("missing field `listen`"), "{error}");
    }

    #[test]
    fn what_is_no_toml_is_named_with_its_line() {
        let error = error_of("listen = \"127.0.0.1:1\"\n[limits\n");
        assert!(error.starts_with("sample.toml:2:"), "{error}");
    }

    #[test]
    fn a_good_file_loads() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("sample.toml");
        std::fs::write(&file, "listen = \"127.0.0.1:1\"\n[limits]\ntimeout = \"1m 30s\"\ncrypto = \"portable\"\n")
            .unwrap();
        let sample: Sample = load(&file).unwrap();
        assert_eq!(sample.limits.timeout, Duration::from_secs(90));
        assert!(matches!(sample.limits.crypto, Crypto::Portable));
        let missing = load::<Sample>(&directory.path().join("none.toml")).unwrap_err();
        assert!(matches!(missing, ConfigError::Unreadable { .. }));
    }

    #[test]
    fn paths_are_relative_to_the_configuration() {
        let path = RelativePath::from("pki/ca.pem");
        assert_eq!(path.under(directory(Path::new("/etc/keystead/edge.toml"))), Path::new("/etc/keystead/pki/ca.pem"));
        assert_eq!(path.under(directory(Path::new("edge.toml"))), Path::new("./pki/ca.pem"));
        assert_eq!(RelativePath::from("/ca.pem").under(Path::new("/etc")), Path::new("/ca.pem"));
    }
}
