//! An established connection: application data, both ways.
use crate::code_point::*;
use crate::error::Error;
use crate::identity::KeyId;
use std::ops::Range;

/// What was agreed on.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The name the client asked for.
    pub server_name: Option<String>,
    /// Always TLS 1.2.
    pub version: ProtocolVersion,
    /// The suite.
    pub suite: CipherSuite,
    /// The group of the key exchange.
    pub group: NamedGroup,
    /// The scheme of the signature.
    pub scheme: SignatureScheme,
    /// The application protocol (RFC 7301).
    pub alpn: Option<Vec<u8>>,
    /// Whether the extended master secret is used (RFC 7627).
    pub extended_master_secret: bool,
    /// The key of the certificate shown.
    pub key_id: KeyId,
}

/// A connection whose handshake is complete. No sockets: the caller moves the bytes.
#[derive(Debug)]
pub struct Established {}

/// What `open` found at the front of the buffer.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened {
    /// No whole record there yet: read on until the buffer holds at least `wanted` bytes (at most MAX_RECORD).
    Incomplete {
        /// Bytes that the buffer must hold.
        wanted: usize,
    },
    /// One record is done with: `consumed` bytes of the buffer are to be dropped, of which `plaintext` (may be empty) are data.
    Record {
        /// Bytes the record took.
        consumed: usize,
        /// Where in the buffer its application data is.
        plaintext: Range<usize>,
    },
    /// The client's close_notify: no data follows. Writing may go on (half-close).
    Closed,
}

/// Most bytes of a record on the wire.
pub const MAX_RECORD: usize = 5 + 16384 + 2048;

#[allow(unused_variables)]
impl Established {
    /// What was agreed on.
    pub fn summary(&self) -> &Summary {
        unimplemented!()
    }
    /// Takes the bytes that came behind the client's Finished (False Start): they go to the front of the read buffer, still protected.
    pub fn take_unread(&mut self) -> Vec<u8> {
        unimplemented!()
    }
    /// Opens the record at the front of `buffer`, in place. An alert to be sent, if any, is appended to `out`, also on error. Call until Incomplete, Closed or Err.
    pub fn open(&mut self, buffer: &mut [u8], out: &mut Vec<u8>) -> Result<Opened, Error> {
        unimplemented!()
    }
    /// The client's stream ended: Ok after close_notify, else Truncated.
    pub fn end_of_input(&self) -> Result<(), Error> {
        unimplemented!()
    }
    /// Bytes in front of the payload of a record: header and explicit nonce.
    pub fn headroom(&self) -> usize {
        unimplemented!()
    }
    /// Bytes behind the payload: the tag.
    pub fn tailroom(&self) -> usize {
        16
    }
    /// Most payload bytes of one record (2^14, or less by record_size_limit).
    pub fn max_payload(&self) -> usize {
        unimplemented!()
    }
    /// Protects one record in place: `slot` = headroom ‖ payload ‖ tailroom, exactly. The whole slot is then the record.
    pub fn seal_in_place(&mut self, slot: &mut [u8]) -> Result<(), Error> {
        unimplemented!()
    }
    /// Protects `data` as as many records as needed, appended to `out` (copies; for small things).
    pub fn seal(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        unimplemented!()
    }
    /// Gives up because of `cause`: appends its alert, if it has one. Nothing may be sealed after it.
    pub fn abort(&mut self, cause: Error, out: &mut Vec<u8>) {
        unimplemented!()
    }
    /// Appends close_notify. Nothing may be sealed after it.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        unimplemented!()
    }
}
