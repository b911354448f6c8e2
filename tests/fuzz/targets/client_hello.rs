//! Any body of a ClientHello: what reads is written and read again as the same, and the engine answers it.

#![no_main]

use keystead_fuzz::client::{message, plain_record};
use keystead_fuzz::{ends_with_alert, server};
use keystead_tls::message::HEADER_LENGTH;
use keystead_tls::message::client_hello::ClientHello;
use keystead_tls::record::MAX_PLAINTEXT;
use keystead_tls::{ContentType, HandshakeType};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let read = ClientHello::read(body);
    if let Ok(hello) = &read {
        let mut again = Vec::new();
        hello.write(&mut again);
        assert_eq!(ClientHello::read(&again[HEADER_LENGTH..]).as_ref(), Ok(hello));
    }

    let hello = message(HandshakeType::CLIENT_HELLO, body);
    let records = hello.chunks(MAX_PLAINTEXT).flat_map(|chunk| plain_record(ContentType::HANDSHAKE, chunk));
    let mut server = server();
    let outcome = server.feed(&records.collect::<Vec<_>>());
    let output = server.take_output();
    match (read, outcome) {
        (Err(error), _) => assert_eq!(outcome, Err(error)),
        (Ok(_), Err(error)) => assert!(ends_with_alert(&output, error), "{error}: {output:02x?}"),
        (Ok(_), Ok(())) => assert!(!output.is_empty()),
    }
});
