//! The server's first flight: ServerHello, Certificate, CertificateStatus, ServerKeyExchange and ServerHelloDone, all
//! sent when the key server has answered, since its answer brings ServerHello.random.

use std::sync::Arc;

use rand_core::CryptoRng;

use super::key_exchange::ExpectClientKeyExchange;
use crate::code_point::{CipherSuite, ContentType, NamedGroup, ProtocolVersion, SignatureScheme};
use crate::connection::Summary;
use crate::crypto::{BadSignature, KeyPair, Provider};
use crate::error::{Error, LocalFailure};
use crate::handshake::HostParameters;
use crate::handshake::client_hello::ClientHelloReceived;
use crate::handshake::negotiate::{Agreed, negotiate};
use crate::handshake::wire::Wire;
use crate::identity::Identity;
use crate::message::client_hello::ClientHello;
use crate::message::server_hello::{ServerExtensions, ServerHello};
use crate::message::server_key_exchange::{ServerEcdhParams, signed_content};
use crate::message::{certificate, certificate_status, server_hello_done, server_key_exchange};
use crate::record::MAX_PLAINTEXT;

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

/// Everything is agreed on but ServerHello.random.
pub(crate) struct ReadyToSign {
    received: ClientHelloReceived,
    agreed: Agreed,
    key_pair: Box<dyn KeyPair>,
}

impl ClientHelloReceived {
    pub(crate) fn negotiate(
        self,
        provider: &dyn Provider,
        host: &HostParameters,
        rng: &mut dyn CryptoRng,
    ) -> Result<ReadyToSign, Error> {
        let agreed = negotiate(&self.hello, host)?;
        let key_pair = provider.key_pair(agreed.group, rng).ok_or(LocalFailure::NoKeyPair)?;
        Ok(ReadyToSign { received: self, agreed, key_pair })
    }
}

impl ReadyToSign {
    fn params(&self) -> ServerEcdhParams<'_> {
        ServerEcdhParams { group: self.agreed.group, public: self.key_pair.public() }
    }

    pub(crate) fn request(&self) -> SignatureRequest<'_> {
        SignatureRequest {
            identity: &self.agreed.identity,
            client_random: &self.received.hello.random,
            scheme: self.agreed.scheme,
            group: self.agreed.group,
            public: self.key_pair.public(),
            server_name: self.received.hello.extensions.server_name.as_deref(),
        }
    }

    pub(crate) fn verify(&self, provider: &dyn Provider, signed: SignedParams) -> Result<VerifiedParams, BadSignature> {
        let content = signed_content(&self.received.hello.random, &signed.server_random, &self.params());
        provider.verify(self.agreed.scheme, self.agreed.identity.public_key(), &content, &signed.signature)?;
        Ok(VerifiedParams(signed))
    }

    pub(crate) fn send(
        self,
        VerifiedParams(signed): VerifiedParams,
        wire: &mut Wire,
        out: &mut Vec<u8>,
    ) -> Result<ExpectClientKeyExchange, Error> {
        let flight = self.flight(&signed);
        let mut transcript = self.agreed.suite.hash.start();
        transcript.update(&self.received.message);
        transcript.update(&flight);
        wire.opener.agree_on_version();
        wire.sealer.seal(ContentType::HANDSHAKE, &flight, out)?;
        let extensions = self.received.hello.extensions;
        if let Some(limit) = extensions.record_size_limit {
            wire.sealer.limit_records(limit);
        }
        Ok(ExpectClientKeyExchange {
            key_pair: self.key_pair,
            client_random: self.received.hello.random,
            server_random: signed.server_random,
            suite: self.agreed.suite,
            transcript,
            summary: Summary {
                server_name: extensions.server_name,
                version: ProtocolVersion::TLS_1_2,
                suite: self.agreed.suite.code_point,
                group: self.agreed.group,
                scheme: self.agreed.scheme,
                alpn: self.agreed.alpn,
                extended_master_secret: extensions.extended_master_secret,
                key_id: self.agreed.identity.public_key().key_id(),
            },
        })
    }

    fn flight(&self, signed: &SignedParams) -> Vec<u8> {
        let identity = &self.agreed.identity;
        let ocsp_response = identity.ocsp_response().filter(|_| self.received.hello.extensions.status_request);
        let mut flight = Vec::with_capacity(4096);
        ServerHello {
            random: signed.server_random,
            session_id: Vec::new(),
            cipher_suite: self.agreed.suite.code_point,
            extensions: answers(&self.received.hello, self.agreed.alpn.clone(), ocsp_response.is_some()),
        }
        .write(&mut flight);
        certificate::write(identity.chain(), &mut flight);
        if let Some(response) = ocsp_response {
            certificate_status::write(response, &mut flight);
        }
        server_key_exchange::write(&self.params(), self.agreed.scheme, &signed.signature, &mut flight);
        server_hello_done::write(&mut flight);
        flight
    }
}

/// The extensions that answer the client's.
fn answers(hello: &ClientHello, alpn: Option<Vec<u8>>, status_request: bool) -> ServerExtensions {
    let client = &hello.extensions;
    ServerExtensions {
        renegotiation_info: client.renegotiation_info || hello.offers(CipherSuite::EMPTY_RENEGOTIATION_INFO_SCSV),
        server_name: client.server_name.is_some(),
        ec_point_formats: client.ec_point_formats,
        status_request,
        alpn,
        extended_master_secret: client.extended_master_secret,
        record_size_limit: client.record_size_limit.map(|_| MAX_PLAINTEXT as u16),
    }
}
