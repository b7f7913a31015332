//! One good CRL, and what happens when each part of it is changed.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::testing::{Registry, agent, key, keyset_json, sign_jws, ulid};

fn verify(text: &str) -> Result<Crl, CrlError> {
    let registry = Registry::default();
    UnverifiedCrl::parse(text)?.verify(&registry.keys(), Some(&registry.issuer), 1200)
}

#[test]
fn a_good_crl() {
    let registry = Registry::default();
    let text = registry.crl(&[(7, 900), (8, 30), (7, 900), (9, 4)]);
    let mut entries = Vec::new();
    let crl = UnverifiedCrl::parse(&text)
        .unwrap()
        .verify_each(&registry.keys(), Some(&registry.issuer), 1200, |entry| {
            entries.push(entry)
        })
        .unwrap();
    assert_eq!(crl, verify(&text).unwrap());
    assert_eq!(crl.len(), 3);
    for (jti, listed) in [
        (4, true),
        (30, true),
        (900, true),
        (7, false),
        (0, false),
        (u128::MAX, false),
    ] {
        assert_eq!(crl.contains(&ulid(jti)), listed, "{jti}");
    }
    let info = crl.info.unwrap();
    assert_eq!(
        (info.issuer, info.jti, info.iat_s, info.exp_s),
        (registry.issuer, ulid(9), 1000, 1390)
    );
    assert_eq!(entries.len(), 4);
    assert_eq!(
        entries[1],
        CrlEntry {
            jti: ulid(30),
            agent: agent(8),
            reason: Some("reissued".into()),
            revoked_at_ms: 990_000
        }
    );

    assert!(Crl::empty().is_empty());
    assert!(!Crl::empty().contains(&ulid(4)));
}

/// What today's registry signs, byte for byte.
#[test]
fn list_format_unchanged() {
    let payload = concat!(
        r#"{"iss":"https://registry.example.com","jti":"00000000000000000000000009","iat":1000,"exp":1390,"#,
        r#""revocations":[{"jti":"0000000000000000000000000Y","#,
        r#""agentDid":"did:cdi:registry.example.com:agent:00000000000000000000000007","reason":"reissued","revokedAt":990}]}"#
    );
    let text = sign_jws(&key(1), r#"{"alg":"EdDSA","typ":"CRL","kid":"k1"}"#, payload);
    assert_eq!(text, LIST);
    assert!(verify(LIST).unwrap().contains(&ulid(30)));
}

const LIST: &str = "eyJhbGciOiJFZERTQSIsInR5cCI6IkNSTCIsImtpZCI6ImsxIn0.eyJpc3MiOiJodHRwczovL3JlZ2lzdHJ5LmV4YW1wbGUuY29tIiwianRpIjoiMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDkiLCJpYXQiOjEwMDAsImV4cCI6MTM5MCwicmV2b2NhdGlvbnMiOlt7Imp0aSI6IjAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDBZIiwiYWdlbnREaWQiOiJkaWQ6Y2RpOnJlZ2lzdHJ5LmV4YW1wbGUuY29tOmFnZW50OjAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDA3IiwicmVhc29uIjoicmVpc3N1ZWQiLCJyZXZva2VkQXQiOjk5MH1dfQ.lDF0QlV334_wHDr-zyJ19pI47t3gwX4kFIvPmnYAIiC_EXVV2IF4oA_xxYP0MOhWTZivwSsfza-uqniEZDf5AQ";

#[test]
fn every_claim_has_its_rule() {
    let entry = |name: &str, value: Value| {
        let mut claims = Registry::default().crl_claims(&[(7, 30), (8, 31)]);
        claims["revocations"][1][name] = value;
        claims
    };
    let claim = |name: &str, value: Value| {
        let mut claims = Registry::default().crl_claims(&[(7, 30)]);
        claims[name] = value;
        claims
    };
    let less = |pointer: &str, name: &str| {
        let mut claims = Registry::default().crl_claims(&[(7, 30)]);
        claims
            .pointer_mut(pointer)
            .unwrap()
            .as_object_mut()
            .unwrap()
            .shift_remove(name);
        claims
    };
    let did = "did:cdi:registry.example.com:agent:00000000000000000000000007";
    let table = [
        (claim("iat", json!(5000)), false),
        (claim("iat", json!(1390)), false),
        (claim("iat", json!(1389)), true),
        (claim("iat", json!(-1)), false),
        (claim("exp", json!(MAX_SECONDS)), true),
        (claim("exp", json!(MAX_SECONDS + 1)), false),
        (claim("exp", json!("1390")), false),
        (claim("jti", json!("x")), false),
        (claim("iss", json!("https://registry.example.com/")), false),
        (claim("revocations", json!([])), false),
        (claim("revocations", json!({})), false),
        (claim("revocations", json!(null)), false),
        (claim("revocations", json!([null])), false),
        (claim("revocations", json!([[ulid(1), did, null, 990]])), false),
        (claim("nbf", json!(1)), false),
        (less("", "iss"), false),
        (less("", "jti"), false),
        (less("", "iat"), false),
        (less("", "exp"), false),
        (less("", "revocations"), false),
        (less("/revocations/0", "reason"), true),
        (less("/revocations/0", "jti"), false),
        (less("/revocations/0", "agentDid"), false),
        (less("/revocations/0", "revokedAt"), false),
        (entry("jti", json!("0000000000000000000000000z")), false),
        (entry("agentDid", json!(did)), true),
        (
            entry("agentDid", json!(did.replace("registry.", "other."))),
            false,
        ),
        (entry("agentDid", json!(did.replace("agent", "human"))), false),
        (entry("reason", json!(null)), true),
        (entry("reason", json!("é".repeat(280))), true),
        (entry("reason", json!("é".repeat(281))), false),
        (entry("reason", json!(7)), false),
        (entry("revokedAt", json!(990_000_000_000_u64)), true),
        (entry("revokedAt", json!("2026-01-02T03:04:05Z")), true),
        (entry("revokedAt", json!(-1)), false),
        (entry("revokedAt", json!(null)), false),
        (entry("kind", json!("agent")), false),
    ];
    for (claims, good) in table {
        let mut seen = 0;
        let registry = Registry::default();
        let text = registry.sign_crl(&claims);
        let result = UnverifiedCrl::parse(&text).unwrap().verify_each(
            &registry.keys(),
            Some(&registry.issuer),
            1200,
            |_| seen += 1,
        );
        match result {
            Ok(_) => assert!(good, "accepted: {claims}"),
            Err(CrlError::Claims(reason)) => {
                assert!(!good, "refused: {claims}: {reason}");
                assert_eq!(seen, 0, "an entry of a bad list was handed out");
            }
            Err(error) => panic!("{claims}: {error}"),
        }
    }
    let twice =
        Registry::default()
            .crl_claims(&[(7, 30)])
            .to_string()
            .replacen('{', r#"{"revocations":[],"#, 1);
    let text = sign_jws(&key(1), r#"{"alg":"EdDSA","typ":"CRL","kid":"k1"}"#, &twice);
    assert!(matches!(verify(&text), Err(CrlError::Claims(_))));
}

#[test]
fn the_key_order_of_the_claims_does_not_matter() {
    let claims = Registry::default().crl_claims(&[(7, 30)]);
    let reversed: serde_json::Map<String, Value> = claims
        .as_object()
        .unwrap()
        .iter()
        .rev()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    assert_eq!(
        verify(&Registry::default().sign_crl(&reversed.into()))
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn verification() {
    let registry = Registry::default();
    let text = registry.crl(&[(7, 30)]);
    let crl = UnverifiedCrl::parse(&text).unwrap();
    assert_eq!(crl.kid(), "k1");
    let keys = registry.keys();
    let other = Issuer::parse("https://other.example.com").unwrap();
    let check =
        |keys: &KeySet, issuer: Option<&Issuer>, now_s| crl.verify(keys, issuer, now_s).map(|crl| crl.len());
    let set = |kid: &str, seed: u8, status: &str| {
        KeySet::parse(keyset_json(&[(kid, &key(seed), status)]).as_bytes()).unwrap()
    };
    assert_eq!(check(&keys, Some(&registry.issuer), 1200), Ok(1));
    assert_eq!(check(&keys, None, 1200), Ok(1));
    assert_eq!(check(&keys, Some(&other), 1200), Err(CrlError::Issuer));
    assert_eq!(check(&keys, None, 1389), Ok(1));
    assert_eq!(check(&keys, None, 1390), Err(CrlError::Expired));
    assert_eq!(check(&keys, None, 0), Ok(1));
    assert_eq!(
        check(&set("k2", 1, "active"), None, 1200),
        Err(CrlError::UnknownKid)
    );
    assert_eq!(
        check(&set("k1", 1, "revoked"), None, 1200),
        Err(CrlError::UnknownKid)
    );
    assert_eq!(
        check(&set("k1", 2, "active"), None, 1200),
        Err(CrlError::Signature)
    );
    assert_eq!(
        verify(&registry.ait(7, &key(2))),
        Err(CrlError::Jws(JwsError::Type))
    );
    let (head, _) = text.rsplit_once('.').unwrap();
    let (_, signature) = registry
        .crl(&[(7, 31)])
        .rsplit_once('.')
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .unwrap();
    assert_eq!(verify(&format!("{head}.{signature}")), Err(CrlError::Signature));
}

#[test]
fn bodies() {
    let table: &[(&str, Option<&str>)] = &[
        (r#"{"crl":"a.b.c"}"#, Some("a.b.c")),
        (r#"{"crl":"a.\u0062.c","generatedAt":1}"#, Some("a.b.c")),
        (r#"{"crl":null}"#, None),
        (r#"{"crl":["a"]}"#, None),
        (r#"{"crl":"a","crl":"b"}"#, None),
        (r#"["a.b.c"]"#, None),
        ("{}", None),
        ("null", None),
        ("", None),
        ("<html>", None),
    ];
    for (body, expect) in table {
        assert_eq!(parse_crl_body(body.as_bytes()).ok().as_deref(), *expect, "{body}");
    }
    assert!(matches!(
        parse_crl_body(br#"{"crl":"a.b.c"}"#),
        Ok(Cow::Borrowed(_))
    ));
}

/// Each cap at its last byte and one past it. What is read at the cap is refused for its content, if at all.
#[test]
fn caps() {
    // White space around the object is part of the body and no part of the list.
    let body = |bytes: usize| {
        let mut body = br#"{"crl":"a.b.c"}"#.to_vec();
        body.resize(bytes, b' ');
        parse_crl_body(&body).map(Cow::into_owned)
    };
    assert_eq!(body(MAX_CRL_BODY_BYTES), Ok("a.b.c".to_owned()));
    assert_eq!(body(MAX_CRL_BODY_BYTES + 1), Err(CrlError::Body));

    let list = |bytes: usize| UnverifiedCrl::parse(&"A".repeat(bytes)).err();
    let refused = |error| Some(CrlError::Jws(error));
    assert_eq!(list(MAX_CRL_BYTES), refused(JwsError::Segments));
    assert_eq!(list(MAX_CRL_BYTES + 1), refused(JwsError::TooLarge));
}

#[test]
fn a_large_list() {
    let listed: Vec<(u128, u128)> = (0..20_000).map(|n| (n % 50, n * 7919 % 100_003)).collect();
    let crl = verify(&Registry::default().crl(&listed)).unwrap();
    assert_eq!(crl.len(), 20_000);
    for (_, jti) in &listed {
        assert!(crl.contains(&ulid(*jti)));
    }
    assert!(!crl.contains(&ulid(100_003)));
}

proptest! {
    #[test]
    fn no_payload_panics(payload in "\\PC{0,120}") {
        let _ = parse_crl_body(payload.as_bytes());
        let _ = verify(&payload);
        let _ = verify(&sign_jws(&key(1), r#"{"alg":"EdDSA","typ":"CRL","kid":"k1"}"#, &payload));
    }

    #[test]
    fn a_set_like_any_other(listed in proptest::collection::vec(0_u128..64, 1..40)) {
        let pairs: Vec<_> = listed.iter().map(|jti| (1, *jti)).collect();
        let crl = verify(&Registry::default().crl(&pairs)).unwrap();
        for jti in 0..64 {
            prop_assert_eq!(crl.contains(&ulid(jti)), listed.contains(&jti));
        }
    }
}
