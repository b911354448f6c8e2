//! What is left of a handshake for a later one to go on from (RFC 5246 §7.3, RFC 5077).

use std::fmt;

use strum::IntoStaticStr;
use zeroize::Zeroizing;

use crate::code_point::CipherSuite;
use crate::codec::{Reader, write_u16, write_vector};
use crate::error::InvalidMessage;
use crate::identity::KeyId;
use crate::secret::MasterSecret;

/// The name of a session that this side keeps. Whoever knows it and the master secret resumes the session.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId(pub [u8; 32]);

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId")
    }
}

/// What must be known to resume a session.
#[derive(Debug)]
pub struct Session {
    /// The name the client asked for.
    pub server_name: Option<String>,
    /// The suite.
    pub suite: CipherSuite,
    /// Whether the master secret is bound to its handshake (RFC 7627).
    pub extended_master_secret: bool,
    /// The key of the certificate that was shown.
    pub key_id: KeyId,
    /// The client's DER certificates, its own first, whose key it has proven to have; empty when it sent none.
    pub client_chain: Vec<Vec<u8>>,
    /// The secret of all its connections.
    pub master_secret: MasterSecret,
}

impl Session {
    /// The session as bytes. They hold the master secret, and must be sealed before they go anywhere.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let chain: usize = self.client_chain.iter().map(|certificate| certificate.len() + 3).sum();
        // Of its whole length from the start: a vector that grows leaves copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(512 + chain));
        write_vector::<1>(&mut bytes, |out| {
            out.extend_from_slice(self.server_name.as_deref().unwrap_or_default().as_bytes());
        });
        write_u16(&mut bytes, self.suite.0);
        bytes.push(self.extended_master_secret.into());
        bytes.extend_from_slice(&self.key_id.0);
        write_vector::<3>(&mut bytes, |out| {
            for certificate in &self.client_chain {
                write_vector::<3>(out, |out| out.extend_from_slice(certificate));
            }
        });
        bytes.extend_from_slice(self.master_secret.expose());
        bytes
    }

    /// Reads what [`Self::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`InvalidMessage`] for anything else.
    pub fn read(bytes: &[u8]) -> Result<Self, InvalidMessage> {
        let mut reader = Reader::new(bytes);
        let name = std::str::from_utf8(reader.vector8()?).map_err(|_| InvalidMessage::InvalidServerName)?;
        let suite = CipherSuite(reader.u16()?);
        let extended_master_secret = match reader.u8()? {
            0 => false,
            1 => true,
            _ => return Err(InvalidMessage::WrongLength),
        };
        let key_id = KeyId(reader.array()?);
        let mut chain = Reader::new(reader.vector24()?);
        let mut client_chain = Vec::new();
        while !chain.is_empty() {
            client_chain.push(chain.vector24()?.to_vec());
        }
        let master_secret = MasterSecret::new(reader.array()?);
        reader.finish()?;
        let server_name = (!name.is_empty()).then(|| name.to_owned());
        Ok(Self { server_name, suite, extended_master_secret, key_id, client_chain, master_secret })
    }
}

/// Why a session does not fit the ClientHello that offers it, or the virtual host as it is at this moment. The handshake
/// is a full one then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, IntoStaticStr, strum::EnumIter)]
#[strum(serialize_all = "snake_case")]
pub enum Difference {
    /// The client asks for another name (RFC 6066 §3).
    OtherServerName,
    /// The client does not offer the session's suite (RFC 5246 §7.4.1.2), or the host does not allow it.
    OtherSuite,
    /// The host has no certificate for the session's key at this moment, or none for such use.
    KeyGone,
    /// The host requires a certificate that the session has not, or wants none where it has one.
    OtherClientAuth,
    /// The client offers extended_master_secret, and the session is without (RFC 7627 §5.3).
    NoExtendedMasterSecret,
}

impl Difference {
    /// The word by which log and metric name this cause.
    pub fn reason(self) -> &'static str {
        self.into()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn session(server_name: Option<&str>, client_chain: Vec<Vec<u8>>) -> Session {
        Session {
            server_name: server_name.map(str::to_owned),
            suite: CipherSuite::ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            extended_master_secret: server_name.is_some(),
            key_id: KeyId([3; 32]),
            client_chain,
            master_secret: MasterSecret::new([9; 48]),
        }
    }

    #[test]
    fn reads_what_it_writes() {
        for session in [session(None, Vec::new()), session(Some("a.example"), vec![vec![1; 300], vec![2; 70_000]])] {
            let bytes = session.to_bytes();
            let read = Session::read(&bytes).unwrap();
            assert_eq!(read.to_bytes(), bytes);
            assert_eq!(read.server_name, session.server_name);
            assert_eq!(read.client_chain, session.client_chain);
            assert_eq!(read.master_secret.expose(), [9; 48]);
        }
    }

    #[test]
    fn what_is_cut_or_grown_is_no_session() {
        let bytes = session(Some("a.example"), vec![vec![1; 30]]).to_bytes();
        for end in 0..bytes.len() {
            assert!(Session::read(bytes.get(..end).unwrap()).is_err(), "{end}");
        }
        assert!(Session::read(&[bytes.as_slice(), &[0]].concat()).is_err());
    }

    #[test]
    fn nothing_secret_is_printed() {
        let text = format!("{:?} {:?}", session(None, Vec::new()), SessionId([7; 32]));
        assert!(
            text.contains("MasterSecret([redacted])") && !text.contains("9, 9") && !text.contains("7, 7"),
            "{text}"
        );
    }
}
