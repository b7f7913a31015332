//! One good AIT, and what happens when each part of it is changed.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::testing::{Registry, key, keyset_json, sign_jws};

fn verify(token: &str) -> Result<Ait, AitError> {
    let registry = Registry::default();
    UnverifiedAit::parse(token)?.verify(&registry.keys(), &registry.issuer, 1500)
}

/// Claims with one of them set, or taken away.
fn with(name: &str, value: Option<Value>) -> Value {
    let mut claims = Registry::default().ait_claims(7, &key(2));
    match value {
        Some(value) => claims[name] = value,
        None => drop(claims.as_object_mut().unwrap().shift_remove(name)),
    }
    claims
}

#[test]
fn a_good_ait() {
    let registry = Registry::default();
    let ait = verify(&registry.ait(7, &key(2))).unwrap();
    assert_eq!(
        ait.sub.as_str(),
        "did:cdi:registry.example.com:agent:00000000000000000000000007"
    );
    assert_eq!(
        ait.owner.as_str(),
        "did:cdi:registry.example.com:human:000000000000000000000000FM"
    );
    assert_eq!(ait.issuer, registry.issuer);
    assert_eq!(ait.jti.as_u128(), 1007);
    assert_eq!((ait.iat_s, ait.nbf_s, ait.exp_s), (1000, 1000, 2000));
    assert_eq!(
        (ait.name.as_str(), ait.framework.as_str()),
        ("Agent 7", "openclaw")
    );
    assert_eq!(ait.description.as_deref(), Some("helps"));
    assert_eq!(ait.cnf, PublicKey::from(&key(2)));
    assert_eq!(
        (ait.kid.as_str(), &ait.signed_by),
        ("k1", &PublicKey::from(&key(1)))
    );
}

/// AITs live for months: a token made of these bytes must verify for as long as this code runs.
#[test]
fn token_format_unchanged() {
    let payload = concat!(
        r#"{"iss":"https://registry.example.com","sub":"did:cdi:registry.example.com:agent:00000000000000000000000007","#,
        r#""ownerDid":"did:cdi:registry.example.com:human:000000000000000000000000FM","name":"Agent 7","framework":"openclaw","#,
        r#""description":"helps","cnf":{"jwk":{"kty":"OKP","crv":"Ed25519","x":"gTl3Dqh9F19Wo1Rmw0x-zMuNipG07jeiXfYPW4_Js5Q"}},"#,
        r#""iat":1000,"nbf":1000,"exp":2000,"jti":"000000000000000000000000ZF"}"#
    );
    let token = sign_jws(&key(1), r#"{"alg":"EdDSA","typ":"AIT","kid":"k1"}"#, payload);
    assert_eq!(token, TOKEN);
    assert_eq!(verify(TOKEN), verify(&Registry::default().ait(7, &key(2))));
    assert!(verify(TOKEN).is_ok());
}

const TOKEN: &str = "eyJhbGciOiJFZERTQSIsInR5cCI6IkFJVCIsImtpZCI6ImsxIn0.eyJpc3MiOiJodHRwczovL3JlZ2lzdHJ5LmV4YW1wbGUuY29tIiwic3ViIjoiZGlkOmNkaTpyZWdpc3RyeS5leGFtcGxlLmNvbTphZ2VudDowMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwNyIsIm93bmVyRGlkIjoiZGlkOmNkaTpyZWdpc3RyeS5leGFtcGxlLmNvbTpodW1hbjowMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDBGTSIsIm5hbWUiOiJBZ2VudCA3IiwiZnJhbWV3b3JrIjoib3BlbmNsYXciLCJkZXNjcmlwdGlvbiI6ImhlbHBzIiwiY25mIjp7Imp3ayI6eyJrdHkiOiJPS1AiLCJjcnYiOiJFZDI1NTE5IiwieCI6ImdUbDNEcWg5RjE5V28xUm13MHgtek11TmlwRzA3amVpWGZZUFc0X0pzNVEifX0sImlhdCI6MTAwMCwibmJmIjoxMDAwLCJleHAiOjIwMDAsImp0aSI6IjAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMFpGIn0.Eu1TzO7gUL2RHzJ5HHSqPpTDM6petqTu9LNNdj8UsfB9wFM724qHyuYbWErxMVMo5W4JXxV8T391kqwT41krAQ";

#[test]
fn every_claim_has_its_rule() {
    let x = PublicKey::from(&key(2)).x();
    let jwk = |kty: &str, crv: &str, x: &str| json!({"jwk": {"kty": kty, "crv": crv, "x": x}});
    let weak = "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let not_canonical = "7v________________________________________38";
    let did = "did:cdi:registry.example.com:agent:00000000000000000000000007";
    let human = "did:cdi:registry.example.com:human:000000000000000000000000FM";
    let set = |name: &'static str, value: Value| (name, Some(value));
    let table: Vec<((&str, Option<Value>), bool)> = vec![
        (set("name", json!("a.B_9 -")), true),
        (set("name", json!("x".repeat(64))), true),
        (set("name", json!("x".repeat(65))), false),
        (set("name", json!("")), false),
        (set("name", json!("é")), false),
        (set("name", json!("a\n")), false),
        (set("name", json!("a/b")), false),
        (set("name", json!(7)), false),
        (("name", None), false),
        (set("framework", json!("é".repeat(32))), true),
        (set("framework", json!("é".repeat(33))), false),
        (set("framework", json!("")), false),
        (set("framework", json!("a\u{1}")), false),
        (set("framework", json!("a\u{9f}")), false),
        (("framework", None), false),
        (("description", None), true),
        (set("description", json!("")), true),
        (set("description", json!("é".repeat(280))), true),
        (set("description", json!("é".repeat(281))), false),
        (set("description", json!("two\nlines")), false),
        (set("description", Value::Null), false),
        (set("iat", json!(1999)), true),
        (set("iat", json!(0)), true),
        (set("iat", json!(2000)), false),
        (set("iat", json!(-1)), false),
        (set("iat", json!(1000.0)), false),
        (set("iat", json!("1000")), false),
        (set("nbf", json!(0)), true),
        (set("nbf", json!(2000)), false),
        (set("nbf", json!(-1)), false),
        (("nbf", None), false),
        (set("exp", json!(1000 + MAX_LIFE_S)), true),
        (set("exp", json!(1001 + MAX_LIFE_S)), false),
        (set("exp", json!(1000 + 10 * 365 * 86_400)), false),
        (set("exp", json!(MAX_SECONDS)), false),
        (set("exp", json!(MAX_SECONDS + 1)), false),
        (set("exp", json!(u64::MAX)), false),
        (set("exp", json!(1e300)), false),
        (set("exp", json!(1000)), false),
        (set("exp", Value::Null), false),
        (("exp", None), false),
        (set("jti", json!("00000000000000000000000000")), true),
        (set("jti", json!("0000000000000000000000000z")), false),
        (set("jti", json!("80000000000000000000000000")), false),
        (set("jti", json!("")), false),
        (("jti", None), false),
        (set("sub", json!(did.replace(".example", ".evil"))), false),
        (
            set("sub", json!(did.replace("registry.", "sub.registry."))),
            false,
        ),
        (set("sub", json!(human)), false),
        (set("sub", json!(format!("{did} "))), false),
        (("sub", None), false),
        (set("ownerDid", json!(human.replace(".example", ".evil"))), false),
        (set("ownerDid", json!(did)), false),
        (("ownerDid", None), false),
        (set("iss", json!("https://registry.example.com/")), false),
        (set("iss", json!("https://user@registry.example.com")), false),
        (set("iss", json!("https://[::1]")), false),
        (set("iss", json!("registry.example.com")), false),
        (set("iss", json!("ftp://registry.example.com")), false),
        (set("iss", json!(["https://registry.example.com"])), false),
        (("iss", None), false),
        (set("cnf", jwk("OKP", "Ed25519", &x)), true),
        (set("cnf", jwk("EC", "Ed25519", &x)), false),
        (set("cnf", jwk("OKP", "X25519", &x)), false),
        (set("cnf", jwk("OKP", "Ed25519", weak)), false),
        (set("cnf", jwk("OKP", "Ed25519", not_canonical)), false),
        (set("cnf", jwk("OKP", "Ed25519", &format!("{x}="))), false),
        (set("cnf", jwk("OKP", "Ed25519", &x[1..])), false),
        (set("cnf", jwk("OKP", "Ed25519", "")), false),
        (
            set(
                "cnf",
                json!({"jwk": {"kty": "OKP", "crv": "Ed25519", "x": x, "d": x}}),
            ),
            false,
        ),
        (
            set(
                "cnf",
                json!({"jwk": {"kty": "OKP", "crv": "Ed25519", "x": x}, "kid": "k"}),
            ),
            false,
        ),
        (set("cnf", json!({"jwk": ["OKP", "Ed25519", x]})), false),
        (
            set("cnf", json!([{"kty": "OKP", "crv": "Ed25519", "x": x}])),
            false,
        ),
        (
            set("cnf", json!({"jwk": {"kty": "OKP", "crv": "Ed25519"}})),
            false,
        ),
        (set("cnf", json!({"jku": "https://evil.example"})), false),
        (("cnf", None), false),
        (set("aud", json!("x")), false),
        (set("scope", Value::Null), false),
    ];
    for ((name, value), good) in table {
        let claims = with(name, value.clone());
        let parsed = UnverifiedAit::parse(&Registry::default().sign_ait(&claims));
        match parsed {
            Ok(_) => assert!(good, "{name}: {value:?} was accepted"),
            Err(AitError::Claims(reason)) => assert!(!good, "{name}: {value:?} was refused: {reason}"),
            Err(error) => panic!("{name}: {value:?}: {error}"),
        }
    }
}

#[test]
fn no_claim_twice_and_no_other_json() {
    let good = Registry::default().ait_claims(7, &key(2)).to_string();
    let header = r#"{"alg":"EdDSA","typ":"AIT","kid":"k1"}"#;
    let values: Value = serde_json::from_str(&good).unwrap();
    let as_array = Value::Array(values.as_object().unwrap().values().cloned().collect()).to_string();
    for bad in [
        good.replacen('{', r#"{"jti":"00000000000000000000000001","#, 1),
        good.replacen('{', r#"{"exp":99999,"#, 1),
        good.replace(r#""kty""#, r#""x":"AQ","kty""#),
        format!("{good}{good}"),
        format!("\u{feff}{good}"),
        as_array,
        "null".into(),
        "[]".into(),
        "{}".into(),
        "\"x\"".into(),
    ] {
        let error = UnverifiedAit::parse(&sign_jws(&key(1), header, &bad)).err();
        assert!(matches!(error, Some(AitError::Claims(_))), "{bad}: {error:?}");
    }
    // White space around and inside is JSON's business: the signature covers it.
    assert!(verify(&sign_jws(&key(1), header, &format!(" {good}\n"))).is_ok());
}

#[test]
fn verification_in_order() {
    let registry = Registry::default();
    let token = registry.ait(7, &key(2));
    let parsed = UnverifiedAit::parse(&token).unwrap();
    let keys = registry.keys();
    let check = |keys: &KeySet, issuer: &str, now_s: u64| {
        parsed
            .verify(keys, &Issuer::parse(issuer).unwrap(), now_s)
            .map(|_| ())
    };
    let own = "https://registry.example.com";
    let set = |kid: &str, seed: u8, status: &str| {
        KeySet::parse(keyset_json(&[(kid, &key(seed), status)]).as_bytes()).unwrap()
    };
    assert_eq!(check(&keys, own, 1500), Ok(()));
    assert_eq!(check(&keys, own, 1000), Ok(()));
    assert_eq!(check(&keys, own, 999), Err(AitError::NotYetValid));
    assert_eq!(check(&keys, own, 1999), Ok(()));
    assert_eq!(check(&keys, own, 2000), Err(AitError::Expired));
    assert_eq!(
        check(&keys, "https://registry.example.com:8443", 1500),
        Err(AitError::Issuer)
    );
    assert_eq!(
        check(&keys, "http://registry.example.com", 1500),
        Err(AitError::Issuer)
    );
    assert_eq!(check(&KeySet::default(), own, 1500), Err(AitError::UnknownKid));
    assert_eq!(
        check(&set("k2", 1, "active"), own, 1500),
        Err(AitError::UnknownKid)
    );
    assert_eq!(
        check(&set("k1", 1, "revoked"), own, 1500),
        Err(AitError::UnknownKid)
    );
    assert_eq!(
        check(&set("k1", 3, "active"), own, 1500),
        Err(AitError::Signature)
    );
    // The holder's own key signs no AIT.
    assert_eq!(
        check(&set("k1", 2, "active"), own, 1500),
        Err(AitError::Signature)
    );

    let ait = parsed.verify(&keys, &registry.issuer, 1500).unwrap();
    for (now_s, expect) in [
        (999, Err(AitError::NotYetValid)),
        (1000, Ok(())),
        (1999, Ok(())),
        (2000, Err(AitError::Expired)),
        (u64::MAX, Err(AitError::Expired)),
    ] {
        assert_eq!(ait.check_time(now_s), expect);
    }
}

#[test]
fn a_changed_token_is_no_token() {
    let token = Registry::default().ait(7, &key(2));
    assert!(verify(&token).is_ok());
    let (head, signature) = token.rsplit_once('.').unwrap();
    let other = Registry::default().ait(8, &key(2));
    assert_eq!(
        verify(&format!("{}.{signature}", other.rsplit_once('.').unwrap().0)),
        Err(AitError::Signature)
    );
    assert!(matches!(verify(&format!("{head}.")), Err(AitError::Jws(_))));
    assert!(matches!(
        verify(&format!("{token}.x")),
        Err(AitError::Jws(JwsError::Segments))
    ));
    assert_eq!(
        verify(&"a".repeat(MAX_AIT_BYTES + 1)),
        Err(AitError::Jws(JwsError::TooLarge))
    );
    let crl = Registry::default().crl(&[(1, 2)]);
    assert_eq!(verify(&crl), Err(AitError::Jws(JwsError::Type)));
}

proptest! {
    #[test]
    fn no_payload_panics(payload in "\\PC{0,120}") {
        let _ = UnverifiedAit::parse(&payload);
        let _ = UnverifiedAit::parse(&sign_jws(&key(1), r#"{"alg":"EdDSA","typ":"AIT","kid":"k1"}"#, &payload));
    }

    #[test]
    fn no_flipped_character_verifies(at in 0_usize..900, with in "[A-Za-z0-9_.-]") {
        let token = Registry::default().ait(7, &key(2));
        let at = at % token.len();
        let mut changed = token.clone();
        changed.replace_range(at..=at, &with);
        prop_assume!(changed != token);
        prop_assert!(verify(&changed).is_err());
    }
}
