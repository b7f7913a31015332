//! Each header on its own, and one signed request of which nothing may be changed.

use ed25519_dalek::Signer as _;
use proptest::prelude::*;

use super::*;
use crate::testing::key;

const EMPTY_HASH: &str = "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU";

/// A signed `POST /pair/start?x=1` of `{"a":1}`.
fn signed(timestamp: &str, nonce: &str, body: &[u8]) -> (String, String) {
    let hash = b64::encode(&Sha256::digest(body));
    let text = signed_text("POST", "/pair/start?x=1", timestamp, nonce, &hash);
    (hash, b64::encode(&key(2).sign(text.as_bytes()).to_bytes()))
}

/// Every deployed client signs these bytes.
#[test]
fn signed_text_unchanged() {
    assert_eq!(
        signed_text("post", "/hooks/message?a=b", "1767323045", "n-1", EMPTY_HASH),
        "CLAW-PROOF-V1\nPOST\n/hooks/message?a=b\n1767323045\nn-1\n47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"
    );
    let (hash, proof) = signed("1767323045", "n-1", br#"{"a":1}"#);
    assert_eq!(hash, "AVq9f1zFei3ZS3WQ8ErYCEJzkF7jPsXOvq5iJ2qX-GI");
    assert_eq!(proof, PROOF);
}

const PROOF: &str = "GgNEqbDhcAtVZMNUuJmRlCRh49vLmxbiIKllkwEyBPu4YC6gus8Iva5_rO42X76loAHKzEwaT0xK2C00T9msCA";

#[test]
fn a_proof_is_for_one_request_and_one_key() {
    let body = br#"{"a":1}"#;
    let (hash, proof) = signed("001767323045", "n-1", body);
    let timestamp = "001767323045";
    let check = |timestamp: &str, nonce: &str, key_seed: u8, method: &str, path: &str, body: &[u8]| {
        ProofHeaders::parse(Some(timestamp), Some(nonce), Some(&hash), Some(&proof))
            .and_then(|headers| {
                headers.verify(&PublicKey::from(&key(key_seed)), method, path)?;
                headers.check_body(body)
            })
            .is_ok()
    };
    let path = "/pair/start?x=1";
    assert!(check(timestamp, "n-1", 2, "POST", path, body));
    assert!(check(timestamp, "n-1", 2, "post", path, body));
    assert!(
        !check("1767323045", "n-1", 2, "POST", path, body),
        "the same second, but other digits"
    );
    assert!(!check("001767323046", "n-1", 2, "POST", path, body));
    assert!(!check(timestamp, "n-2", 2, "POST", path, body));
    assert!(!check(timestamp, "n-1 ", 2, "POST", path, body));
    assert!(!check(timestamp, "n-1", 3, "POST", path, body));
    assert!(!check(timestamp, "n-1", 2, "PUT", path, body));
    assert!(!check(timestamp, "n-1", 2, "POST", "/pair/start", body));
    assert!(!check(timestamp, "n-1", 2, "POST", "/pair/start?x=2", body));
    assert!(!check(timestamp, "n-1", 2, "POST", path, b""));
    assert!(!check(timestamp, "n-1", 2, "POST", path, br#"{"a":2}"#));
}

#[test]
fn headers_in_order() {
    use ProofError::{InvalidNonce, InvalidProof, InvalidTimestamp};

    let proof = b64::encode(&[1; 64]);
    let (longest, too_long) = ("é".repeat(1024), "é".repeat(1025));
    type Headers<'a> = [Option<&'a str>; 4];
    let good: Headers<'_> = [Some("1767323045"), Some("n-1"), Some(EMPTY_HASH), Some(&proof)];
    let with = |at: usize, value: Option<&'static str>| {
        let mut headers = good;
        headers[at] = value;
        headers
    };
    let t = Some(std::mem::discriminant(&InvalidTimestamp("")));
    let n = Some(std::mem::discriminant(&InvalidNonce("")));
    let p = Some(std::mem::discriminant(&InvalidProof("")));
    let table: Vec<(Headers<'_>, _)> = vec![
        (good, None),
        (with(0, Some("0")), None),
        (with(0, Some("999999999999")), None),
        (with(0, Some("1000000000000")), t),
        (with(0, Some("-1")), t),
        (with(0, Some("+1")), t),
        (with(0, Some("1.5")), t),
        (with(0, Some("1e3")), t),
        (with(0, Some(" 1")), t),
        (with(0, Some("１")), t),
        (with(0, Some("")), t),
        (with(0, None), t),
        (with(1, None), n),
        (with(1, Some("")), n),
        (with(1, Some("   ")), n),
        (with(1, Some(" \t ")), n),
        (with(1, Some("a\nb")), n),
        (with(1, Some("a\u{7f}")), n),
        ([good[0], Some(&longest), good[2], good[3]], None),
        ([good[0], Some(&too_long), good[2], good[3]], n),
        (with(2, None), p),
        (with(2, Some("")), p),
        (with(2, Some("47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU=")), p),
        (with(2, Some("47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU")), p),
        (with(2, Some("47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFV")), p),
        (
            with(
                2,
                Some("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            ),
            p,
        ),
        (with(3, None), p),
        (with(3, Some("")), p),
        (with(3, Some(EMPTY_HASH)), p),
        // the first that is wrong decides
        ([None, None, None, None], t),
        ([good[0], None, None, None], n),
        ([good[0], good[1], None, None], p),
    ];
    for (headers, expect) in table {
        let [timestamp, nonce, hash, proof] = headers;
        let error = ProofHeaders::parse(timestamp, nonce, hash, proof).err();
        assert_eq!(
            error.map(|error| std::mem::discriminant(&error)),
            expect,
            "{headers:?}"
        );
    }
}

#[test]
fn skew_is_signed_and_in_whole_seconds() {
    let table = [
        (1_000_000, 1000, 0),
        (1_000_999, 1000, 0),
        (1_300_999, 1000, 300),
        (1_301_000, 1000, 301),
        (700_000, 1000, -300),
        (699_999, 1000, -301),
        (0, 999_999_999_999, -999_999_999_999),
        (u64::MAX, 0, 18_446_744_073_709_551),
    ];
    for (now_ms, seconds, expect) in table {
        assert_eq!(
            skew_seconds(now_ms, Timestamp(seconds)),
            expect,
            "{now_ms} {seconds}"
        );
    }
}

#[test]
fn authorization() {
    use AuthorizationError::{InvalidScheme, Missing};

    let table = [
        (None, Err(Missing)),
        (Some(""), Err(Missing)),
        (Some("  "), Err(Missing)),
        (Some("Claw a.b.c"), Ok("a.b.c")),
        (Some("Claw   a.b.c "), Ok("a.b.c")),
        (Some("Claw"), Err(InvalidScheme)),
        (Some("Claw "), Err(InvalidScheme)),
        (Some("claw a.b.c"), Err(InvalidScheme)),
        (Some("CLAW a.b.c"), Err(InvalidScheme)),
        (Some("Bearer a.b.c"), Err(InvalidScheme)),
        (Some("Clawa.b.c"), Err(InvalidScheme)),
        (Some("Clawd a.b.c"), Err(InvalidScheme)),
        (Some("Claw a.b.c d"), Err(InvalidScheme)),
        (Some("a.b.c"), Err(InvalidScheme)),
    ];
    for (header, expect) in table {
        assert_eq!(parse_authorization(header), expect, "{header:?}");
    }
}

#[test]
fn access_tokens() {
    use AccessTokenError::{Invalid, Missing};

    let (longest, too_long) = ("x".repeat(1024), "x".repeat(1025));
    let table = [
        (None, Err(Missing)),
        (Some(""), Err(Missing)),
        (Some(" "), Err(Missing)),
        (Some("clw_agt_1~!"), Ok("clw_agt_1~!")),
        (Some(longest.as_str()), Ok(longest.as_str())),
        (Some(too_long.as_str()), Err(Invalid)),
        (Some("a b"), Err(Invalid)),
        (Some("a\nb"), Err(Invalid)),
        (Some("a\u{7f}"), Err(Invalid)),
        (Some("é"), Err(Invalid)),
    ];
    for (header, expect) in table {
        let token = AccessToken::parse(header);
        assert_eq!(
            token.as_ref().map(AccessToken::expose).map_err(|error| *error),
            expect,
            "{header:?}"
        );
    }
}

#[test]
fn nothing_is_printed_and_hashes_are_pinned() {
    let token = AccessToken::parse(Some("secret-token")).unwrap();
    let nonce = Nonce::parse("secret-nonce").unwrap();
    let headers = ProofHeaders::parse(
        Some("1"),
        Some("secret-nonce"),
        Some(EMPTY_HASH),
        Some(&b64::encode(&[1; 64])),
    )
    .unwrap();
    let printed = format!("{token:?} {nonce:?} {headers:?}");
    assert_eq!(
        printed,
        "AccessToken Nonce ProofHeaders { timestamp: Timestamp(1), .. }"
    );
    // Rows hold these: changing what is hashed is a migration.
    assert_eq!(b64::encode(&nonce.hash()), NONCE_HASH);
    assert_eq!(b64::encode(&token.hash()), TOKEN_HASH);
}

const NONCE_HASH: &str = "Tn5XHA9eGcDWr7R5jCF8Ub65GrElbxGrYgP8kuKn-TE";
const TOKEN_HASH: &str = "kwu9xRtq7VwqVnj9bije56BeiktkPPwLRCfD77hsDZQ";

proptest! {
    #[test]
    fn no_header_panics(a in "\\PC{0,20}", b in "\\PC{0,20}", c in "\\PC{0,50}", d in "\\PC{0,90}") {
        let _ = ProofHeaders::parse(Some(&a), Some(&b), Some(&c), Some(&d));
        let _ = (parse_authorization(Some(&a)), AccessToken::parse(Some(&a)).is_ok());
    }

    #[test]
    fn any_signed_request_verifies(seconds in 0_u64..=999_999_999_999, nonce in "[ -~]{1,40}", body: Vec<u8>) {
        prop_assume!(!nonce.trim().is_empty());
        let timestamp = seconds.to_string();
        let (hash, proof) = signed(&timestamp, &nonce, &body);
        let headers = ProofHeaders::parse(Some(&timestamp), Some(&nonce), Some(&hash), Some(&proof)).unwrap();
        prop_assert_eq!(headers.timestamp.seconds(), seconds);
        prop_assert_eq!(headers.verify(&PublicKey::from(&key(2)), "POST", "/pair/start?x=1"), Ok(()));
        prop_assert_eq!(headers.check_body(&body), Ok(()));
    }
}
