//! Frames in both directions, byte for byte.

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;
use crate::testing::{agent, ulid};

const TS: u64 = 1_767_323_045_678;

fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}

/// Some connectors drop a frame with one field more than they know: these bytes are all they ever get.
#[test]
fn outbound_formats_unchanged() {
    fn check(frame: &str, expect: Expect) {
        expect.assert_eq(frame);
    }
    check(
        &heartbeat(ulid(1), TS),
        expect![[
            r#"{"v":1,"type":"heartbeat","id":"00000000000000000000000001","ts":"2026-01-02T03:04:05.678Z"}"#
        ]],
    );
    check(
        &heartbeat_ack(ulid(1), TS, ulid(2)),
        expect![[
            r#"{"v":1,"type":"heartbeat_ack","id":"00000000000000000000000001","ts":"2026-01-02T03:04:05.678Z","ackId":"00000000000000000000000002"}"#
        ]],
    );
    check(
        &enqueue_ack(ulid(1), TS, ulid(2), true, None),
        expect![[
            r#"{"v":1,"type":"enqueue_ack","id":"00000000000000000000000001","ts":"2026-01-02T03:04:05.678Z","ackId":"00000000000000000000000002","accepted":true}"#
        ]],
    );
    check(
        &enqueue_ack(ulid(1), TS, ulid(2), false, Some("queue \"full\"")),
        expect![[
            r#"{"v":1,"type":"enqueue_ack","id":"00000000000000000000000001","ts":"2026-01-02T03:04:05.678Z","ackId":"00000000000000000000000002","accepted":false,"reason":"queue \"full\""}"#
        ]],
    );
    check(
        &receipt(
            ulid(1),
            TS,
            ulid(2),
            &agent(3),
            ReceiptStatus::DeliveredToWebhook,
            None,
        ),
        expect![[
            r#"{"v":1,"type":"receipt","id":"00000000000000000000000001","ts":"2026-01-02T03:04:05.678Z","originalFrameId":"00000000000000000000000002","toAgentDid":"did:cdi:registry.example.com:agent:00000000000000000000000003","status":"delivered_to_webhook"}"#
        ]],
    );
    check(
        &receipt(
            ulid(1),
            TS,
            ulid(2),
            &agent(3),
            ReceiptStatus::DeadLettered,
            Some("expired"),
        ),
        expect![[
            r#"{"v":1,"type":"receipt","id":"00000000000000000000000001","ts":"2026-01-02T03:04:05.678Z","originalFrameId":"00000000000000000000000002","toAgentDid":"did:cdi:registry.example.com:agent:00000000000000000000000003","status":"dead_lettered","reason":"expired"}"#
        ]],
    );
    let payload = raw(r#"{ "b": 1.50, "a": [null] , "b": 2 }"#);
    let (from, to) = (agent(3), agent(4));
    let bare = Deliver {
        id: ulid(1),
        ts_ms: TS,
        from: &from,
        to: &to,
        payload: &payload,
        meta: DeliverMeta::default(),
    };
    check(
        &bare.to_text(),
        expect![[
            r#"{"v":1,"type":"deliver","id":"00000000000000000000000001","ts":"2026-01-02T03:04:05.678Z","fromAgentDid":"did:cdi:registry.example.com:agent:00000000000000000000000003","toAgentDid":"did:cdi:registry.example.com:agent:00000000000000000000000004","payload":{ "b": 1.50, "a": [null] , "b": 2 }}"#
        ]],
    );
    let full = Deliver {
        meta: DeliverMeta {
            delivery_source: Some(SOURCE_ENQUEUE),
            content_type: Some("application/json"),
            group_id: Some(GroupId::parse("grp_01ARZ3NDEKTSV4RRFFQ69G5FAV").unwrap()),
            conversation_id: Some("c-1"),
            reply_to: Some("https://proxy.example.com/v1/relay/delivery-receipts"),
        },
        ..bare
    };
    check(
        &full.to_text(),
        expect![[
            r#"{"v":1,"type":"deliver","id":"00000000000000000000000001","ts":"2026-01-02T03:04:05.678Z","fromAgentDid":"did:cdi:registry.example.com:agent:00000000000000000000000003","toAgentDid":"did:cdi:registry.example.com:agent:00000000000000000000000004","payload":{ "b": 1.50, "a": [null] , "b": 2 },"deliverySource":"agent.enqueue","contentType":"application/json","groupId":"grp_01ARZ3NDEKTSV4RRFFQ69G5FAV","conversationId":"c-1","replyTo":"https://proxy.example.com/v1/relay/delivery-receipts"}"#
        ]],
    );
}

/// A frame of this type with these further fields.
fn text(kind: &str, fields: &str) -> String {
    format!(
        r#"{{"v":1,"type":"{kind}","id":"{}","ts":"2026-01-02T03:04:05.123456789+05:30"{fields}}}"#,
        ulid(1)
    )
}

fn summary(frame: &str) -> String {
    match parse_inbound(frame) {
        Ok(InboundFrame::Enqueue(enqueue)) => format!(
            "enqueue {:?} {:?} {} {:?} {:?} {:?}",
            enqueue.id,
            enqueue.to,
            enqueue.payload,
            enqueue.group_id,
            enqueue.conversation_id,
            enqueue.reply_to
        ),
        Ok(frame) => format!("{frame:?}"),
        Err(error) => format!("{error:?}"),
    }
}

#[test]
fn inbound_acks_and_heartbeats() {
    let ack = format!(r#","ackId":"{}""#, ulid(2));
    let (id, ack_id) = (ulid(1), ulid(2));
    let heartbeat = format!("{:?}", InboundFrame::Heartbeat { id });
    let heartbeat_ack = format!("{:?}", InboundFrame::HeartbeatAck { ack_id });
    let deliver_ack = |accepted, reason: Option<&str>| {
        format!(
            "{:?}",
            InboundFrame::DeliverAck {
                id,
                ack_id,
                accepted,
                reason: reason.map(str::to_owned)
            }
        )
    };
    let malformed = String::from("Malformed");
    let unreadable = String::from("Unreadable");
    let long = "x".repeat(1000);
    let plain = text("heartbeat", "");
    let table = [
        (plain.clone(), &heartbeat),
        (format!(" {plain}\n"), &heartbeat),
        (plain.replace("+05:30", "Z"), &heartbeat),
        (plain.replace(".123456789+05:30", "-0800"), &heartbeat),
        (plain.replace("+05:30", ""), &malformed),
        (plain.replace(".123456789", ".1234567890"), &malformed),
        (plain.replace("\"v\":1", "\"v\":2"), &malformed),
        (plain.replace("\"v\":1", "\"v\":\"1\""), &malformed),
        (plain.replace("\"v\":1,", ""), &malformed),
        (plain.replace(&ulid(1).to_string(), "x"), &malformed),
        (plain.replace("heartbeat", "Heartbeat"), &malformed),
        (plain.replace("\"heartbeat\"", "7"), &malformed),
        (text("heartbeat", r#","more":1"#), &malformed),
        (text("heartbeat", r#","v":1"#), &malformed),
        (text("heartbeat", r#","type":"heartbeat""#), &malformed),
        (text("heartbeat", &ack), &malformed),
        (text("heartbeat_ack", &ack), &heartbeat_ack),
        (text("heartbeat_ack", ""), &malformed),
        (text("heartbeat_ack", r#","ackId":"x""#), &malformed),
        (text("heartbeat_ack", r#","ackId":null"#), &malformed),
        (
            text("deliver_ack", &format!(r#"{ack},"accepted":true"#)),
            &deliver_ack(true, None),
        ),
        (
            text("deliver_ack", &format!(r#"{ack},"accepted":true,"reason":null"#)),
            &deliver_ack(true, None),
        ),
        (
            text(
                "deliver_ack",
                &format!(r#"{ack},"accepted":false,"reason":" no\n"}}"#),
            )
            .replace("}}", "}"),
            &deliver_ack(false, Some("no")),
        ),
        (
            text(
                "deliver_ack",
                &format!(r#"{ack},"accepted":false,"reason":"{long}""#),
            ),
            &deliver_ack(false, Some(&long[..280])),
        ),
        (
            text("deliver_ack", &format!(r#"{ack},"accepted":false,"reason":"""#)),
            &deliver_ack(false, None),
        ),
        (
            text("deliver_ack", &format!(r#"{ack},"accepted":false,"reason":7"#)),
            &malformed,
        ),
        (
            text("deliver_ack", &format!(r#"{ack},"accepted":"true""#)),
            &malformed,
        ),
        (text("deliver_ack", &format!(r#"{ack},"accepted":1"#)), &malformed),
        (
            text(
                "deliver_ack",
                &format!(r#"{ack},"accepted":true,"accepted":false"#),
            ),
            &malformed,
        ),
        (
            text("deliver_ack", &format!(r#"{ack},"accepted":true,"more":null"#)),
            &malformed,
        ),
        (text("deliver_ack", &ack), &malformed),
        // what only the proxy says
        (text("deliver", ""), &malformed),
        (
            text("enqueue_ack", &format!(r#"{ack},"accepted":true"#)),
            &malformed,
        ),
        (text("receipt", ""), &malformed),
        (text("", ""), &malformed),
        ("{}".into(), &malformed),
        (r#"{"type":null}"#.into(), &malformed),
        (
            format!(r#"[1,"heartbeat","{}","2026-01-02T03:04:05Z"]"#, ulid(1)),
            &unreadable,
        ),
        ("null".into(), &unreadable),
        ("1".into(), &unreadable),
        ("\"heartbeat\"".into(), &unreadable),
        ("{".into(), &unreadable),
        (String::new(), &unreadable),
        (format!("{plain}{plain}"), &unreadable),
        (
            format!("{plain}{}", " ".repeat(MAX_INBOUND_FRAME_BYTES)),
            &unreadable,
        ),
    ];
    for (frame, expect) in &table {
        assert_eq!(summary(frame), **expect, "{frame:.300}");
    }
}

#[test]
fn enqueues() {
    let to = format!(r#","toAgentDid":"{}""#, agent(4));
    let group = r#","groupId":"grp_01ARZ3NDEKTSV4RRFFQ69G5FAV""#;
    let ok = |payload: &str, rest: &str| format!("enqueue {:?} {:?} {payload} {rest}", ulid(1), agent(4));
    let with = |fields: &str| text("enqueue", &format!("{to}{fields}"));
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let deep = nested(64);
    let good = [
        (with(r#","payload":{"a":1}"#), ok(r#"{"a":1}"#, "None None None")),
        (with(r#","payload":null"#), ok("null", "None None None")),
        (with(r#","payload":0"#), ok("0", "None None None")),
        (with(r#","payload":"x""#), ok("\"x\"", "None None None")),
        (
            with(r#","payload":{"a":1, "a":2}"#),
            ok(r#"{"a":1, "a":2}"#, "None None None"),
        ),
        (
            with(&format!(r#","payload":{deep}"#)),
            ok(&deep, "None None None"),
        ),
        (
            with(&format!(
                r#","payload":[]{group},"conversationId":"c 1","replyTo":"https://p.example/r?x=1""#
            )),
            ok(
                "[]",
                r#"Some(grp_01ARZ3NDEKTSV4RRFFQ69G5FAV) Some("c 1") Some("https://p.example/r?x=1")"#,
            ),
        ),
        (
            with(&format!(
                r#","payload":1,"conversationId":"{}""#,
                "é".repeat(4096)
            )),
            ok("1", &format!("None Some({:?}) None", "é".repeat(4096))),
        ),
    ];
    for (frame, expect) in &good {
        assert_eq!(summary(frame), *expect);
    }

    let payload = r#","payload":{}"#;
    let answered = [
        (with(""), "enqueue must have"),
        (text("enqueue", payload), "enqueue must have"),
        (with(&format!(r#"{payload},"more":1"#)), "enqueue must have"),
        (with(&format!("{payload}{payload}")), "enqueue must have"),
        (with(&format!("{payload}{to}")), "enqueue must have"),
        (with(payload).replace("\"v\":1,", ""), "enqueue must have"),
        (
            format!(r#"{{"id":"{}","type":"enqueue"}}"#, ulid(1)),
            "enqueue must have",
        ),
        (with(payload).replace("\"v\":1", "\"v\":2"), "v must be 1"),
        (with(payload).replace("\"v\":1", "\"v\":null"), "v must be 1"),
        (with(payload).replace("+05:30", ""), "ts must be"),
        (
            with(payload).replace("\"2026-01-02T03:04:05.123456789+05:30\"", "7"),
            "ts must be",
        ),
        (
            text("enqueue", &format!(r#"{payload},"toAgentDid":"bob""#)),
            "toAgentDid must be",
        ),
        (
            text("enqueue", &format!(r#"{payload},"toAgentDid":null"#)),
            "toAgentDid must be",
        ),
        (with(payload).replace(":agent:", ":human:"), "toAgentDid must be"),
        (with(&format!(r#"{payload},"groupId":"g""#)), "groupId must be"),
        (with(&format!(r#"{payload},"groupId":null"#)), "groupId must be"),
        (
            with(&format!(r#"{payload},"conversationId":" ""#)),
            "conversationId must be",
        ),
        (
            with(&format!(r#"{payload},"conversationId":"{}""#, "é".repeat(4097))),
            "conversationId must be",
        ),
        (
            with(&format!(r#"{payload},"conversationId":"a\u0000\u001b""#)),
            "conversationId must be",
        ),
        (
            with(&format!(r#","payload":{}"#, nested(65))),
            "the payload is nested",
        ),
        (
            with(&format!(r#","payload":{}"#, nested(100_000))),
            "the payload is nested",
        ),
        (
            with(r#","payload":{"message":"x \ud83d"}"#),
            "the payload has a lone surrogate",
        ),
        (
            with(r#","payload":{"\ud83d":1}"#),
            "the payload has a lone surrogate",
        ),
        (with(r#","payload":{"n":1e400}"#), "the payload has a number"),
        (with(&format!(r#"{payload},"\ud83d":1"#)), "enqueue must have"),
        (
            with(&format!(r#"{payload},"conversationId":7"#)),
            "conversationId must be",
        ),
        (with(&format!(r#"{payload},"replyTo":"x""#)), "replyTo must be"),
        (
            with(&format!(r#"{payload},"replyTo":"ftp://p.example""#)),
            "replyTo must be",
        ),
        (
            with(&format!(r#"{payload},"replyTo":"javascript:alert(1)""#)),
            "replyTo must be",
        ),
        (
            with(&format!(
                r#"{payload},"replyTo":"https://p.example/{}""#,
                "x".repeat(4096)
            )),
            "replyTo must be",
        ),
        (with(&format!(r#"{payload},"replyTo":[]"#)), "replyTo must be"),
    ];
    for (frame, expect) in &answered {
        match parse_inbound(frame) {
            Err(FrameError::BadEnqueue { id, reason }) => {
                assert_eq!(id, ulid(1), "{frame}");
                assert!(reason.starts_with(expect), "{frame}: {reason}");
            }
            other => panic!("{frame}: {other:?}"),
        }
    }

    let whole = with(payload);
    let broken = [
        with(r#","payload":01"#),
        with(r#","payload":NaN"#),
        with(",\"payload\":\"\u{1}\""),
        with(r#","payload":"#),
        whole.trim_end_matches('}').to_owned(),
        format!("{whole}{whole}"),
        format!("{whole}\0"),
        text_of([whole.trim_end_matches("{}}").as_bytes(), b"\"\xed\xa0\xbd\"}"].concat()),
        text_of([whole.as_bytes(), b"\xff"].concat()),
    ];
    for frame in &broken {
        let expect = FrameError::BadEnqueue {
            id: ulid(1),
            reason: "the frame is not JSON",
        };
        assert_eq!(parse_inbound(frame).err(), Some(expect), "{frame}");
    }
    assert_eq!(text_of(whole.clone().into_bytes()), whole);
    for frame in [
        whole.replace(r#""type":"enqueue""#, r#""type":enqueue"#),
        text_of([b"\xff", whole.as_bytes()].concat()),
    ] {
        assert_eq!(
            parse_inbound(&frame).err(),
            Some(FrameError::Unreadable),
            "{frame}"
        );
    }

    let id = ulid(1).to_string();
    let nobody = [
        with(payload).replace(&id, "x"),
        with(payload).replace(&id, &id.replace("00", "oo")),
        with(payload).replace(&format!("\"{id}\""), "null"),
        with(&format!(r#"{payload},"id":"{}""#, ulid(2))),
        with(payload).replace(&format!(r#""id":"{id}","#), ""),
    ];
    for frame in &nobody {
        assert_eq!(parse_inbound(frame).err(), Some(FrameError::Malformed), "{frame}");
    }
}

/// What one proxy's connector enqueues comes out at the other end as it went in.
#[test]
fn a_payload_is_never_rewritten() {
    for payload in [
        r#"{"n":12345678901234567890.10,"s":"\u00e9\/","e":{}}"#,
        "-0.0",
        "1e308",
        r#""\ud83d\ude00""#,
        "[ ]",
    ] {
        let frame = text(
            "enqueue",
            &format!(r#","toAgentDid":"{}","payload":{payload}"#, agent(4)),
        );
        let Ok(InboundFrame::Enqueue(enqueue)) = parse_inbound(&frame) else {
            panic!("{frame}")
        };
        let (from, to) = (agent(3), enqueue.to);
        let deliver = Deliver {
            id: enqueue.id,
            ts_ms: 0,
            from: &from,
            to: &to,
            payload: &enqueue.payload,
            meta: DeliverMeta::default(),
        };
        assert_eq!(deliver.text_len(payload.len()), deliver.to_text().len());
        assert!(
            deliver.to_text().ends_with(&format!(r#","payload":{payload}}}"#)),
            "{payload}"
        );
    }
}

/// What stands before the fault counts, as its sender waits for an answer.
#[test]
fn an_enqueue_that_is_not_json_is_answered_where_its_id_can_be_read() {
    let to = format!(r#","toAgentDid":"{}","payload":"#, agent(4));
    let whole = text("enqueue", &format!("{to}{{}}"));
    let answered = |frame: &str| match parse_inbound(frame) {
        Err(FrameError::BadEnqueue { id, reason }) => {
            assert_eq!(id, ulid(1));
            Some(reason)
        }
        _ => None,
    };
    let not_json = Some("the frame is not JSON");
    for payload in [
        "NaN",
        "Infinity",
        "",
        "{}x",
        "/**/{}",
        "\"\u{1}\"",
        "{'a':1}",
        "[1,]",
        "{\"a\"",
    ] {
        assert_eq!(
            answered(&text("enqueue", &format!("{to}{payload}"))),
            not_json,
            "{payload}"
        );
    }
    assert_eq!(answered(&format!("{whole}{whole}")), not_json);
    assert_eq!(
        answered(&format!("\u{feff}{whole}")),
        Some("a byte order mark stands before the frame")
    );
    let (head, _) = whole.split_once("toAgentDid").unwrap();
    assert_eq!(answered(head), not_json);
    let before_the_id = whole.replacen("{", r#"{"x":NaN,"#, 1);
    let unreadable = [
        before_the_id,
        text("heartbeat", r#","x":NaN"#),
        format!("\u{feff}{}", text("heartbeat", "")),
        whole.replacen("\"id\":", "\"id\":NaN,\"id\":", 1),
    ];
    for frame in unreadable {
        assert!(
            matches!(parse_inbound(&frame), Err(FrameError::Unreadable)),
            "{frame}"
        );
    }
}

proptest! {
    #[test]
    fn no_frame_panics(junk in "\\PC{0,80}", kind in "(heartbeat|enqueue|deliver_ack|x)", fields in "(,\"\\PC{0,20}\":\\PC{0,20}){0,3}") {
        let _ = parse_inbound(&junk);
        let _ = parse_inbound(&text(&kind, &fields));
        let _ = (parse_conversation_id(&junk), parse_reply_to(&junk));
    }

    #[test]
    fn an_enqueue_with_an_id_is_always_answered(name in "[a-zA-Z]{1,8}", value in "(null|true|7|\"x\"|\\[\\]|\\{\\})") {
        let frame = text("enqueue", &format!(r#","{name}":{value}"#));
        prop_assume!(!["id", "type"].contains(&name.as_str()));
        let answered = matches!(parse_inbound(&frame), Err(FrameError::BadEnqueue { id, .. }) if id == ulid(1));
        prop_assert!(answered);
    }
}
