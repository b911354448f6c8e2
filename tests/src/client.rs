//! A TLS 1.2 client that does what a test tells it to: each message on its own, whole, altered, split or out of order,
//! protected or not.
//!
//! ```text
//!  hello ──► read_flight ──► [certificate] ──► key_exchange or rsa_key_exchange ──► [certificate_verify]
//!        ──► change_cipher_spec ──► finished ──► read_finished ──► data, alert
//! ```
//!
//! Each of these gives the bytes for the server, or takes the server's. `…_message` makes a handshake message without
//! its record, and [`record`](Client::record) a record of anything. The client is made of the engine's own parts; that
//! those are right is for other clients to show.

#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use keystead_tls::crypto::hash::Digest;
use keystead_tls::crypto::prf::{self, FinishedLabel};
use keystead_tls::crypto::{FAST, TAG_LENGTH};
use keystead_tls::message::client_hello::{ClientExtensions, ClientHello};
use keystead_tls::message::new_session_ticket::NewSessionTicket;
use keystead_tls::message::server_hello::ServerHello;
use keystead_tls::message::server_key_exchange::signed_content;
use keystead_tls::message::{
    self, certificate, certificate_request, certificate_status, certificate_verify, client_key_exchange, finished,
    server_key_exchange,
};
use keystead_tls::record::protect::{Protection, ProtectionPair};
use keystead_tls::record::{HEADER_LENGTH, MAX_PLAINTEXT};
use keystead_tls::secret::{MasterSecret, SharedSecret};
use keystead_tls::suite::Suite;
use keystead_tls::{
    Alert, CipherSuite, ContentType, HandshakeType, Identity, NamedGroup, ProtocolVersion, SignatureScheme,
};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::signer::{SERVER_NAME, Signer};

/// The client's side of one connection.
pub struct Client {
    /// What it offers. [`Client::hello`] sends it.
    pub offer: ClientHello,
    /// Further extensions, each made by [`extension`], that stand behind the offer's in ClientHello.
    pub more_extensions: Vec<u8>,
    transcript: Vec<u8>,
    flight: Option<Flight>,
    suite: Option<&'static Suite>,
    ticket: Option<NewSessionTicket>,
    saved_secret: Option<[u8; 48]>,
    master_secret: Option<MasterSecret>,
    /// The keys that ChangeCipherSpec switches on.
    next_writer: Option<Protection>,
    next_reader: Option<Protection>,
    writer: Option<Protection>,
    reader: Option<Protection>,
    unread: Vec<u8>,
}

/// The server's first flight.
#[derive(Clone, Debug)]
pub struct Flight {
    /// ServerHello.
    pub hello: ServerHello,
    /// Certificate: DER, the server's own first.
    pub chain: Vec<Vec<u8>>,
    /// CertificateStatus.
    pub ocsp_response: Option<Vec<u8>>,
    /// ServerKeyExchange; `None` in RSA key transport, which has none.
    pub share: Option<ServerShare>,
    /// CertificateRequest.
    pub certificate_request: Option<CertificateRequest>,
}

/// What ServerKeyExchange says. Its signature is right.
#[derive(Clone, Debug)]
pub struct ServerShare {
    /// The group.
    pub group: NamedGroup,
    /// The server's public value.
    pub public: Vec<u8>,
    /// The scheme of the signature.
    pub scheme: SignatureScheme,
}

/// What CertificateRequest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateRequest {
    /// For CertificateVerify.
    pub schemes: Vec<SignatureScheme>,
    /// DER names.
    pub authorities: Vec<Vec<u8>>,
}

/// What a client keeps of a connection to come back with.
#[derive(Clone, Debug)]
pub struct Saved {
    /// The id that the server gave the session; empty if it gave none.
    pub session_id: Vec<u8>,
    /// The ticket that the server gave.
    pub ticket: Option<NewSessionTicket>,
    /// The secret of all the session's connections.
    pub master_secret: [u8; 48],
}

/// One record, opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What it carries.
    pub content_type: ContentType,
    /// Its plaintext.
    pub payload: Vec<u8>,
    /// Whether it came protected.
    pub protected: bool,
}

/// An offer of everything the engine has.
pub fn full_offer() -> ClientHello {
    ClientHello {
        version: ProtocolVersion::TLS_1_2,
        random: [0xc1; 32],
        session_id: Vec::new(),
        cipher_suites: keystead_tls::HostParameters::default().suites,
        extensions: ClientExtensions {
            server_name: Some(SERVER_NAME.into()),
            status_request: false,
            supported_groups: Some(NamedGroup::KNOWN.to_vec()),
            ec_point_formats: true,
            signature_algorithms: Some(SignatureScheme::KNOWN.to_vec()),
            alpn: None,
            extended_master_secret: true,
            record_size_limit: None,
            supported_versions: None,
            session_ticket: None,
            renegotiation_info: true,
        },
    }
}

/// A handshake message of any type and content.
pub fn message(kind: HandshakeType, body: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(body.len()).expect("a short body").to_be_bytes();
    [&[kind.0][..], &length, body].concat()
}

/// An extension of any type and content.
pub fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).expect("an extension's length").to_be_bytes();
    [&kind.to_be_bytes()[..], &length, data].concat()
}

/// ClientHello's body in two parts: what stands in front of the extensions' length, and the extensions.
pub fn hello_parts(offer: &ClientHello) -> (Vec<u8>, Vec<u8>) {
    let body = |offer: &ClientHello| {
        let mut message = Vec::new();
        offer.write(&mut message);
        message.split_off(message::HEADER_LENGTH)
    };
    let mut front = body(&ClientHello { extensions: ClientExtensions::default(), ..offer.clone() });
    let extensions = body(offer).split_off(front.len());
    front.truncate(front.len() - 2);
    (front, extensions)
}

/// A record of any type and content, unprotected.
pub fn plain_record(content_type: ContentType, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("a record's length").to_be_bytes();
    [&[content_type.0, 3, 3][..], &length, payload].concat()
}

impl Default for Client {
    fn default() -> Self {
        Self::new(full_offer())
    }
}

impl Client {
    /// A client that offers this.
    pub fn new(offer: ClientHello) -> Self {
        Self {
            offer,
            more_extensions: Vec::new(),
            transcript: Vec::new(),
            flight: None,
            suite: None,
            ticket: None,
            saved_secret: None,
            master_secret: None,
            next_writer: None,
            next_reader: None,
            writer: None,
            reader: None,
            unread: Vec::new(),
        }
    }

    /// Counts a message that the test made as sent.
    pub fn note(&mut self, message: &[u8]) {
        self.transcript.extend_from_slice(message);
    }

    /// ClientHello.
    pub fn hello_message(&mut self) -> Vec<u8> {
        let (mut body, mut extensions) = hello_parts(&self.offer);
        extensions.extend_from_slice(&self.more_extensions);
        body.extend(u16::try_from(extensions.len()).expect("a block's length").to_be_bytes());
        body.extend(extensions);
        let message = message(HandshakeType::CLIENT_HELLO, &body);
        self.note(&message);
        message
    }

    /// ClientHello in its record.
    pub fn hello(&mut self) -> Vec<u8> {
        let message = self.hello_message();
        self.records(ContentType::HANDSHAKE, &message)
    }

    /// Reads ServerHello to ServerHelloDone, and nothing else, and verifies the signature.
    pub fn read_flight(&mut self, wire: &[u8]) -> Flight {
        let records = self.read(wire);
        assert!(records.iter().all(|record| record.content_type == ContentType::HANDSHAKE), "{records:?}");
        let messages = records.into_iter().flat_map(|record| record.payload).collect::<Vec<_>>();
        self.note(&messages);
        let flight = parse_flight(&messages, &self.offer.random);
        self.flight = Some(flight.clone());
        flight
    }

    /// ClientKeyExchange; the keys are derived and wait for ChangeCipherSpec.
    pub fn key_exchange_message(&mut self) -> Vec<u8> {
        let share = self.flight.as_ref().and_then(|flight| flight.share.clone()).expect("the server's share");
        let key_pair = FAST.key_pair(share.group, &mut StdRng::seed_from_u64(7)).expect("a key pair");
        let mut message = Vec::new();
        client_key_exchange::write_ecdh(key_pair.public(), &mut message);
        self.note(&message);
        self.derive(&key_pair.agree(&share.public).expect("a point of the group"));
        message
    }

    /// ClientKeyExchange of RSA key transport with this ciphertext; the keys are derived from this pre-master secret,
    /// whatever is in the ciphertext, and wait for ChangeCipherSpec.
    pub fn rsa_key_exchange_message(&mut self, ciphertext: &[u8], pre_master_secret: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        client_key_exchange::write_rsa(ciphertext, &mut message);
        self.note(&message);
        self.derive(&SharedSecret::new(pre_master_secret.to_vec()));
        message
    }

    /// The transcript ends with ClientKeyExchange.
    fn derive(&mut self, shared_secret: &SharedSecret) {
        let hello = &self.flight.as_ref().expect("the server's flight").hello;
        let suite = Suite::find(hello.cipher_suite).expect("a suite of the engine");
        let server_random = hello.random;
        let master_secret = match hello.extensions.extended_master_secret {
            true => prf::extended_master_secret(suite.hash, shared_secret, self.digest(suite).as_ref()),
            false => prf::master_secret(suite.hash, shared_secret, &self.offer.random, &server_random),
        };
        self.take_keys(suite, master_secret, &server_random);
    }

    /// The keys wait for ChangeCipherSpec.
    fn take_keys(&mut self, suite: &'static Suite, master_secret: MasterSecret, server_random: &[u8; 32]) {
        let pair = ProtectionPair::derive(FAST, suite, &master_secret, &self.offer.random, server_random);
        self.suite = Some(suite);
        self.master_secret = Some(master_secret);
        self.next_writer = Some(pair.client);
        self.next_reader = Some(pair.server);
    }

    /// Certificate with this chain.
    pub fn certificate_message(&mut self, chain: &[Vec<u8>]) -> Vec<u8> {
        let mut message = Vec::new();
        certificate::write(chain, &mut message);
        self.note(&message);
        message
    }

    /// Certificate in as many records as it needs.
    pub fn certificate(&mut self, chain: &[Vec<u8>]) -> Vec<u8> {
        let message = self.certificate_message(chain);
        self.records(ContentType::HANDSHAKE, &message)
    }

    /// CertificateVerify with this signer's signature of everything so far.
    pub fn certificate_verify_message(&mut self, signer: &Signer, scheme: SignatureScheme) -> Vec<u8> {
        let mut message = Vec::new();
        certificate_verify::write(scheme, &signer.sign_bytes(scheme, &self.transcript), &mut message);
        self.note(&message);
        message
    }

    /// CertificateVerify in its record.
    pub fn certificate_verify(&mut self, signer: &Signer, scheme: SignatureScheme) -> Vec<u8> {
        let message = self.certificate_verify_message(signer, scheme);
        self.records(ContentType::HANDSHAKE, &message)
    }

    /// ClientKeyExchange of RSA key transport in its record.
    pub fn rsa_key_exchange(&mut self, ciphertext: &[u8], pre_master_secret: &[u8]) -> Vec<u8> {
        let message = self.rsa_key_exchange_message(ciphertext, pre_master_secret);
        self.records(ContentType::HANDSHAKE, &message)
    }

    /// ClientKeyExchange in its record.
    pub fn key_exchange(&mut self) -> Vec<u8> {
        let message = self.key_exchange_message();
        self.records(ContentType::HANDSHAKE, &message)
    }

    /// ChangeCipherSpec; everything after it is protected.
    pub fn change_cipher_spec(&mut self) -> Vec<u8> {
        let record = self.record(ContentType::CHANGE_CIPHER_SPEC, &[1]);
        self.writer = Some(self.next_writer.take().expect("the keys are agreed on"));
        record
    }

    /// Finished.
    pub fn finished_message(&mut self) -> Vec<u8> {
        let mut message = Vec::new();
        finished::write(&self.verify_data(FinishedLabel::Client), &mut message);
        self.note(&message);
        message
    }

    /// Finished in its record.
    pub fn finished(&mut self) -> Vec<u8> {
        let message = self.finished_message();
        self.records(ContentType::HANDSHAKE, &message)
    }

    /// Everything from ClientKeyExchange to Finished, as clients send it in one piece.
    pub fn second_flight(&mut self) -> Vec<u8> {
        [self.key_exchange(), self.change_cipher_spec(), self.finished()].concat()
    }

    /// What there is to come back with.
    pub fn save(&self) -> Saved {
        let session_id = self.flight.as_ref().map(|flight| flight.hello.session_id.clone()).unwrap_or_default();
        let master_secret = self.master_secret.as_ref().expect("the keys are agreed on").expose();
        let master_secret = master_secret.try_into().expect("48 bytes");
        Saved { session_id, ticket: self.ticket.clone(), master_secret }
    }

    /// The same client, which offers no session and yet takes the master secret of this one.
    pub fn knowing(self, saved: &Saved) -> Self {
        Self { saved_secret: Some(saved.master_secret), ..self }
    }

    /// The same client, which offers to go on from this session: by its ticket if there is one, or else by its id.
    pub fn coming_back_with(mut self, saved: &Saved) -> Self {
        match &saved.ticket {
            Some(ticket) => self.offer.extensions.session_ticket = Some(ticket.ticket.clone()),
            None => self.offer.session_id.clone_from(&saved.session_id),
        }
        self.knowing(saved)
    }

    /// The ticket that the server gave.
    pub fn ticket(&self) -> Option<&NewSessionTicket> {
        self.ticket.as_ref()
    }

    /// Reads ServerHello to Finished of a handshake that goes on from a session, checks Finished, and returns the records
    /// behind it. ChangeCipherSpec and Finished of the client are next.
    pub fn read_resumption(&mut self, wire: &[u8]) -> (ServerHello, Vec<Record>) {
        let (hello, protected) = self.read_resumption_in_the_clear(wire);
        let behind = self.read_finished(protected);
        let mut finished = Vec::new();
        finished::write(&self.verify_data(FinishedLabel::Server), &mut finished);
        self.note(&finished);
        (hello, behind)
    }

    /// Reads what stands in front of ChangeCipherSpec in a handshake that goes on from a session, and returns the bytes
    /// from there on. The keys wait for ChangeCipherSpec.
    pub fn read_resumption_in_the_clear<'w>(&mut self, wire: &'w [u8]) -> (ServerHello, &'w [u8]) {
        let (in_the_clear, protected) = split_at_change_cipher_spec(wire);
        let messages: Vec<u8> = self.read(in_the_clear).into_iter().flat_map(|record| record.payload).collect();
        self.note(&messages);
        let (hello, rest) = split_message(&messages, HandshakeType::SERVER_HELLO).expect("ServerHello");
        let hello = ServerHello::read(hello).expect("ServerHello");
        let rest = self.read_ticket(rest);
        assert!(rest.is_empty(), "messages behind ServerHello: {rest:02x?}");
        let suite = Suite::find(hello.cipher_suite).expect("a suite of the engine");
        let master_secret = MasterSecret::new(self.saved_secret.expect("a session to go on from"));
        self.take_keys(suite, master_secret, &hello.random);
        (hello, protected)
    }

    /// Reads NewSessionTicket if it is the first of `messages`, and returns the rest.
    fn read_ticket<'m>(&mut self, messages: &'m [u8]) -> &'m [u8] {
        let Some((body, rest)) = split_message(messages, HandshakeType::NEW_SESSION_TICKET) else { return messages };
        self.ticket = Some(NewSessionTicket::read(body).expect("NewSessionTicket"));
        rest
    }

    /// Reads ChangeCipherSpec and Finished, with NewSessionTicket in front if there is one, checks them, and returns the
    /// records behind them.
    pub fn read_finished(&mut self, wire: &[u8]) -> Vec<Record> {
        let (in_the_clear, wire) = split_at_change_cipher_spec(wire);
        let messages: Vec<u8> = self.read(in_the_clear).into_iter().flat_map(|record| record.payload).collect();
        self.note(&messages);
        let rest = self.read_ticket(&messages);
        assert!(rest.is_empty(), "messages in front of ChangeCipherSpec: {rest:02x?}");
        let mut message = Vec::new();
        finished::write(&self.verify_data(FinishedLabel::Server), &mut message);
        let expected = [
            Record { content_type: ContentType::CHANGE_CIPHER_SPEC, payload: vec![1], protected: false },
            Record { content_type: ContentType::HANDSHAKE, payload: message, protected: true },
        ];
        let mut records = self.read(wire);
        let behind = records.split_off(expected.len().min(records.len()));
        assert_eq!(records, expected);
        behind
    }

    /// Application data.
    pub fn data(&mut self, data: &[u8]) -> Vec<u8> {
        self.records(ContentType::APPLICATION_DATA, data)
    }

    /// An alert.
    pub fn alert(&mut self, alert: Alert) -> Vec<u8> {
        self.record(ContentType::ALERT, &alert.encode())
    }

    /// As few records as hold `payload`.
    pub fn records(&mut self, content_type: ContentType, payload: &[u8]) -> Vec<u8> {
        self.records_of(MAX_PLAINTEXT, content_type, payload)
    }

    /// `payload` in records of at most `size` bytes of plaintext.
    pub fn records_of(&mut self, size: usize, content_type: ContentType, payload: &[u8]) -> Vec<u8> {
        payload.chunks(size).flat_map(|chunk| self.record(content_type, chunk)).collect()
    }

    /// One record, protected if the client is that far; of any type and content, also of such as may not be.
    pub fn record(&mut self, content_type: ContentType, payload: &[u8]) -> Vec<u8> {
        let Some(writer) = &mut self.writer else { return plain_record(content_type, payload) };
        let room = vec![0; writer.explicit_nonce_length()];
        let mut fragment = [&room, payload, &[0; TAG_LENGTH]].concat();
        writer.seal(content_type, ProtocolVersion::TLS_1_2, &mut fragment).expect("records are left");
        plain_record(content_type, &fragment)
    }

    /// Opens the server's records. What is no whole record waits for the next call.
    pub fn read(&mut self, wire: &[u8]) -> Vec<Record> {
        self.unread.extend_from_slice(wire);
        let mut records = Vec::new();
        let unread = std::mem::take(&mut self.unread);
        let mut rest = unread.as_slice();
        while let Some((&[content_type, v0, v1, l0, l1], body)) = rest.split_first_chunk::<HEADER_LENGTH>() {
            let length = usize::from(u16::from_be_bytes([l0, l1]));
            let Some((fragment, behind)) = body.split_at_checked(length) else { break };
            rest = behind;
            let (content_type, version) = (ContentType(content_type), ProtocolVersion(u16::from_be_bytes([v0, v1])));
            let mut fragment = fragment.to_vec();
            let protected = self.reader.is_some();
            if let Some(reader) = &mut self.reader {
                let plaintext = reader.open(content_type, version, &mut fragment).expect("a record that opens");
                fragment = fragment.get(plaintext).expect("a range of the record").to_vec();
            }
            if content_type == ContentType::CHANGE_CIPHER_SPEC {
                self.reader = self.next_reader.take();
            }
            records.push(Record { content_type, payload: fragment, protected });
        }
        self.unread = rest.to_vec();
        records
    }

    /// Opens the server's records, which are application data and nothing else.
    pub fn read_data(&mut self, wire: &[u8]) -> Vec<u8> {
        let records = self.read(wire);
        assert!(records.iter().all(|record| record.content_type == ContentType::APPLICATION_DATA), "{records:?}");
        records.into_iter().flat_map(|record| record.payload).collect()
    }

    fn digest(&self, suite: &Suite) -> Digest {
        let mut hash = suite.hash.start();
        hash.update(&self.transcript);
        hash.current()
    }

    fn verify_data(&self, label: FinishedLabel) -> [u8; finished::VERIFY_DATA_LENGTH] {
        let (suite, master_secret) = self.suite.zip(self.master_secret.as_ref()).expect("the keys are agreed on");
        prf::verify_data(suite.hash, master_secret, label, self.digest(suite).as_ref())
    }
}

/// The records in front of ChangeCipherSpec, and the rest.
fn split_at_change_cipher_spec(wire: &[u8]) -> (&[u8], &[u8]) {
    let mut rest = wire;
    while let Some((&[content_type, _, _, high, low], body)) = rest.split_first_chunk::<HEADER_LENGTH>() {
        if content_type == ContentType::CHANGE_CIPHER_SPEC.0 {
            break;
        }
        rest = body.get(usize::from(u16::from_be_bytes([high, low]))..).unwrap_or_default();
    }
    wire.split_at(wire.len() - rest.len())
}

/// The body of the first message, if it is of this kind, and what is behind it.
fn split_message(messages: &[u8], kind: HandshakeType) -> Option<(&[u8], &[u8])> {
    let (&[first, high, middle, low], rest) = messages.split_first_chunk::<{ message::HEADER_LENGTH }>()?;
    (first == kind.0).then(|| rest.split_at(u32::from_be_bytes([0, high, middle, low]) as usize))
}

fn parse_flight(mut messages: &[u8], client_random: &[u8; 32]) -> Flight {
    let mut next = |kind: HandshakeType| {
        let (body, rest) = split_message(messages, kind)?;
        messages = rest;
        Some(body)
    };
    let hello = ServerHello::read(next(HandshakeType::SERVER_HELLO).expect("ServerHello")).expect("ServerHello");
    let chain = certificate::read(next(HandshakeType::CERTIFICATE).expect("Certificate")).expect("Certificate");
    let chain = chain.into_iter().map(<[u8]>::to_vec).collect::<Vec<_>>();
    let ocsp_response = next(HandshakeType::CERTIFICATE_STATUS)
        .map(|body| certificate_status::read(body).expect("CertificateStatus").to_vec());
    let share = next(HandshakeType::SERVER_KEY_EXCHANGE).map(|body| {
        let (params, scheme, signature) = server_key_exchange::read(body).expect("ServerKeyExchange");
        verify(&chain, scheme, &signed_content(client_random, &hello.random, &params), signature);
        ServerShare { group: params.group, public: params.public.to_vec(), scheme }
    });
    let certificate_request = next(HandshakeType::CERTIFICATE_REQUEST).map(|body| {
        let (schemes, authorities) = certificate_request::read(body).expect("CertificateRequest");
        CertificateRequest { schemes, authorities: authorities.into_iter().map(<[u8]>::to_vec).collect() }
    });
    assert_eq!(next(HandshakeType::SERVER_HELLO_DONE), Some(&[][..]));
    assert!(messages.is_empty(), "messages behind ServerHelloDone: {messages:02x?}");
    Flight { hello, chain, ocsp_response, share, certificate_request }
}

fn verify(chain: &[Vec<u8>], scheme: SignatureScheme, content: &[u8], signature: &[u8]) {
    let identity = Identity::new(chain.to_vec(), &[scheme], None);
    let Ok(identity) = identity else { panic!("{scheme} does not fit the certificate") };
    FAST.verify(scheme, identity.public_key(), content, signature).expect("a right signature");
}

/// The suites of the engine whose ServerKeyExchange such a certificate signs.
pub fn suites_for(identity: &Identity) -> Vec<CipherSuite> {
    let kind = identity.public_key().kind();
    let fits = |suite: &CipherSuite| Suite::find(*suite).is_some_and(|suite| suite.key_exchange.fits(kind));
    keystead_tls::HostParameters::default().suites.into_iter().filter(fits).collect()
}
