//! The PRF and what TLS 1.2 derives with it, the same code in both providers.

use hmac::digest::{FixedOutput, Output, Update};
use hmac::{Hmac, KeyInit};
use sha2::{Sha256, Sha384};
use zeroize::{Zeroize, Zeroizing};

use super::hash::Hash;
use crate::secret::{KeyBlock, MasterSecret, SharedSecret};

/// Whose Finished message it is (RFC 5246 §7.4.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishedLabel {
    /// The client's.
    Client,
    /// The server's.
    Server,
}

impl FinishedLabel {
    const fn label(self) -> &'static [u8] {
        match self {
            Self::Client => b"client finished",
            Self::Server => b"server finished",
        }
    }
}

/// The master secret of a handshake without extended_master_secret (RFC 5246 §8.1).
pub fn master_secret(
    hash: Hash,
    pre_master_secret: &SharedSecret,
    client_random: &[u8; 32],
    server_random: &[u8; 32],
) -> MasterSecret {
    derive_master_secret(hash, pre_master_secret, b"master secret", &[client_random, server_random])
}

/// The master secret of a handshake with extended_master_secret: bound to `session_hash`, the digest of all handshake
/// messages up to and including ClientKeyExchange (RFC 7627 §4).
pub fn extended_master_secret(hash: Hash, pre_master_secret: &SharedSecret, session_hash: &[u8]) -> MasterSecret {
    derive_master_secret(hash, pre_master_secret, b"extended master secret", &[session_hash])
}

fn derive_master_secret(hash: Hash, pre_master_secret: &SharedSecret, label: &[u8], seed: &[&[u8]]) -> MasterSecret {
    let mut bytes = Zeroizing::new([0; 48]);
    prf(hash, pre_master_secret.expose(), label, seed, bytes.as_mut());
    MasterSecret::new(*bytes)
}

/// The first `length` bytes of key material; note that here the server's random comes first (RFC 5246 §6.3).
pub fn key_block(
    hash: Hash,
    master_secret: &MasterSecret,
    server_random: &[u8; 32],
    client_random: &[u8; 32],
    length: usize,
) -> KeyBlock {
    let mut bytes = vec![0; length];
    prf(hash, master_secret.expose(), b"key expansion", &[server_random, client_random], &mut bytes);
    KeyBlock::new(bytes)
}

/// The content of a Finished message; `transcript_digest` is over all handshake messages before it (RFC 5246 §7.4.9).
pub fn verify_data(
    hash: Hash,
    master_secret: &MasterSecret,
    label: FinishedLabel,
    transcript_digest: &[u8],
) -> [u8; 12] {
    let mut verify_data = [0; 12];
    prf(hash, master_secret.expose(), label.label(), &[transcript_digest], &mut verify_data);
    verify_data
}

/// Fills `output` from `secret`, `label` and the parts of the seed (RFC 5246 §5).
pub fn prf(hash: Hash, secret: &[u8], label: &[u8], seed: &[&[u8]], output: &mut [u8]) {
    match hash {
        Hash::Sha256 => p_hash(&keyed::<Hmac<Sha256>>(secret), label, seed, output),
        Hash::Sha384 => p_hash(&keyed::<Hmac<Sha384>>(secret), label, seed, output),
    }
}

#[expect(clippy::expect_used, reason = "HMAC takes keys of every length (RFC 2104 §3)")]
fn keyed<M: KeyInit>(secret: &[u8]) -> M {
    M::new_from_slice(secret).expect("a key for HMAC")
}

/// P_hash with `label` in front of the seed; `hmac` holds the secret. Each block of output is
/// HMAC(A(i) ‖ label ‖ seed), where A(1) = HMAC(label ‖ seed) and A(i+1) = HMAC(A(i)).
fn p_hash<M: Update + FixedOutput + Clone>(hmac: &M, label: &[u8], seed: &[&[u8]], output: &mut [u8]) {
    let seeded = |mut mac: M, to: &mut Output<M>| {
        mac.update(label);
        seed.iter().for_each(|part| mac.update(part));
        mac.finalize_into(to);
    };
    let (mut a, mut block) = (Output::<M>::default(), Output::<M>::default());
    for (index, chunk) in output.chunks_mut(M::output_size()).enumerate() {
        if index == 0 {
            seeded(hmac.clone(), &mut a);
        } else {
            hmac.clone().chain(&a).finalize_into(&mut a);
        }
        seeded(hmac.clone().chain(&a), &mut block);
        chunk.iter_mut().zip(&block).for_each(|(to, from)| *to = *from);
    }
    a.as_mut_slice().zeroize();
    block.as_mut_slice().zeroize();
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn hex(digits: &str) -> Vec<u8> {
        let nibbles: Vec<_> = digits.chars().filter_map(|digit| digit.to_digit(16)).collect();
        nibbles.chunks(2).map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap()).collect()
    }

    fn random(digits: &str) -> [u8; 32] {
        hex(digits).try_into().unwrap()
    }

    fn assert_prf(hash: Hash, secret: &str, seed: &str, expected: &str) {
        let (secret, seed, expected) = (hex(secret), hex(seed), hex(expected));
        let (front, back) = seed.split_at(7);
        // Every length up to the vector's, so that the last block is cut everywhere.
        for length in 0..=expected.len() {
            let mut output = vec![0; length];
            prf(hash, &secret, b"test label", &[front, back], &mut output);
            assert_eq!(output, expected[..length]);
        }
    }

    /// From the vectors posted to the IETF's TLS list, which TLS libraries share.
    #[test]
    fn prf_gives_the_published_vectors() {
        assert_prf(
            Hash::Sha256,
            "9bbe436ba940f017b17652849a71db35",
            "a0ba9f936cda311827a6f796ffd5198c",
            "e3f229ba727be17b8d122620557cd453c2aab21d07c3d495329b52d4e61edb5a6b301791e90d35c9c9a46b4e14baf9af
             0fa022f7077def17abfd3797c0564bab4fbc91666e9def9b97fce34f796789baa48082d122ee42c5a72e5a5110fff701
             87347b66",
        );
        assert_prf(
            Hash::Sha384,
            "b80b733d6ceefcdc71566ea48e5567df",
            "cd665cf6a8447dd6ff8b27555edb7465",
            "7b0c18e9ced410ed1804f2cfa34a336a1c14dffb4900bb5fd7942107e81c83cde9ca0faa60be9fe34f82b1233c9146a0
             e534cb400fed2700884f9dc236f80edd8bfa961144c9e8d792eca722a7b32fc3d416d473ebc2c5fd4abfdad05d918425
             9b5bf8cd4d90fa0d31e2dec479e4f1a26066f2eea9a69236a3e52655c9e9aee691c8f3a26854308d5eaa3be85e099070
             3d73e56f",
        );
    }

    /// From NIST's validation vectors for TLS 1.2 key derivation.
    #[test]
    fn master_secret_and_key_block_are_those_of_nist() {
        let pre_master_secret = SharedSecret::new(hex(
            "f8938ecc9edebc5030c0c6a441e213cd24e6f770a50dda07876f8d55da062bcadb386b411fd4fe4313a604fce6c17fbc",
        ));
        let master_secret = master_secret(
            Hash::Sha256,
            &pre_master_secret,
            &random("36c129d01a3200894b9179faac589d9835d58775f9b5ea3587cb8fd0364cae8c"),
            &random("f6c9575ed7ddd73e1f7d16eca115415812a43c2b747daaaae043abfb50053fce"),
        );
        assert_eq!(
            master_secret.expose(),
            hex("202c88c00f84a17a20027079604787461176455539e705be730890602c289a5001e34eeb3a043e5d52a65e66125188bf")
        );
        let key_block = key_block(
            Hash::Sha256,
            &master_secret,
            &random("ae6c806f8ad4d80784549dff28a4b58fd837681a51d928c3e30ee5ff14f39868"),
            &random("62e1fd91f23f558a605f28478c58cf72637b89784d959df7e946d3f07bd1b616"),
            128,
        );
        assert_eq!(
            key_block.expose(),
            hex("d06139889fffac1e3a71865f504aa5d0d2a2e89506c6f2279b670c3e1b74f531016a2530c51a3a0f7e1d6590d0f0566b
                 2f387f8d11fd4f731cdd572d2eae927f6f2f81410b25e6960be68985add6c38445ad9f8c64bf8068bf9a6679485d966f
                 1ad6f68b43495b10a683755ea2b858d70ccac7ec8b053c6bd41ca299d4e51928")
        );
    }

    /// Expected values from an independent program: P_hash written over Python's `hmac`.
    #[test]
    fn extended_master_secret_and_verify_data_agree_with_another_program() {
        let cases = [
            (
                Hash::Sha256,
                "cec98290d12e69b8379e791d3e3248fec19c6847a910e652093693788591a119aa47dbcdff2341039809661749b3a4f0",
                "9428f56a0d181107258478f9",
                "cc5dc4d4fd6c9aaa9b22f47d",
            ),
            (
                Hash::Sha384,
                "6cdbb53e3933e2e8294ad46750f8059be64437af2ca0f96700ee93f50481f0400ef3f093ea2ea504b547f83bbfaf13f0",
                "b0576afead6cc1447ef9425b",
                "9bfc7bd4de83905314330e70",
            ),
        ];
        for (hash, expected, client, server) in cases {
            let pre_master_secret = SharedSecret::new((0..32).collect());
            let digest: Vec<u8> = (0x80..).take(hash.output_length()).collect();
            let master_secret = extended_master_secret(hash, &pre_master_secret, &digest);
            assert_eq!(master_secret.expose(), hex(expected));
            assert_eq!(verify_data(hash, &master_secret, FinishedLabel::Client, &digest), *hex(client));
            assert_eq!(verify_data(hash, &master_secret, FinishedLabel::Server, &digest), *hex(server));
        }
    }
}
