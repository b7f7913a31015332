use proptest::prelude::*;

use super::*;
use crate::testing::{agent, ulid};

fn item(seq: u64, subject: Subject, reason: Option<&str>, source: Source) -> Item {
    Item {
        seq,
        subject,
        reason: reason.map(str::to_owned),
        revoked_at_ms: 1_767_323_045_678,
        source,
    }
}

/// What sidecars in the field read: changing a byte is a migration.
#[test]
fn items_format_unchanged() {
    let did = "did:cdi:registry.example.com:agent:00000000000000000000000007";
    let token = "0000000000000000000000000G";
    let table = [
        (
            item(
                1,
                Subject::Agent { agent: agent(7) },
                Some("agent_revoked"),
                Source::Queue,
            ),
            format!(
                r#"{{"seq":1,"kind":"agent","agentDid":"{did}","reason":"agent_revoked","revokedAt":1767323045678,"source":"queue"}}"#
            ),
        ),
        (
            item(
                2,
                Subject::Token {
                    jti: ulid(16),
                    agent: Some(agent(7)),
                    expires_at_ms: Some(1_767_323_999_000),
                },
                Some("reissued"),
                Source::Crl,
            ),
            format!(
                r#"{{"seq":2,"kind":"token","agentDid":"{did}","jti":"{token}","reason":"reissued","revokedAt":1767323045678,"expiresAt":1767323999000,"source":"crl"}}"#
            ),
        ),
        (
            item(
                3,
                Subject::Token {
                    jti: ulid(16),
                    agent: None,
                    expires_at_ms: None,
                },
                None,
                Source::Operator,
            ),
            format!(
                r#"{{"seq":3,"kind":"token","jti":"{token}","revokedAt":1767323045678,"source":"operator"}}"#
            ),
        ),
        (
            item(4, Subject::Session { agent: agent(7) }, None, Source::Queue),
            format!(
                r#"{{"seq":4,"kind":"session","agentDid":"{did}","revokedAt":1767323045678,"source":"queue"}}"#
            ),
        ),
        (
            item(
                5,
                Subject::Lift {
                    lifts: 1,
                    agent: Some(agent(7)),
                    jti: None,
                },
                None,
                Source::Operator,
            ),
            format!(
                r#"{{"seq":5,"kind":"lift","agentDid":"{did}","lifts":1,"revokedAt":1767323045678,"source":"operator"}}"#
            ),
        ),
    ];
    for (item, text) in table {
        assert_eq!(item.to_json(), text);
        assert_eq!(Item::parse(text.as_bytes()), Ok(item));
    }
    assert_eq!(
        Page {
            epoch: "e1".into(),
            ..Page::default()
        }
        .to_json(),
        r#"{"epoch":"e1","latest":0,"next":0,"more":false,"items":[]}"#
    );
}

#[test]
fn items_that_are_none() {
    let did = "did:cdi:registry.example.com:agent:00000000000000000000000007";
    let good = format!(r#"{{"seq":3,"kind":"agent","agentDid":"{did}","revokedAt":1,"source":"queue"}}"#);
    let table = [
        (good.clone(), true),
        (good.replace(r#""seq":3"#, r#""seq":3,"new":{}"#), true),
        (good.replace(r#""seq":3"#, r#""seq":3,"jti":null"#), true),
        (good.replace(r#""seq":3"#, r#""seq":0"#), false),
        (good.replace(r#""seq":3"#, r#""seq":-3"#), false),
        (good.replace(r#""seq":3"#, r#""seq":9007199254740992"#), false),
        (good.replace(r#""seq":3"#, r#""seq":3,"seq":3"#), false),
        (good.replace("\"agent\"", "\"fleet\""), false),
        (good.replace("\"agent\"", "\"token\""), false),
        (good.replace("\"agent\"", "\"lift\""), false),
        (
            good.replace("\"agent\"", "\"lift\"")
                .replace(r#""seq":3"#, r#""seq":3,"lifts":3"#),
            false,
        ),
        (
            good.replace("\"agent\"", "\"lift\"")
                .replace(r#""seq":3"#, r#""seq":3,"lifts":2"#),
            true,
        ),
        // A source of a newer version: the revocation counts all the same.
        (good.replace("queue", "rumour"), true),
        (
            good.replace(
                did,
                "did:cdi:registry.example.com:human:00000000000000000000000007",
            ),
            false,
        ),
        (format!("[{good}]"), false),
        (format!("{good} "), true),
        (format!("{good}{good}"), false),
        (
            good.replace('{', &format!("{{\"x\":\"{}\",", "y".repeat(MAX_ITEM_BYTES))),
            false,
        ),
        (String::new(), false),
        ("null".into(), false),
    ];
    for (text, expect) in table {
        assert_eq!(Item::parse(text.as_bytes()).is_ok(), expect, "{text}");
    }
}

#[test]
fn pages_that_cannot_be_followed() {
    let row = |seq: u64| item(seq, Subject::Session { agent: agent(1) }, None, Source::Queue);
    let check = |latest, next, more, seqs: &[u64], expect: bool| {
        let items = seqs.iter().map(|seq| row(*seq)).collect();
        let page = Page {
            latest,
            next,
            more,
            items,
            ..Page::default()
        };
        let parsed = Page::parse(page.to_json().as_bytes());
        assert_eq!(parsed.is_ok(), expect, "{}", page.to_json());
        if expect {
            assert_eq!(parsed, Ok(page));
        }
    };
    check(0, 0, false, &[], true);
    check(9, 4, true, &[2, 4], true);
    check(9, 9, false, &[2, 4], true);
    // A listener ahead of a ledger that was cut back: who reads it sees `latest`.
    check(3, 8, false, &[], true);
    check(9, 3, true, &[2, 4], false);
    check(3, 4, false, &[2, 4], false);
    check(9, 4, false, &[4, 2], false);
    check(9, 4, false, &[4, 4], false);
    // Rows of kinds that the proxy itself left out.
    check(9, 4, true, &[], true);
    check(MAX_SEQ + 1, 4, false, &[4], false);
    let many: Vec<u64> = (1..=MAX_PAGE_ITEMS as u64 + 1).collect();
    check(5000, 1001, true, &many, false);
    check(5000, 1000, true, &many[..1000], true);
    for body in [
        "",
        "[]",
        "{}",
        r#"{"latest":0,"next":0,"more":false}"#,
        r#"{"latest":0,"next":0,"more":0,"items":[]}"#,
    ] {
        assert!(Page::parse(body.as_bytes()).is_err(), "{body}");
    }
    assert!(Page::parse(" ".repeat(MAX_PAGE_BYTES + 1).as_bytes()).is_err());
}

/// What a newer proxy says that this version does not know is skipped, and hides nothing.
#[test]
fn unknown_kinds_are_left_out_of_a_page_and_unknown_sources_are_not() {
    let did = "did:cdi:registry.example.com:agent:00000000000000000000000007";
    let row = |seq: u64, kind: &str, source: &str| {
        format!(r#"{{"seq":{seq},"kind":"{kind}","agentDid":"{did}","revokedAt":1,"source":"{source}"}}"#)
    };
    let page = |rows: &[String]| {
        let text = format!(
            r#"{{"epoch":"e1","latest":9,"next":9,"more":false,"new":1,"items":[{}]}}"#,
            rows.join(",")
        );
        Page::parse(text.as_bytes())
    };
    let found = page(&[
        row(1, "agent", "queue"),
        r#"{"seq":2,"kind":"fleet","fleet":["x"]}"#.to_owned(),
        row(3, "agent", "rumour"),
    ])
    .unwrap();
    let seqs: Vec<u64> = found.items.iter().map(|item| item.seq).collect();
    assert_eq!((seqs, found.items[1].source), (vec![1, 3], Source::Other));
    assert_eq!(found.epoch, "e1");
    assert!(page(&[row(3, "fleet", "queue"), row(2, "agent", "queue")]).is_err());
    // A known kind that cannot be read is not skipped.
    assert!(page(&[r#"{"seq":2,"kind":"agent","revokedAt":1,"source":"queue"}"#.to_owned()]).is_err());
    assert_eq!(Item::parse_known(row(3, "fleet", "queue").as_bytes()), Ok(None));
    assert!(Item::parse_known(br#"{"seq":2,"kind":"agent"}"#).is_err());
}

/// A full page of the longest items stays under the caps.
#[test]
fn the_caps_hold_what_can_be_written() {
    let label = "a".repeat(63);
    let authority = format!("{label}.{label}.{label}.{}", "a".repeat(61));
    let did = AgentDid::parse(&format!("did:cdi:{authority}:agent:{}", ulid(1))).unwrap();
    let subject = Subject::Token {
        jti: ulid(1),
        agent: Some(did),
        expires_at_ms: Some(u64::MAX),
    };
    let longest = Item {
        seq: MAX_SEQ,
        subject,
        reason: Some("𝄞".repeat(280)),
        revoked_at_ms: u64::MAX,
        source: Source::Operator,
    };
    assert!(longest.to_json().len() < MAX_ITEM_BYTES);
    assert_eq!(Item::parse(longest.to_json().as_bytes()), Ok(longest));
}

#[test]
fn orders() {
    let did = "did:cdi:registry.example.com:agent:00000000000000000000000007";
    let jti = "0000000000000000000000000G";
    let token = |agent, expires_at_ms| Subject::Token {
        jti: ulid(16),
        agent,
        expires_at_ms,
    };
    let table: Vec<(String, Option<Order>)> = vec![
        (
            format!(r#"{{"kind":"agent","agentDid":"{did}","reason":" at\nlarge "}}"#),
            Some(Order {
                subject: Subject::Agent { agent: agent(7) },
                reason: Some("atlarge".into()),
            }),
        ),
        (
            format!(r#"{{"kind":"session","agentDid":"{did}"}}"#),
            Some(Order {
                subject: Subject::Session { agent: agent(7) },
                reason: None,
            }),
        ),
        (
            format!(r#"{{"kind":"token","jti":"{jti}"}}"#),
            Some(Order {
                subject: token(None, None),
                reason: None,
            }),
        ),
        (
            format!(
                r#"{{"kind":"token","jti":"{jti}","agentDid":"{did}","expiresAt":"2026-01-02T03:04:05Z"}}"#
            ),
            Some(Order {
                subject: token(Some(agent(7)), Some(1_767_323_045_000)),
                reason: None,
            }),
        ),
        (
            format!(r#"{{"kind":"token","jti":"{jti}","expiresAt":1767323045}}"#),
            Some(Order {
                subject: token(None, Some(1_767_323_045_000)),
                reason: None,
            }),
        ),
        (
            format!(r#"{{"kind":"token","jti":"{jti}","expiresAt":"soon"}}"#),
            None,
        ),
        (
            format!(r#"{{"kind":"token","jti":"{jti}","expiresAt":null}}"#),
            None,
        ),
        (format!(r#"{{"kind":"token","agentDid":"{did}"}}"#), None),
        (
            format!(r#"{{"kind":"agent","agentDid":"{did}","jti":"{jti}"}}"#),
            None,
        ),
        (
            format!(r#"{{"kind":"agent","agentDid":"{did}","expiresAt":1767323045}}"#),
            None,
        ),
        (
            format!(r#"{{"kind":"agent","agentDid":"{did}","expires":1}}"#),
            None,
        ),
        (format!(r#"{{"kind":"lift","lifts":1,"agentDid":"{did}"}}"#), None),
        (format!(r#"{{"kind":"lift","agentDid":"{did}"}}"#), None),
        (format!(r#"{{"agentDid":"{did}"}}"#), None),
        (r#"{"kind":"agent"}"#.into(), None),
        (r#"{"kind":"agent","agentDid":"7"}"#.into(), None),
        (r#"{"kind":"session"}"#.into(), None),
        ("[]".into(), None),
        (" ".repeat(MAX_ORDER_BYTES + 1), None),
    ];
    for (text, expect) in table {
        let parsed = Order::parse(text.as_bytes()).ok();
        assert_eq!(parsed, expect, "{text}");
        if let Some(order) = parsed {
            assert_eq!(Order::parse(order.to_json().as_bytes()), Ok(order));
        }
    }
    assert_eq!(
        Order {
            subject: token(Some(agent(7)), Some(5_000_000_000_000)),
            reason: Some("lost".into())
        }
        .to_json(),
        format!(
            r#"{{"kind":"token","agentDid":"{did}","jti":"{jti}","expiresAt":5000000000000,"reason":"lost"}}"#
        )
    );
}

#[test]
fn sources_are_pinned() {
    for source in [Source::Queue, Source::Crl, Source::Operator] {
        assert_eq!(serde_json::to_value(source).unwrap(), source.as_str());
        assert_eq!(Source::parse(source.as_str()), Some(source));
    }
    assert_eq!(Source::parse("Queue"), None);
}

proptest! {
    #[test]
    fn no_body_panics(body in "\\PC{0,80}") {
        let _ = (Item::parse(body.as_bytes()), Page::parse(body.as_bytes()), Order::parse(body.as_bytes()));
    }
}
