//! A pair of agents, as an agent's object knows it.
//!
//! Every pair has a random id, made when it is confirmed: a removal names the id that it ends, so that it can never end
//! a pair that was made after it, and mail carries the id under which it was let in.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, de};

/// Bytes of the longest id.
const MAX_BYTES: usize = 64;
/// The id of a pair that was made before pairs had ids. It is enough that ids differ between the same two agents.
const UNNUMBERED: &str = "unnumbered";

/// The id of a pair: 1 to 64 characters of base64url.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct PairId(String);

/// The text is not an id of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the id of a pair is 1 to 64 characters of base64url")]
pub struct PairIdError;

impl PairId {
    /// From its text.
    ///
    /// # Errors
    /// It is not an id.
    pub fn parse(text: &str) -> Result<Self, PairIdError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if text.is_empty() || text.len() > MAX_BYTES || !text.bytes().all(allowed) {
            return Err(PairIdError);
        }
        Ok(Self(text.to_owned()))
    }

    /// The id of a pair that has none in the record.
    pub fn unnumbered() -> Self {
        Self(UNNUMBERED.to_owned())
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PairId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for PairId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_short_base64url_text() {
        for good in ["a", "AZaz09-_", UNNUMBERED, &"x".repeat(64)] {
            assert_eq!(PairId::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "a b", "a+b", "ä", "a\n", &"x".repeat(65)] {
            assert_eq!(PairId::parse(bad), Err(PairIdError), "{bad:?}");
        }
        assert_eq!(
            serde_json::to_string(&PairId::unnumbered()).unwrap(),
            "\"unnumbered\""
        );
    }
}
