//! What does the same as our engine: rustls, and OpenSSL's libssl.

use std::any::Any;
use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;

use keystead_tests::signer::Signer;
use openssl::pkey::PKey;
use openssl::ssl::{
    ErrorCode, ShutdownState, Ssl, SslContext, SslContextBuilder, SslMethod, SslMode, SslOptions, SslSessionCacheMode,
    SslStream, SslVersion,
};
use openssl::x509::X509;
use rustls::crypto::{CryptoProvider, aws_lc_rs, ring};
use rustls::server::{NoServerSessionStorage, ProducesTickets, ServerSessionMemoryCache};
use rustls::{ServerConfig, ServerConnection};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::{Coming, Server, Service};

/// What rustls has its cryptography from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cryptography {
    /// The crate of that name.
    Ring,
    /// The crate of that name.
    AwsLcRs,
}

impl Cryptography {
    fn provider(self) -> CryptoProvider {
        match self {
            Self::Ring => ring::default_provider(),
            Self::AwsLcRs => aws_lc_rs::default_provider(),
        }
    }

    fn ticketer(self) -> Arc<dyn ProducesTickets> {
        let ticketer = match self {
            Self::Ring => ring::Ticketer::new(),
            Self::AwsLcRs => aws_lc_rs::Ticketer::new(),
        };
        ticketer.expect("randomness")
    }
}

/// rustls.
pub struct Rustls(Arc<ServerConfig>);

impl Rustls {
    /// With this cryptography and certificate.
    pub fn new(cryptography: Cryptography, signer: &Signer, coming: Coming) -> Self {
        let chain = signer.identity.chain().iter().map(|der| CertificateDer::from(der.to_vec())).collect();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(signer.pkcs8.clone()));
        let builder = ServerConfig::builder_with_provider(Arc::new(cryptography.provider()));
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS12]).expect("TLS 1.2");
        let mut config = builder.with_no_client_auth().with_single_cert(chain, key).expect("a certificate");
        config.session_storage = match coming {
            Coming::Full | Coming::ByTicket => Arc::new(NoServerSessionStorage {}),
            Coming::ById => ServerSessionMemoryCache::new(1024),
        };
        if coming == Coming::ByTicket {
            config.ticketer = cryptography.ticketer();
        }
        Self(Arc::new(config))
    }
}

impl Service for Rustls {
    fn accept(&self) -> Box<dyn Server> {
        let connection = ServerConnection::new(self.0.clone()).expect("a server");
        Box::new(RustlsServer { connection, received: 0 })
    }
}

struct RustlsServer {
    connection: ServerConnection,
    received: usize,
}

impl Server for RustlsServer {
    fn feed(&mut self, mut input: &[u8], out: &mut Vec<u8>) {
        while !input.is_empty() {
            self.connection.read_tls(&mut input).expect("memory");
            self.connection.process_new_packets().expect("what a client says");
            let mut reader = self.connection.reader();
            // At the end of what there is: WouldBlock.
            while let Ok(data) = reader.fill_buf() {
                let length = data.len();
                self.received += length;
                reader.consume(length);
            }
        }
        while self.connection.wants_write() {
            self.connection.write_tls(out).expect("memory");
        }
    }

    fn received(&mut self) -> usize {
        std::mem::take(&mut self.received)
    }

    fn stand(self: Box<Self>) -> Box<dyn Any> {
        Box::new(self.connection)
    }

    fn send(&mut self, data: &[u8], out: &mut Vec<u8>) {
        self.connection.writer().write_all(data).expect("room");
        while self.connection.wants_write() {
            self.connection.write_tls(out).expect("memory");
        }
    }
}

/// OpenSSL's libssl.
pub struct Libssl(SslContext);

impl Libssl {
    /// With this certificate.
    pub fn new(signer: &Signer, coming: Coming) -> Self {
        Self(Self::context(signer, coming).build())
    }

    /// The same, whose connections give their buffers back when these are empty, which is how servers set libssl.
    pub fn releasing_buffers(signer: &Signer, coming: Coming) -> Self {
        let mut context = Self::context(signer, coming);
        context.set_mode(SslMode::RELEASE_BUFFERS);
        Self(context.build())
    }

    fn context(signer: &Signer, coming: Coming) -> SslContextBuilder {
        let mut context = SslContextBuilder::new(SslMethod::tls_server()).expect("a context");
        context.set_max_proto_version(Some(SslVersion::TLS1_2)).expect("TLS 1.2");
        let certificate = signer.identity.chain().first().expect("a certificate");
        context.set_certificate(&X509::from_der(certificate).expect("a certificate")).expect("a certificate");
        context.set_private_key(&PKey::private_key_from_pkcs8(&signer.pkcs8).expect("a key")).expect("its key");
        context.set_groups_list("X25519").expect("a group");
        if coming != Coming::ByTicket {
            context.set_options(SslOptions::NO_TICKET);
        }
        context.set_session_cache_mode(match coming {
            Coming::Full | Coming::ByTicket => SslSessionCacheMode::OFF,
            Coming::ById => SslSessionCacheMode::SERVER,
        });
        context.set_session_id_context(b"bench").expect("a context");
        context
    }
}

impl Service for Libssl {
    fn accept(&self) -> Box<dyn Server> {
        let ssl = Ssl::new(&self.0).expect("a server");
        let stream = SslStream::new(ssl, Wire::default()).expect("a stream");
        Box::new(LibsslServer { stream, established: false, scratch: vec![0; 1 << 14], received: 0 })
    }
}

/// What libssl reads and writes.
#[derive(Default)]
struct Wire {
    input: Vec<u8>,
    taken: usize,
    output: Vec<u8>,
}

impl Read for Wire {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let rest = self.input.get(self.taken..).unwrap_or_default();
        if rest.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let length = rest.len().min(into.len());
        into.get_mut(..length).zip(rest.get(..length)).map(|(into, from)| into.copy_from_slice(from)).expect("both");
        self.taken += length;
        Ok(length)
    }
}

impl Write for Wire {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.output.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct LibsslServer {
    stream: SslStream<Wire>,
    established: bool,
    scratch: Vec<u8>,
    received: usize,
}

impl LibsslServer {
    fn wants_more(error: &openssl::ssl::Error) -> bool {
        error.code() == ErrorCode::WANT_READ
    }
}

impl Drop for LibsslServer {
    /// libssl forgets the session of a connection that did not end in good order.
    fn drop(&mut self) {
        self.stream.set_shutdown(ShutdownState::SENT | ShutdownState::RECEIVED);
    }
}

impl Server for LibsslServer {
    fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) {
        let wire = self.stream.get_mut();
        wire.input.clear();
        wire.input.extend_from_slice(input);
        wire.taken = 0;
        if self.established {
            loop {
                match self.stream.ssl_read(&mut self.scratch) {
                    Ok(length) => self.received += length,
                    Err(error) if Self::wants_more(&error) => break,
                    Err(error) => panic!("{error}"),
                }
            }
        } else {
            match self.stream.accept() {
                Ok(()) => self.established = true,
                Err(error) if Self::wants_more(&error) => {}
                Err(error) => panic!("{error}"),
            }
        }
        out.append(&mut self.stream.get_mut().output);
    }

    fn received(&mut self) -> usize {
        std::mem::take(&mut self.received)
    }

    fn stand(mut self: Box<Self>) -> Box<dyn Any> {
        // Buffers of the wire are this benchmark's.
        *self.stream.get_mut() = Wire::default();
        self.scratch = Vec::new();
        self
    }

    fn send(&mut self, data: &[u8], out: &mut Vec<u8>) {
        self.stream.write_all(data).expect("memory");
        out.append(&mut self.stream.get_mut().output);
    }
}
