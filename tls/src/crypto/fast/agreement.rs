//! Key agreement of aws-lc-rs.

use aws_lc_rs::agreement::{
    Algorithm, ECDH_P256, ECDH_P384, ParsedPublicKey, PrivateKey, PublicKey, UnparsedPublicKey, X25519, agree,
};
use rand_core::CryptoRng;

use crate::code_point::NamedGroup;
use crate::crypto::{InvalidPoint, KeyPair, form, scalar};
use crate::secret::SharedSecret;

pub(super) struct Pair {
    group: NamedGroup,
    private: PrivateKey,
    public: PublicKey,
}

impl Pair {
    /// aws-lc-rs's own generator would save P-256 6 µs and P-384 37 µs, spent on checking that public and private part
    /// agree, but takes its randomness from elsewhere than `rng`.
    pub(super) fn draw(group: NamedGroup, rng: &mut dyn CryptoRng) -> Option<Self> {
        let private = match group {
            NamedGroup::X25519 => scalar::draw::<32, _>(rng, |bytes| from_scalar(&X25519, bytes)),
            NamedGroup::SECP256R1 => scalar::draw::<32, _>(rng, |bytes| from_scalar(&ECDH_P256, bytes)),
            NamedGroup::SECP384R1 => scalar::draw::<48, _>(rng, |bytes| from_scalar(&ECDH_P384, bytes)),
            _ => None,
        }?;
        let public = private.compute_public_key().ok()?;
        Some(Self { group, private, public })
    }
}

fn from_scalar(algorithm: &'static Algorithm, bytes: &[u8]) -> Option<PrivateKey> {
    PrivateKey::from_private_key(algorithm, bytes).ok()
}

impl KeyPair for Pair {
    fn public(&self) -> &[u8] {
        self.public.as_ref()
    }

    fn agree(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, InvalidPoint> {
        form::check_point(self.group, peer)?;
        let peer = UnparsedPublicKey::new(self.private.algorithm(), peer);
        agree(&self.private, peer, InvalidPoint, |secret| Ok(SharedSecret::new(secret.to_vec())))
    }
}

pub(super) fn check_public(group: NamedGroup, public: &[u8]) -> Result<(), InvalidPoint> {
    form::check_point(group, public)?;
    let algorithm = match group {
        NamedGroup::SECP256R1 => &ECDH_P256,
        NamedGroup::SECP384R1 => &ECDH_P384,
        // Of X25519, whose form is all there is to check.
        _ => return Ok(()),
    };
    match ParsedPublicKey::try_from(UnparsedPublicKey::new(algorithm, public)) {
        Ok(_) => Ok(()),
        Err(_) => Err(InvalidPoint),
    }
}
