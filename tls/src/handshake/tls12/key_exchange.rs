//! ClientKeyExchange: in ECDHE the shared secret becomes the master secret and the keys (RFC 5246 §8.1, RFC 7627 §4); in
//! RSA key transport both stay with the key server.

use super::Context;
use super::client_auth::{ClientKey, ExpectCertificateVerify};
use super::finish::ExpectChangeCipherSpec;
use super::key_transport::Leased;
use crate::crypto::{KeyPair, prf};
use crate::error::{Error, PeerMisbehaved};
use crate::handshake::expected::Expected;
use crate::handshake::joiner::Message;
use crate::handshake::wire::Wire;
use crate::message::client_key_exchange;
use crate::record::protect::ProtectionPair;
use crate::secret::{MasterSecret, SharedSecret};

/// This side's part of the key exchange.
pub(crate) enum PendingExchange {
    Ecdhe(Box<dyn KeyPair>),
    Rsa(Leased),
}

/// What the key exchange led to.
pub(crate) enum Keys {
    Derived { protection: ProtectionPair, master_secret: MasterSecret },
    AtKeyServer(Leased),
}

/// The server's flight is sent.
pub(crate) struct ExpectClientKeyExchange {
    pub(crate) context: Context,
    pub(crate) pending: PendingExchange,
    /// The client's certificate, if it sent one.
    pub(crate) client: Option<ClientKey>,
}

impl ExpectClientKeyExchange {
    pub(crate) fn take(self, message: &Message, wire: &Wire) -> Result<Expected, Error> {
        let Self { mut context, pending, client } = self;
        let keys = match pending {
            PendingExchange::Ecdhe(key_pair) => {
                let public = client_key_exchange::read_ecdh(message.body())?;
                let shared_secret = key_pair.agree(public).map_err(|_| PeerMisbehaved::InvalidKeyShare)?;
                context.transcript.update(message.bytes());
                context.derive(&shared_secret, wire)
            }
            PendingExchange::Rsa(leased) => {
                client_key_exchange::read_rsa(message.body())?;
                context.transcript.update(message.bytes());
                Keys::AtKeyServer(leased)
            }
        };
        Ok(match client {
            Some(client) => Expected::CertificateVerify(Box::new(ExpectCertificateVerify { context, keys, client })),
            None => Expected::ChangeCipherSpec(Box::new(ExpectChangeCipherSpec { context, keys })),
        })
    }
}

impl Context {
    /// The transcript ends with ClientKeyExchange.
    fn derive(&self, shared_secret: &SharedSecret, wire: &Wire) -> Keys {
        let hash = self.suite.hash;
        let master_secret = match self.summary.extended_master_secret {
            true => prf::extended_master_secret(hash, shared_secret, self.transcript.digest().as_ref()),
            false => prf::master_secret(hash, shared_secret, &self.client_random, &self.server_random),
        };
        let (client_random, server_random) = (&self.client_random, &self.server_random);
        let protection =
            ProtectionPair::derive(wire.provider, self.suite, &master_secret, client_random, server_random);
        Keys::Derived { protection, master_secret }
    }
}
