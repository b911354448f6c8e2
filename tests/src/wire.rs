//! The scripted [`Client`] on a real connection, and reading what an edge sends byte by byte.

#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use keystead_tls::message::client_hello::ClientHello;
use keystead_tls::{AlertDescription, ContentType, HandshakeType};

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

    /// Completes the handshake, from the session that the client offers if the server goes on from it, and else in full;
    /// says which.
    ///
    /// # Errors
    /// The fatal alert that the server sends in its first flight's place.
    ///
    /// # Panics
    /// When the handshake is not as it should be.
    pub fn go_on(&mut self) -> Result<bool, AlertDescription> {
        let hello = self.client.hello();
        self.send(&hello);
        match read_answer(&mut self.stream) {
            Answer::Flight(flight) => {
                self.client.read_flight(&flight);
                let second_flight = self.client.second_flight();
                self.send(&second_flight);
                self.read_finished();
                Ok(false)
            }
            Answer::Resumption(records) => {
                let (_, behind) = self.client.read_resumption(&records);
                assert!(behind.is_empty(), "{behind:?}");
                let finished = [self.client.change_cipher_spec(), self.client.finished()].concat();
                self.send(&finished);
                Ok(true)
            }
            Answer::Alert(description) => Err(description),
        }
    }

    /// Reads the server's ChangeCipherSpec and Finished, with NewSessionTicket in front if there is one.
    ///
    /// # Panics
    /// When they are not as they should be.
    pub fn read_finished(&mut self) {
        let records = read_to_finished(&mut self.stream);
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

/// What comes upon ClientHello.
#[derive(Debug)]
enum Answer {
    /// The records up to ServerHelloDone.
    Flight(Vec<u8>),
    /// The records of a handshake that goes on from a session, up to Finished.
    Resumption(Vec<u8>),
    /// A refusal.
    Alert(AlertDescription),
}

fn read_answer(stream: &mut TcpStream) -> Answer {
    let (mut records, mut messages) = (Vec::new(), Vec::new());
    loop {
        let record = read_record(stream);
        match record.as_slice() {
            [CHANGE_CIPHER_SPEC, ..] => return Answer::Resumption([records, record, read_record(stream)].concat()),
            [ALERT, _, _, _, _, _, description] => return Answer::Alert(AlertDescription(*description)),
            [HANDSHAKE, _, _, _, _, fragment @ ..] => messages.extend_from_slice(fragment),
            _ => panic!("no answer: {record:02x?}"),
        }
        records.extend(record);
        if is_flight(&messages) {
            return Answer::Flight(records);
        }
    }
}

const CHANGE_CIPHER_SPEC: u8 = ContentType::CHANGE_CIPHER_SPEC.0;
const ALERT: u8 = ContentType::ALERT.0;
const HANDSHAKE: u8 = ContentType::HANDSHAKE.0;

fn read_flight(stream: &mut TcpStream) -> Vec<u8> {
    match read_answer(stream) {
        Answer::Flight(records) => records,
        answer @ (Answer::Resumption(_) | Answer::Alert(_)) => panic!("no flight: {answer:02x?}"),
    }
}

/// The records from NewSessionTicket, if there is one, to Finished.
fn read_to_finished(stream: &mut TcpStream) -> Vec<u8> {
    let mut records = Vec::new();
    loop {
        let record = read_record(stream);
        let is_last = record.first() == Some(&CHANGE_CIPHER_SPEC);
        records.extend(record);
        if is_last {
            records.extend(read_record(stream));
            return records;
        }
    }
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
