//! The server's first flight: ServerHello, Certificate, CertificateStatus, ServerKeyExchange, CertificateRequest and
//! ServerHelloDone, sent together once ServerHello.random is there.

use rand_core::CryptoRng;

use super::Context;
use super::client_auth::ExpectCertificate;
use super::keeping::{Keeping, KeptBy};
use super::key_exchange::{ExpectClientKeyExchange, PendingExchange};
use super::key_transport::AwaitLease;
use super::signing::ReadyToSign;
use crate::code_point::{CipherSuite, ContentType, ProtocolVersion, SignatureScheme};
use crate::connection::Summary;
use crate::crypto::Provider;
use crate::error::Error;
use crate::handshake::client_hello::ClientHelloReceived;
use crate::handshake::expected::Expected;
use crate::handshake::negotiate::{Agreed, AgreedExchange, negotiate};
use crate::handshake::transcript::Transcript;
use crate::handshake::wire::Wire;
use crate::handshake::{ClientAuth, HostParameters};
use crate::message::client_hello::ClientHello;
use crate::message::server_hello::{ServerExtensions, ServerHello};
use crate::message::server_key_exchange::ServerEcdhParams;
use crate::message::{certificate, certificate_request, certificate_status, server_hello_done, server_key_exchange};
use crate::record::MAX_PLAINTEXT;

/// Everything is agreed on but ServerHello.random. What the client offered and was not taken is gone: a ClientHello may be
/// large, and the answer that is waited for may take long.
pub(crate) struct Negotiated {
    pub(crate) offer: Offer,
    pub(crate) agreed: Agreed,
    kept_by: Option<KeptBy>,
    transcript: Transcript,
    client_auth: ClientAuth,
    schemes: Vec<SignatureScheme>,
}

/// What of a ClientHello the server's flight answers.
pub(crate) struct Offer {
    pub(crate) random: [u8; 32],
    pub(crate) server_name: Option<String>,
    pub(crate) renegotiation_info: bool,
    ec_point_formats: bool,
    status_request: bool,
    pub(crate) extended_master_secret: bool,
    pub(crate) record_size_limit: Option<u16>,
}

impl From<ClientHello> for Offer {
    fn from(hello: ClientHello) -> Self {
        let signals_renegotiation = hello.offers(CipherSuite::EMPTY_RENEGOTIATION_INFO_SCSV);
        let client = hello.extensions;
        Self {
            random: hello.random,
            server_name: client.server_name,
            renegotiation_info: client.renegotiation_info || signals_renegotiation,
            ec_point_formats: client.ec_point_formats,
            status_request: client.status_request,
            extended_master_secret: client.extended_master_secret,
            record_size_limit: client.record_size_limit,
        }
    }
}

/// Who gives ServerHello.random.
pub(crate) enum RandomFrom {
    Signature(ReadyToSign),
    Lease(AwaitLease),
}

/// A ServerKeyExchange whose signature has been verified.
pub(crate) struct SignedKeyExchange<'a> {
    pub(crate) params: ServerEcdhParams<'a>,
    pub(crate) scheme: SignatureScheme,
    pub(crate) signature: &'a [u8],
}

impl ClientHelloReceived {
    pub(crate) fn negotiate(
        self,
        provider: &dyn Provider,
        host: &HostParameters,
        keeping: Keeping,
        rng: &mut dyn CryptoRng,
    ) -> Result<RandomFrom, Error> {
        let kept_by = keeping.with(&self);
        let agreed = negotiate(&self.hello, host)?;
        let exchange = agreed.exchange;
        let client_auth = host.client_auth.clone();
        let keep = client_auth != ClientAuth::None || exchange == AgreedExchange::Rsa;
        let negotiated = Negotiated {
            offer: self.hello.into(),
            transcript: Transcript::start(agreed.suite.hash, self.message, keep),
            agreed,
            kept_by,
            client_auth,
            schemes: host.schemes.clone(),
        };
        match exchange {
            AgreedExchange::Ecdhe { group, scheme } => {
                ReadyToSign::new(negotiated, group, scheme, provider, rng).map(RandomFrom::Signature)
            }
            AgreedExchange::Rsa => Ok(RandomFrom::Lease(AwaitLease { negotiated })),
        }
    }
}

impl Negotiated {
    /// Sends the flight; `signed` is there in ECDHE alone.
    pub(crate) fn send(
        self,
        server_random: [u8; 32],
        signed: Option<&SignedKeyExchange<'_>>,
        wire: &mut Wire,
        out: &mut Vec<u8>,
    ) -> Result<FlightSent, Error> {
        let flight = self.flight(server_random, signed);
        let Self { offer, agreed, kept_by, mut transcript, client_auth, schemes } = self;
        transcript.update(&flight);
        wire.opener.agree_on_version();
        wire.sealer.seal(ContentType::HANDSHAKE, &flight, out)?;
        if let Some(limit) = offer.record_size_limit {
            wire.sealer.limit_records(limit);
        }
        let (group, scheme) = match agreed.exchange {
            AgreedExchange::Ecdhe { group, scheme } => (Some(group), Some(scheme)),
            AgreedExchange::Rsa => (None, None),
        };
        let summary = Summary {
            server_name: offer.server_name,
            version: ProtocolVersion::TLS_1_2,
            suite: agreed.suite.code_point,
            group,
            scheme,
            alpn: agreed.alpn,
            extended_master_secret: offer.extended_master_secret,
            key_id: agreed.identity.public_key().key_id(),
            client_chain: Vec::new(),
            resumed: false,
        };
        let (client_random, suite) = (offer.random, agreed.suite);
        let context = Context { client_random, server_random, suite, transcript, summary, kept_by };
        Ok(FlightSent { context, client_auth, schemes })
    }

    fn flight(&self, server_random: [u8; 32], signed: Option<&SignedKeyExchange<'_>>) -> Vec<u8> {
        let identity = &self.agreed.identity;
        let ocsp_response = identity.ocsp_response().filter(|_| self.offer.status_request);
        let mut flight = Vec::with_capacity(4096);
        ServerHello {
            random: server_random,
            session_id: self.session_id(),
            cipher_suite: self.agreed.suite.code_point,
            extensions: self.answers(ocsp_response.is_some()),
        }
        .write(&mut flight);
        certificate::write(identity.chain(), &mut flight);
        if let Some(response) = ocsp_response {
            certificate_status::write(response, &mut flight);
        }
        if let Some(signed) = signed {
            server_key_exchange::write(&signed.params, signed.scheme, signed.signature, &mut flight);
        }
        if let Some(authorities) = self.client_auth.authorities() {
            certificate_request::write(&self.schemes, authorities, &mut flight);
        }
        server_hello_done::write(&mut flight);
        flight
    }

    /// The extensions that answer the client's.
    fn answers(&self, status_request: bool) -> ServerExtensions {
        ServerExtensions {
            renegotiation_info: self.offer.renegotiation_info,
            server_name: self.offer.server_name.is_some(),
            ec_point_formats: self.offer.ec_point_formats,
            status_request,
            alpn: self.agreed.alpn.clone(),
            extended_master_secret: self.offer.extended_master_secret,
            record_size_limit: self.offer.record_size_limit.map(|_| MAX_PLAINTEXT as u16),
            session_ticket: self.kept_by == Some(KeptBy::Ticket),
        }
    }

    /// The id that the session is kept under; empty where it is not.
    fn session_id(&self) -> Vec<u8> {
        match self.kept_by {
            Some(KeptBy::Id(id)) => id.0.to_vec(),
            Some(KeptBy::Ticket) | None => Vec::new(),
        }
    }
}

/// The flight is on its way.
pub(crate) struct FlightSent {
    context: Context,
    client_auth: ClientAuth,
    schemes: Vec<SignatureScheme>,
}

impl FlightSent {
    /// What the client's flight begins with.
    pub(crate) fn expect(self, pending: PendingExchange) -> Expected {
        let Self { context, client_auth, schemes } = self;
        let required = match client_auth {
            ClientAuth::None => {
                let state = ExpectClientKeyExchange { context, pending, client: None };
                return Expected::ClientKeyExchange(Box::new(state));
            }
            ClientAuth::Optional { .. } => false,
            ClientAuth::Required { .. } => true,
        };
        Expected::Certificate(Box::new(ExpectCertificate { context, pending, required, schemes }))
    }
}
