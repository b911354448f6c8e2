//! What an edge may ask the key server for in RSA key transport: a handshake that took place, altered as the fuzzer says,
//! or any bytes. No panic; the master secret is released for the handshake as it was and for nothing else, and for that
//! once.

#![no_main]

use std::cell::RefCell;
use std::num::NonZeroU8;
use std::rc::Rc;
use std::sync::LazyLock;

use keystead_fuzz::PRE_MASTER_SECRET;
use keystead_fuzz::key_transport::{self, GRANT};
use keystead_fuzz::server::{KeyTransport, Server};
use keystead_fuzz::signer::ED25519;
use keystead_keyserver::lease::{LeaseLimits, Leases};
use keystead_keyserver::operation::recover_master_secret::RecoverMasterSecret;
use keystead_program::channel::PeerIdentity;
use keystead_tls::crypto::FAST;
use keystead_tls::handshake::{Lease, MasterSecretRequest};
use keystead_tls::message::HEADER_LENGTH;
use keystead_tls::secret::MasterSecret;
use keystead_tls::{ClientAuth, HostParameters, Identity, SignatureScheme};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Request {
    second_suite: bool,
    extended_master_secret: bool,
    /// Whether the server asks for a certificate, and the client shows one.
    client_certificate: Option<bool>,
    edits: Vec<Edit>,
}

/// What the edge does to what it asks for.
#[derive(Arbitrary, Debug)]
enum Edit {
    /// Alters a byte of the messages: where, and by which exclusive or.
    Messages(u16, NonZeroU8),
    /// Leaves a message out.
    LeaveOut(u8),
    /// Puts a message in, of any type and content.
    PutIn(u8, u8, Vec<u8>),
    /// Has two messages change places.
    Exchange(u8, u8),
    /// Gives a message any other content.
    Rewrite(u8, Vec<u8>),
    /// Has the messages end earlier.
    Cut(u16),
    /// Any bytes for messages.
    Raw(Vec<u8>),
    /// Alters a byte of the Finished's record.
    Finished(u16, NonZeroU8),
    /// Any bytes for that record.
    RawFinished(Vec<u8>),
    /// Alters a byte of the lease.
    Lease(u16, NonZeroU8),
    /// Another lease of the same edge's.
    OtherLease,
}

static EDGE: LazyLock<PeerIdentity> = LazyLock::new(|| "spiffe://keystead.test/edge/one".parse().unwrap());

/// The key server, which takes down what it is asked for.
#[derive(Clone)]
struct Recorder {
    leases: Rc<Leases>,
    asked: Rc<RefCell<Option<RecoverMasterSecret>>>,
}

/// A lease of the edge's own.
fn lease(leases: &Leases) -> Lease {
    leases.lease_if(&EDGE, 1, || Ok(())).unwrap().leases.pop().unwrap()
}

impl KeyTransport for Recorder {
    fn lease(&mut self, _: &Identity) -> Lease {
        lease(&self.leases)
    }

    fn recover(&mut self, request: MasterSecretRequest<'_>) -> Option<MasterSecret> {
        *self.asked.borrow_mut() = Some(RecoverMasterSecret {
            lease: request.lease.token.clone(),
            handshake_messages: request.handshake_messages.to_vec(),
            finished_record: request.finished_record.to_vec(),
        });
        None
    }
}

fuzz_target!(|request: Request| {
    let limits = LeaseLimits { per_call: 8, outstanding: 64 };
    let recorder = Recorder { leases: Rc::new(Leases::new(limits, &mut rand::rng())), asked: Rc::default() };
    converse(&request, recorder.clone());
    let honest = recorder.asked.take().unwrap();
    let mut asked = honest.clone();
    request.edits.iter().take(20).for_each(|edit| edit.apply(&mut asked, &recorder.leases));

    let ask = |asked: &RecoverMasterSecret| asked.run(&GRANT, &EDGE, &recorder.leases, FAST, &mut rand::rng());
    assert_eq!(ask(&asked).is_ok(), asked == honest);
    assert!(ask(&asked).is_err(), "a lease is spent once");
});

/// A handshake as far as the key server is asked.
fn converse(request: &Request, recorder: Recorder) {
    let suite = HostParameters::KEY_TRANSPORT_SUITES[usize::from(request.second_suite)];
    let mut client = key_transport::client(suite, request.extended_master_secret);
    let client_auth = match request.client_certificate {
        None => ClientAuth::None,
        Some(_) => ClientAuth::Optional { authorities: vec![vec![0x30, 0]] },
    };
    let host = HostParameters { client_auth, ..key_transport::host() };
    let mut server = Server::new(FAST, host, 1).with_key_transport(recorder);
    server.feed(&client.hello()).unwrap();
    client.read_flight(&server.take_output());
    let (ciphertext, pre_master_secret) = &*PRE_MASTER_SECRET;
    let mut flight = match request.client_certificate {
        None => Vec::new(),
        Some(false) => client.certificate(&[]),
        Some(true) => client.certificate(ED25519.identity.chain()),
    };
    flight.extend(client.rsa_key_exchange(ciphertext, pre_master_secret));
    if request.client_certificate == Some(true) {
        flight.extend(client.certificate_verify(&ED25519, SignatureScheme::ED25519));
    }
    flight.extend(client.change_cipher_spec());
    flight.extend(client.finished());
    // Refused, for the recorder has no answer.
    assert!(server.feed(&flight).is_err());
}

impl Edit {
    fn apply(&self, asked: &mut RecoverMasterSecret, leases: &Leases) {
        let mut messages = split(&asked.handshake_messages);
        let count = messages.len().max(1);
        let place = |index: u8| usize::from(index) % count;
        match self {
            Self::Messages(at, with) => return alter(&mut asked.handshake_messages, *at, *with),
            Self::Finished(at, with) => return alter(&mut asked.finished_record, *at, *with),
            Self::Lease(at, with) => return alter(&mut asked.lease, *at, *with),
            Self::RawFinished(bytes) => return asked.finished_record.clone_from(bytes),
            Self::Raw(bytes) => return asked.handshake_messages.clone_from(bytes),
            Self::OtherLease => return asked.lease = lease(leases).token,
            Self::Cut(length) => return asked.handshake_messages.truncate((*length).into()),
            Self::LeaveOut(index) if !messages.is_empty() => drop(messages.remove(place(*index))),
            Self::Exchange(one, other) if !messages.is_empty() => messages.swap(place(*one), place(*other)),
            Self::PutIn(index, kind, body) => messages.insert(place(*index).min(messages.len()), message(*kind, body)),
            Self::Rewrite(index, body) if !messages.is_empty() => {
                let rewritten = &mut messages[place(*index)];
                *rewritten = message(rewritten[0], body);
            }
            Self::LeaveOut(_) | Self::Exchange(..) | Self::Rewrite(..) => {}
        }
        asked.handshake_messages = messages.concat();
    }
}

/// The messages, with what is no whole one behind them.
fn split(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    while let Some(&[_, high, middle, low]) = bytes.first_chunk::<HEADER_LENGTH>() {
        let length = HEADER_LENGTH + u32::from_be_bytes([0, high, middle, low]) as usize;
        let (message, rest) = bytes.split_at(length.min(bytes.len()));
        messages.push(message.to_vec());
        bytes = rest;
    }
    if !bytes.is_empty() {
        messages.push(bytes.to_vec());
    }
    messages
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[kind][..], &length, body].concat()
}

fn alter(bytes: &mut [u8], at: u16, with: NonZeroU8) {
    if let Some(at) = usize::from(at).checked_rem(bytes.len()) {
        bytes[at] ^= with.get();
    }
}
