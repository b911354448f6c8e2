//! The record protocol (RFC 5246 §6): records found in bytes, protected and opened in place.

pub mod deframe;
pub mod fragment;
pub mod protect;

pub use deframe::{Deframed, Opener};
pub use fragment::Sealer;

/// Bytes of a record's header: content type, version, length.
pub const HEADER_LENGTH: usize = 5;

/// Most bytes of a record's plaintext (RFC 5246 §6.2.1).
pub const MAX_PLAINTEXT: usize = 1 << 14;

/// Most bytes behind the header of a protected record (RFC 5246 §6.2.3).
pub const MAX_CIPHERTEXT: usize = MAX_PLAINTEXT + 2048;

/// Most bytes of a record on the wire.
pub const MAX_RECORD: usize = HEADER_LENGTH + MAX_CIPHERTEXT;
