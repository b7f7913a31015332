//! What a message of a dead-letter queue says about itself, read leniently, for the person who has to deal with it.
//!
//! Nothing here decides anything: a message that is retried is parsed as strictly as every other.

use serde_json::Value;

/// The longest text that is kept of a message's type or subject.
const MAX_SHOWN_CHARS: usize = 200;
/// A retried revocation is told apart from others by this and the message's id.
pub const AUTH_REVOKED: &str = "agent.auth.revoked";
const SUBJECT_FIELDS: [&str; 6] = [
    "agentDid",
    "agentId",
    "recipientAgentDid",
    "initiatorAgentDid",
    "senderAgentDid",
    "jti",
];

/// What is shown of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// Its `type`.
    pub kind: Option<String>,
    /// The agent or token that it is about.
    pub subject: Option<String>,
    /// It is, or may be, a revocation that was not applied.
    pub revocation: bool,
}

/// Describes a message. One that is not a JSON object says nothing about itself.
pub fn describe(body: &str) -> Description {
    let Ok(Value::Object(message)) = serde_json::from_str::<Value>(body) else {
        // A revocation that was cut short is still a revocation to whoever sent it.
        return Description {
            revocation: body.contains(AUTH_REVOKED),
            ..Description::default()
        };
    };
    let kind = message.get("type").and_then(Value::as_str);
    let data = message.get("data").and_then(Value::as_object);
    let metadata = data
        .and_then(|data| data.get("metadata"))
        .and_then(Value::as_object);
    let places = [data, metadata, Some(&message)];
    let subject = places.into_iter().flatten().find_map(|place| {
        SUBJECT_FIELDS
            .iter()
            .find_map(|name| place.get(*name).and_then(Value::as_str))
    });
    Description {
        kind: kind.map(shown),
        subject: subject.map(shown),
        revocation: kind == Some(AUTH_REVOKED),
    }
}

fn shown(text: &str) -> String {
    text.chars()
        .filter(|each| !each.is_control())
        .take(MAX_SHOWN_CHARS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_described_by_what_can_be_read_of_it() {
        let long = format!(r#"{{"type":"{}"}}"#, "x".repeat(1000));
        let cut = "x".repeat(MAX_SHOWN_CHARS);
        for (body, kind, subject, revocation) in [
            (
                r#"{"type":"agent.auth.revoked","data":{"agentId":"A"}}"#,
                Some(AUTH_REVOKED),
                Some("A"),
                true,
            ),
            (
                r#"{"type":"agent.auth.revoked","data":{"metadata":{"agentDid":"d"}}}"#,
                Some(AUTH_REVOKED),
                Some("d"),
                true,
            ),
            (
                r#"{"type":"agent.auth.revoked","data":"x"}"#,
                Some(AUTH_REVOKED),
                None,
                true,
            ),
            (
                r#"{"type":"agent.auth.revoked","data":{"agentId":7,"jti":"j"}}"#,
                Some(AUTH_REVOKED),
                Some("j"),
                true,
            ),
            (
                r#"{"type":"pair.accepted","initiatorAgentDid":"i"}"#,
                Some("pair.accepted"),
                Some("i"),
                false,
            ),
            ("{\"type\":\"a\\u0007b\"}", Some("ab"), None, false),
            (r#"{"type":"agent.auth.revoked","data":{"#, None, None, true),
            ("null", None, None, false),
            ("[]", None, None, false),
            ("", None, None, false),
            (&long, Some(cut.as_str()), None, false),
        ] {
            let expect = Description {
                kind: kind.map(str::to_owned),
                subject: subject.map(str::to_owned),
                revocation,
            };
            assert_eq!(describe(body), expect, "{body}");
        }
    }
}
