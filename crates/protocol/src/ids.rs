//! Identifiers that are not DIDs: ULIDs, group ids, request ids and message ids (docs/wire.md §1).
//!
//! A value of one of these types has passed its parser, so it can be used as it is in a key, a row, a header or a log
//! line.

use std::fmt;

use super::text::{has_control, string_form, string_serde};

/// The longest message id: that of a `pair.accepted` delivery holds two DIDs.
pub const MAX_MESSAGE_ID_CHARS: usize = 1024;

const CROCKFORD: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Not an identifier of the form asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a {0}")]
pub struct IdError(&'static str);

/// A ULID: 26 upper-case Crockford characters, the first 0-7. No other spelling of the same number is accepted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ulid(u128);

impl Ulid {
    /// Its length as text.
    pub const LEN: usize = 26;

    /// Parses the 26 characters.
    ///
    /// # Errors
    /// Any other text: lower case, `I`, `L`, `O`, `U`, another length, a first character over 7.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        const ERROR: IdError = IdError("ULID");
        if text.len() != Self::LEN || !matches!(text.as_bytes().first(), Some(b'0'..=b'7')) {
            return Err(ERROR);
        }
        let mut value = 0_u128;
        for byte in text.bytes() {
            value = value << 5 | crockford_value(byte).ok_or(ERROR)?;
        }
        Ok(Self(value))
    }

    /// A new ULID of a time and 80 random bits. What is past its 48 bits of milliseconds is cut off.
    pub fn from_parts(now_ms: u64, random: [u8; 10]) -> Self {
        let mut low = [0_u8; 16];
        low[6..].copy_from_slice(&random);
        Self(u128::from(now_ms & 0xffff_ffff_ffff) << 80 | u128::from_be_bytes(low))
    }

    /// The ULID with this number: the inverse of `as_u128`. Every 128-bit number is one.
    pub const fn from_u128(value: u128) -> Self {
        Self(value)
    }

    /// Its 128 bits: they sort as the text does.
    pub const fn as_u128(self) -> u128 {
        self.0
    }

    /// The time in it, Unix milliseconds. Its maker chose it, so it cannot be relied on.
    pub const fn timestamp_ms(self) -> u64 {
        (self.0 >> 80) as u64
    }
}

fn crockford_value(byte: u8) -> Option<u128> {
    Some(u128::from(match byte {
        b'0'..=b'9' => byte - b'0',
        b'A'..=b'H' => byte - b'A' + 10,
        b'J' | b'K' => byte - b'J' + 18,
        b'M' | b'N' => byte - b'M' + 20,
        b'P'..=b'T' => byte - b'P' + 22,
        b'V'..=b'Z' => byte - b'V' + 27,
        _ => return None,
    }))
}

impl fmt::Display for Ulid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [b'0'; Self::LEN];
        let mut rest = self.0;
        for place in text.iter_mut().rev() {
            *place = CROCKFORD.get((rest & 31) as usize).copied().unwrap_or(b'0');
            rest >>= 5;
        }
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Ulid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

string_serde!(Ulid, "a ULID");

/// A group's id: `grp_<ULID>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(Ulid);

impl GroupId {
    const PREFIX: &'static str = "grp_";

    /// Parses `grp_<ULID>`.
    ///
    /// # Errors
    /// Any other text.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        const ERROR: IdError = IdError("group id");
        let ulid = text.strip_prefix(Self::PREFIX).ok_or(ERROR)?;
        Ulid::parse(ulid).map(Self).map_err(|_| ERROR)
    }

    /// The ULID in it.
    pub const fn ulid(self) -> Ulid {
        self.0
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", Self::PREFIX, self.0)
    }
}

impl fmt::Debug for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

string_serde!(GroupId, "a group id");

/// `x-request-id` (docs/wire.md §5): `^[A-Za-z0-9._:-]{8,128}$`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(String);

impl RequestId {
    /// Parses a caller's id.
    ///
    /// # Errors
    /// Any text that the pattern does not match.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let fits = (8..=128).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-'));
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(IdError("request id"))
        }
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<Ulid> for RequestId {
    fn from(ulid: Ulid) -> Self {
        Self(ulid.to_string())
    }
}

string_form!(RequestId, "a request id");

/// What a relay message is known by between its sender and its recipient: a hook's request id, an `enqueue` frame's
/// ULID or the id of an event's delivery (docs/wire.md §6 and §7). Trimmed, not blank, at most 1,024 characters, no control
/// characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(String);

impl MessageId {
    /// Parses and trims.
    ///
    /// # Errors
    /// Text that is blank, too long or has control characters.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let text = text.trim();
        if text.is_empty() || text.chars().nth(MAX_MESSAGE_ID_CHARS).is_some() || has_control(text) {
            return Err(IdError("message id"));
        }
        Ok(Self(text.to_owned()))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The ULID, if it is one: such an id can be a `deliver` frame's (docs/wire.md §6.3).
    pub fn as_ulid(&self) -> Option<Ulid> {
        Ulid::parse(&self.0).ok()
    }

    /// For ids that we build of parsed parts, which are short and clean already.
    pub(super) fn of_parts(text: String) -> Self {
        Self(text)
    }
}

impl From<RequestId> for MessageId {
    fn from(id: RequestId) -> Self {
        Self(id.0)
    }
}

impl From<Ulid> for MessageId {
    fn from(ulid: Ulid) -> Self {
        Self(ulid.to_string())
    }
}

string_form!(MessageId, "a message id");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SPEC: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";

    #[test]
    fn ulids() {
        let table = [
            (SPEC, true),
            ("00000000000000000000000000", true),
            ("7ZZZZZZZZZZZZZZZZZZZZZZZZZ", true),
            ("8ZZZZZZZZZZZZZZZZZZZZZZZZZ", false),
            ("Z1ARZ3NDEKTSV4RRFFQ69G5FAV", false),
            ("01arz3ndektsv4rrffq69g5fav", false),
            ("01ARZ3NDEKTSV4RRFFQ69G5FAI", false),
            ("01ARZ3NDEKTSV4RRFFQ69G5FAL", false),
            ("01ARZ3NDEKTSV4RRFFQ69G5FAO", false),
            ("01ARZ3NDEKTSV4RRFFQ69G5FAU", false),
            ("01ARZ3NDEKTSV4RRFFQ69G5FA", false),
            ("01ARZ3NDEKTSV4RRFFQ69G5FAVV", false),
            ("01ARZ3NDEKTSV4RRFFQ69G5FA ", false),
            ("01ARZ3NDEKTSV4RRFFQ69G5FA-", false),
            ("01ARZ3NDEKTSV4RRFFQ69G5Fé", false),
            ("", false),
        ];
        for (text, good) in table {
            let parsed = Ulid::parse(text);
            assert_eq!(parsed.is_ok(), good, "{text}");
            if let Ok(ulid) = parsed {
                assert_eq!(ulid.to_string(), text);
            }
        }
    }

    #[test]
    fn ulid_parts() {
        let ulid = Ulid::from_parts(1_469_918_176_385, [0xff; 10]);
        assert_eq!(ulid.to_string(), "01ARYZ6S41ZZZZZZZZZZZZZZZZ");
        assert_eq!(ulid.timestamp_ms(), 1_469_918_176_385);
        assert_eq!(
            Ulid::from_parts(u64::MAX, [0xff; 10]).to_string(),
            "7ZZZZZZZZZZZZZZZZZZZZZZZZZ"
        );
        assert_eq!(Ulid::from_parts(0, [0; 10]).as_u128(), 0);
        assert_eq!(Ulid::from_u128(ulid.as_u128()), ulid);
    }

    #[test]
    fn group_ids() {
        for (text, good) in [
            ("grp_01ARZ3NDEKTSV4RRFFQ69G5FAV", true),
            ("GRP_01ARZ3NDEKTSV4RRFFQ69G5FAV", false),
            ("grp_01arz3ndektsv4rrffq69g5fav", false),
            ("grp-01ARZ3NDEKTSV4RRFFQ69G5FAV", false),
            ("grp_grp_01ARZ3NDEKTSV4RRFFQ69G5FAV", false),
            (SPEC, false),
            ("grp_", false),
        ] {
            assert_eq!(
                GroupId::parse(text).map(|id| id.to_string()).ok(),
                good.then(|| text.to_owned()),
                "{text}"
            );
        }
    }

    #[test]
    fn request_ids() {
        let (longest, too_long) = ("x".repeat(128), "x".repeat(129));
        for (text, good) in [
            ("abcdefgh", true),
            ("a.B_c:d-9", true),
            (longest.as_str(), true),
            ("abcdefg", false),
            (too_long.as_str(), false),
            ("abcdefgh ", false),
            ("abcdefgh/", false),
            ("abcdéfgh", false),
            ("abcdefgh\n", false),
            ("", false),
        ] {
            assert_eq!(RequestId::parse(text).is_ok(), good, "{text}");
        }
    }

    #[test]
    fn message_ids() {
        let (longest, too_long) = ("é".repeat(1024), "é".repeat(1025));
        for (text, expect) in [
            ("  r-1 ", Some("r-1")),
            ("pair.accepted:a:b", Some("pair.accepted:a:b")),
            (longest.as_str(), Some(longest.as_str())),
            (too_long.as_str(), None),
            ("  ", None),
            ("", None),
            ("a\nb", None),
            ("a\u{85}b", None),
        ] {
            assert_eq!(
                MessageId::parse(text).ok().as_ref().map(MessageId::as_str),
                expect,
                "{text}"
            );
        }
        assert_eq!(MessageId::parse(SPEC).unwrap().as_ulid(), Ulid::parse(SPEC).ok());
        assert_eq!(MessageId::parse("r-1").unwrap().as_ulid(), None);
    }

    #[test]
    fn serde_is_parsing() {
        let ulid: Ulid = serde_json::from_str(&format!("\"{SPEC}\"")).unwrap();
        assert_eq!(serde_json::to_string(&ulid).unwrap(), format!("\"{SPEC}\""));
        for bad in [
            "\"01arz3ndektsv4rrffq69g5fav\"",
            "1",
            "null",
            "{}",
            "[\"01ARZ3NDEKTSV4RRFFQ69G5FAV\"]",
        ] {
            let error = serde_json::from_str::<Ulid>(bad).unwrap_err().to_string();
            assert!(
                !error.contains("01arz3"),
                "an error must not repeat its input: {error}"
            );
        }
        assert!(serde_json::from_str::<GroupId>("\"grp_\"").is_err());
        assert!(serde_json::from_str::<RequestId>("\"short\"").is_err());
        assert!(serde_json::from_str::<MessageId>("\" \"").is_err());
    }

    proptest! {
        #[test]
        fn ulid_round_trip(value: u128, other: u128) {
            let (a, b) = (Ulid(value), Ulid(other));
            prop_assert_eq!(Ulid::parse(&a.to_string()), Ok(a));
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            let _ = (Ulid::parse(&text), GroupId::parse(&text), RequestId::parse(&text));
            if let Ok(id) = MessageId::parse(&text) {
                prop_assert_eq!(MessageId::parse(id.as_str()), Ok(id));
            }
        }
    }
}
