//! Key agreement of x25519-dalek, p256 and p384.

use p256::NistP256;
use p256::elliptic_curve::sec1::{FromSec1Point, ModulusSize, ToSec1Point};
use p256::elliptic_curve::{AffinePoint, CurveArithmetic, FieldBytesSize, PublicKey, SecretKey};
use p384::NistP384;
use rand_core::CryptoRng;
use x25519_dalek::StaticSecret;

use crate::code_point::NamedGroup;
use crate::crypto::{InvalidPoint, KeyPair, form, scalar};
use crate::secret::SharedSecret;

pub(super) fn key_pair(group: NamedGroup, rng: &mut dyn CryptoRng) -> Option<Box<dyn KeyPair>> {
    Some(match group {
        NamedGroup::X25519 => Box::new(X25519Pair::draw(rng)?),
        NamedGroup::SECP256R1 => {
            let secret = scalar::draw::<32, _>(rng, |bytes| SecretKey::<NistP256>::from_slice(bytes).ok())?;
            Box::new(EcPair::new(group, secret))
        }
        NamedGroup::SECP384R1 => {
            let secret = scalar::draw::<48, _>(rng, |bytes| SecretKey::<NistP384>::from_slice(bytes).ok())?;
            Box::new(EcPair::new(group, secret))
        }
        _ => return None,
    })
}

pub(super) fn check_public(group: NamedGroup, public: &[u8]) -> Result<(), InvalidPoint> {
    match group {
        NamedGroup::SECP256R1 => parse::<NistP256>(group, public).map(|_| ()),
        NamedGroup::SECP384R1 => parse::<NistP384>(group, public).map(|_| ()),
        _ => form::check_point(group, public),
    }
}

struct X25519Pair {
    secret: StaticSecret,
    public: x25519_dalek::PublicKey,
}

impl X25519Pair {
    fn draw(rng: &mut dyn CryptoRng) -> Option<Self> {
        let secret = scalar::draw(rng, |bytes: &[u8; 32]| Some(StaticSecret::from(*bytes)))?;
        let public = (&secret).into();
        Some(Self { secret, public })
    }
}

impl KeyPair for X25519Pair {
    fn public(&self) -> &[u8] {
        self.public.as_ref()
    }

    fn agree(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, InvalidPoint> {
        let peer: [u8; 32] = peer.try_into().map_err(|_| InvalidPoint)?;
        let shared = self.secret.diffie_hellman(&peer.into());
        if shared.was_contributory() { Ok(SharedSecret::new(shared.as_bytes().to_vec())) } else { Err(InvalidPoint) }
    }
}

struct EcPair<C: CurveArithmetic> {
    group: NamedGroup,
    secret: SecretKey<C>,
    public: Box<[u8]>,
}

impl<C> EcPair<C>
where
    C: CurveArithmetic,
    FieldBytesSize<C>: ModulusSize,
    AffinePoint<C>: FromSec1Point<C> + ToSec1Point<C>,
{
    fn new(group: NamedGroup, secret: SecretKey<C>) -> Self {
        let public = secret.public_key().to_sec1_point(false).as_bytes().into();
        Self { group, secret, public }
    }
}

impl<C> KeyPair for EcPair<C>
where
    C: CurveArithmetic,
    FieldBytesSize<C>: ModulusSize,
    AffinePoint<C>: FromSec1Point<C> + ToSec1Point<C>,
{
    fn public(&self) -> &[u8] {
        &self.public
    }

    fn agree(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, InvalidPoint> {
        let shared = self.secret.diffie_hellman(&parse(self.group, peer)?);
        Ok(SharedSecret::new(shared.raw_secret_bytes().to_vec()))
    }
}

/// The point of `C`, the curve of `group`, which is then known to be on it.
fn parse<C>(group: NamedGroup, public: &[u8]) -> Result<PublicKey<C>, InvalidPoint>
where
    C: CurveArithmetic,
    FieldBytesSize<C>: ModulusSize,
    AffinePoint<C>: FromSec1Point<C> + ToSec1Point<C>,
{
    form::check_point(group, public)?;
    PublicKey::from_sec1_bytes(public).map_err(|_| InvalidPoint)
}
