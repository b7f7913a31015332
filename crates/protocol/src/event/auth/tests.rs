//! What a revocation event revokes, and what makes one unreadable.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::event::{Event, EventError, MAX_EVENT_BYTES, parse_event};
use crate::testing::{agent, authority, envelope, ulid};

const AT_MS: u64 = 1_767_323_045_678;

fn parse(body: &str) -> Result<Event, EventError> {
    parse_event(body, &authority())
}

fn revoked(data: Value) -> Result<AuthRevoked, EventError> {
    match parse(&envelope("agent.auth.revoked", &data))? {
        Event::AuthRevoked(event) => Ok(event),
        other => panic!("{other:?}"),
    }
}

/// Agent 7; revoke the agent; tokens; session ended; bad tokens.
type Expected = (Option<AgentDid>, bool, Vec<Ulid>, bool, bool);

#[test]
fn what_a_revocation_revokes() {
    let (a, b) = (ulid(30), ulid(31));
    let id = ulid(7);
    let did = agent(7);
    let seven = || Some(agent(7));
    let table: Vec<(Value, Expected)> = vec![
        // the reason decides
        (
            json!({"agentId": id, "sessionId": "s", "reason": "agent_revoked", "metadata": {}}),
            (seven(), true, vec![], false, false),
        ),
        (json!({"agentId": id}), (seven(), true, vec![], false, false)),
        (
            json!({"agentId": id, "reason": null}),
            (seven(), true, vec![], false, false),
        ),
        (
            json!({"agentId": id, "reason": "  "}),
            (seven(), true, vec![], false, false),
        ),
        (
            json!({"agentId": id, "reason": " agent_revoked\n"}),
            (seven(), true, vec![], false, false),
        ),
        (
            json!({"agentId": id, "reason": "owner_auth_revoke"}),
            (seven(), false, vec![], true, false),
        ),
        (
            json!({"agentId": id, "reason": "refresh_token_expired"}),
            (seven(), false, vec![], true, false),
        ),
        (
            json!({"agentId": id, "reason": "AGENT_REVOKED"}),
            (seven(), false, vec![], true, false),
        ),
        (
            json!({"agentId": id, "reason": "agent_revoked", "jti": a}),
            (seven(), true, vec![a], false, false),
        ),
        (
            json!({"agentId": id, "jti": a}),
            (seven(), false, vec![a], false, false),
        ),
        (
            json!({"agentId": id, "reason": "reissued", "jti": a}),
            (seven(), false, vec![a], false, false),
        ),
        (
            json!({"agentId": id, "reason": "owner_auth_revoke", "jtis": [a, b]}),
            (seven(), false, vec![a, b], false, false),
        ),
        // where the fields may be
        (json!({"agentDid": did}), (seven(), true, vec![], false, false)),
        (
            json!({"metadata": {"agentDid": did}}),
            (seven(), true, vec![], false, false),
        ),
        (
            json!({"agentId": id, "agentDid": did, "metadata": {"agentDid": did}}),
            (seven(), true, vec![], false, false),
        ),
        (
            json!({"agentId": null, "agentDid": did, "metadata": null}),
            (seven(), true, vec![], false, false),
        ),
        (
            json!({"agentId": id, "metadata": {"jti": a}}),
            (seven(), false, vec![a], false, false),
        ),
        (
            json!({"agentId": id, "metadata": {"jtis": [b, a, b]}, "jti": a}),
            (seven(), false, vec![a, b], false, false),
        ),
        (
            json!({"agentId": id, "jtis": a}),
            (seven(), false, vec![a], false, false),
        ),
        (
            json!({"agentId": id, "jtis": []}),
            (seven(), true, vec![], false, false),
        ),
        (
            json!({"agentId": id, "jti": null, "jtis": null}),
            (seven(), true, vec![], false, false),
        ),
        // tokens without their agent
        (json!({"jti": a}), (None, false, vec![a], false, false)),
        (
            json!({"metadata": {"jtis": [a, b]}, "reason": "reissued"}),
            (None, false, vec![a, b], false, false),
        ),
        (
            json!({"jti": a, "reason": "agent_revoked"}),
            (None, true, vec![a], false, false),
        ),
        // well-named agent, badly named token
        (
            json!({"agentId": id, "reason": "agent_revoked", "jti": "x"}),
            (seven(), true, vec![], false, true),
        ),
        (
            json!({"agentId": id, "reason": "agent_revoked", "jtis": [a, 7]}),
            (seven(), true, vec![a], false, true),
        ),
        (
            json!({"agentId": id, "jti": "x"}),
            (seven(), true, vec![], false, true),
        ),
        (
            json!({"agentId": id, "jtis": ["x", a]}),
            (seven(), true, vec![a], false, true),
        ),
        (
            json!({"agentId": id, "jtis": {"a": 1}}),
            (seven(), true, vec![], false, true),
        ),
        (
            json!({"agentId": id, "jti": a.to_string().to_lowercase()}),
            (seven(), true, vec![], false, true),
        ),
        (
            json!({"agentId": id, "reason": "reissued", "jti": ""}),
            (seven(), true, vec![], false, true),
        ),
        (
            json!({"agentId": id, "reason": "reissued", "jtis": [a, "x"]}),
            (seven(), true, vec![a], false, true),
        ),
        (json!({"jtis": [a, "x"]}), (None, false, vec![a], false, true)),
        (
            json!({"agentId": id, "jti": a, "expiresAt": "soon"}),
            (seven(), false, vec![a], false, true),
        ),
    ];
    for (data, expect) in table {
        let event = revoked(data.clone()).unwrap_or_else(|error| panic!("{data}: {error:?}"));
        let effect = event.effect;
        assert_eq!(
            (
                event.agent,
                effect.revoke_agent,
                effect.tokens,
                effect.session_ended,
                event.bad_tokens
            ),
            expect,
            "{data}"
        );
    }
}

#[test]
fn what_makes_a_revocation_unreadable() {
    let id = ulid(7);
    let did = agent(7);
    let foreign = did.to_string().replace("registry.", "other.");
    let data = [
        json!({}),
        json!({"sessionId": "s", "reason": "owner_auth_revoke"}),
        json!({"reason": "agent_revoked"}),
        json!({"jti": "x"}),
        json!({"jtis": []}),
        json!({"reason": "agent_revoked", "jtis": [1, null]}),
        json!({"agentId": id, "agentDid": agent(8)}),
        json!({"agentId": id, "metadata": {"agentDid": agent(8)}}),
        json!({"agentDid": did, "metadata": {"agentDid": agent(8)}}),
        json!({"agentDid": foreign}),
        json!({"agentId": id, "metadata": {"agentDid": foreign}}),
        json!({"agentDid": foreign, "jti": ulid(30)}),
        json!({"agentId": "x"}),
        json!({"agentId": "x", "agentDid": did}),
        json!({"agentId": "01arz3ndektsv4rrffq69g5fav"}),
        json!({"agentId": 7, "jti": ulid(30)}),
        json!({"agentId": did}),
        json!({"agentDid": id}),
        json!({"agentDid": did.to_string().replace("agent", "human")}),
        json!({"agentDid": []}),
        json!({"agentId": id, "reason": 7}),
        json!({"agentId": id, "metadata": 7}),
        json!({"agentId": id, "metadata": []}),
        json!(null),
        json!([]),
        json!("x"),
        json!(7),
    ];
    let bodies = data.into_iter().map(|data| envelope("agent.auth.revoked", &data)).chain([
        r#"{"type":"agent.auth.revoked"}"#.to_owned(),
        r#"{"type":"agent.auth.revoked","agentId":"00000000000000000000000007"}"#.to_owned(),
        format!(r#"{{"type":"agent.auth.revoked","data":{{"agentId":"{id}"}},"data":{{}}}}"#),
        format!(r#"{{"type":"agent.auth.revoked","data":{{"agentId":"{id}","agentId":"{}"}}}}"#, ulid(8)),
        format!(r#"{{"type":"agent.auth.revoked","data":{{"agentId":"{id}","reason":"a","reason":"b"}}}}"#),
        format!(r#"{{"type":"agent.auth.revoked","data":{{"agentId":"{id}","metadata":{{}},"metadata":{{}}}}}}"#),
        format!(
            r#"{{"type":"agent.auth.revoked","data":{{"agentId":"{id}","reason":{}{}}}}}"#,
            "[".repeat(1000),
            "]".repeat(1000)
        ),
        format!(r#"{{"type":"agent.auth.issued","type":"agent.auth.revoked","data":{{"agentId":"{id}"}}}}"#),
        format!(r#"{{"type":"agent.auth.revoked","data":{{"agentId":"{id}"}},"x":"{}"}}"#, "x".repeat(MAX_EVENT_BYTES)),
        format!(r#"{{"type":"agent.auth.revoked","type":7,"data":{{"agentId":"{id}"}}}}"#),
    ]);
    for body in bodies {
        assert!(
            matches!(parse(&body), Err(EventError::UnreadableRevocation(_))),
            "{body}: {:?}",
            parse(&body)
        );
    }
}

/// The same name twice is the same agent; tokens twice in one object are all of them revoked.
#[test]
fn repeated_fields_lose_nothing() {
    let (id, a, b) = (ulid(7), ulid(30), ulid(31));
    let body = format!(
        r#"{{"type":"agent.auth.revoked","data":{{"agentId":"{id}","agentId":"{id}","jti":"{a}","jti":"{b}"}}}}"#
    );
    let Ok(Event::AuthRevoked(event)) = parse(&body) else {
        panic!("{body}")
    };
    assert_eq!((event.agent, event.effect.tokens), (Some(agent(7)), vec![a, b]));
}

#[test]
fn a_revocation_s_particulars() {
    let base = json!({"agentId": ulid(7), "reason": "reissued", "jti": ulid(30)});
    let with = |expiry: Value| {
        let mut data = base.clone();
        data["expiresAt"] = expiry;
        revoked(data).unwrap().token_expires_at_ms
    };
    assert_eq!(with(json!("2026-01-02T03:04:05.678Z")), Some(AT_MS));
    assert_eq!(with(json!("2026-01-02T08:34:05.678999+05:30")), Some(AT_MS));
    assert_eq!(with(json!(AT_MS)), Some(AT_MS));
    assert_eq!(with(json!(AT_MS / 1000)), Some(AT_MS / 1000 * 1000));
    assert_eq!(with(json!((AT_MS / 1000).to_string())), Some(AT_MS / 1000 * 1000));
    assert_eq!(with(json!(null)), None);
    assert_eq!(with(json!("soon")), None);
    let mut data = base.clone();
    data["expiresAt"] = json!(5);
    data["metadata"] = json!({"expiresAt": 9});
    assert_eq!(
        revoked(data).unwrap().token_expires_at_ms,
        Some(9000),
        "the latest"
    );

    let event = revoked(base.clone()).unwrap();
    assert_eq!(event.event_id.as_deref(), Some("evt-1"));
    assert_eq!(event.event_at_ms, Some(AT_MS));
    assert_eq!(event.reason.as_deref(), Some("reissued"));

    // What is bad here costs no revocation.
    let body = envelope("agent.auth.revoked", &base);
    for (from, to) in [
        ("\"evt-1\"".to_owned(), "7".to_owned()),
        ("evt-1".into(), " ".into()),
        ("evt-1".into(), "x".repeat(MAX_EVENT_ID_CHARS + 1)),
        ("\"v1\"".into(), "[]".into()),
        ("2026-01-02T03:04:05.678Z".into(), "yesterday".into()),
        ("\"reissued\"".into(), format!("\"{}\"", "x".repeat(1000))),
        (
            "\"acc\"".into(),
            format!("{}{}", "[".repeat(1000), "]".repeat(1000)),
        ),
    ] {
        assert!(
            matches!(parse(&body.replace(&from, &to)), Ok(Event::AuthRevoked(_))),
            "{from} -> {to}"
        );
    }
}

#[test]
fn refreshed() {
    let parse_data = |data: Value| parse(&envelope("agent.auth.refreshed", &data));
    let expect = AuthRefreshed {
        event_id: Some("evt-1".into()),
        agent: agent(7),
        event_at_ms: Some(AT_MS),
    };
    for data in [
        json!({"agentId": ulid(7), "sessionId": "s"}),
        json!({"agentDid": agent(7)}),
        json!({"agentId": ulid(7), "metadata": {"agentDid": agent(7)}}),
    ] {
        assert_eq!(parse_data(data), Ok(Event::AuthRefreshed(expect.clone())));
    }
    for data in [
        json!({}),
        json!(null),
        json!({"agentId": "x"}),
        json!({"agentId": ulid(7), "agentDid": agent(8)}),
    ] {
        assert!(
            matches!(parse_data(data.clone()), Err(EventError::Poison(_))),
            "{data}"
        );
    }
}

/// Any JSON value, three levels deep, made of the words that the parser knows.
pub(in crate::event) fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,10}".prop_map(Value::from),
        Just(json!(ulid(7))),
        Just(json!(agent(7))),
        Just(json!("agent_revoked")),
    ];
    let name = prop_oneof![
        Just("agentId"),
        Just("agentDid"),
        Just("jti"),
        Just("jtis"),
        Just("metadata"),
        Just("reason"),
        Just("expiresAt"),
        Just("x"),
    ];
    leaf.prop_recursive(3, 24, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            proptest::collection::vec((name.clone(), inner), 0..6).prop_map(|fields| Value::Object(
                fields
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value))
                    .collect()
            )),
        ]
    })
}

proptest! {
    /// Whatever its data: a revocation either does something, or is an unreadable one. It is never lost.
    #[test]
    fn no_revocation_is_lost(data in any_json()) {
        match revoked(data) {
            Ok(event) => {
                let effect = &event.effect;
                prop_assert!(effect.revoke_agent || effect.session_ended || !effect.tokens.is_empty());
                prop_assert!(event.agent.is_some() || !effect.tokens.is_empty());
                prop_assert!(!(effect.revoke_agent && effect.session_ended));
            }
            Err(error) => prop_assert!(matches!(error, EventError::UnreadableRevocation(_))),
        }
    }
}
