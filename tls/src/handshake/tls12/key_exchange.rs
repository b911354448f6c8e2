//! ClientKeyExchange: the shared secret becomes the master secret and the keys (RFC 5246 §8.1, RFC 7627 §4).

use super::finish::ExpectChangeCipherSpec;
use crate::connection::Summary;
use crate::crypto::KeyPair;
use crate::crypto::hash::RunningHash;
use crate::crypto::prf;
use crate::error::{Error, PeerMisbehaved};
use crate::handshake::joiner::Message;
use crate::handshake::wire::Wire;
use crate::message::client_key_exchange;
use crate::record::protect::ProtectionPair;
use crate::suite::Suite;

/// The server's flight is sent.
pub(crate) struct ExpectClientKeyExchange {
    pub(crate) key_pair: Box<dyn KeyPair>,
    pub(crate) client_random: [u8; 32],
    pub(crate) server_random: [u8; 32],
    pub(crate) suite: &'static Suite,
    pub(crate) transcript: RunningHash,
    pub(crate) summary: Summary,
}

impl ExpectClientKeyExchange {
    pub(crate) fn take(self, message: &Message, wire: &Wire) -> Result<ExpectChangeCipherSpec, Error> {
        let Self { key_pair, client_random, server_random, suite, mut transcript, summary } = self;
        let public = client_key_exchange::read_ecdh(message.body())?;
        let shared_secret = key_pair.agree(public).map_err(|_| PeerMisbehaved::InvalidKeyShare)?;
        transcript.update(message.bytes());
        let hash = suite.hash;
        let master_secret = match summary.extended_master_secret {
            true => prf::extended_master_secret(hash, &shared_secret, transcript.current().as_ref()),
            false => prf::master_secret(hash, &shared_secret, &client_random, &server_random),
        };
        let protection = ProtectionPair::derive(wire.provider, suite, &master_secret, &client_random, &server_random);
        Ok(ExpectChangeCipherSpec { protection, master_secret, transcript, summary })
    }
}
