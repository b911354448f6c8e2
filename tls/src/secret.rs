//! Every secret newtype of the engine, in one place.
//!
//! Each is wiped when dropped, cannot be cloned, prints as `[redacted]`, and gives its bytes only through `expose`,
//! which is the word to search for in a review.

use zeroize::{Zeroize, ZeroizeOnDrop};

macro_rules! secrets {
    ($($(#[$meta:meta])* $name:ident($inner:ty);)+) => {$(
        $(#[$meta])*
        #[derive(Zeroize, ZeroizeOnDrop)]
        pub struct $name($inner);

        impl $name {
            /// Takes the secret over.
            pub fn new(bytes: $inner) -> Self {
                Self(bytes)
            }

            /// The secret's bytes.
            pub fn expose(&self) -> &[u8] {
                self.0.as_ref()
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(concat!(stringify!($name), "([redacted])"))
            }
        }
    )+};
}

secrets! {
    /// The result of a key agreement: the X coordinate of the shared point, or X25519's output (RFC 8422 §5.10).
    SharedSecret(Vec<u8>);
    /// The 48-byte master secret (RFC 5246 §8.1).
    MasterSecret([u8; 48]);
    /// Key material of both directions, in the order of RFC 5246 §6.3.
    KeyBlock(Vec<u8>);
}
