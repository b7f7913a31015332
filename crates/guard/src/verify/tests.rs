use ed25519_dalek::Signer as _;

use super::*;
use crate::cache::tests::row;
use crate::cache::{Freshness, MemoryCache};
use clawdentity_protocol::b64;
use clawdentity_protocol::proof::signed_text;
use clawdentity_protocol::testing::{Registry, key};

/// The AITs of `Registry` are valid from 1,000 to 2,000 s.
const NOW_MS: u64 = 1_500_000;

/// A request of agent 7, signed at `timestamp_s`.
struct Signed {
    authorization: String,
    timestamp: String,
    nonce: String,
    body_sha256: String,
    proof: String,
}

fn sign(timestamp_s: u64, nonce: &str) -> Signed {
    let timestamp = timestamp_s.to_string();
    let body_sha256 = b64::encode(&Sha256::digest(b"{}"));
    let text = signed_text("POST", "/hook?a=1", &timestamp, nonce, &body_sha256);
    Signed {
        authorization: format!("Claw {}", Registry::default().ait(7, &key(7))),
        proof: b64::encode(&key(7).sign(text.as_bytes()).to_bytes()),
        timestamp,
        nonce: nonce.into(),
        body_sha256,
    }
}

impl Signed {
    fn head(&self) -> RequestHead<'_> {
        RequestHead {
            method: "POST",
            path_and_query: "/hook?a=1",
            authorization: Some(&self.authorization),
            timestamp: Some(&self.timestamp),
            nonce: Some(&self.nonce),
            body_sha256: Some(&self.body_sha256),
            proof: Some(&self.proof),
        }
    }
}

fn guard(when_stale: WhenStale) -> (Guard, Arc<MemoryCache>) {
    let cache = Arc::new(MemoryCache::default());
    confirm(&cache, NOW_MS);
    let config = GuardConfig {
        when_stale,
        ..GuardConfig::new(Registry::default().issuer)
    };
    let guard = Guard::new(config, Arc::clone(&cache) as Arc<dyn RevocationCache>);
    guard.set_keys(Registry::default().keys(), None);
    (guard, cache)
}

fn confirm(cache: &MemoryCache, at_ms: u64) {
    cache.set_freshness(Freshness {
        confirmed_ms: Some(at_ms),
        ..Freshness::default()
    });
}

fn code_of(result: Result<Admitted, Refusal>) -> &'static str {
    result.map_or_else(|refusal| refusal.code.name, |_| "admitted")
}

#[test]
fn each_fault_has_its_code() {
    let (guard, _) = guard(WhenStale::FailClosed);
    let good = sign(1500, "n");
    type Change = for<'a> fn(&mut RequestHead<'a>);
    let table: &[(&str, Change)] = &[
        ("PROXY_AUTH_MISSING_TOKEN", |head| head.authorization = None),
        ("PROXY_AUTH_INVALID_SCHEME", |head| {
            head.authorization = Some("Bearer x")
        }),
        ("PROXY_AUTH_INVALID_AIT", |head| {
            head.authorization = Some("Claw x")
        }),
        ("PROXY_AUTH_INVALID_TIMESTAMP", |head| head.timestamp = None),
        ("PROXY_AUTH_INVALID_TIMESTAMP", |head| head.timestamp = Some("-1")),
        ("PROXY_AUTH_TIMESTAMP_SKEW", |head| head.timestamp = Some("1199")),
        ("PROXY_AUTH_TIMESTAMP_SKEW", |head| head.timestamp = Some("1801")),
        ("PROXY_AUTH_INVALID_NONCE", |head| head.nonce = None),
        ("PROXY_AUTH_INVALID_PROOF", |head| head.nonce = Some("another")),
        ("PROXY_AUTH_INVALID_PROOF", |head| head.timestamp = Some("1501")),
        ("PROXY_AUTH_INVALID_PROOF", |head| head.method = "GET"),
        ("PROXY_AUTH_INVALID_PROOF", |head| {
            head.path_and_query = "/hook?a=2"
        }),
        ("PROXY_AUTH_INVALID_PROOF", |head| head.body_sha256 = None),
        ("PROXY_AUTH_INVALID_PROOF", |head| head.proof = Some("AA")),
    ];
    for (expect, change) in table {
        let mut head = good.head();
        change(&mut head);
        assert_eq!(code_of(guard.check(NOW_MS, &head, b"{}")), *expect);
    }
    assert_eq!(
        code_of(guard.check(NOW_MS, &good.head(), b"{} ")),
        "PROXY_AUTH_INVALID_PROOF"
    );
    // None of that has burnt the nonce.
    let admitted = guard.check(NOW_MS, &good.head(), b"{}").unwrap();
    assert_eq!(
        admitted.agent().as_str(),
        "did:cdi:registry.example.com:agent:00000000000000000000000007"
    );
    assert_eq!(admitted.expires_at_ms(), 2_000_000);
    assert_eq!(
        code_of(guard.check(NOW_MS, &good.head(), b"{}")),
        "PROXY_AUTH_REPLAY"
    );
}

#[test]
fn an_ait_that_is_remembered_still_expires_and_loses_its_key() {
    let (guard, cache) = guard(WhenStale::FailOpen);
    assert_eq!(
        code_of(guard.check(NOW_MS, &sign(1500, "a").head(), b"{}")),
        "admitted"
    );
    confirm(&cache, 1_999_000);
    assert_eq!(
        code_of(guard.check(1_999_999, &sign(1999, "b").head(), b"{}")),
        "admitted"
    );
    assert_eq!(
        code_of(guard.check(2_000_000, &sign(1999, "c").head(), b"{}")),
        "PROXY_AUTH_INVALID_AIT"
    );
    let other = Registry {
        key: key(2),
        ..Registry::default()
    };
    guard.set_keys(other.keys(), None);
    assert_eq!(
        code_of(guard.check(NOW_MS, &sign(1500, "d").head(), b"{}")),
        "PROXY_AUTH_INVALID_AIT"
    );
}

#[test]
fn keys_are_good_for_a_day() {
    let (guard, cache) = guard(WhenStale::FailOpen);
    assert!(!guard.wants_keys());
    guard.set_keys(Registry::default().keys(), Some(NOW_MS.wrapping_sub(1)));
    assert_eq!(
        code_of(guard.check(NOW_MS, &sign(1500, "a").head(), b"{}")),
        "admitted"
    );
    guard.set_keys(Registry::default().keys(), Some(NOW_MS + KEYS_MAX_AGE_MS + 1));
    let refused = guard.check(NOW_MS, &sign(1500, "b").head(), b"{}");
    assert_eq!(code_of(refused), "PROXY_AUTH_DEPENDENCY_UNAVAILABLE");
    let empty = Guard::new(GuardConfig::new(Registry::default().issuer), cache);
    assert!(empty.wants_keys());
    let refused = empty.check(NOW_MS, &sign(1500, "c").head(), b"{}");
    assert_eq!(code_of(refused), "PROXY_AUTH_DEPENDENCY_UNAVAILABLE");
}

#[test]
fn revoked_is_refused_before_all_else_that_is_known_and_burns_no_nonce() {
    let (guard, cache) = guard(WhenStale::FailClosed);
    let request = sign(1500, "n");
    for kind in ["agent", "token"] {
        cache.apply(&row(1, kind, 7));
        assert_eq!(
            code_of(guard.check(NOW_MS, &request.head(), b"{}")),
            "PROXY_AUTH_REVOKED",
            "{kind}"
        );
        // Also where the cache is stale.
        let later = sign(1801, "m");
        assert_eq!(
            code_of(guard.check(1_801_000, &later.head(), b"{}")),
            "PROXY_AUTH_REVOKED",
            "{kind}"
        );
        cache.apply(&row(2, "lift", 1));
    }
    cache.apply(&row(3, "agent", 8));
    cache.apply(&row(4, "session", 7));
    let admitted = guard.check(NOW_MS, &request.head(), b"{}").unwrap();
    assert_eq!(admitted.session_ended_ms(), Some(40));
    cache.apply(&row(5, "agent", 7));
    // Revoked wins over replay.
    assert_eq!(
        code_of(guard.check(NOW_MS, &request.head(), b"{}")),
        "PROXY_AUTH_REVOKED"
    );
}

#[test]
fn past_the_limit_it_does_as_told() {
    for (when_stale, expect) in [
        (WhenStale::FailClosed, "PROXY_AUTH_DEPENDENCY_UNAVAILABLE"),
        (WhenStale::FailOpen, "admitted"),
    ] {
        let (guard, cache) = guard(when_stale);
        confirm(&cache, 1_300_000);
        let check = |now_ms, nonce| guard.check(now_ms, &sign(1550, nonce).head(), b"{}");
        assert!(!check(1_600_000, "a").unwrap().is_stale());
        assert_eq!(code_of(check(1_600_001, "b")), expect);
        // The clock was set back, or the cache never confirmed: nobody knows.
        assert_eq!(code_of(check(1_299_999, "c")), expect);
        cache.set_freshness(Freshness::default());
        assert_eq!(code_of(check(1_600_000, "d")), expect);
        // A push is not a confirmation.
        cache.set_freshness(Freshness {
            pushed_ms: Some(1_600_000),
            ..Freshness::default()
        });
        assert_eq!(code_of(check(1_600_000, "e")), expect);
    }
}
