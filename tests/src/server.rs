//! The engine, with the rest of an edge played: it answers each pause and keeps what comes out.

#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fmt;
use std::sync::Arc;

use keystead_tls::crypto::{FAST, Provider};
use keystead_tls::handshake::{Fit, Lease, MasterSecretRequest, NeedsInput, SignatureRequest, SignedParams};
use keystead_tls::secret::MasterSecret;
use keystead_tls::{
    ClientCertificateRefusal, Error, Established, Handshake, HostParameters, Identity, KeyServerFailure, Opened, Step,
    Summary,
};
use rand::rngs::StdRng;
use rand::{CryptoRng, Rng, SeedableRng};

use crate::sessions::Sessions;
use crate::signer;

/// Answers a request for a signature.
pub type KeyServer = Box<dyn FnMut(SignatureRequest<'_>) -> SignedParams>;

/// Says whether a client with this chain may come in.
pub type ClientVerifier = Box<dyn Fn(&[Vec<u8>]) -> Result<(), ClientCertificateRefusal>>;

/// The key server's part in RSA key transport.
pub trait KeyTransport {
    /// A random for a handshake with this certificate.
    fn lease(&mut self, identity: &Identity) -> Lease;

    /// The master secret, or a refusal.
    fn recover(&mut self, request: MasterSecretRequest<'_>) -> Option<MasterSecret>;
}

/// One connection.
pub struct Server {
    host: Arc<HostParameters>,
    sessions: Sessions,
    rng: Box<dyn CryptoRng>,
    key_server: KeyServer,
    client_verifier: ClientVerifier,
    key_transport: Option<Box<dyn KeyTransport>>,
    phase: Option<Phase>,
    output: Vec<u8>,
    received: Vec<u8>,
}

enum Phase {
    Handshake(Handshake<NeedsInput>),
    /// With what the client sent and is no whole record yet.
    Connection(Box<Established>, Vec<u8>),
    /// The client's close_notify came.
    HalfClosed(Box<Established>),
    Failed(Error),
}

/// A virtual host with the certificates of all [`signers`](signer::signers).
pub fn host() -> HostParameters {
    let identities = signer::signers().map(|signer| signer.identity.clone()).to_vec();
    HostParameters { identities, ..HostParameters::default() }
}

impl Default for Server {
    /// The fast provider, the virtual host [`host`], and a seed.
    fn default() -> Self {
        Self::new(FAST, host(), 1)
    }
}

impl Server {
    /// A connection whose first byte is yet to come. Its ephemeral keys come from `seed`, and so do the randoms of its
    /// key server, which signs with the keys of [`signer`].
    pub fn new(provider: &'static dyn Provider, host: HostParameters, seed: u64) -> Self {
        let mut randoms = StdRng::seed_from_u64(!seed);
        let key_server = move |request: SignatureRequest<'_>| {
            let mut server_random = [0; 32];
            randoms.fill_bytes(&mut server_random);
            signer::sign(request, server_random)
        };
        Self::with(provider, host, Box::new(StdRng::seed_from_u64(seed)), Box::new(key_server))
    }

    /// A connection with this source of ephemeral keys and this key server.
    pub fn with(
        provider: &'static dyn Provider,
        host: HostParameters,
        rng: Box<dyn CryptoRng>,
        key_server: KeyServer,
    ) -> Self {
        Self {
            host: Arc::new(host),
            sessions: Sessions::default(),
            rng,
            key_server,
            client_verifier: Box::new(|_| Ok(())),
            key_transport: None,
            phase: Some(Phase::Handshake(Handshake::new(provider))),
            output: Vec::new(),
            received: Vec::new(),
        }
    }

    /// The same, with this verdict on clients' certificates; without it each may come in.
    pub fn verifying(self, verdict: impl Fn(&[Vec<u8>]) -> Result<(), ClientCertificateRefusal> + 'static) -> Self {
        Self { client_verifier: Box::new(verdict), ..self }
    }

    /// The same, with these sessions; without them none is kept or found.
    pub fn with_sessions(self, sessions: &Sessions) -> Self {
        Self { sessions: sessions.clone(), ..self }
    }

    /// The same, with this part in RSA key transport.
    pub fn with_key_transport(self, key_transport: impl KeyTransport + 'static) -> Self {
        Self { key_transport: Some(Box::new(key_transport)), ..self }
    }

    /// Takes bytes from the client.
    ///
    /// # Errors
    /// What ended the connection, in this call or an earlier one.
    pub fn feed(&mut self, input: &[u8]) -> Result<(), Error> {
        let phase = match self.phase.take().expect("a phase") {
            Phase::Handshake(handshake) => {
                handshake.feed(input, &mut self.output).and_then(|step| self.answer_pauses(step))
            }
            Phase::Connection(connection, mut unread) => {
                unread.extend_from_slice(input);
                self.open(connection, unread)
            }
            closed @ Phase::HalfClosed(_) => Ok(closed),
            Phase::Failed(error) => Err(error),
        };
        self.phase = Some(phase.unwrap_or_else(Phase::Failed));
        self.error().map_or(Ok(()), Err)
    }

    fn answer_pauses(&mut self, mut step: Step) -> Result<Phase, Error> {
        let out = &mut self.output;
        loop {
            step = match step {
                Step::NeedsInput(handshake) => return Ok(Phase::Handshake(handshake)),
                Step::ChooseIdentity(handshake) => {
                    handshake.choose(&self.host, self.sessions.keeping(), &mut *self.rng, out)?
                }
                Step::FindSession(handshake) => match self.sessions.find(&handshake) {
                    None => handshake.decline(&mut *self.rng, out)?,
                    Some(session) => match handshake.fit(session, out)? {
                        Fit::Fits(handshake) => {
                            let renewed = self.sessions.renew(handshake.session());
                            handshake.resume(renewed, &mut *self.rng, out)?
                        }
                        Fit::Differs(handshake, difference) => {
                            self.sessions.differs(difference);
                            handshake.decline(&mut *self.rng, out)?
                        }
                    },
                },
                Step::KeepSession(handshake) => {
                    let ticket = self.sessions.keep(handshake.kept_by(), handshake.session());
                    handshake.resume(ticket, out)?
                }
                Step::NeedsSignature(handshake) => match handshake.verify((self.key_server)(handshake.request())) {
                    Ok(verified) => handshake.resume(verified, out)?,
                    Err(_) => return Err(handshake.abort(KeyServerFailure::WrongSignature.into(), out)),
                },
                Step::NeedsLease(handshake) => {
                    let key_transport = self.key_transport.as_mut().expect("a part in RSA key transport");
                    let lease = key_transport.lease(handshake.identity());
                    handshake.resume(lease, out)?
                }
                Step::VerifyClient(handshake) => match (self.client_verifier)(handshake.chain()) {
                    Ok(()) => handshake.accept(out)?,
                    Err(cause) => return Err(handshake.refuse(cause, out)),
                },
                Step::NeedsMasterSecret(handshake) => {
                    let key_transport = self.key_transport.as_mut().expect("a part in RSA key transport");
                    match key_transport.recover(handshake.request()) {
                        Some(master_secret) => handshake.resume(master_secret, out)?,
                        None => return Err(handshake.refuse(out)),
                    }
                }
                Step::Established(mut connection) => {
                    let unread = connection.take_unread();
                    return self.open(connection, unread);
                }
            };
        }
    }

    fn open(&mut self, mut connection: Box<Established>, mut unread: Vec<u8>) -> Result<Phase, Error> {
        let mut rest = unread.as_mut_slice();
        loop {
            match connection.open(rest, &mut self.output)? {
                Opened::Incomplete { wanted } => {
                    assert!(wanted > rest.len(), "{wanted} bytes are there");
                    let unread = rest.to_vec();
                    return Ok(Phase::Connection(connection, unread));
                }
                Opened::Record { consumed, plaintext } => {
                    self.received.extend_from_slice(rest.get(plaintext).expect("a range of the buffer"));
                    rest = rest.get_mut(consumed..).expect("a part of the buffer");
                }
                Opened::Closed => return Ok(Phase::HalfClosed(connection)),
            }
        }
    }

    /// The client's stream ended.
    ///
    /// # Errors
    /// How it left, if not in order.
    pub fn end_of_input(&mut self) -> Result<(), Error> {
        match self.phase.take().expect("a phase") {
            Phase::Handshake(handshake) => Err(handshake.end_of_input()),
            Phase::Connection(connection, _) | Phase::HalfClosed(connection) => connection.end_of_input(),
            Phase::Failed(error) => Err(error),
        }
    }

    /// What goes to the client, once.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// The application data that came, once.
    pub fn take_received(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.received)
    }

    /// Whether the handshake is complete and the connection has not failed.
    pub fn is_established(&self) -> bool {
        matches!(self.phase, Some(Phase::Connection(..) | Phase::HalfClosed(_)))
    }

    /// Whether the client has said that it sends nothing more.
    pub fn is_closed_by_client(&self) -> bool {
        matches!(self.phase, Some(Phase::HalfClosed(_)))
    }

    /// What ended the connection.
    pub fn error(&self) -> Option<Error> {
        match self.phase {
            Some(Phase::Failed(error)) => Some(error),
            _ => None,
        }
    }

    /// What was agreed on.
    pub fn summary(&mut self) -> Summary {
        self.connection().summary().clone()
    }

    /// Sends application data.
    pub fn send(&mut self, data: &[u8]) {
        let mut out = self.take_output();
        self.connection().seal(data, &mut out).expect("records are left");
        self.output = out;
    }

    /// Sends close_notify.
    pub fn close(&mut self) {
        let mut out = self.take_output();
        self.connection().close(&mut out);
        self.output = out;
    }

    /// The established connection alone.
    pub fn into_connection(self) -> Box<Established> {
        match self.phase {
            Some(Phase::Connection(connection, _) | Phase::HalfClosed(connection)) => connection,
            Some(Phase::Handshake(_) | Phase::Failed(_)) | None => panic!("not established"),
        }
    }

    /// The established connection.
    pub fn connection(&mut self) -> &mut Established {
        match &mut self.phase {
            Some(Phase::Connection(connection, _) | Phase::HalfClosed(connection)) => connection,
            Some(Phase::Handshake(_) | Phase::Failed(_)) | None => panic!("not established"),
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = match &self.phase {
            Some(Phase::Handshake(_)) => "handshake",
            Some(Phase::Connection(..)) => "established",
            Some(Phase::HalfClosed(_)) => "closed by client",
            Some(Phase::Failed(error)) => return f.debug_tuple("Server").field(error).finish(),
            None => "left",
        };
        f.debug_tuple("Server").field(&phase).finish()
    }
}
