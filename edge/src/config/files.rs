//! What the files of a configuration hold: each is read once, and only if it is not what it was.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keystead_program::config;
use keystead_program::watched::Snapshot;
use keystead_tls::Identity;

use super::client_auth::{CheckedClientAuth, ClientAuthFile};
use super::virtual_host::CertificateFile;

/// What was read of the files that virtual hosts name, to be shared by them and with the next configuration.
#[derive(Debug)]
pub struct HostFiles {
    /// The configuration file and all that it names, as they were before they were read.
    files: Snapshot,
    identities: HashMap<Vec<PathBuf>, Arc<Identity>>,
    /// By what the table says.
    client_auth: HashMap<String, CheckedClientAuth>,
}

impl HostFiles {
    /// Nothing is read yet.
    pub(super) fn of(files: Snapshot) -> Self {
        Self { files, identities: HashMap::new(), client_auth: HashMap::new() }
    }

    /// The configuration file and all that it names, as they were before they were read.
    pub fn snapshot(&self) -> &Snapshot {
        &self.files
    }

    fn agrees_on(&self, before: Option<&Self>, paths: &[PathBuf]) -> bool {
        before.is_some_and(|before| self.files.agrees_on(&before.files, paths.iter().cloned()))
    }
}

/// Reads the files of one configuration.
pub(super) struct Reader<'b> {
    /// What was read.
    pub(super) read: HostFiles,
    /// What was read for the configuration in force.
    before: Option<&'b HostFiles>,
}

impl<'b> Reader<'b> {
    pub(super) fn new(files: Snapshot, before: Option<&'b HostFiles>) -> Self {
        Self { read: HostFiles::of(files), before }
    }

    /// What relative paths start at.
    pub(super) fn directory(&self) -> &Path {
        config::directory(self.read.files.configuration())
    }

    pub(super) fn identity(&mut self, table: &CertificateFile) -> Result<Arc<Identity>, String> {
        let paths: Vec<_> = table.files(self.directory()).collect();
        if let Some(read) = self.read.identities.get(&paths) {
            return Ok(read.clone());
        }
        let unchanged = self.before.and_then(|before| before.identities.get(&paths));
        let identity = match unchanged.filter(|_| self.read.agrees_on(self.before, &paths)) {
            Some(unchanged) => unchanged.clone(),
            None => Arc::new(table.load(self.directory())?),
        };
        self.read.identities.insert(paths, identity.clone());
        Ok(identity)
    }

    /// One verifier serves all hosts with the same table, and goes on where the authorities are the same: it reads changed
    /// revocation lists by itself.
    pub(super) fn client_auth(&mut self, table: ClientAuthFile) -> Result<CheckedClientAuth, String> {
        // Debug quotes every string, so that no two tables read alike.
        let words = format!("{table:?}");
        if let Some(read) = self.read.client_auth.get(&words) {
            return Ok(read.clone());
        }
        let authorities: Vec<_> = table.authorities(self.directory()).into_iter().collect();
        let unchanged = self.before.and_then(|before| before.client_auth.get(&words));
        let checked = match unchanged.filter(|_| self.read.agrees_on(self.before, &authorities)) {
            Some(unchanged) => unchanged.clone(),
            None => table.check(self.directory())?,
        };
        self.read.client_auth.insert(words, checked.clone());
        Ok(checked)
    }
}
