//! Every kind of event in docs/wire.md §7, except revocations.

use expect_test::expect;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::auth::tests::any_json;
use super::*;
use crate::did::{AgentDid, Authority};
use crate::ids::{GroupId, MessageId};
use crate::testing::{agent, authority, envelope, ulid};

const AT_MS: u64 = 1_767_323_045_678;

fn parse(body: &str) -> Result<Event, EventError> {
    parse_event(body, &authority())
}

#[test]
fn a_byte_order_mark_costs_no_event() {
    let body = r#"{"type":"agent.auth.issued"}"#;
    assert_eq!(parse(&format!("\u{feff}{body}")), parse(body));
    assert!(parse(body).is_ok());
    let revoked = format!("\u{feff}{}", r#"{"type":"agent.auth.revoked"}"#);
    assert!(matches!(
        parse(&revoked),
        Err(EventError::UnreadableRevocation(_))
    ));
    assert!(parse(&format!("\u{feff}\u{feff}{body}")).is_err());
}

#[test]
fn what_is_no_message_and_what_is_none_of_ours() {
    let long = "x".repeat(100);
    let unknown = |kind: &str| Ok(Event::Unknown { kind: kind.into() });
    let table = [
        (
            r#"{"type":"agent.auth.issued","data":7}"#.to_owned(),
            Ok(Event::Ignored {
                kind: "agent.auth.issued",
            }),
        ),
        (
            r#"{"type":"agent.auth.refresh_rejected"}"#.into(),
            Ok(Event::Ignored {
                kind: "agent.auth.refresh_rejected",
            }),
        ),
        (
            r#"{"type":"agent.auth.revoked "}"#.into(),
            unknown("agent.auth.revoked "),
        ),
        (r#"{"type":"a\nb\u0000"}"#.into(), unknown("ab")),
        (format!(r#"{{"type":"{long}"}}"#), unknown(&long[..64])),
        (r#"{"type":""}"#.into(), unknown("")),
        ("null".into(), Err(())),
        ("[]".into(), Err(())),
        (r#"["agent.auth.revoked"]"#.into(), Err(())),
        ("7".into(), Err(())),
        ("true".into(), Err(())),
        ("\"agent.auth.revoked\"".into(), Err(())),
        ("{}".into(), Err(())),
        (r#"{"type":null}"#.into(), Err(())),
        (r#"{"type":7}"#.into(), Err(())),
        (r#"{"type":["agent.auth.revoked"]}"#.into(), Err(())),
        (r#"{"data":{"type":"agent.auth.revoked"}}"#.into(), Err(())),
        (r#"{"type":"a","type":"b"}"#.into(), Err(())),
        ("{".into(), Err(())),
        (String::new(), Err(())),
        ("not json".into(), Err(())),
        (r#"{"type":"x"} trailing"#.into(), Err(())),
        ("[".repeat(100_000), Err(())),
        (
            format!(r#"{{"type":"x","y":"{}"}}"#, "y".repeat(MAX_EVENT_BYTES)),
            Err(()),
        ),
    ];
    for (body, expect) in table {
        let event = parse(&body);
        match expect {
            Ok(expect) => assert_eq!(event, Ok(expect), "{body}"),
            Err(()) => assert!(
                matches!(event, Err(EventError::Poison(_))),
                "{body:.100}: {event:?}"
            ),
        }
    }
}

fn pair_body() -> Value {
    json!({
        "type": "pair.accepted",
        "initiatorAgentDid": agent(1),
        "responderAgentDid": agent(2),
        "responderProfile": {"agentName": "Agent 2", "humanName": "Ada", "proxyOrigin": "https://proxy.example.com"},
        "issuerProxyOrigin": "https://proxy.example.com",
        "eventTimestampUtc": "2026-01-02T08:34:05.678901+05:30",
    })
}

/// In the queue, and at connectors that dead-letter what they do not know.
#[test]
fn pair_accepted_format_unchanged() {
    let Ok(Event::PairAccepted(event)) = parse(&pair_body().to_string()) else {
        panic!("pair.accepted")
    };
    let event_json = concat!(
        r#"{"type":"pair.accepted","initiatorAgentDid":"did:cdi:registry.example.com:agent:00000000000000000000000001","#,
        r#""responderAgentDid":"did:cdi:registry.example.com:agent:00000000000000000000000002","#,
        r#""responderProfile":{"agentName":"Agent 2","humanName":"Ada","displayName":"Ada","proxyOrigin":"https://proxy.example.com"},"#,
        r#""issuerProxyOrigin":"https://proxy.example.com","eventTimestampUtc":"2026-01-02T03:04:05.678Z","#,
        r#""message":"Clawdentity pairing complete. You can now message this peer."}"#
    );
    assert_eq!(event.to_queue_json(), event_json);
    assert_eq!(event.payload_json(), format!(r#"{{"system":{event_json}}}"#));
    assert_eq!(
        event.request_id().as_str(),
        "pair.accepted:did:cdi:registry.example.com:agent:00000000000000000000000001:did:cdi:registry.example.com:agent:00000000000000000000000002:2026-01-02T03:04:05.678Z"
    );
    assert_eq!(parse(&event.to_queue_json()), Ok(Event::PairAccepted(event)));
    assert_eq!(PAIR_ACCEPTED_SOURCE, "proxy.events.queue.pair_accepted");
}

#[test]
fn pair_accepted_in_other_words() {
    let set = |pointer: &str, value: Value| {
        let mut body = pair_body();
        *body.pointer_mut(pointer).unwrap() = value;
        body.to_string()
    };
    let mut named = pair_body();
    named["responderProfile"]["displayName"] = json!("Somebody else");
    named["message"] = json!("buy now");
    let table = [
        (named.to_string(), true),
        (set("/eventTimestampUtc", json!("2026-01-02T03:04:05Z")), true),
        (
            set(
                "/responderProfile/proxyOrigin",
                json!("https://Proxy.example.com/path"),
            ),
            true,
        ),
        (set("/responderProfile/proxyOrigin", json!(null)), false),
        (set("/responderProfile/humanName", json!("")), false),
        (set("/responderProfile", json!(null)), false),
        (
            set("/responderProfile", json!(["a", "b", "https://p.example"])),
            false,
        ),
        (set("/initiatorAgentDid", json!("x")), false),
        (set("/responderAgentDid", json!(null)), false),
        (set("/issuerProxyOrigin", json!("x")), false),
        (set("/eventTimestampUtc", json!("2026-01-02")), false),
        (set("/eventTimestampUtc", json!(5)), false),
        (r#"{"type":"pair.accepted"}"#.into(), false),
        (
            json!({"type": "pair.accepted", "data": pair_body()}).to_string(),
            false,
        ),
    ];
    for (body, good) in table {
        match parse(&body) {
            Ok(Event::PairAccepted(event)) => {
                assert!(good, "{body}");
                assert_eq!(
                    &*event.responder_profile.proxy_origin,
                    "https://proxy.example.com"
                );
                assert!(
                    event
                        .payload_json()
                        .contains(r#""humanName":"Ada","displayName":"Ada""#)
                );
                assert!(event.payload_json().contains(PAIR_ACCEPTED_MESSAGE));
            }
            Err(EventError::Unreadable(_)) => assert!(!good, "{body}"),
            other => panic!("{body}: {other:?}"),
        }
    }
}

fn group_data() -> Value {
    json!({
        "recipientAgentDid": agent(1),
        "joinedAgentDid": agent(2),
        "joinedAgentName": " beta ",
        "groupId": "grp_01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "groupName": "research \"crew\"",
        "role": "member",
        "joinedAt": "2026-01-02T03:04:05.678Z",
    })
}

#[test]
fn group_member_joined_format_unchanged() {
    let Ok(Event::GroupMemberJoined(event)) = parse(&envelope("group.member.joined", &group_data())) else {
        panic!("group.member.joined")
    };
    expect![[r#"{"type":"clawdentity:group-member-joined","event":"group.member.joined","message":"beta joined research \"crew\".","groupId":"grp_01ARZ3NDEKTSV4RRFFQ69G5FAV","groupName":"research \"crew\"","joinedAgentDid":"did:cdi:registry.example.com:agent:00000000000000000000000002","joinedAgentName":"beta","role":"member","joinedAt":"2026-01-02T03:04:05.678Z"}"#]]
    .assert_eq(&event.payload_json());
    expect!["group.member.joined:grp_01ARZ3NDEKTSV4RRFFQ69G5FAV:did:cdi:registry.example.com:agent:00000000000000000000000002:did:cdi:registry.example.com:agent:00000000000000000000000001:2026-01-02T03:04:05.678Z"]
    .assert_eq(event.request_id().as_str());
    assert_eq!(event.recipient, agent(1));
    assert_eq!(event.joined, agent(2));
    assert_eq!(
        event.group_id,
        GroupId::parse("grp_01ARZ3NDEKTSV4RRFFQ69G5FAV").unwrap()
    );
    assert_eq!(
        GROUP_MEMBER_JOINED_SOURCE,
        "proxy.events.queue.group_member_joined"
    );
}

/// What we make of the longest parts there are is still a message id.
#[test]
fn request_ids_are_message_ids() {
    let label = "a".repeat(63);
    let authority = Authority::parse(&format!("{label}.{label}.{label}.{}", "a".repeat(61))).unwrap();
    let longest = |number| AgentDid::from_parts(&authority, ulid(number));
    let (mut pair, mut data) = (pair_body(), group_data());
    pair["initiatorAgentDid"] = json!(longest(1));
    pair["responderAgentDid"] = json!(longest(2));
    data["recipientAgentDid"] = json!(longest(1));
    data["joinedAgentDid"] = json!(longest(2));
    data["joinedAt"] = json!("2026-01-02T03:04:05.123456789+05:30");
    let Ok(Event::PairAccepted(pair)) = parse(&pair.to_string()) else {
        panic!("pair.accepted")
    };
    let Ok(Event::GroupMemberJoined(group)) = parse(&envelope("group.member.joined", &data)) else {
        panic!("group.member.joined")
    };
    for id in [pair.request_id(), group.request_id()] {
        assert_eq!(MessageId::parse(id.as_str()), Ok(id));
    }
}

#[test]
fn group_member_joined_in_other_words() {
    let set = |name: &str, value: Value| {
        let mut data = group_data();
        data[name] = value;
        data
    };
    let default = "beta joined research \"crew\".";
    let table = [
        (set("message", json!(" hello ")), Some("hello")),
        (set("message", json!(null)), Some(default)),
        (set("message", json!("  ")), Some(default)),
        (set("role", json!("admin")), Some(default)),
        (set("joinedAgent", json!({"status": "active"})), Some(default)),
        (set("message", json!(7)), None),
        (set("role", json!("owner")), None),
        (set("role", json!(null)), None),
        (set("joinedAt", json!("now")), None),
        (set("joinedAt", json!(7)), None),
        (set("groupId", json!("grp_x")), None),
        (set("groupName", json!(" ")), None),
        (set("groupName", json!("x".repeat(257))), None),
        (set("joinedAgentName", json!("")), None),
        (set("joinedAgentName", json!("x".repeat(257))), None),
        (set("recipientAgentDid", json!("x")), None),
        (set("joinedAgentDid", json!(null)), None),
        (json!(null), None),
        (json!([]), None),
    ];
    for (data, expect) in table {
        match parse(&envelope("group.member.joined", &data)) {
            Ok(Event::GroupMemberJoined(event)) => assert_eq!(Some(event.message.as_str()), expect, "{data}"),
            Err(EventError::Unreadable(_)) => assert_eq!(None, expect, "{data}"),
            other => panic!("{data}: {other:?}"),
        }
    }
}

#[test]
fn receipts() {
    let body = json!({
        "type": "delivery_receipt",
        "requestId": "req-0001",
        "senderAgentDid": agent(1),
        "recipientAgentDid": agent(2),
        "status": "dead_lettered",
        "reason": null,
        "processedAt": "2026-01-02T03:04:05.678Z",
    });
    let Ok(Event::DeliveryReceipt(receipt)) = parse(&body.to_string()) else {
        panic!("delivery_receipt")
    };
    assert_eq!(receipt.status, ReceiptStatus::DeadLettered);
    assert_eq!((receipt.reason, receipt.processed_at_ms), (None, Some(AT_MS)));
    for name in ["requestId", "senderAgentDid", "recipientAgentDid", "status"] {
        let mut bad = body.clone();
        bad[name] = json!("?\n");
        if name == "requestId" {
            bad[name] = json!("");
        }
        assert!(
            matches!(parse(&bad.to_string()), Err(EventError::Unreadable(_))),
            "{bad}"
        );
    }
}

proptest! {
    #[test]
    fn no_body_panics(body in "\\PC{0,100}", kind in "(agent.auth.refreshed|pair.accepted|group.member.joined|delivery_receipt|x)", data in any_json()) {
        let _ = parse(&body);
        let _ = parse(&envelope(&kind, &data));
        let _ = parse(&data.to_string());
    }
}
