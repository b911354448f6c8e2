//! The handshake as the edge tells it: its messages, read here once more, and the client's sealed Finished.

use keystead_tls::message::{
    HEADER_LENGTH, certificate, certificate_request, certificate_status, certificate_verify, client_hello::ClientHello,
    client_key_exchange, server_hello::ServerHello,
};
use keystead_tls::suite::{KeyExchange, Suite};
use keystead_tls::{HandshakeType, KeyId, ProtocolVersion, PublicKey};

/// What the messages of a handshake by RSA key transport say.
pub(super) struct Handshake<'m> {
    /// ClientHello.client_version, which the pre-master secret begins with.
    pub(super) client_version: ProtocolVersion,
    pub(super) client_random: [u8; 32],
    /// What the client asked for; `None` where it asked for none.
    pub(super) server_name: Option<String>,
    pub(super) server_random: [u8; 32],
    pub(super) suite: &'static Suite,
    pub(super) extended_master_secret: bool,
    /// Of the server's certificate.
    pub(super) key_id: KeyId,
    pub(super) encrypted_pre_master_secret: &'m [u8],
    /// ClientHello to ClientKeyExchange: what the session hash is over (RFC 7627 §3).
    pub(super) session: &'m [u8],
    /// ClientHello to the last message before ChangeCipherSpec: what the Finished is over (RFC 5246 §7.4.9).
    pub(super) all: &'m [u8],
}

impl<'m> Handshake<'m> {
    /// Reads the messages, which are those of RFC 5246 §7.3 in their order and nothing else:
    ///
    /// ```text
    /// ClientHello ServerHello Certificate [CertificateStatus] [CertificateRequest] ServerHelloDone
    /// [Certificate] ClientKeyExchange [CertificateVerify]
    /// ```
    ///
    /// `None` for any others, and for a version, a suite or an extension that does not fit what the client offers.
    pub(super) fn read(all: &'m [u8]) -> Option<Self> {
        let mut messages = Messages(all);
        let client_hello = ClientHello::read(messages.take(HandshakeType::CLIENT_HELLO)?).ok()?;
        let server_hello = ServerHello::read(messages.take(HandshakeType::SERVER_HELLO)?).ok()?;
        let suite = agreed_suite(&client_hello, &server_hello)?;
        let chain = certificate::read(messages.take(HandshakeType::CERTIFICATE)?).ok()?;
        if let Some(status) = messages.take(HandshakeType::CERTIFICATE_STATUS) {
            certificate_status::read(status).ok().filter(|_| server_hello.extensions.status_request)?;
        }
        let asks_for_certificate = match messages.take(HandshakeType::CERTIFICATE_REQUEST) {
            Some(request) => certificate_request::read(request).map(|_| true).ok()?,
            None => false,
        };
        if !messages.take(HandshakeType::SERVER_HELLO_DONE)?.is_empty() {
            return None;
        }
        let has_client_certificate =
            asks_for_certificate && !certificate::read(messages.take(HandshakeType::CERTIFICATE)?).ok()?.is_empty();
        let key_exchange = messages.take(HandshakeType::CLIENT_KEY_EXCHANGE)?;
        let session = messages.taken_of(all)?;
        if has_client_certificate {
            certificate_verify::read(messages.take(HandshakeType::CERTIFICATE_VERIFY)?).ok()?;
        }
        messages.finish()?;
        Some(Self {
            client_version: client_hello.version,
            client_random: client_hello.random,
            server_name: client_hello.extensions.server_name,
            server_random: server_hello.random,
            suite,
            extended_master_secret: server_hello.extensions.extended_master_secret,
            key_id: PublicKey::of_certificate(chain.first()?).ok()?.key_id(),
            encrypted_pre_master_secret: client_key_exchange::read_rsa(key_exchange).ok()?,
            session,
            all,
        })
    }
}

/// What goes on record of such a handshake, wrong or right.
#[derive(Debug, Default)]
pub(crate) struct Claimed {
    /// What the client asked for; `None` where it asked for none.
    pub(crate) server_name: Option<String>,
    pub(crate) server_random: Option<[u8; 32]>,
}

impl Claimed {
    /// Reads ClientHello and ServerHello at the front of messages, as far as they are there.
    pub(crate) fn read(messages: &[u8]) -> Self {
        let mut messages = Messages(messages);
        let client_hello = messages.take(HandshakeType::CLIENT_HELLO).and_then(|body| ClientHello::read(body).ok());
        // The version comes before the random.
        let random = |server_hello: &[u8]| server_hello.get(2..)?.first_chunk().copied();
        Self {
            server_name: client_hello.and_then(|client_hello| client_hello.extensions.server_name),
            server_random: messages.take(HandshakeType::SERVER_HELLO).and_then(random),
        }
    }
}

/// The suite, if it is one of RSA key transport and ServerHello answers ClientHello. Extended master secret is used
/// wherever the client offers it, so that nobody in between takes it away (RFC 7627 §5.1).
fn agreed_suite(client: &ClientHello, server: &ServerHello) -> Option<&'static Suite> {
    let suite = Suite::find(server.cipher_suite)?;
    let fits = client.version >= ProtocolVersion::TLS_1_2
        && client.offers(suite.code_point)
        && suite.key_exchange == KeyExchange::Rsa
        && client.extensions.extended_master_secret == server.extensions.extended_master_secret;
    fits.then_some(suite)
}

/// Handshake messages, one behind the other.
struct Messages<'m>(&'m [u8]);

impl<'m> Messages<'m> {
    /// The body of the next message, if it is a whole one of this kind; otherwise nothing is taken.
    fn take(&mut self, kind: HandshakeType) -> Option<&'m [u8]> {
        let ([next, length @ ..], rest) = self.0.split_first_chunk::<HEADER_LENGTH>()?;
        let [high, middle, low] = *length;
        let (body, rest) = rest.split_at_checked(u32::from_be_bytes([0, high, middle, low]) as usize)?;
        if *next != kind.0 {
            return None;
        }
        self.0 = rest;
        Some(body)
    }

    /// What of `all` has been taken.
    fn taken_of(&self, all: &'m [u8]) -> Option<&'m [u8]> {
        all.get(..all.len().checked_sub(self.0.len())?)
    }

    /// That nothing is left.
    fn finish(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// Bytes of the explicit nonce in a record of AES-GCM (RFC 5288 §3).
const EXPLICIT_NONCE_LENGTH: usize = 8;
/// Bytes of a Finished message.
pub(super) const FINISHED_LENGTH: usize = 16;
/// Nonce, Finished and tag: what the record of a client's Finished is in both suites.
pub(super) const FRAGMENT_LENGTH: usize = EXPLICIT_NONCE_LENGTH + FINISHED_LENGTH + 16;

/// What stands behind the header of the record of a client's Finished; `None` for a record that cannot be one.
pub(super) fn sealed_finished(record: &[u8]) -> Option<[u8; FRAGMENT_LENGTH]> {
    // handshake, TLS 1.2, and the length.
    const HEADER: [u8; 5] = [22, 3, 3, 0, FRAGMENT_LENGTH as u8];
    record.strip_prefix(&HEADER)?.try_into().ok()
}

/// Where in an opened fragment the Finished is.
pub(super) fn finished_in(fragment: &[u8; FRAGMENT_LENGTH]) -> &[u8] {
    fragment.get(EXPLICIT_NONCE_LENGTH..EXPLICIT_NONCE_LENGTH + FINISHED_LENGTH).unwrap_or_default()
}
