//! The handshake messages so far: hashed, and kept where their bytes are needed once more.

use crate::crypto::hash::{Digest, Hash, RunningHash};

/// The messages of one handshake, headers included (RFC 5246 §7.4.9).
pub(crate) struct Transcript {
    hash: RunningHash,
    /// A CertificateVerify signs the messages themselves, and a key server reads them itself.
    messages: Option<Vec<u8>>,
}

impl Transcript {
    /// Begins with ClientHello; `keep` says whether the messages' bytes will be asked for.
    pub(crate) fn start(hash: Hash, client_hello: Vec<u8>, keep: bool) -> Self {
        let mut running = hash.start();
        running.update(&client_hello);
        Self { hash: running, messages: keep.then_some(client_hello) }
    }

    pub(crate) fn update(&mut self, messages: &[u8]) {
        self.hash.update(messages);
        if let Some(kept) = &mut self.messages {
            kept.extend_from_slice(messages);
        }
    }

    pub(crate) fn hash(&self) -> Hash {
        self.hash.hash()
    }

    pub(crate) fn digest(&self) -> Digest {
        self.hash.current()
    }

    /// The bytes of all messages; empty when they were not to be kept.
    pub(crate) fn messages(&self) -> &[u8] {
        self.messages.as_deref().unwrap_or_default()
    }
}
