//! The padding check of RSA key transport, where Bleichenbacher's attack and its descendants (ROBOT, Marvin) begin.
//!
//! Nothing here branches, returns early or indexes by a decrypted byte, and nothing says whether the padding was good:
//! the one result is a pre-master secret, the client's or a random one (RFC 5246 §7.4.7.1).

use keystead_tls::ProtocolVersion;
use keystead_tls::secret::SharedSecret;
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use zeroize::Zeroizing;

/// Bytes of a pre-master secret: the client's version, and 46 of its choosing.
pub(super) const PRE_MASTER_SECRET_LENGTH: usize = 48;

/// The pre-master secret that ends `block`, the decrypted block as long as the modulus, if
///
/// - `block` is `00 02`, non-zero bytes, `00`, and 48 bytes (RFC 8017 §7.2.2; as a modulus has at least 2048 bits, the
///   non-zero bytes are more than the eight that must be),
/// - the first two of the 48 are `client_version`, ClientHello.client_version, and
/// - `is_ciphertext` is true: the block is what the client's ciphertext decrypts to;
///
/// otherwise `random`.
pub(super) fn pre_master_secret(
    block: &[u8],
    client_version: ProtocolVersion,
    is_ciphertext: Choice,
    random: Zeroizing<[u8; PRE_MASTER_SECRET_LENGTH]>,
) -> SharedSecret {
    // The length is the modulus's, which everybody knows.
    let Some((front, decrypted)) = block.split_last_chunk::<PRE_MASTER_SECRET_LENGTH>() else {
        return SharedSecret::new(random.to_vec());
    };
    let [zero, two, padding @ .., separator] = front else {
        return SharedSecret::new(random.to_vec());
    };
    let [version_major, version_minor, ..] = decrypted;
    let [client_major, client_minor] = client_version.0.to_be_bytes();
    let is_padding = padding.iter().fold(Choice::from(1), |all, byte| all & !byte.ct_eq(&0));
    let is_good = is_ciphertext
        & zero.ct_eq(&0)
        & two.ct_eq(&2)
        & is_padding
        & separator.ct_eq(&0)
        & version_major.ct_eq(&client_major)
        & version_minor.ct_eq(&client_minor);
    let selected = random.iter().zip(decrypted).map(|(random, byte)| u8::conditional_select(random, byte, is_good));
    SharedSecret::new(selected.collect())
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    const RANDOM: [u8; 48] = [0xee; 48];

    /// A block of 256 bytes with a pre-master secret of TLS 1.2.
    fn good() -> Vec<u8> {
        [&[0, 2][..], &[0xaa; 205], &[0, 3, 3], &[0x77; 46]].concat()
    }

    fn unpad(block: &[u8], is_ciphertext: u8) -> Vec<u8> {
        let random = Zeroizing::new(RANDOM);
        pre_master_secret(block, ProtocolVersion::TLS_1_2, is_ciphertext.into(), random).expose().to_vec()
    }

    #[test]
    fn a_good_block_gives_its_secret() {
        assert_eq!(unpad(&good(), 1), good()[208..]);
    }

    #[test]
    fn a_good_block_of_another_ciphertext_gives_the_random_one() {
        assert_eq!(unpad(&good(), 0), RANDOM);
    }

    #[test]
    fn each_bit_of_the_frame_counts() {
        for place in [0, 1, 207, 208, 209] {
            for bit in 0..8 {
                let mut block = good();
                block[place] ^= 1 << bit;
                assert_eq!(unpad(&block, 1), RANDOM, "bit {bit} of byte {place}");
            }
        }
    }

    #[test]
    fn each_byte_of_the_padding_may_be_all_but_zero() {
        for place in 2..207 {
            for byte in [0, 1, 2, 0x80, 0xff] {
                let mut block = good();
                block[place] = byte;
                let expected = if byte == 0 { &RANDOM } else { &good()[208..] };
                assert_eq!(unpad(&block, 1), expected, "{byte} at {place}");
            }
        }
    }

    #[test]
    fn the_48_bytes_may_be_anything() {
        for byte in [0, 0xff] {
            let mut block = good();
            block[210..].fill(byte);
            assert_eq!(unpad(&block, 1), block[208..]);
        }
    }

    #[test]
    fn the_version_is_the_one_offered() {
        for version in [ProtocolVersion::TLS_1_3, ProtocolVersion::TLS_1_1, ProtocolVersion(0x0203)] {
            let random = Zeroizing::new(RANDOM);
            assert_eq!(pre_master_secret(&good(), version, 1.into(), random).expose(), RANDOM, "{version}");
        }
    }
}
