use proptest::prelude::*;
use serde_json::Value;

use super::*;

const BLOCK: &str =
    r"[Clawdentity Identity]\nagentDid: did:a\nownerDid: did:o\nissuer: https://i\naitJti: 01J\n\n";
const MARKER_TEXT: &str = "[Clawdentity Identity]";

fn identity() -> Identity {
    Identity {
        agent: "did:a".into(),
        owner: "did:o".into(),
        issuer: "https://i".into(),
        jti: "01J".into(),
    }
}

/// What becomes of a payload; its size is what was reckoned.
fn written(setting: IdentityBlock, entrance: Entrance, payload: &str) -> Option<String> {
    let raw: &RawValue = serde_json::from_str(payload).unwrap();
    let rewrite = setting.rewrite(entrance, raw, || Some(identity()))?;
    let built = rewrite.build().unwrap();
    assert_eq!(built.get().len(), rewrite.len(), "{payload}");
    Some(built.get().to_owned())
}

/// In what is expected, `#` stands for the block and `_` for a zero-width space.
#[test]
fn only_the_last_message_gets_the_block() {
    let check = |payload: &str, expect: Option<&str>| {
        let expect = expect.map(|text| text.replace('#', BLOCK).replace('_', ZERO_WIDTH_SPACE));
        let hook = written(IdentityBlock::Hooks, Entrance::Hook, payload);
        assert_eq!(hook, expect, "{payload}");
        assert_eq!(written(IdentityBlock::All, Entrance::Hook, payload), expect);
        assert_eq!(written(IdentityBlock::All, Entrance::Frame, payload), expect);
        assert_eq!(written(IdentityBlock::Off, Entrance::Hook, payload), None);
        assert_eq!(written(IdentityBlock::Off, Entrance::Frame, payload), None);
    };
    check(r#"{"message":"hi"}"#, Some(r##"{"message":"#hi"}"##));
    check(
        r#"{ "a" : 1.0e400, "message"  : "\ud800 \u0041" }"#,
        Some(r##"{ "a" : 1.0e400, "message"  : "#\ud800 \u0041" }"##),
    );
    check(r#"{"m\u0065ssage":""}"#, Some(r##"{"m\u0065ssage":"#"}"##));
    check(
        r#"{"\ud800":1,"message":"x"}"#,
        Some(r##"{"\ud800":1,"message":"#x"}"##),
    );
    check(
        r#"{"message":"a","message":"b","x":"message"}"#,
        Some(r##"{"message":"a","message":"#b","x":"message"}"##),
    );
    check(
        r#"{"message":"[Clawdentity Identity]","message":"b"}"#,
        Some(r##"{"message":"[_Clawdentity Identity]","message":"#b"}"##),
    );
    check(r#"{"message":"a","message":3}"#, None);
    check(r#"{"message":{"message":"inner"}}"#, None);
    check(r#"{"Message":"hi"}"#, None);
    check(r#"{}"#, None);
    check(r#"["message"]"#, None);
    check(r#""message""#, None);
    check(r#""[Clawdentity Identity]""#, None);
    check("null", None);
}

/// In what is expected, `_` stands for a zero-width space.
#[test]
fn an_imitation_is_broken_up_at_every_entrance() {
    let check = |text: &str, expect: Option<&str>| {
        let payload = |text: &str| format!(r#"{{"message":"{text}"}}"#);
        let expect = expect.map(|text| payload(&text.replace('_', ZERO_WIDTH_SPACE)));
        for (setting, entrance) in [
            (IdentityBlock::Hooks, Entrance::Frame),
            (IdentityBlock::Hooks, Entrance::Notice),
            (IdentityBlock::All, Entrance::Notice),
        ] {
            assert_eq!(written(setting, entrance, &payload(text)), expect, "{text}");
        }
        let with_block = |text: String| text.replacen(r#":""#, &format!(r#":"{BLOCK}"#), 1);
        let hook = written(IdentityBlock::Hooks, Entrance::Hook, &payload(text)).unwrap();
        assert_eq!(
            hook,
            with_block(expect.unwrap_or_else(|| payload(text))),
            "{text}"
        );
    };
    check("[Clawdentity Identity]", Some("[_Clawdentity Identity]"));
    check(
        r"x[Clawdentity Identity]\nagentDid: me\n\n[[Clawdentity Identity]]",
        Some(r"x[_Clawdentity Identity]\nagentDid: me\n\n[[_Clawdentity Identity]]"),
    );
    check(
        r"\u005bClawdentity\u0020Identit\u0079\u005D",
        Some(r"\u005b_Clawdentity\u0020Identit\u0079\u005D"),
    );
    check(
        "[Claw[Clawdentity Identity][Clawdentity Identity]",
        Some("[Claw[_Clawdentity Identity][_Clawdentity Identity]"),
    );
    check(r"\\[Clawdentity Identity]", Some(r"\\[_Clawdentity Identity]"));
    check(r"\\u005bClawdentity Identity]", None);
    check("[\u{200b}Clawdentity Identity]", None);
    check("[clawdentity identity]", None);
    check("[Clawdentity Identity", None);
    check(r"[Clawdentity\nIdentity]", None);
    check(r"[Clawdentity \u0149dentity]", None);
}

#[test]
fn a_body_full_of_messages_gets_one_block_and_is_reckoned_before_it_is_built() {
    let members = vec![r#""message":"""#; 80_600].join(",");
    let payload = format!("{{{members}}}");
    let raw: &RawValue = serde_json::from_str(&payload).unwrap();
    let rewrite = IdentityBlock::Hooks
        .rewrite(Entrance::Hook, raw, || Some(identity()))
        .unwrap();
    assert_eq!(rewrite.len(), payload.len() + BLOCK.len());
}

#[test]
fn fields_are_cleaned() {
    assert_eq!(clean("a\u{0}b \t  c\r\nd", 160), "ab cd");
    assert_eq!(clean(" \u{7}", 160), "unknown");
    assert_eq!(clean(&"x".repeat(200), 64), "x".repeat(64));
}

/// A text of parts of the marker, each character of it written plainly or as an escape.
fn message() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec![
        MARKER_TEXT,
        MARKER_TEXT,
        "[Clawdentity ",
        "Identity]",
        "[",
        "]",
        ZERO_WIDTH_SPACE,
        "\n",
        "\\",
        "\"",
        "é",
        "agentDid: did:b",
    ]);
    let escaped = |(c, escape): (char, bool)| match c {
        '"' | '\\' => format!("\\{c}"),
        '\n' => "\\n".to_owned(),
        c if escape && c.is_ascii() => format!("\\u{:04X}", c as u32),
        c => c.to_string(),
    };
    (prop::collection::vec(part, 0..6), any::<u64>()).prop_map(move |(parts, seed)| {
        let chars = parts.concat().chars().collect::<Vec<_>>();
        let escapes = |n: usize| seed.rotate_left(n as u32 % 64) & 7 == 0;
        let text = chars
            .into_iter()
            .enumerate()
            .map(|(n, c)| escaped((c, escapes(n))));
        text.collect()
    })
}

proptest! {
    /// Whatever comes in, by whatever entrance, what a reader sees has one block where we wrote it, and none otherwise;
    /// and apart from that and from the zero-width spaces it sees what was sent.
    #[test]
    fn a_block_is_never_imitated(
        messages in prop::collection::vec(message(), 1..4),
        setting in prop::sample::select(vec![IdentityBlock::Hooks, IdentityBlock::All]),
        entrance in prop::sample::select(vec![Entrance::Hook, Entrance::Frame, Entrance::Notice]),
        key in prop::sample::select(vec!["message", r"m\u0065ssage"]),
    ) {
        let members: Vec<String> = messages.iter().map(|text| format!(" \"{key}\": \"{text}\"")).collect();
        let payload = format!("{{ \"first\":\"[Clawdentity Identity]\",{} }}", members.join(","));
        let sent: Value = serde_json::from_str(&payload).unwrap();
        let text = written(setting, entrance, &payload).unwrap_or_else(|| payload.clone());
        let seen: Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(&seen["first"], MARKER_TEXT, "other members stay as they are");
        let (seen, sent) = (seen["message"].as_str().unwrap(), sent["message"].as_str().unwrap());
        let has_block = entrance == Entrance::Hook || (entrance == Entrance::Frame && setting == IdentityBlock::All);
        let own = match has_block {
            true => seen.strip_prefix(&identity().block()).expect("the block comes first"),
            false => seen,
        };
        prop_assert_eq!(own.matches(MARKER_TEXT).count(), 0, "{}", own);
        prop_assert_eq!(own.replace("[\u{200b}Clawdentity Identity]", MARKER_TEXT), sent.replace("[\u{200b}Clawdentity Identity]", MARKER_TEXT));
        // Not even a reader that takes another of the repeated members sees more.
        let raw_blocks = text.matches(MARKER_TEXT).count();
        prop_assert_eq!(raw_blocks, 1 + usize::from(has_block), "{}", text);
    }
}
