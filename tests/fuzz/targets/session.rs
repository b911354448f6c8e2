//! Any bytes where a session or a NewSessionTicket is read: what reads is written as the same bytes.

#![no_main]

use keystead_tls::Session;
use keystead_tls::message::HEADER_LENGTH;
use keystead_tls::message::new_session_ticket::NewSessionTicket;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(session) = Session::read(bytes) {
        assert_eq!(session.to_bytes().as_slice(), bytes);
    }
    if let Ok(ticket) = NewSessionTicket::read(bytes) {
        let mut again = Vec::new();
        ticket.write(&mut again);
        assert_eq!(&again[HEADER_LENGTH..], bytes);
    }
});
