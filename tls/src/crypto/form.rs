//! The forms of keys and points that this engine takes: fewer than the libraries do, and the same in both providers.

use super::{BadSignature, InvalidPoint};
use crate::code_point::{NamedGroup, SignatureScheme};
use crate::identity::{KeyKind, PublicKey};

/// The first byte of an uncompressed point (SEC 1 §2.3.3).
const UNCOMPRESSED: u8 = 4;

/// Whether `public` looks like a point of `group`: its length, and the uncompressed form, which is the one that
/// RFC 8422 §5.1.2 leaves. Whether it is on the curve remains to be seen.
pub(super) fn check_point(group: NamedGroup, public: &[u8]) -> Result<(), InvalidPoint> {
    let well_formed = match group {
        NamedGroup::X25519 => public.len() == 32,
        NamedGroup::SECP256R1 => public.len() == 65 && public.first() == Some(&UNCOMPRESSED),
        NamedGroup::SECP384R1 => public.len() == 97 && public.first() == Some(&UNCOMPRESSED),
        _ => false,
    };
    if well_formed { Ok(()) } else { Err(InvalidPoint) }
}

/// Whether `key` has the form of a subjectPublicKey of that kind (RFC 5480 §2.2, RFC 8410 §4).
pub(crate) fn is_public_key(kind: KeyKind, key: &[u8]) -> bool {
    match (kind, kind.curve()) {
        (KeyKind::Ed25519, _) => key.len() == 32,
        (_, Some(curve)) => check_point(curve, key).is_ok(),
        // The library that reads the SubjectPublicKeyInfo has read the RSAPublicKey.
        (_, None) => true,
    }
}

/// Whether `scheme` is one for such a key.
pub(super) fn check_scheme(scheme: SignatureScheme, key: &PublicKey) -> Result<(), BadSignature> {
    if key.kind().schemes().contains(&scheme) { Ok(()) } else { Err(BadSignature) }
}
