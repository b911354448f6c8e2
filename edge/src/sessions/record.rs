//! What is sealed: a session, and what must be known about it besides.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use keystead_tls::Session;
use zeroize::Zeroizing;

/// Which session it is, over all its connections and all its tickets.
pub type Serial = [u8; 16];

/// A digest of how a virtual host authenticates clients.
pub type Policy = [u8; 32];

/// A session as it goes into a ticket or a store.
#[derive(Debug)]
pub struct Record {
    /// Which session it is, and how it came about.
    pub head: Head,
    /// What the engine goes on from.
    pub session: Session,
}

/// Which session it is, and how it came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// When its full handshake was, in seconds since 1970.
    pub began: u64,
    /// Which session it is.
    pub serial: Serial,
    /// How its host authenticated clients then.
    pub policy: Policy,
}

/// The layout of what follows.
const VERSION: u8 = 1;

impl Record {
    /// Reads what [`Head::with`] wrote. `None` for anything else, such as the layout of another version.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(&[VERSION])?;
        let (began, rest) = rest.split_first_chunk()?;
        let (serial, rest) = rest.split_first_chunk()?;
        let (policy, rest) = rest.split_first_chunk()?;
        let head = Head { began: u64::from_be_bytes(*began), serial: *serial, policy: *policy };
        Some(Self { head, session: Session::read(rest).ok()? })
    }
}

impl Head {
    /// The record of `session` as bytes. They hold the master secret.
    pub fn with(&self, session: &Session) -> Zeroizing<Vec<u8>> {
        let session = session.to_bytes();
        let mut bytes = Zeroizing::new(Vec::with_capacity(1 + size_of::<Self>() + session.len()));
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.began.to_be_bytes());
        bytes.extend_from_slice(&self.serial);
        bytes.extend_from_slice(&self.policy);
        bytes.extend_from_slice(&session);
        bytes
    }

    /// How long ago the full handshake was. Another edge's clock may be ahead: then it was at this moment.
    pub fn age(&self, now: SystemTime) -> Duration {
        Duration::from_secs(unix_seconds(now).saturating_sub(self.began))
    }
}

/// Seconds since 1970.
pub fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
pub(super) mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use keystead_tls::secret::MasterSecret;
    use keystead_tls::{CipherSuite, KeyId};

    pub(crate) fn session() -> Session {
        Session {
            server_name: Some("a.example".to_owned()),
            suite: CipherSuite::ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            extended_master_secret: true,
            key_id: KeyId([3; 32]),
            client_chain: Vec::new(),
            master_secret: MasterSecret::new([9; 48]),
        }
    }

    #[test]
    fn reads_what_it_writes_and_nothing_else() {
        let head = Head { began: 1_800_000_000, serial: [1; 16], policy: [2; 32] };
        let bytes = head.with(&session());
        let record = Record::read(&bytes).unwrap();
        assert_eq!(record.head, head);
        assert_eq!(record.session.to_bytes(), session().to_bytes());
        for end in 0..bytes.len() {
            assert!(Record::read(bytes.get(..end).unwrap()).is_none(), "{end}");
        }
        let mut other_version = bytes.to_vec();
        *other_version.first_mut().unwrap() = 2;
        assert!(Record::read(&other_version).is_none());
    }

    #[test]
    fn a_handshake_in_the_future_was_at_this_moment() {
        let head = Head { began: 1000, serial: [0; 16], policy: [0; 32] };
        assert_eq!(head.age(UNIX_EPOCH + Duration::from_secs(1030)), Duration::from_secs(30));
        assert_eq!(head.age(UNIX_EPOCH + Duration::from_secs(970)), Duration::ZERO);
    }
}
