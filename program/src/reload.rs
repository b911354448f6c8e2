//! When a configuration is to be loaded again: at SIGHUP, and when its file has changed.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

/// How often the file is read. A change counts once it was read twice, since a file may be read while it is written.
const INTERVAL: Duration = Duration::from_secs(1);

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
    /// Begins with the content of the file at this moment, which was just loaded.
    ///
    /// # Errors
    /// The system's, when SIGHUP cannot be listened for.
    pub fn new(path: PathBuf) -> io::Result<Self> {
        let content = std::fs::read(&path).ok();
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
