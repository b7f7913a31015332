//! An agent's generation: a random number that is replaced whenever something cached about the agent may have
//! changed.
//!
//! A cached decision that was made under another generation does not count (docs/design.md §3.4). The number is
//! random and not counted up, so that an object which lost its storage starts with a number that nobody has seen, and
//! nothing cached before can pass for current.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Random 64 bits; as text, 16 lower-case hexadecimal digits (a JSON number would lose some).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Generation(u64);

impl Generation {
    /// From 8 random bytes.
    pub fn from_random(bytes: [u8; 8]) -> Self {
        Self(u64::from_be_bytes(bytes))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The text is not 16 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a generation is 16 lower-case hexadecimal digits")]
pub struct GenerationError;

impl FromStr for Generation {
    type Err = GenerationError;

    fn from_str(text: &str) -> Result<Self, GenerationError> {
        let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() != 16 || !text.bytes().all(lower_hex) {
            return Err(GenerationError);
        }
        u64::from_str_radix(text, 16)
            .map(Self)
            .map_err(|_| GenerationError)
    }
}

impl Serialize for Generation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Generation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_is_pinned() {
        let generation = Generation::from_random([0, 0, 0, 0, 0, 0, 0xab, 0x01]);
        assert_eq!(generation.to_string(), "000000000000ab01");
        assert_eq!("000000000000ab01".parse(), Ok(generation));
        assert_eq!(
            serde_json::to_string(&generation).unwrap(),
            r#""000000000000ab01""#
        );
        for bad in [
            "",
            "ab01",
            "000000000000AB01",
            "+00000000000ab01",
            "000000000000ab01 ",
        ] {
            assert_eq!(bad.parse::<Generation>(), Err(GenerationError), "{bad:?}");
        }
    }
}
