//! A pair of agents, as an agent's object knows it.
//!
//! Every pair has a random id, made when it is confirmed: a removal names the id that it ends, so that it can never end
//! a pair that was made after it, and mail carries the id under which it was let in.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, de};

use clawdentity_protocol::did::AgentDid;

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

/// A pair as the record has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedPair {
    /// Its id.
    pub id: PairId,
    /// When it was confirmed, Unix milliseconds.
    pub made_at_ms: u64,
}

/// Whether an agent has a pair here at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Known {
    /// The record of its pairs could not be read yet.
    #[default]
    Unavailable,
    /// It has none.
    No,
    /// It has one or more.
    Yes,
}

/// Whether an agent is paired with another one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Paired {
    /// The record of its pairs could not be read yet.
    #[default]
    Unavailable,
    /// They are not, or the pair that was asked about has ended.
    No,
    /// They are, by this pair.
    Yes(PairId),
}

/// What an agent's object says of its peers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeersReply {
    /// Whether it has any.
    #[serde(default)]
    pub known: Known,
    /// Whether the agent that was named is one of them; none where nobody was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paired: Option<Paired>,
}

/// A pair that has ended here and of which the rest is not yet known to have been told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedPair {
    /// The other agent.
    pub peer: AgentDid,
    /// The pair.
    pub pair_id: PairId,
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
