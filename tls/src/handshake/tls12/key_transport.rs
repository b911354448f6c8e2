//! RSA key transport (RFC 5246 §7.4.7.1): the key server leases ServerHello.random beforehand, and recovers the master
//! secret afterwards, from the handshake's messages and the client's Finished as they stood on the wire.
//!
//! The engine has no value for a bad padding: it is given the master secret of a handshake whose Finished the key server
//! has verified, or nothing.

use std::fmt;
use std::sync::Arc;

use super::Context;
use super::finish::ExpectFinished;
use super::key_exchange::PendingExchange;
use super::server_flight::Negotiated;
use crate::error::Error;
use crate::handshake::expected::Expected;
use crate::handshake::joiner::MessageBoundary;
use crate::handshake::wire::Wire;
use crate::identity::Identity;
use crate::record::protect::ProtectionPair;
use crate::secret::MasterSecret;

/// A ServerHello.random that a key server has leased for one handshake.
#[derive(Clone, PartialEq, Eq)]
pub struct Lease {
    /// The random to send.
    pub server_random: [u8; 32],
    /// What the key server knows it by again; its content is the key server's.
    pub token: Vec<u8>,
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").finish_non_exhaustive()
    }
}

/// What a key server is asked to recover the master secret from.
#[derive(Clone, Copy, Debug)]
pub struct MasterSecretRequest<'h> {
    /// The certificate whose key the pre-master secret is encrypted to.
    pub identity: &'h Arc<Identity>,
    /// The lease that ServerHello.random came from.
    pub lease: &'h Lease,
    /// The handshake messages from ClientHello to the last one before ChangeCipherSpec, headers included.
    pub handshake_messages: &'h [u8],
    /// The record of the client's Finished, header included, as it came.
    pub finished_record: &'h [u8],
    /// The name the client asked for.
    pub server_name: Option<&'h str>,
}

/// Everything is agreed on but ServerHello.random.
pub(crate) struct AwaitLease {
    pub(crate) negotiated: Negotiated,
}

impl AwaitLease {
    pub(crate) fn identity(&self) -> &Arc<Identity> {
        &self.negotiated.agreed.identity
    }

    pub(crate) fn send(self, lease: Lease, wire: &mut Wire, out: &mut Vec<u8>) -> Result<Expected, Error> {
        let identity = Arc::clone(&self.negotiated.agreed.identity);
        let sent = self.negotiated.send(lease.server_random, None, wire, out)?;
        Ok(sent.expect(PendingExchange::Rsa(Leased { lease, identity })))
    }
}

/// The lease that a handshake runs on, and whose key it is for.
pub(crate) struct Leased {
    lease: Lease,
    identity: Arc<Identity>,
}

/// The client's records are protected with keys that only the key server can derive.
pub(crate) struct ExpectSealedFinished {
    pub(crate) context: Context,
    pub(crate) leased: Leased,
    pub(crate) boundary: MessageBoundary,
}

impl ExpectSealedFinished {
    pub(crate) fn take(self, record: Vec<u8>) -> SealedFinished {
        SealedFinished { context: self.context, leased: self.leased, boundary: self.boundary, record }
    }
}

/// The client's Finished has come, and cannot be read here yet.
pub(crate) struct SealedFinished {
    context: Context,
    leased: Leased,
    boundary: MessageBoundary,
    record: Vec<u8>,
}

impl SealedFinished {
    pub(crate) fn request(&self) -> MasterSecretRequest<'_> {
        MasterSecretRequest {
            identity: &self.leased.identity,
            lease: &self.leased.lease,
            handshake_messages: self.context.transcript.messages(),
            finished_record: &self.record,
            server_name: self.context.summary.server_name.as_deref(),
        }
    }

    /// Goes on as every handshake does: the record is read again, opened, and its Finished verified here too.
    pub(crate) fn resume(self, master_secret: MasterSecret, wire: &mut Wire) -> Expected {
        let Self { context, boundary, record, .. } = self;
        let Context { suite, client_random, server_random, .. } = &context;
        let protection = ProtectionPair::derive(wire.provider, suite, &master_secret, client_random, server_random);
        wire.put_back(record);
        Expected::Finished(Box::new(ExpectFinished::new(context, protection, master_secret, wire, boundary)))
    }
}
