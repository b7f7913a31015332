//! What a decision rested on: which source, and how old it was.
//!
//! This travels with every cached or fetched answer into the log line `proxy.auth.verified`, so that an operator can
//! tell afterwards why a request was admitted.

use serde::Serialize;

/// Where an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// It was asked for just now.
    Network,
    /// From memory, within its fresh time.
    Fresh,
    /// From memory, past its fresh time and within its stale limit.
    Stale,
    /// From D1 or the agent's own object, where memory had nothing.
    Durable,
}

/// An answer's source and age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Provenance {
    /// Where it came from.
    pub source: Source,
    /// How long ago it was true, in milliseconds.
    pub age_ms: u64,
}

impl Provenance {
    /// It was asked for just now.
    pub const NETWORK: Self = Self {
        source: Source::Network,
        age_ms: 0,
    };
}
