//! An established connection: application data both ways, alerts, and the refusal to renegotiate.

use std::ops::Range;

use crate::alert::{AlertDescription, AlertReader, Heard};
use crate::code_point::{CipherSuite, ContentType, HandshakeType, NamedGroup, ProtocolVersion, SignatureScheme};
use crate::error::{Error, LocalFailure, PeerClosed, PeerMisbehaved};
use crate::handshake::joiner::Joiner;
use crate::handshake::tls12::finish::Complete;
use crate::handshake::wire::Wire;
use crate::identity::KeyId;
use crate::message::client_hello;
use crate::record::{Deframed, Opener, Sealer};

/// Renegotiations that are refused with a warning; after them the connection ends.
const RENEGOTIATIONS: u8 = 8;

/// What was agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The name the client asked for.
    pub server_name: Option<String>,
    /// The version.
    pub version: ProtocolVersion,
    /// The suite.
    pub suite: CipherSuite,
    /// The group of the key exchange; `None` in RSA key transport and in a resumed handshake.
    pub group: Option<NamedGroup>,
    /// The scheme of the signature; `None` where there is none.
    pub scheme: Option<SignatureScheme>,
    /// The application protocol (RFC 7301).
    pub alpn: Option<Vec<u8>>,
    /// Whether the master secret is bound to the handshake (RFC 7627).
    pub extended_master_secret: bool,
    /// The key of the certificate that was shown.
    pub key_id: KeyId,
    /// The client's DER certificates, its own first, whose key it has proven to have; empty when it sent none.
    pub client_chain: Vec<Vec<u8>>,
    /// Whether the handshake went on from an earlier one's session; group and scheme were that one's.
    pub resumed: bool,
}

/// A connection whose handshake is complete. The caller moves the bytes.
#[derive(Debug)]
pub struct Established {
    opener: Opener,
    sealer: Sealer,
    joiner: Joiner,
    alerts: AlertReader,
    renegotiations: u8,
    closed_by_client: bool,
    unread: Vec<u8>,
    summary: Summary,
}

/// What stood at the front of the buffer.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened {
    /// No whole record: read on until the buffer holds at least `wanted` bytes, which are at most
    /// [`MAX_RECORD`](crate::record::MAX_RECORD).
    Incomplete {
        /// Bytes that the buffer must hold.
        wanted: usize,
    },
    /// One record, done with.
    Record {
        /// Bytes it took of the buffer.
        consumed: usize,
        /// Where in the buffer its application data is; empty when it had none.
        plaintext: Range<usize>,
    },
    /// The client's close_notify: it sends nothing more. This side may go on sending.
    Closed,
}

impl Established {
    pub(crate) fn new(mut wire: Wire, complete: Complete) -> Self {
        Self {
            unread: wire.take_unread(),
            opener: wire.opener,
            sealer: wire.sealer,
            joiner: wire.joiner,
            alerts: wire.alerts,
            renegotiations: 0,
            closed_by_client: false,
            summary: complete.summary,
        }
    }

    /// What was agreed on.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Lets go of [`Summary::client_chain`], which takes up to 64 KiB for as long as the connection stands.
    pub fn forget_client_chain(&mut self) {
        self.summary.client_chain = Vec::new();
    }

    /// The bytes that came behind the client's Finished, as a False Start client sends them (RFC 7918). They are the
    /// front of the connection's data, still protected; every later call gives none.
    pub fn take_unread(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.unread)
    }

    /// Opens the record at the front of `buffer`, in place. Alerts to send, if any, are appended to `out`.
    ///
    /// # Errors
    /// Whatever ends the connection. The alert that answers it is in `out`.
    pub fn open(&mut self, buffer: &mut [u8], out: &mut Vec<u8>) -> Result<Opened, Error> {
        self.open_record(buffer, out).inspect_err(|error| self.abort(*error, out))
    }

    fn open_record(&mut self, buffer: &mut [u8], out: &mut Vec<u8>) -> Result<Opened, Error> {
        // The record of the client's Finished may hold more messages.
        self.refuse_renegotiation(out)?;
        let (content_type, plaintext, consumed) = match self.opener.open(buffer)? {
            Deframed::Incomplete { wanted } => return Ok(Opened::Incomplete { wanted }),
            Deframed::Record { content_type, plaintext, consumed } => (content_type, plaintext, consumed),
        };
        let payload = buffer.get(plaintext.clone()).unwrap_or_default();
        let nothing = Opened::Record { consumed, plaintext: 0..0 };
        if content_type == ContentType::HANDSHAKE {
            self.alerts.reset();
            self.joiner.push(payload);
            self.refuse_renegotiation(out)?;
            return Ok(nothing);
        }
        self.joiner.boundary()?;
        match content_type {
            ContentType::APPLICATION_DATA => {
                self.alerts.reset();
                Ok(Opened::Record { consumed, plaintext })
            }
            ContentType::ALERT => match self.alerts.read(payload)? {
                Heard::Warning => Ok(nothing),
                Heard::CloseNotify => {
                    self.closed_by_client = true;
                    Ok(Opened::Closed)
                }
            },
            ContentType::CHANGE_CIPHER_SPEC => Err(PeerMisbehaved::EarlyChangeCipherSpec.into()),
            _ => Err(PeerMisbehaved::UnexpectedContentType.into()),
        }
    }

    /// Answers each ClientHello with the warning no_renegotiation (RFC 5246 §7.2.2).
    fn refuse_renegotiation(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        let longest = |kind| (kind == HandshakeType::CLIENT_HELLO).then_some(client_hello::MAX_LENGTH);
        while self.joiner.discard(longest)? {
            self.renegotiations += 1;
            if self.renegotiations > RENEGOTIATIONS {
                return Err(PeerMisbehaved::TooManyRenegotiations.into());
            }
            self.sealer.alert(AlertDescription::NO_RENEGOTIATION, out);
        }
        Ok(())
    }

    /// The client's stream ended.
    ///
    /// # Errors
    /// [`PeerClosed::Truncated`] when no close_notify came before: what was received may not be all.
    pub fn end_of_input(&self) -> Result<(), Error> {
        if self.closed_by_client { Ok(()) } else { Err(PeerClosed::Truncated.into()) }
    }

    /// Bytes in front of a record's payload: header and explicit nonce.
    pub fn headroom(&self) -> usize {
        self.sealer.headroom()
    }

    /// Bytes behind a record's payload: the tag.
    pub fn tailroom(&self) -> usize {
        self.sealer.tailroom()
    }

    /// Most bytes of a record's payload: 2^14, or the client's record_size_limit.
    pub fn max_payload(&self) -> usize {
        self.sealer.max_payload()
    }

    /// Makes `slot` = headroom ‖ payload ‖ tailroom one record of application data, in place.
    ///
    /// # Errors
    /// [`LocalFailure::KeyExhausted`]: the connection must be ended with [`Self::abort`].
    pub fn seal_in_place(&mut self, slot: &mut [u8]) -> Result<(), LocalFailure> {
        self.sealer.seal_in_place(ContentType::APPLICATION_DATA, slot)
    }

    /// Appends `data` as records of application data.
    ///
    /// # Errors
    /// As [`Self::seal_in_place`].
    pub fn seal(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), LocalFailure> {
        self.sealer.seal(ContentType::APPLICATION_DATA, data, out)
    }

    /// Gives up because of `cause`: appends its alert, if it has one. Nothing may be sealed after it.
    pub fn abort(&mut self, cause: Error, out: &mut Vec<u8>) {
        if let Some(alert) = cause.alert() {
            self.sealer.alert(alert, out);
        }
    }

    /// Appends close_notify. Nothing may be sealed after it.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        self.sealer.alert(AlertDescription::CLOSE_NOTIFY, out);
    }
}
