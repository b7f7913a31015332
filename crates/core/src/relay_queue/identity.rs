//! The identity block that is put before a `message` where the operator wants it, and that no sender can imitate
//! (docs/wire.md §5.4).
//!
//! - **Only the text of the top-level member `message` changes**: the last one gets the block where the member is
//!   repeated, because that is the one that JSON readers take. Every other byte of the payload stays the sender's own,
//!   whatever white space, numbers, escapes or repeated keys it has.
//! - **No sender can imitate the block.** Wherever the setting is on, at every entrance, a zero-width space is put
//!   after the bracket of each `[Clawdentity Identity]` in the sender's text, however that is escaped.
//! - **The size is known before anything is built** (`Rewrite::len`), so that a payload that grows over its limit costs
//!   no memory.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// What the block begins with. A sender's own text must not contain it.
const MARKER: &[u8] = b"[Clawdentity Identity]";
/// Breaks up an imitation.
const ZERO_WIDTH_SPACE: &str = "\u{200b}";

/// The operator's choice: `INJECT_IDENTITY_INTO_MESSAGE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdentityBlock {
    /// Messages stay as they are.
    Off,
    /// The messages of hooks get a block.
    Hooks,
    /// The messages of hooks and of `enqueue` frames get a block.
    All,
}

/// How a message came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entrance {
    /// A request to the hook.
    Hook,
    /// An `enqueue` frame.
    Frame,
    /// A notice of the system. Parts of its text are names that users have chosen.
    Notice,
}

impl IdentityBlock {
    /// How the payload is to be changed; `None` where it stays as it is. `identity` is asked for only where a block is
    /// wanted.
    pub fn rewrite<'a>(
        self,
        entrance: Entrance,
        payload: &'a RawValue,
        identity: impl FnOnce() -> Option<Identity>,
    ) -> Option<Rewrite<'a>> {
        let block = match (self, entrance) {
            (Self::Off, _) => return None,
            (Self::Hooks | Self::All, Entrance::Hook) | (Self::All, Entrance::Frame) => identity(),
            (Self::Hooks, Entrance::Frame) | (_, Entrance::Notice) => None,
        };
        let rewrite = Rewrite {
            text: payload.get(),
            block: block.map(|identity| identity.quoted()).unwrap_or_default(),
            last: last_message(payload.get())?,
        };
        (rewrite.len() != rewrite.text.len()).then_some(rewrite)
    }
}

/// Who sends the message, all of it proven.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The agent's DID.
    pub agent: String,
    /// Its owner's.
    pub owner: String,
    /// Who issued its token.
    pub issuer: String,
    /// That token's id.
    pub jti: String,
}

impl Identity {
    /// The block as it stands within the quotes of a JSON string.
    fn quoted(&self) -> String {
        let quoted = serde_json::to_string(&self.block()).unwrap_or_default();
        quoted.trim_matches('"').to_owned()
    }

    fn block(&self) -> String {
        format!(
            "[Clawdentity Identity]\nagentDid: {}\nownerDid: {}\nissuer: {}\naitJti: {}\n\n",
            clean(&self.agent, 160),
            clean(&self.owner, 160),
            clean(&self.issuer, 200),
            clean(&self.jti, 64),
        )
    }
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

/// How a payload will be changed.
#[derive(Debug)]
pub struct Rewrite<'a> {
    text: &'a str,
    /// Goes before the last `message` if that is a string.
    block: String,
    /// Where the value of the last `message` is.
    last: Range<usize>,
}

impl Rewrite<'_> {
    /// How many bytes the changed payload has.
    #[allow(clippy::len_without_is_empty)] // it never is
    pub fn len(&self) -> usize {
        let mut len = self.text.len();
        self.for_each_insertion(|_, inserted| len = len.saturating_add(inserted.len()));
        len
    }

    /// The changed payload. It is always JSON, so `None` is never returned.
    pub fn build(&self) -> Option<Box<RawValue>> {
        let mut text = String::with_capacity(self.len());
        let mut copied = 0;
        self.for_each_insertion(|at, inserted| {
            text.push_str(self.text.get(copied..at).unwrap_or_default());
            text.push_str(inserted);
            copied = at;
        });
        text.push_str(self.text.get(copied..).unwrap_or_default());
        RawValue::from_string(text).ok()
    }

    /// What is put into the payload, in order, and before which byte.
    fn for_each_insertion(&self, mut insert: impl FnMut(usize, &str)) {
        for_each_message(self.text, |value| {
            let Some(quoted) = self
                .text
                .get(value.clone())
                .and_then(|text| text.strip_prefix('"'))
            else {
                return;
            };
            let start = value.start + 1;
            if value == self.last && !self.block.is_empty() {
                insert(start, &self.block);
            }
            for_each_imitation(quoted, |after_bracket| {
                insert(start + after_bracket, ZERO_WIDTH_SPACE)
            });
        });
    }
}

/// Where the value of the last top-level `message` is.
fn last_message(payload: &str) -> Option<Range<usize>> {
    let mut last = None;
    for_each_message(payload, |value| last = Some(value));
    last
}

/// Where the values of the top-level members named `message` are, in order. Keys are taken raw, because one that is no
/// Unicode is still a key.
fn for_each_message(payload: &str, found: impl FnMut(Range<usize>)) {
    struct Messages<'a, F> {
        payload: &'a str,
        found: F,
    }
    impl<'de, F: FnMut(Range<usize>)> Visitor<'de> for Messages<'_, F> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
            while let Some((key, value)) = map.next_entry::<&RawValue, &RawValue>()? {
                if is_message(key.get()) {
                    let value = value.get();
                    // Both borrow from the payload.
                    let start = value.as_ptr().addr() - self.payload.as_ptr().addr();
                    (self.found)(start..start + value.len());
                }
            }
            Ok(())
        }
    }
    // Whatever is no object has no members.
    let mut reader = serde_json::Deserializer::from_str(payload);
    let _ = reader.deserialize_map(Messages { payload, found });
}

fn is_message(quoted: &str) -> bool {
    quoted == r#""message""#
        || quoted.contains('\\') && serde_json::from_str::<String>(quoted).is_ok_and(|key| key == "message")
}

/// Finds each `MARKER` in a JSON string, whose text this is from behind its first quote, and tells where its bracket ends.
fn for_each_imitation(quoted: &str, mut found: impl FnMut(usize)) {
    let mut rest = quoted.as_bytes();
    let mut matched = 0;
    let mut after_bracket = 0;
    while !rest.is_empty() {
        let (unit, after) = first_unit(rest);
        rest = after;
        if unit == Some(b'[') {
            matched = 1;
            after_bracket = quoted.len() - rest.len();
        } else if matched > 0 && unit.as_ref() == MARKER.get(matched) {
            matched += 1;
            if matched == MARKER.len() {
                found(after_bracket);
                matched = 0;
            }
        } else {
            matched = 0;
        }
    }
}

/// The first character of a part of a JSON string, where it is ASCII and may be in `MARKER`, and what follows it.
fn first_unit(text: &[u8]) -> (Option<u8>, &[u8]) {
    match text {
        [b'\\', b'u', b'0', b'0', high, low, after @ ..] => {
            let digits = [*high, *low];
            let code = std::str::from_utf8(&digits)
                .ok()
                .and_then(|digits| u8::from_str_radix(digits, 16).ok());
            (code, after)
        }
        [b'\\', _, after @ ..] => (None, after),
        [byte, after @ ..] => (Some(*byte), after),
        [] => (None, text),
    }
}

#[cfg(test)]
mod tests;
