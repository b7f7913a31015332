//! What no strict reader can parse is refused at the door (docs/wire.md §5): connectors drop their socket on a message that
//! they cannot read, and with it everybody else's.
//!
//! `check` looks at JSON that a reader of ours has already found well-formed and finds what such a reader lets pass in
//! text that it does not take apart: nesting over `MAX_DEPTH`, a lone surrogate in a string or a key, and a number that
//! no double holds. It reads the bytes once, copies nothing and keeps nothing but the depth.

use serde_json::value::RawValue;

/// How deep arrays and objects may lie in each other.
pub const MAX_DEPTH: usize = 64;
/// A number without an exponent that is shorter than this is below 1e300.
const SURELY_FINITE_CHARS: usize = 300;

/// Why a payload is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.reason())]
pub enum PayloadError {
    /// Not JSON, or not Unicode.
    NotJson,
    /// It begins with a byte order mark (RFC 8259 §8.1).
    ByteOrderMark,
    /// Nested more than `MAX_DEPTH` deep.
    TooDeep,
    /// Half of a surrogate pair without the other, in a string or in a key.
    LoneSurrogate,
    /// A number outside a double's range.
    NumberOutOfRange,
}

impl PayloadError {
    /// What to tell the sender. It repeats nothing of the payload.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotJson => "the payload is not JSON",
            Self::ByteOrderMark => "a byte order mark stands before the payload",
            Self::TooDeep => "the payload is nested more than 64 deep",
            Self::LoneSurrogate => "the payload has a lone surrogate",
            Self::NumberOutOfRange => "the payload has a number outside a double's range",
        }
    }
}

/// A body as a payload: any JSON value that a strict reader takes, as it is written.
///
/// # Errors
/// As `PayloadError` lists them.
pub fn parse(body: &[u8]) -> Result<&RawValue, PayloadError> {
    if body.starts_with("\u{feff}".as_bytes()) {
        return Err(PayloadError::ByteOrderMark);
    }
    let payload: &RawValue = serde_json::from_slice(body).map_err(|_| PayloadError::NotJson)?;
    check(payload)?;
    Ok(payload)
}

/// Whether a strict reader takes this value.
///
/// # Errors
/// As `PayloadError` lists them.
pub fn check(payload: &RawValue) -> Result<(), PayloadError> {
    let mut rest = payload.get().as_bytes();
    let mut depth = 0_usize;
    while let Some((byte, after)) = rest.split_first() {
        let whole = std::mem::replace(&mut rest, after);
        match byte {
            b'{' | b'[' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(PayloadError::TooDeep);
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => rest = after_string(after)?,
            b'-' | b'0'..=b'9' => rest = after_number(whole)?,
            _ => {}
        }
    }
    Ok(())
}

/// What follows a string whose opening quote was just read.
fn after_string(mut rest: &[u8]) -> Result<&[u8], PayloadError> {
    const LONE: PayloadError = PayloadError::LoneSurrogate;
    loop {
        match rest {
            [b'"', after @ ..] => return Ok(after),
            [b'\\', b'u', after @ ..] => {
                let (unit, after) = code_unit(after)?;
                rest = after;
                match unit {
                    0xD800..0xDC00 => {
                        let low = after.strip_prefix(br"\u").ok_or(LONE)?;
                        let (low, after) = code_unit(low)?;
                        if !(0xDC00..0xE000).contains(&low) {
                            return Err(LONE);
                        }
                        rest = after;
                    }
                    0xDC00..0xE000 => return Err(LONE),
                    _ => {}
                }
            }
            [b'\\', _, after @ ..] | [_, after @ ..] => rest = after,
            [] => return Err(PayloadError::NotJson),
        }
    }
}

fn code_unit(text: &[u8]) -> Result<(u16, &[u8]), PayloadError> {
    let (digits, after) = text.split_at_checked(4).ok_or(PayloadError::NotJson)?;
    let digits = std::str::from_utf8(digits).map_err(|_| PayloadError::NotJson)?;
    let unit = u16::from_str_radix(digits, 16).map_err(|_| PayloadError::NotJson)?;
    Ok((unit, after))
}

/// What follows a number that begins here.
fn after_number(text: &[u8]) -> Result<&[u8], PayloadError> {
    let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
    let len = text.iter().position(|byte| !is_part(byte)).unwrap_or(text.len());
    let (number, after) = text.split_at_checked(len).ok_or(PayloadError::NotJson)?;
    if len < SURELY_FINITE_CHARS && !number.iter().any(|byte| matches!(byte, b'e' | b'E')) {
        return Ok(after);
    }
    let number = std::str::from_utf8(number).map_err(|_| PayloadError::NotJson)?;
    let value: f64 = number.parse().map_err(|_| PayloadError::NotJson)?;
    if value.is_finite() {
        Ok(after)
    } else {
        Err(PayloadError::NumberOutOfRange)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn nested(depth: usize) -> String {
        format!("{}1{}", "[".repeat(depth), "]".repeat(depth))
    }

    #[test]
    fn what_no_strict_reader_takes_is_refused() {
        use PayloadError::{ByteOrderMark, LoneSurrogate, NotJson, NumberOutOfRange, TooDeep};
        let digits = |count: usize| "9".repeat(count);
        let table: &[(&str, Result<(), PayloadError>)] = &[
            (r#"{"message":"hi","n":[1,-2.5,1e10,null,true]}"#, Ok(())),
            ("1", Ok(())),
            (" null ", Ok(())),
            (r#""""#, Ok(())),
            (&nested(64), Ok(())),
            (&nested(65), Err(TooDeep)),
            (&nested(200_000), Err(TooDeep)),
            (&format!("{{\"a\":{}}}", nested(63)), Ok(())),
            (&format!("{{\"a\":{}}}", nested(64)), Err(TooDeep)),
            (&format!("[{},{}]", nested(63), nested(63)), Ok(())),
            (&format!(r#""{}""#, "[{".repeat(100)), Ok(())),
            (r#"{"[[[[\"[[":"]]"}"#, Ok(())),
            (r#""\ud83d\ude00""#, Ok(())),
            (r#""\uD83D\uDE00 \u00e9""#, Ok(())),
            (r#"{"message":"x \ud83d"}"#, Err(LoneSurrogate)),
            (r#"{"message":"\ud83d x"}"#, Err(LoneSurrogate)),
            (r#""\ude00""#, Err(LoneSurrogate)),
            (r#""\ud83d\ud83d\ude00""#, Err(LoneSurrogate)),
            (r#""\ud83d\n\ude00""#, Err(LoneSurrogate)),
            (r#""\ud83d\\ude00""#, Err(LoneSurrogate)),
            (r#"{"\ud83d":1}"#, Err(LoneSurrogate)),
            (r#"{"a":{"b":["\udfff"]}}"#, Err(LoneSurrogate)),
            (r#""\\ud83d""#, Ok(())),
            (r#""\\\ud83d""#, Err(LoneSurrogate)),
            (r#"{"n":1e400}"#, Err(NumberOutOfRange)),
            (r#"[-1E+309]"#, Err(NumberOutOfRange)),
            ("1e308", Ok(())),
            ("1.7976931348623157e308", Ok(())),
            ("1e-400", Ok(())),
            ("0e999999999999", Ok(())),
            (r#""1e400""#, Ok(())),
            (&digits(309), Err(NumberOutOfRange)),
            (&digits(308), Ok(())),
            (&format!("-{}", digits(309)), Err(NumberOutOfRange)),
            (&format!("{}.5", digits(299)), Ok(())),
            (&format!("0.{}", digits(5000)), Ok(())),
            ("\u{feff}{}", Err(ByteOrderMark)),
            ("", Err(NotJson)),
            ("{", Err(NotJson)),
            ("NaN", Err(NotJson)),
            ("01", Err(NotJson)),
            ("{} {}", Err(NotJson)),
            (r#""\ud83""#, Err(NotJson)),
        ];
        for (text, expect) in table {
            let shown: String = text.chars().take(80).collect();
            assert_eq!(parse(text.as_bytes()).map(|_| ()), *expect, "{shown}");
        }
        assert_eq!(parse(b"\"\xff\"").map(|_| ()), Err(NotJson));
    }

    /// Any JSON, out of the tokens that matter.
    fn json() -> impl Strategy<Value = String> {
        let text = prop::collection::vec(
            prop::sample::select(vec![
                "a",
                "[",
                "}",
                r"\\",
                "\\\"",
                r"\ud83d",
                r"\ude00",
                r"\u005b",
                r"\n",
                "1e400",
                "\u{1f600}",
            ]),
            0..6,
        );
        let string = text.prop_map(|parts| format!("\"{}\"", parts.concat()));
        let number = prop::sample::select(vec![
            "0",
            "-1.5",
            "1e308",
            "1e309",
            "-1e400",
            "1e-999",
            "123456789012345678901",
        ]);
        let leaf = prop_oneof![
            string.clone(),
            number.prop_map(str::to_owned),
            Just("null".to_owned())
        ];
        leaf.prop_recursive(4, 24, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4)
                    .prop_map(|items| format!("[{}]", items.join(", "))),
                prop::collection::vec((string.clone(), inner), 0..4).prop_map(|members| {
                    let members: Vec<String> = members
                        .iter()
                        .map(|(key, value)| format!("{key}:{value}"))
                        .collect();
                    format!("{{ {} }}", members.join(","))
                }),
            ]
        })
    }

    proptest! {
        /// `Value` is such a strict reader, but for depth.
        #[test]
        fn it_takes_what_a_strict_reader_takes(text in json()) {
            let strict = serde_json::from_str::<Value>(&text).is_ok();
            prop_assert_eq!(parse(text.as_bytes()).is_ok(), strict, "{}", text);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..60), text in "[\\[{\"\\\\ud83e9.:,}-]{0,60}") {
            let _ = (parse(&bytes).is_ok(), parse(text.as_bytes()).is_ok());
        }
    }
}
