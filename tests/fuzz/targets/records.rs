//! Any bytes from the first on: no panic, the right alert, and the same whatever the reads.

#![no_main]

use keystead_fuzz::{ends_with_alert, server};
use libfuzzer_sys::fuzz_target;

/// What a server shows of itself after these reads.
fn shown<'b>(reads: impl Iterator<Item = &'b [u8]>) -> (Vec<u8>, Vec<u8>, Option<keystead_tls::Error>) {
    let mut server = server();
    for read in reads {
        if let Err(error) = server.feed(read) {
            let output = server.take_output();
            assert!(ends_with_alert(&output, error), "{error}: {output:02x?}");
            return (output, server.take_received(), Some(error));
        }
    }
    (server.take_output(), server.take_received(), None)
}

fuzz_target!(|input: &[u8]| {
    let Some((size, bytes)) = input.split_first() else { return };
    let whole = shown(std::iter::once(bytes));
    let cut = shown(bytes.chunks(usize::from(*size) + 1));
    assert_eq!(whole, cut);
});
