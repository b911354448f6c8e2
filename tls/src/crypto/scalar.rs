//! How private scalars come from a generator's bytes, the same in both providers.

use rand_core::CryptoRng;
use zeroize::Zeroizing;

/// More draws than a sound generator needs: of the groups here P-256 refuses most, one string in 2^32.
const DRAWS: usize = 100;

/// Draws strings of `N` bytes until `accept` makes a key of one, which gives every scalar the same chance (FIPS 186-5
/// A.2.2). `None` if it takes none of [`DRAWS`].
pub(super) fn draw<const N: usize, K>(rng: &mut dyn CryptoRng, accept: impl Fn(&[u8; N]) -> Option<K>) -> Option<K> {
    let mut bytes = Zeroizing::new([0; N]);
    (0..DRAWS).find_map(|_| {
        rng.fill_bytes(bytes.as_mut());
        accept(&bytes)
    })
}
