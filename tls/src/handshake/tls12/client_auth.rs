//! The client's certificate: its chain, which the caller verifies, and the proof that the client has its key
//! (RFC 5246 §7.4.6, §7.4.8).

use super::Context;
use super::finish::ExpectChangeCipherSpec;
use super::key_exchange::{ExpectClientKeyExchange, Keys, PendingExchange};
use crate::code_point::SignatureScheme;
use crate::error::{ClientCertificateRefusal, Error, PeerMisbehaved};
use crate::handshake::joiner::Message;
use crate::handshake::wire::Wire;
use crate::identity::{IdentityError, PublicKey};
use crate::message::{certificate, certificate_verify};

/// A certificate was asked for.
pub(crate) struct ExpectCertificate {
    pub(crate) context: Context,
    pub(crate) pending: PendingExchange,
    pub(crate) required: bool,
    pub(crate) schemes: Vec<SignatureScheme>,
}

/// What the client answered.
pub(crate) enum CertificateAnswer {
    /// It has none, and needs none.
    None(ExpectClientKeyExchange),
    Chain(ClientChain),
}

impl ExpectCertificate {
    pub(crate) fn take(self, message: &Message) -> Result<CertificateAnswer, Error> {
        let Self { mut context, pending, required, schemes } = self;
        let chain: Vec<Vec<u8>> = certificate::read(message.body())?.into_iter().map(<[u8]>::to_vec).collect();
        context.transcript.update(message.bytes());
        let Some(leaf) = chain.first() else {
            return match required {
                true => Err(ClientCertificateRefusal::Missing.into()),
                false => Ok(CertificateAnswer::None(ExpectClientKeyExchange { context, pending, client: None })),
            };
        };
        let public_key = PublicKey::of_certificate(leaf).map_err(|cause| match cause {
            IdentityError::UnsupportedKey => ClientCertificateRefusal::Unsupported,
            IdentityError::EmptyChain
            | IdentityError::ChainTooLong
            | IdentityError::MalformedCertificate
            | IdentityError::MalformedKey
            | IdentityError::NoScheme => ClientCertificateRefusal::Bad,
        })?;
        context.summary.client_chain = chain;
        Ok(CertificateAnswer::Chain(ClientChain { context, pending, client: ClientKey { public_key, schemes } }))
    }
}

/// A chain whose first key is of a kind this engine verifies with; whether it lets the client in, the caller says.
pub(crate) struct ClientChain {
    context: Context,
    pending: PendingExchange,
    client: ClientKey,
}

impl ClientChain {
    pub(crate) fn chain(&self) -> &[Vec<u8>] {
        &self.context.summary.client_chain
    }

    pub(crate) fn accept(self) -> ExpectClientKeyExchange {
        ExpectClientKeyExchange { context: self.context, pending: self.pending, client: Some(self.client) }
    }
}

/// The key that the client has yet to prove it has.
pub(crate) struct ClientKey {
    public_key: PublicKey,
    /// Those of CertificateRequest.
    schemes: Vec<SignatureScheme>,
}

/// The keys are agreed on, and the client's certificate is not proven yet.
pub(crate) struct ExpectCertificateVerify {
    pub(crate) context: Context,
    pub(crate) keys: Keys,
    pub(crate) client: ClientKey,
}

impl ExpectCertificateVerify {
    pub(crate) fn take(self, message: &Message, wire: &Wire) -> Result<ExpectChangeCipherSpec, Error> {
        let Self { mut context, keys, client } = self;
        let (scheme, signature) = certificate_verify::read(message.body())?;
        if !client.schemes.contains(&scheme) {
            return Err(PeerMisbehaved::SchemeNotOffered.into());
        }
        let signed = context.transcript.messages();
        wire.provider
            .verify(scheme, &client.public_key, signed, signature)
            .map_err(|_| PeerMisbehaved::WrongCertificateVerify)?;
        context.transcript.update(message.bytes());
        Ok(ExpectChangeCipherSpec { context, keys })
    }
}
