//! The scripted [`Client`] on a real connection, and reading what an edge sends byte by byte.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use keystead_tls::message::client_hello::ClientHello;
use keystead_tls::{AlertDescription, HandshakeType};

use crate::client::{Client, Record, full_offer};
use crate::stack::Edge;

/// A scripted client and its connection.
pub struct Wire {
    /// The client.
    pub client: Client,
    /// The connection.
    pub stream: TcpStream,
}

/// How an edge ended a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// With a fatal alert in the clear as its last bytes, then the end of the stream.
    Alert(AlertDescription),
    /// With other bytes, then the end of the stream.
    Bytes(Vec<u8>),
    /// With a reset, after these bytes.
    Reset(Vec<u8>),
}

/// An offer of everything, for `localhost`.
pub fn offer() -> ClientHello {
    let mut offer = full_offer();
    offer.extensions.server_name = Some("localhost".to_owned());
    offer
}

impl Wire {
    /// Connects; nothing is sent.
    pub fn connect(edge: &Edge) -> Self {
        Self::with(edge, offer())
    }

    /// Connects a client that will offer this.
    pub fn with(edge: &Edge, offer: ClientHello) -> Self {
        Self { client: Client::new(offer), stream: edge.connect() }
    }

    /// Sends bytes.
    ///
    /// # Panics
    /// When the edge does not take them.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the edge takes the bytes");
    }

    /// Sends ClientHello and reads the server's first flight.
    ///
    /// # Panics
    /// When the flight is not as it should be.
    pub fn hello(&mut self) {
        let hello = self.client.hello();
        self.send(&hello);
        self.read_flight();
    }

    /// Reads the server's first flight.
    ///
    /// # Panics
    /// When the flight is not as it should be.
    pub fn read_flight(&mut self) -> crate::client::Flight {
        let flight = read_flight(&mut self.stream);
        self.client.read_flight(&flight)
    }

    /// Completes the handshake.
    ///
    /// # Panics
    /// When it fails.
    pub fn handshake(&mut self) {
        self.hello();
        let flight = self.client.second_flight();
        self.send(&flight);
        self.read_finished();
    }

    /// Reads the server's ChangeCipherSpec and Finished.
    ///
    /// # Panics
    /// When they are not as they should be.
    pub fn read_finished(&mut self) {
        let records = [read_record(&mut self.stream), read_record(&mut self.stream)].concat();
        let behind = self.client.read_finished(&records);
        assert!(behind.is_empty(), "{behind:?}");
    }

    /// Reads one record and opens it.
    ///
    /// # Panics
    /// When none comes.
    pub fn read(&mut self) -> Record {
        let record = read_record(&mut self.stream);
        self.client.read(&record).pop().expect("one record")
    }

    /// Reads to the end of the stream, and opens the records.
    ///
    /// # Panics
    /// When the stream does not end.
    pub fn read_to_end(&mut self) -> Vec<Record> {
        let mut bytes = Vec::new();
        self.stream.read_to_end(&mut bytes).expect("the end of the stream");
        self.client.read(&bytes)
    }

    /// Reads to the end of the stream; nothing is opened.
    pub fn end(&mut self) -> End {
        end(&mut self.stream)
    }
}

/// Reads to the end of the stream.
///
/// # Panics
/// When it does not end.
pub fn end(stream: &mut TcpStream) -> End {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => match bytes.as_slice() {
            [21, 3, _, 0, 2, 2, description] => End::Alert(AlertDescription(*description)),
            _ => End::Bytes(bytes),
        },
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
            End::Reset(bytes)
        }
    }
}

/// One record with its header.
///
/// # Panics
/// When none comes.
pub fn read_record(stream: &mut TcpStream) -> Vec<u8> {
    let mut header = [0; 5];
    stream.read_exact(&mut header).expect("a record's header");
    let [.., high, low] = header;
    let mut fragment = vec![0; usize::from(u16::from_be_bytes([high, low]))];
    stream.read_exact(&mut fragment).expect("a record's fragment");
    [&header[..], &fragment].concat()
}

/// The records up to ServerHelloDone.
fn read_flight(stream: &mut TcpStream) -> Vec<u8> {
    let (mut records, mut messages) = (Vec::new(), Vec::new());
    while !is_flight(&messages) {
        let record = read_record(stream);
        assert_eq!(record.first(), Some(&22), "{record:02x?}");
        messages.extend_from_slice(record.get(5..).unwrap_or_default());
        records.extend(record);
    }
    records
}

/// Whether whole messages, of which the last is ServerHelloDone, are all there is.
fn is_flight(mut messages: &[u8]) -> bool {
    while let Some((&[kind, high, middle, low], rest)) = messages.split_first_chunk::<4>() {
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        let Some(rest) = rest.get(length..) else { return false };
        if kind == HandshakeType::SERVER_HELLO_DONE.0 {
            return rest.is_empty();
        }
        messages = rest;
    }
    false
}
