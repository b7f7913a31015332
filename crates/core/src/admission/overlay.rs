//! The revocation overlay: the copy of the ledger that decides, in the agent's own object.
//!
//! Merging is idempotent and commutes: an agent that was revoked stays revoked, and a token's revocation keeps the
//! latest expiry that it was given. So duplicates and any order of events lead to the same state (docs/wire.md §7). A
//! lift takes back what was merged. Which of a revocation and a lift came last is for the ledger to say, and whoever
//! changes either makes the overlay agree with it (`revocation::settle`). A lifted token is remembered as lifted,
//! because the polled CRL may go on listing it. Numbering and keeping the record is the ledger's job.

use serde::{Deserialize, Serialize};

use clawdentity_protocol::ids::Ulid;

pub use clawdentity_protocol::revocation::Source;

/// How long a token's revocation is kept whose expiry nobody told: the longest life of an AIT (docs/wire.md §2), 90 days.
pub const UNKNOWN_EXPIRY_MS: u64 = 90 * 24 * 3_600_000;

/// What of a caller is revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevokedWhat {
    /// The agent, with every token it has or will have.
    Agent,
    /// This one token.
    Token,
}

impl RevokedWhat {
    /// As in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Token => "token",
        }
    }
}

/// One token's revocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRevocation {
    /// The token.
    pub jti: Ulid,
    /// Until when the revocation must be kept, Unix milliseconds; see `token_expiry_ms`.
    pub expires_at_ms: u64,
}

/// What the ledger says when it is asked about a token at its first sight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LedgerAnswer {
    /// The token's agent is revoked.
    pub agent_revoked: bool,
    /// The token is revoked; until when that is kept, Unix milliseconds.
    pub token_revoked_until_ms: Option<u64>,
    /// The token's revocation was lifted, and no later one stands.
    pub token_lifted: bool,
    /// The token is revoked only because it was reissued.
    pub token_reissued: bool,
    /// When the agent's owner last ended its session, Unix milliseconds.
    pub session_ended_at_ms: Option<u64>,
}

/// The registry's reason for ending a token that has a newer one: mail accepted under it is still carried.
pub const REISSUED: &str = "reissued";
/// The registry's reason for ending a session at the owner's wish: mail accepted under it is not carried any more.
pub const OWNER_AUTH_REVOKE: &str = "owner_auth_revoke";

/// Until when a token's revocation is kept by an order that tells this expiry. What is told may only lengthen it: the
/// token may live longer than whoever revokes it knows, and keeping a row that nobody needs costs nothing.
pub fn token_expiry_ms(told_ms: Option<u64>, now_ms: u64) -> u64 {
    told_ms.unwrap_or(0).max(now_ms.saturating_add(UNKNOWN_EXPIRY_MS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expiry_that_is_told_can_only_lengthen_a_revocation() {
        let now_ms = 1_700_000_000_000;
        for (told_ms, expect) in [
            (None, now_ms + UNKNOWN_EXPIRY_MS),
            (Some(now_ms + 1), now_ms + UNKNOWN_EXPIRY_MS),
            (
                Some(now_ms + UNKNOWN_EXPIRY_MS + 1),
                now_ms + UNKNOWN_EXPIRY_MS + 1,
            ),
            (Some(now_ms), now_ms + UNKNOWN_EXPIRY_MS),
            (Some(0), now_ms + UNKNOWN_EXPIRY_MS),
        ] {
            assert_eq!(token_expiry_ms(told_ms, now_ms), expect, "{told_ms:?}");
        }
    }

    #[test]
    fn words_are_pinned() {
        for what in [RevokedWhat::Agent, RevokedWhat::Token] {
            assert_eq!(serde_json::to_value(what).unwrap(), what.as_str());
        }
    }
}
