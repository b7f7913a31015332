//! The identity block that is put before a `message` where the operator wants it (docs/wire.md §5.4).
//!
//! Only the text of the member `message` changes, by a prefix inside its quotes. Every other byte of the payload
//! stays the sender's own, whatever numbers, escapes or repeated keys it has.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Who sends the message, all of it proven.
#[derive(Debug, Clone, Copy)]
pub struct Identity<'a> {
    /// The agent's DID.
    pub agent: &'a str,
    /// Its owner's.
    pub owner: &'a str,
    /// Who issued its token.
    pub issuer: &'a str,
    /// That token's id.
    pub jti: &'a str,
}

/// The payload with the block before its `message`; `None` where there is no string of that name to put it before.
pub fn inject(payload: &RawValue, identity: Identity<'_>) -> Option<Box<RawValue>> {
    let members: Members<'_> = serde_json::from_str(payload.get()).ok()?;
    let is_message = |(key, value): &(&RawValue, &RawValue)| {
        value.get().starts_with('"')
            && serde_json::from_str::<String>(key.get()).is_ok_and(|key| key == "message")
    };
    if !members.0.iter().any(is_message) {
        return None;
    }
    let block = serde_json::to_string(&block(identity)).ok()?;
    let quoted = block.strip_suffix('"')?;
    let mut text = String::with_capacity(payload.get().len() + block.len());
    for member in &members.0 {
        let (key, value) = member;
        text.push(if text.is_empty() { '{' } else { ',' });
        text.push_str(key.get());
        text.push(':');
        if is_message(member) {
            text.push_str(quoted);
            text.push_str(value.get().get(1..)?);
        } else {
            text.push_str(value.get());
        }
    }
    text.push('}');
    RawValue::from_string(text).ok()
}

fn block(identity: Identity<'_>) -> String {
    format!(
        "[Clawdentity Identity]\nagentDid: {}\nownerDid: {}\nissuer: {}\naitJti: {}\n\n",
        clean(identity.agent, 160),
        clean(identity.owner, 160),
        clean(identity.issuer, 200),
        clean(identity.jti, 64),
    )
}

/// One line of it: control characters dropped, white space folded, cut, `unknown` when empty.
fn clean(text: &str, max_chars: usize) -> String {
    let visible: String = text.chars().filter(|c| !c.is_control()).collect();
    let folded = visible.split_whitespace().collect::<Vec<_>>().join(" ");
    if folded.is_empty() {
        "unknown".to_owned()
    } else {
        folded.chars().take(max_chars).collect()
    }
}

/// A JSON object's members, in order, as they are written. Keys are taken raw: one that is no Unicode is still a key.
struct Members<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity<'static> = Identity {
        agent: "did:a",
        owner: "did:o",
        issuer: "https://i",
        jti: "01J",
    };
    const BLOCK: &str =
        r"[Clawdentity Identity]\nagentDid: did:a\nownerDid: did:o\nissuer: https://i\naitJti: 01J\n\n";

    #[test]
    fn only_the_message_changes() {
        let check = |payload: &str, expect: Option<&str>| {
            let raw: Box<RawValue> = serde_json::from_str(payload).unwrap();
            let injected = inject(&raw, IDENTITY).map(|raw| raw.get().to_owned());
            assert_eq!(injected, expect.map(|text| text.replace('#', BLOCK)), "{payload}");
        };
        check(r#"{"message":"hi"}"#, Some(r##"{"message":"#hi"}"##));
        check(
            r#"{ "a" : 1.0e400, "message" : "\ud800 \u0041" }"#,
            Some(r##"{"a":1.0e400,"message":"#\ud800 \u0041"}"##),
        );
        check(r#"{"m\u0065ssage":""}"#, Some(r##"{"m\u0065ssage":"#"}"##));
        check(
            r#"{"\ud800":1,"message":"x"}"#,
            Some(r##"{"\ud800":1,"message":"#x"}"##),
        );
        check(
            r#"{"message":"a","message":"b","message":3}"#,
            Some(r##"{"message":"#a","message":"#b","message":3}"##),
        );
        check(r#"{"message":{"message":"inner"}}"#, None);
        check(r#"{"Message":"hi"}"#, None);
        check(r#"{}"#, None);
        check(r#"["message"]"#, None);
        check(r#""message""#, None);
        check("null", None);
    }

    #[test]
    fn fields_are_cleaned() {
        assert_eq!(clean("a\u{0}b \t  c\r\nd", 160), "ab cd");
        assert_eq!(clean(" \u{7}", 160), "unknown");
        assert_eq!(clean(&"x".repeat(200), 64), "x".repeat(64));
    }
}
