//! The vectors of RFC 8032 and Wycheproof, and the points that must not be a key.

use curve25519_dalek::scalar::Scalar;
use ed25519_dalek::{Signer as _, Verifier as _};
use proptest::prelude::*;
use sha2::{Digest as _, Sha512};

use super::*;
use crate::testing::key;

fn hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

/// RFC 8032 §7.1, tests 1 to 3 and SHA(abc): public key, message, signature.
#[test]
fn rfc_8032_vectors() {
    let table = [
        (
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
        (
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        ),
        (
            "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
            "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
            "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
        ),
    ];
    for (public, message, signature) in table {
        let public = PublicKey::from_bytes(&hex(public).try_into().unwrap()).unwrap();
        let (message, signature) = (hex(message), hex(signature).try_into().unwrap());
        assert!(public.verify(&message, &signature));
        let mut longer = message.clone();
        longer.push(0);
        assert!(!public.verify(&longer, &signature));
    }
}

#[test]
fn wycheproof_vectors() {
    use wycheproof::{TestResult, eddsa};

    let set = eddsa::TestSet::load(eddsa::TestName::Ed25519).unwrap();
    let mut checked = 0;
    for group in set.test_groups {
        let Ok(public) = <[u8; 32]>::try_from(group.key.pk.as_slice()) else {
            panic!("a key of another length")
        };
        let public = PublicKey::from_bytes(&public).unwrap();
        for test in group.tests {
            let verified = <[u8; 64]>::try_from(test.sig.as_slice())
                .is_ok_and(|signature| public.verify(&test.msg, &signature));
            let expect = test.result == TestResult::Valid;
            assert_eq!(verified, expect, "{}: {}", test.tc_id, test.comment);
            checked += 1;
        }
    }
    assert!(checked > 100, "only {checked} vectors");
}

/// All points of small order, in every encoding that decompression takes: the eight canonical ones, and those with
/// y + p or with a sign on x = 0. With any of the first, one signature verifies for every message.
#[test]
fn small_order_and_non_canonical_points() {
    use KeyError::{NotCanonical, Weak};

    let table = [
        // canonical: orders 1, 2, 4, 4, 8, 8, 8, 8
        (
            "0100000000000000000000000000000000000000000000000000000000000000",
            Weak,
        ),
        (
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            Weak,
        ),
        (
            "0000000000000000000000000000000000000000000000000000000000000000",
            Weak,
        ),
        (
            "0000000000000000000000000000000000000000000000000000000000000080",
            Weak,
        ),
        (
            "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
            Weak,
        ),
        (
            "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
            Weak,
        ),
        (
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
            Weak,
        ),
        (
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
            Weak,
        ),
        // the same points, otherwise encoded
        (
            "0100000000000000000000000000000000000000000000000000000000000080",
            NotCanonical,
        ),
        (
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
            NotCanonical,
        ),
        (
            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            NotCanonical,
        ),
        (
            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
            NotCanonical,
        ),
        (
            "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            NotCanonical,
        ),
        (
            "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
            NotCanonical,
        ),
        // points of large order with y + p, and what is not a point at all
        (
            "f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            NotCanonical,
        ),
        (
            "f3ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            NotCanonical,
        ),
        (
            "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            NotCanonical,
        ),
        (
            "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
            NotCanonical,
        ),
        (
            "0200000000000000000000000000000000000000000000000000000000000000",
            NotCanonical,
        ),
    ];
    for (bytes, expect) in table {
        let bytes: [u8; 32] = hex(bytes).try_into().unwrap();
        assert_eq!(PublicKey::from_bytes(&bytes), Err(expect), "{bytes:02x?}");
        assert_eq!(PublicKey::from_x(&b64::encode(&bytes)), Err(expect));
    }
}

/// The holder of a key can make a signature with `R` = 0 that satisfies the equation: one that plain `verify` takes.
#[test]
fn a_small_order_r_of_the_key_s_own_holder() {
    let (key, message) = (key(1), b"m");
    let public = PublicKey::from(&key);
    let zero = hex("0100000000000000000000000000000000000000000000000000000000000000");
    let hash = Sha512::new()
        .chain_update(&zero)
        .chain_update(public.0.as_bytes())
        .chain_update(message)
        .finalize();
    let challenge = Scalar::from_bytes_mod_order_wide(&hash.into());
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(&zero);
    signature[32..].copy_from_slice((challenge * key.to_scalar()).as_bytes());
    assert!(
        public
            .0
            .verify(message, &Signature::from_bytes(&signature))
            .is_ok(),
        "the equation holds"
    );
    assert!(!public.verify(message, &signature));
}

/// A signature with a small-order `R`, or with `S` beyond the group order, is nobody's.
#[test]
fn malleable_signatures() {
    let public = PublicKey::from(&key(1));
    let good = key(1).sign(b"m").to_bytes();
    assert!(public.verify(b"m", &good));

    const L: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut beyond = good;
    let mut carry = 0;
    for (byte, add) in beyond[32..].iter_mut().zip(L) {
        carry += u16::from(*byte) + u16::from(add);
        *byte = carry as u8;
        carry >>= 8;
    }
    assert!(!public.verify(b"m", &beyond));

    let mut small = good;
    small[..32].copy_from_slice(&hex(
        "0100000000000000000000000000000000000000000000000000000000000000",
    ));
    assert!(!public.verify(b"m", &small));
    assert!(!public.verify(b"m", &[0; 64]));
    assert!(!public.verify(b"m", &[0xff; 64]));
}

#[test]
fn x_is_base64url_of_32_bytes() {
    let x = PublicKey::from(&key(1)).x();
    assert_eq!(PublicKey::from_x(&x), Ok(PublicKey::from(&key(1))));
    for bad in [
        format!("{x}="),
        format!("{x}A"),
        x[..42].to_owned(),
        format!(" {x}"),
        x.replace('w', "x"),
        String::new(),
    ] {
        assert_eq!(PublicKey::from_x(&bad), Err(KeyError::Encoding), "{bad}");
    }
}

proptest! {
    #[test]
    fn every_key_there_is_has_one_encoding(bytes: [u8; 32]) {
        if let Ok(public) = PublicKey::from_bytes(&bytes) {
            prop_assert_eq!(public.x(), b64::encode(&bytes));
        }
    }

    #[test]
    fn no_signature_panics(message: Vec<u8>, signature in proptest::collection::vec(any::<u8>(), 64)) {
        prop_assert!(!PublicKey::from(&key(1)).verify(&message, &signature.try_into().unwrap()));
    }

    #[test]
    fn what_a_key_signs_it_verifies(seed: [u8; 32], message: Vec<u8>) {
        let key = SigningKey::from_bytes(&seed);
        let public = PublicKey::from(&key);
        prop_assert!(public.verify(&message, &key.sign(&message).to_bytes()));
        prop_assert_eq!(PublicKey::from_x(&public.x()), Ok(public));
    }
}
