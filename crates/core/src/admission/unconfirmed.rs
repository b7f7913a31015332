//! How often the registry may be asked about what one agent names and nobody has confirmed (docs/design.md §3).
//!
//! An agent can make up an access token, a group, another member of a group, and with an identity that lies also an owner.
//! Each would cost a question to the registry, which takes only so many from one address. The agent's own object counts
//! them, because it is one object for all isolates:
//!
//! - What the registry said yes to is confirmed, costs nothing here, and is remembered (`tables`).
//! - Of each kind only so many may be without a yes within a minute. A yes gives the place back at once, so an honest agent
//!   may name as much as it likes. Where only questions that are still out are in the way, it is worth a moment's wait.
//! - Of tokens, different ones are counted: a hundred requests with one token are one token. A token that the registry
//!   refused is asked about again after a pause, which doubles with every refusal in a row.
//!
//! The counts are in memory alone. An object that was evicted has not been asked for a while.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::tables::Confirmed;
use crate::backoff::doubled;
use clawdentity_protocol::did::{AgentDid, HumanDid};
use clawdentity_protocol::ids::GroupId;

/// The minute of "so many a minute".
pub const WINDOW_MS: u64 = 60_000;
/// Groups that the agent says it is in.
pub const MOST_GROUPS: usize = 10;
/// Others that it says are in a group.
pub const MOST_MEMBERS: usize = 60;
/// Questions about its owner.
pub const MOST_OWNERS: usize = 5;
/// A question that is out for longer was lost.
const LOST_AFTER_MS: u64 = 10_000;
/// When it is worth asking again where only questions that are out are in the way.
const BUSY_MS: u64 = 100;

/// What the registry is to be asked about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Named {
    /// An access token: SHA-256 of it.
    Token(#[serde(with = "super::calls::bytes")] [u8; 32]),
    /// That an agent, which may be the asking one, is in a group.
    Member { group: GroupId, member: AgentDid },
    /// That this is the agent's owner.
    Owner(HumanDid),
}

/// Whether it may be asked about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MayAsk {
    /// The registry said yes to it before.
    Confirmed,
    /// It did not, and it may be asked.
    Ask {
        /// The agent has a pair, or the registry has said yes about it.
        known: bool,
    },
    /// The registry said no lately.
    Refused,
    /// Not now.
    Wait { retry_after_ms: u64 },
}

/// Which budget a question counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Token,
    Group,
    Member,
    Owner,
}

impl Named {
    fn kind(&self, agent: &AgentDid) -> Kind {
        match self {
            Self::Token(_) => Kind::Token,
            Self::Member { member, .. } if member == agent => Kind::Group,
            Self::Member { .. } => Kind::Member,
            Self::Owner(_) => Kind::Owner,
        }
    }

    /// What is remembered of a yes; of a token, the validations.
    pub fn with_confirmed<R>(&self, act: impl FnOnce(Confirmed<'_>) -> R) -> Option<R> {
        match self {
            Self::Token(_) => None,
            Self::Member { group, member } => Some(act(Confirmed {
                about: member.as_str(),
                what: &group.to_string(),
            })),
            Self::Owner(owner) => Some(act(Confirmed {
                about: owner.as_str(),
                what: "owner",
            })),
        }
    }

    /// One key for one question.
    fn key(&self) -> [u8; 32] {
        match self {
            Self::Token(hash) => *hash,
            Self::Member { group, member } => {
                // A group id has one length, so no two questions write the same bytes.
                Sha256::digest(format!("member {group} {member}")).into()
            }
            Self::Owner(owner) => Sha256::digest(format!("owner {owner}")).into(),
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Unconfirmed {
    most_tokens: usize,
    first_pause_ms: u64,
    longest_pause_ms: u64,
    /// Oldest first; at most the budgets' sum.
    places: Vec<Place>,
    refused_in_a_row: u32,
    last_refused_ms: u64,
}

#[derive(Debug)]
struct Place {
    kind: Kind,
    key: [u8; 32],
    at_ms: u64,
    is_out: bool,
}

/// The figures that come from the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenLimits {
    /// Different tokens without a yes within the window; 0 counts as 1.
    pub most: usize,
    /// The pause after the first refusal in a row.
    pub first_pause_ms: u64,
    /// The longest; never shortens the first.
    pub longest_pause_ms: u64,
}

impl Unconfirmed {
    /// The state before anything was named.
    pub fn new(limits: TokenLimits) -> Self {
        Self {
            most_tokens: limits.most.max(1),
            first_pause_ms: limits.first_pause_ms,
            longest_pause_ms: limits.longest_pause_ms.max(limits.first_pause_ms),
            ..Self::default()
        }
    }

    /// May this agent's registry be asked about what it names, which nobody has confirmed? Where it may, it counts as asked.
    /// `known` is passed on.
    pub fn may_ask(&mut self, agent: &AgentDid, named: &Named, known: bool, now_ms: u64) -> MayAsk {
        self.forget(now_ms);
        let (kind, key) = (named.kind(agent), named.key());
        let pause_ms = self.pause_ms();
        let refused_until_ms = self.last_refused_ms.saturating_add(pause_ms);
        let same_token = |place: &&mut Place| kind == Kind::Token && place.kind == kind && place.key == key;
        if let Some(place) = self.places.iter_mut().find(same_token) {
            if !place.is_out && now_ms < refused_until_ms {
                return MayAsk::Refused;
            }
            (place.at_ms, place.is_out) = (now_ms, true);
            return MayAsk::Ask { known };
        }
        let of_kind = || self.places.iter().filter(|place| place.kind == kind);
        if of_kind().count() < self.most(kind) {
            self.places.push(Place {
                kind,
                key,
                at_ms: now_ms,
                is_out: true,
            });
            return MayAsk::Ask { known };
        }
        let is_out = |place: &Place| place.is_out && now_ms.saturating_sub(place.at_ms) < LOST_AFTER_MS;
        let retry_after_ms = if kind != Kind::Token && of_kind().any(is_out) {
            BUSY_MS
        } else {
            let oldest_ms = of_kind().map(|place| place.at_ms).min().unwrap_or(now_ms);
            oldest_ms.saturating_add(WINDOW_MS).saturating_sub(now_ms).max(1)
        };
        MayAsk::Wait { retry_after_ms }
    }

    /// The registry said yes.
    pub fn confirmed(&mut self, agent: &AgentDid, named: &Named) {
        let (kind, key) = (named.kind(agent), named.key());
        self.places.retain(|place| place.kind != kind || place.key != key);
        if kind == Kind::Token {
            self.refused_in_a_row = 0;
        }
    }

    /// The registry said no.
    pub fn refused(&mut self, agent: &AgentDid, named: &Named, now_ms: u64) {
        let (kind, key) = (named.kind(agent), named.key());
        if kind == Kind::Token {
            self.refused_in_a_row = self.refused_in_a_row.saturating_add(1);
            self.last_refused_ms = now_ms;
        }
        let out = |place: &&mut Place| place.is_out && place.kind == kind && place.key == key;
        if let Some(place) = self.places.iter_mut().find(out) {
            place.is_out = false;
        }
    }

    /// It was not asked after all, or did not answer.
    pub fn unanswered(&mut self, agent: &AgentDid, named: &Named) {
        let (kind, key) = (named.kind(agent), named.key());
        let out = |place: &Place| place.is_out && place.kind == kind && place.key == key;
        if let Some(at) = self.places.iter().position(out) {
            self.places.remove(at);
        }
    }

    fn most(&self, kind: Kind) -> usize {
        match kind {
            Kind::Token => self.most_tokens,
            Kind::Group => MOST_GROUPS,
            Kind::Member => MOST_MEMBERS,
            Kind::Owner => MOST_OWNERS,
        }
    }

    /// What is older than the window, or from a future that a clock took back.
    fn forget(&mut self, now_ms: u64) {
        let recent = |at_ms: u64| now_ms.checked_sub(at_ms).is_some_and(|age_ms| age_ms < WINDOW_MS);
        self.places.retain(|place| recent(place.at_ms));
        if !recent(self.last_refused_ms) {
            self.refused_in_a_row = 0;
        }
    }

    fn pause_ms(&self) -> u64 {
        doubled(self.first_pause_ms, self.longest_pause_ms, self.refused_in_a_row)
    }
}

#[cfg(test)]
mod tests;
