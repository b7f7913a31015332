//! Every cap of this crate, at its last byte and one past it.
//!
//! The figures stand here as they stand in docs/wire.md and are not taken from the code's constants, so that a constant that
//! changes, or a comparison that is off by one, fails this table.

use serde_json::{Value, json};

use crate::ait::UnverifiedAit;
use crate::crl::{UnverifiedCrl, parse_crl_body};
use crate::did::{AgentDid, Authority};
use crate::event::{Event, EventError, parse_event};
use crate::frame::{FrameError, parse_conversation_id, parse_inbound, parse_reply_to};
use crate::ids::{MessageId, RequestId};
use crate::issuer::{Issuer, Origin};
use crate::keyset::KeySet;
use crate::payload;
use crate::profile::Name;
use crate::proof::{AccessToken, Nonce, Timestamp};
use crate::receipt::Receipt;
use crate::revocation::{Item, Order, Page, is_epoch};
use crate::testing::{Registry, agent, authority, envelope, key, keyset_json, sign_jws, ulid};
use crate::text;
use crate::ticket::{NONCE_BYTES, Ticket, TicketError, UnsignedTicket};
use crate::time::{parse_iso, parse_loose};

/// Accepted at `most`, refused one past it.
struct Cap {
    name: &'static str,
    most: usize,
    accepts: fn(usize) -> bool,
}

const fn cap(name: &'static str, most: usize, accepts: fn(usize) -> bool) -> Cap {
    Cap { name, most, accepts }
}

fn check(caps: &[Cap]) {
    let wrong: Vec<String> = caps
        .iter()
        .filter_map(
            |Cap { name, most, accepts }| match (accepts(*most), accepts(most + 1)) {
                (true, false) => None,
                (false, _) => Some(format!("{name}: {most} should be accepted")),
                (true, true) => Some(format!("{name}: {} should be refused", most + 1)),
            },
        )
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// So many characters, each of two bytes: what counts characters does not count bytes.
fn wide(chars: usize) -> String {
    "é".repeat(chars)
}

fn ascii(chars: usize) -> String {
    "a".repeat(chars)
}

/// The text with blanks before its last byte, so that it has so many bytes.
fn padded(text: &str, bytes: usize) -> String {
    let (head, tail) = text.split_at(text.len() - 1);
    format!("{head}{}{tail}", " ".repeat(bytes - text.len()))
}

/// An AIT with one claim of its own, and what is verified at 1,500 s.
fn ait_with(name: &str, value: Value) -> bool {
    let registry = Registry::default();
    let mut claims = registry.ait_claims(7, &key(2));
    claims[name] = value;
    let parsed = UnverifiedAit::parse(&registry.sign_ait(&claims));
    parsed.is_ok_and(|ait| ait.verify(&registry.keys(), &registry.issuer, 1_500).is_ok())
}

/// An AIT, signed, of just so many bytes: blanks in its payload, and in its header where that does not come out even.
fn ait_of(bytes: usize) -> bool {
    let registry = Registry::default();
    let payload = registry.ait_claims(7, &key(2)).to_string();
    let header = r#"{"alg":"EdDSA","typ":"AIT","kid":"k1"}"#;
    (0..3)
        .flat_map(|extra| (0..bytes).rev().map(move |blanks| (extra, blanks)))
        .filter(|(extra, blanks)| {
            let encoded = |length: usize| (length * 4).div_ceil(3);
            encoded(header.len() + extra) + encoded(payload.len() + blanks) + 86 + 2 == bytes
        })
        .any(|(extra, blanks)| {
            let token = sign_jws(
                &registry.key,
                &padded(header, header.len() + extra),
                &padded(&payload, payload.len() + blanks),
            );
            assert_eq!(token.len(), bytes);
            let parsed = UnverifiedAit::parse(&token);
            parsed.is_ok_and(|ait| ait.verify(&registry.keys(), &registry.issuer, 1_500).is_ok())
        })
}

/// A header segment of so many characters: of base64url, whose lengths are not all possible.
fn header_of(chars: usize) -> bool {
    let payload = Registry::default().ait_claims(7, &key(2)).to_string();
    let header = r#"{"alg":"EdDSA","typ":"AIT","kid":"k1"}"#;
    let token = sign_jws(
        &key(1),
        &padded(header, (chars * 3 / 4).max(header.len())),
        &payload,
    );
    token.find('.') == Some(chars) && UnverifiedAit::parse(&token).is_ok()
}

fn ait_with_kid(kid: &str) -> bool {
    let registry = Registry::default();
    let keys = KeySet::parse(keyset_json(&[(kid, &registry.key, "active")]).as_bytes());
    let header = json!({ "alg": "EdDSA", "typ": "AIT", "kid": kid }).to_string();
    let token = sign_jws(
        &registry.key,
        &header,
        &registry.ait_claims(7, &key(2)).to_string(),
    );
    keys.is_ok() == UnverifiedAit::parse(&token).is_ok() && keys.is_ok()
}

fn life_of(seconds: usize) -> bool {
    ait_with("exp", json!(1_000 + seconds))
}

/// 2^53 - 1, the last whole number that every reader of JSON reads alike.
const LAST_WHOLE: usize = (1 << 53) - 1;

#[test]
fn tokens() {
    check(&[
        cap("AIT, bytes", 8 * 1024, ait_of),
        cap("AIT, days to live, in seconds", 90 * 24 * 3600, life_of),
        cap("AIT name", 64, |n| ait_with("name", json!(ascii(n)))),
        cap("AIT framework", 32, |n| ait_with("framework", json!(wide(n)))),
        cap("AIT description", 280, |n| {
            ait_with("description", json!(wide(n)))
        }),
        cap("AIT exp", LAST_WHOLE, |n| {
            let registry = Registry::default();
            let mut claims = registry.ait_claims(7, &key(2));
            for (name, back) in [("iat", 2), ("nbf", 1), ("exp", 0)] {
                claims[name] = json!(n - back);
            }
            let parsed = UnverifiedAit::parse(&registry.sign_ait(&claims));
            let verified =
                parsed.and_then(|ait| ait.verify(&registry.keys(), &registry.issuer, LAST_WHOLE as u64 - 1));
            verified.is_ok()
        }),
        cap("kid of a token, and of a key", 256, |n| ait_with_kid(&wide(n))),
    ]);
    // Some lengths no base64url has: 4,096 is one that it has, 4,097 is not, and 4,098 is the next.
    assert!(header_of(4_096));
    assert!(!header_of(4_098));
}

#[test]
fn revocation_lists_and_keys() {
    check(&[
        cap("CRL, bytes", 32 * 1024 * 1024, |n| {
            // Of three segments, so that it is refused for its size alone.
            let text = format!("a.{}.c", "b".repeat(n - 4));
            !matches!(
                UnverifiedCrl::parse(&text),
                Err(crate::crl::CrlError::Jws(crate::jws::JwsError::TooLarge))
            )
        }),
        cap("the body around it", 32 * 1024 * 1024 + 1024, |n| {
            let body = r#"{"crl":"a.b.c"}"#;
            parse_crl_body(padded(body, n).as_bytes()).is_ok()
        }),
        cap("reason in a CRL", 280, |n| {
            let registry = Registry::default();
            let mut claims = registry.crl_claims(&[(1, 2)]);
            claims["revocations"][0]["reason"] = json!(wide(n));
            let text = registry.sign_crl(&claims);
            let crl = UnverifiedCrl::parse(&text).unwrap();
            crl.verify(&registry.keys(), None, 1_100).is_ok()
        }),
        cap("key set, bytes", 256 * 1024, |n| {
            let body = keyset_json(&[("k1", &key(1), "active")]);
            KeySet::parse(padded(&body, n).as_bytes()).is_ok()
        }),
    ]);
}

#[test]
fn headers_and_identifiers() {
    check(&[
        cap("nonce", 1_024, |n| Nonce::parse(&wide(n)).is_ok()),
        cap("access token", 1_024, |n| {
            AccessToken::parse(Some(&ascii(n))).is_ok()
        }),
        cap("timestamp, digits", 12, |n| {
            Timestamp::parse(&"1".repeat(n)).is_ok()
        }),
        cap("authority", 253, |n| {
            let labels = format!("{0}.{0}.{0}", ascii(63));
            Authority::parse(&format!("{labels}.{}", ascii(n - labels.len() - 1))).is_ok()
        }),
        cap("label of an authority", 63, |n| {
            Authority::parse(&format!("{}.example", ascii(n))).is_ok()
        }),
        cap("ULID", 26, |n| {
            AgentDid::parse(&format!("did:cdi:a.example:agent:{}", "0".repeat(n))).is_ok()
        }),
        cap("request id", 128, |n| RequestId::parse(&ascii(n)).is_ok()),
        cap("message id", 1_024, |n| MessageId::parse(&wide(n)).is_ok()),
        cap("issuer", 2_048, |n| Issuer::parse(&url_of(n)).is_ok()),
        cap("origin", 2_048, |n| Origin::parse(&url_of(n)).is_ok()),
        cap("name in a profile", 64, |n| Name::parse(&wide(n)).is_ok()),
        cap("conversation id", 4_096, |n| {
            parse_conversation_id(&wide(n)).is_ok()
        }),
        cap("receipt URL", 4_096, |n| parse_reply_to(&url_of(n)).is_ok()),
        cap("epoch of the feed", 64, |n| is_epoch(&ascii(n))),
    ]);
    assert!(RequestId::parse(&ascii(8)).is_ok() && RequestId::parse(&ascii(7)).is_err());
}

fn url_of(chars: usize) -> String {
    let start = "https://a.example/";
    format!("{start}{}", ascii(chars - start.len()))
}

#[test]
fn messages() {
    check(&[
        cap("nesting of a payload", 64, |n| {
            payload::parse(format!("{}{}", "[".repeat(n), "]".repeat(n)).as_bytes()).is_ok()
        }),
        cap("frame, bytes", 32 * 1024 * 1024, |n| {
            let frame =
                r#"{"v":1,"type":"heartbeat","id":"00000000000000000000000001","ts":"2026-01-02T03:04:05Z"}"#;
            match parse_inbound(&padded(frame, n)) {
                Ok(_) => true,
                Err(error) => {
                    assert_eq!(error, FrameError::Unreadable);
                    false
                }
            }
        }),
        cap("queue body, bytes", 128 * 1024, |n| {
            let body = envelope(
                "agent.auth.revoked",
                &json!({ "agentId": ulid(1), "reason": "agent_revoked" }),
            );
            match parse_event(&padded(&body, n), &authority()) {
                Ok(Event::AuthRevoked(_)) => true,
                Err(EventError::UnreadableRevocation(_)) => false,
                other => panic!("{other:?}"),
            }
        }),
        cap("event id", 128, |n| {
            let body = envelope("agent.auth.revoked", &json!({ "agentId": ulid(1) }));
            let id = wide(n);
            let Ok(Event::AuthRevoked(event)) = parse_event(&body.replace("evt-1", &id), &authority()) else {
                panic!("a revocation is not lost for its id");
            };
            event.event_id == Some(id)
        }),
        cap("name of a group", 256, |n| {
            let body = envelope(
                "group.member.joined",
                &json!({
                    "recipientAgentDid": agent(1), "joinedAgentDid": agent(2), "joinedAgentName": "a",
                    "groupId": "grp_00000000000000000000000001", "groupName": wide(n), "role": "member",
                    "joinedAt": "2026-01-02T03:04:05Z",
                }),
            );
            parse_event(&body, &authority()).is_ok()
        }),
        // Cut, not refused.
        cap("type of an unknown event", 64, |n| {
            let kind = wide(n);
            matches!(
                parse_event(&envelope(&kind, &json!({})), &authority()),
                Ok(Event::Unknown { kind: told }) if told == kind
            )
        }),
        cap("a reason that is kept", 280, |n| {
            text::reason(&wide(n)) == Some(wide(n))
        }),
        cap("reason of a receipt", 280, |n| {
            let body = json!({
                "requestId": "request-1", "senderAgentDid": agent(1), "recipientAgentDid": agent(2),
                "status": "dead_lettered", "reason": wide(n),
            });
            let receipt = Receipt::parse_post(body.to_string().as_bytes(), 5).unwrap();
            receipt.reason == Some(wide(n))
        }),
        cap("time, milliseconds", 253_402_300_799_999, |n| {
            parse_loose(&json!(n)).is_some()
        }),
    ]);
}

#[test]
fn the_last_moment() {
    assert_eq!(parse_iso("9999-12-31T23:59:59.999Z"), Ok(253_402_300_799_999));
}

#[test]
fn tickets() {
    let ticket = |exp_s: u64| {
        let unsigned = UnsignedTicket {
            iss: Origin::parse("https://proxy.example").unwrap(),
            kid: ulid(1),
            nonce: [7; NONCE_BYTES],
            exp_s,
            pkid: ulid(2),
        };
        Ticket::sign(unsigned, &key(3))
    };
    let of_bytes = |bytes: usize| {
        let text = ticket(5);
        Ticket::parse(&format!("{text}{}", " ".repeat(bytes - text.len()))).err()
    };
    assert_eq!(of_bytes(4_096), None);
    assert_eq!(of_bytes(4_097), Some(TicketError::InvalidFormat));
    assert!(Ticket::parse(&ticket(LAST_WHOLE as u64)).is_ok());
    assert!(Ticket::parse(&ticket(LAST_WHOLE as u64 + 1)).is_err());
}

#[test]
fn the_feed() {
    let item = |seq: usize| {
        format!(
            r#"{{"seq":{seq},"kind":"session","agentDid":"{}","revokedAt":1,"source":"crl"}}"#,
            agent(1)
        )
    };
    assert!(Item::parse(item(LAST_WHOLE).as_bytes()).is_ok());
    assert!(Item::parse(item(LAST_WHOLE + 1).as_bytes()).is_err());
    for parse in [
        |body: &str| Item::parse(body.as_bytes()).is_ok(),
        |body: &str| Item::parse_known(body.as_bytes()).is_ok(),
    ] {
        assert!(parse(&padded(&item(1), 4_096)));
        assert!(!parse(&padded(&item(1), 4_097)));
    }
    let order = format!(r#"{{"kind":"agent","agentDid":"{}"}}"#, agent(1));
    assert!(Order::parse(padded(&order, 4_096).as_bytes()).is_ok());
    assert!(Order::parse(padded(&order, 4_097).as_bytes()).is_err());

    let page = |items: usize, bytes: usize| {
        let items: Vec<String> = (1..=items).map(item).collect();
        let text = format!(
            r#"{{"latest":2000,"next":2000,"more":false,"items":[{}]}}"#,
            items.join(",")
        );
        Page::parse(padded(&text, bytes.max(text.len())).as_bytes()).is_ok()
    };
    assert!(page(1_000, 0) && !page(1_001, 0));
    let bytes = 1_000 * 4_096 + 1_024;
    assert!(page(1, bytes) && !page(1, bytes + 1));
}
