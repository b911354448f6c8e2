//! Logs to standard error, as text for people or JSON for machines.

use std::io::IsTerminal;

use serde::Deserialize;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

/// The `[log]` table of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// What is logged: a level, or directives such as `info,keystead_edge=debug`.
    pub level: String,
    /// How it looks.
    pub format: LogFormat,
}

impl Default for LogConfig {
    /// Text at level `info`.
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::default() }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// A line for a person.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

impl LogConfig {
    /// Whether [`start`] would take the level.
    ///
    /// # Errors
    /// [`LogError::Level`] when it is neither a level nor directives.
    pub fn check(&self) -> Result<(), LogError> {
        self.filter().map(|_| ())
    }

    fn filter(&self) -> Result<EnvFilter, LogError> {
        EnvFilter::builder().parse(&self.level).map_err(|cause| LogError::Level { level: self.level.clone(), cause })
    }
}

/// Sends every later event of this process to standard error. Can be called once in a process.
///
/// # Errors
/// [`LogError`] for a level that does not parse, and for a second call.
pub fn start(config: &LogConfig) -> Result<(), LogError> {
    let lines = tracing_subscriber::fmt()
        .with_env_filter(config.filter()?)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match config.format {
        LogFormat::Text => lines.finish().try_init()?,
        LogFormat::Json => lines.json().flatten_event(true).finish().try_init()?,
    }
    Ok(())
}

/// Why logs did not start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The level is neither a level nor directives.
    #[error("[log] level `{level}`: {cause}")]
    Level {
        /// As it stands in the configuration.
        level: String,
        /// What is wrong with it.
        cause: ParseError,
    },
    /// Logs have been started in this process before.
    #[error("logs were started before: {0}")]
    Started(#[from] TryInitError),
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn a_level_is_a_word_or_directives() {
        let at = |level: &str| LogConfig { level: level.to_owned(), ..LogConfig::default() }.check();
        assert!(at("info").is_ok());
        assert!(at("warn,keystead_edge=debug").is_ok());
        let error = at("keystead_edge=loud").unwrap_err().to_string();
        assert!(error.contains("keystead_edge=loud"), "{error}");
    }
}
