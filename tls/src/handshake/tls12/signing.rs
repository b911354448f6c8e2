//! ECDHE: the key server signs ServerKeyExchange, and its answer brings ServerHello.random.

use std::sync::Arc;

use rand_core::CryptoRng;

use super::key_exchange::PendingExchange;
use super::server_flight::{Negotiated, SignedKeyExchange};
use crate::code_point::{NamedGroup, SignatureScheme};
use crate::crypto::{BadSignature, KeyPair, Provider};
use crate::error::{Error, LocalFailure};
use crate::handshake::expected::Expected;
use crate::handshake::wire::Wire;
use crate::identity::Identity;
use crate::message::server_key_exchange::{ServerEcdhParams, signed_content};

/// What a key server is asked to sign, and with which key.
#[derive(Clone, Copy, Debug)]
pub struct SignatureRequest<'h> {
    /// The certificate whose key is to sign.
    pub identity: &'h Arc<Identity>,
    /// ClientHello.random.
    pub client_random: &'h [u8; 32],
    /// The scheme to sign with.
    pub scheme: SignatureScheme,
    /// The group of the key exchange.
    pub group: NamedGroup,
    /// The ephemeral public value: an uncompressed point, or 32 bytes for x25519.
    pub public: &'h [u8],
    /// The name the client asked for.
    pub server_name: Option<&'h str>,
}

/// A key server's answer.
#[derive(Clone, Debug)]
pub struct SignedParams {
    /// The ServerHello.random to send.
    pub server_random: [u8; 32],
    /// Over `client_random ‖ server_random ‖ ServerECDHParams` (RFC 8422 §5.4).
    pub signature: Vec<u8>,
}

/// A key server's answer whose signature verifies; only [`verify`](crate::handshake::Handshake::verify) makes one.
#[derive(Debug)]
pub struct VerifiedParams(SignedParams);

/// The ephemeral key is drawn.
pub(crate) struct ReadyToSign {
    negotiated: Negotiated,
    group: NamedGroup,
    scheme: SignatureScheme,
    key_pair: Box<dyn KeyPair>,
}

impl ReadyToSign {
    pub(crate) fn new(
        negotiated: Negotiated,
        group: NamedGroup,
        scheme: SignatureScheme,
        provider: &dyn Provider,
        rng: &mut dyn CryptoRng,
    ) -> Result<Self, Error> {
        let key_pair = provider.key_pair(group, rng).ok_or(LocalFailure::NoKeyPair)?;
        Ok(Self { negotiated, group, scheme, key_pair })
    }

    fn params(&self) -> ServerEcdhParams<'_> {
        ServerEcdhParams { group: self.group, public: self.key_pair.public() }
    }

    pub(crate) fn request(&self) -> SignatureRequest<'_> {
        let offer = &self.negotiated.offer;
        SignatureRequest {
            identity: &self.negotiated.agreed.identity,
            client_random: &offer.random,
            scheme: self.scheme,
            group: self.group,
            public: self.key_pair.public(),
            server_name: offer.server_name.as_deref(),
        }
    }

    pub(crate) fn verify(&self, provider: &dyn Provider, signed: SignedParams) -> Result<VerifiedParams, BadSignature> {
        let Negotiated { offer, agreed, .. } = &self.negotiated;
        let content = signed_content(&offer.random, &signed.server_random, &self.params());
        provider.verify(self.scheme, agreed.identity.public_key(), &content, &signed.signature)?;
        Ok(VerifiedParams(signed))
    }

    pub(crate) fn send(
        self,
        VerifiedParams(signed): VerifiedParams,
        wire: &mut Wire,
        out: &mut Vec<u8>,
    ) -> Result<Expected, Error> {
        let Self { negotiated, group, scheme, key_pair } = self;
        let params = ServerEcdhParams { group, public: key_pair.public() };
        let key_exchange = SignedKeyExchange { params, scheme, signature: &signed.signature };
        let sent = negotiated.send(signed.server_random, Some(&key_exchange), wire, out)?;
        Ok(sent.expect(PendingExchange::Ecdhe(key_pair)))
    }
}
