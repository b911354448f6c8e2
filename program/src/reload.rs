//! When a configuration is to be loaded again: at SIGHUP, and when its file has changed.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

/// How often the file is read. A change counts once it was read twice, since a file may be read while it is written.
const INTERVAL: Duration = Duration::from_secs(1);

/// What became of a configuration that was loaded while the program ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum ReloadOutcome {
    /// It is in force.
    Applied,
    /// It is wrong; the one before stays in force.
    Refused,
}

/// A configuration file as it is before it is loaded: what is written from there on is a change.
#[derive(Clone, Debug)]
pub struct Baseline {
    path: PathBuf,
    /// `None` where there was nothing to read.
    content: Option<Vec<u8>>,
}

impl Baseline {
    /// Reads the file.
    pub fn read(path: &Path) -> Self {
        Self { path: path.to_owned(), content: std::fs::read(path).ok() }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The occasions to load a configuration file again.
#[derive(Debug)]
pub struct Occasions {
    path: PathBuf,
    hangup: Signal,
    /// The content that was loaded, or found wrong; `None` where there was nothing to read.
    tried: Option<Vec<u8>>,
    /// The content that was read last.
    seen: Option<Vec<u8>>,
}

impl Occasions {
    /// Those since `baseline`, which was read before the file was loaded.
    ///
    /// # Errors
    /// The system's, when SIGHUP cannot be listened for.
    pub fn since(baseline: Baseline) -> io::Result<Self> {
        let Baseline { path, content } = baseline;
        Ok(Self { path, hangup: signal(SignalKind::hangup())?, tried: content.clone(), seen: content })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for the next occasion, and says what it is.
    pub async fn next(&mut self) -> &'static str {
        let Self { path, hangup, tried, seen } = self;
        let occasion = tokio::select! {
            _ = hangup.recv() => "SIGHUP",
            () = changed(path, tried, seen) => "file changed",
        };
        // Read before it is loaded: what is written meanwhile is one more change.
        self.tried = content(&self.path).await;
        occasion
    }
}

async fn content(path: &Path) -> Option<Vec<u8>> {
    tokio::fs::read(path).await.ok()
}

/// Waits until the content is another than was tried.
async fn changed(path: &Path, tried: &Option<Vec<u8>>, seen: &mut Option<Vec<u8>>) {
    loop {
        sleep(INTERVAL).await;
        let content = content(path).await;
        let is_whole = content == *seen;
        *seen = content;
        if is_whole && seen != tried {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use tokio::time::timeout;

    #[tokio::test]
    async fn what_is_written_while_the_file_is_loaded_is_a_change() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.toml");
        std::fs::write(&file, "loaded").unwrap();
        let baseline = Baseline::read(&file);
        std::fs::write(&file, "written meanwhile").unwrap();
        let mut occasions = Occasions::since(baseline).unwrap();
        assert_eq!(timeout(INTERVAL * 10, occasions.next()).await, Ok("file changed"));
        assert!(timeout(INTERVAL * 3, occasions.next()).await.is_err(), "once");
    }
}
