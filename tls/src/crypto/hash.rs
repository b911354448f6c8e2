//! The transcript's hash (RFC 5246 §7.4.9), the same code in both providers.

use std::fmt;

use sha2::{Digest as _, Sha256, Sha384};

/// The hash of a suite: of its PRF and its Finished messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// FIPS 180-4, 32 bytes.
    Sha256,
    /// FIPS 180-4, 48 bytes.
    Sha384,
}

impl Hash {
    /// Bytes of a digest.
    pub const fn output_length(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
        }
    }

    /// The hash of nothing yet.
    pub fn start(self) -> RunningHash {
        RunningHash(match self {
            Self::Sha256 => State::Sha256(Sha256::new()),
            Self::Sha384 => State::Sha384(Sha384::new()),
        })
    }
}

/// A hash of all bytes so far. A clone goes its own way from there.
#[derive(Clone, Debug)]
pub struct RunningHash(State);

#[derive(Clone, Debug)]
enum State {
    Sha256(Sha256),
    Sha384(Sha384),
}

impl RunningHash {
    /// Which hash it is.
    pub fn hash(&self) -> Hash {
        match self.0 {
            State::Sha256(_) => Hash::Sha256,
            State::Sha384(_) => Hash::Sha384,
        }
    }

    /// Appends `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(hash) => hash.update(bytes),
            State::Sha384(hash) => hash.update(bytes),
        }
    }

    /// The digest of the bytes so far; more may follow.
    pub fn current(&self) -> Digest {
        match &self.0 {
            State::Sha256(hash) => Digest::new(&hash.clone().finalize()),
            State::Sha384(hash) => Digest::new(&hash.clone().finalize()),
        }
    }
}

/// The output of a [`Hash`](enum@Hash).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest {
    bytes: [u8; Self::CAPACITY],
    length: usize,
}

impl Digest {
    /// Bytes of the longest digest.
    const CAPACITY: usize = Hash::Sha384.output_length();

    fn new(digest: &[u8]) -> Self {
        let mut bytes = [0; Self::CAPACITY];
        bytes.iter_mut().zip(digest).for_each(|(to, from)| *to = *from);
        Self { bytes, length: digest.len() }
    }
}

impl AsRef<[u8]> for Digest {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&self.bytes)
    }
}

impl fmt::Debug for Digest {
    /// Lower-case hexadecimal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_fips_180_4() {
        let digest = |hash: Hash| {
            let mut running = hash.start();
            running.update(b"a");
            running.update(b"bc");
            assert_eq!(running.hash(), hash);
            assert_eq!(running.current().as_ref().len(), hash.output_length());
            format!("{:?}", running.current())
        };
        assert_eq!(digest(Hash::Sha256), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(
            digest(Hash::Sha384),
            "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7"
        );
    }

    #[test]
    fn a_clone_goes_its_own_way() {
        let mut running = Hash::Sha256.start();
        running.update(b"ab");
        let mut fork = running.clone();
        fork.update(b"c");
        assert_ne!(fork.current(), running.current());
        running.update(b"c");
        assert_eq!(fork.current(), running.current());
    }
}
