//! What is revoked, as a set in memory, and how current it is.
//!
//! A `RevocationSet` follows the ledger. The same items give the same set however often they are repeated, as long as
//! a lift comes after what it lifts, which the feed ensures. Agents are stored by their ULID, as in the proxy's own
//! objects, because a guard serves one issuer and so one authority. The set does not drop items when they expire: the
//! ledger sweeps its rows, and the next complete read leaves out what was swept. 100,000 revocations take about 6 MB.
//!
//! What staleness means is decided in `verify`. `client` does the talking.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use clawdentity_protocol::did::AgentDid;
use clawdentity_protocol::ids::Ulid;
use clawdentity_protocol::revocation::{Item, Subject};

/// What a cache knows of an agent and its token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The agent is revoked.
    pub agent_revoked: bool,
    /// This token is revoked.
    pub token_revoked: bool,
    /// When the agent's session last ended, Unix milliseconds.
    pub session_ended_ms: Option<u64>,
}

/// How current a cache is. All times are Unix milliseconds; `None` means never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freshness {
    /// When the cache was last confirmed to be equal to the ledger: the ledger was asked and had nothing more.
    pub confirmed_ms: Option<u64>,
    /// When the whole ledger was last read.
    pub complete_ms: Option<u64>,
    /// When the stream last brought an item.
    pub pushed_ms: Option<u64>,
    /// The number up to which the cache holds every item.
    pub position: u64,
}

impl Freshness {
    /// How long ago the cache was confirmed. `None` if it never was, or if the clock has jumped back to before that
    /// moment.
    pub fn age_ms(&self, now_ms: u64) -> Option<u64> {
        self.confirmed_ms.and_then(|at| now_ms.checked_sub(at))
    }
}

/// What a guard asks and a feed keeps current. It is called from many threads and must not wait for the network.
pub trait RevocationCache: Send + Sync {
    /// What is known of this agent and token.
    fn standing(&self, agent: &AgentDid, jti: Ulid) -> Standing;
    /// How current that is.
    fn freshness(&self) -> Freshness;
    /// Adds one item.
    fn apply(&self, item: &Item);
    /// Replaces everything by a set that was read completely.
    fn replace(&self, set: RevocationSet);
    /// Sets how current the cache is.
    fn set_freshness(&self, freshness: Freshness);
}

/// The revocations of a ledger that are in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RevocationSet {
    /// By the agent's ULID: the number of its active row.
    agents: HashMap<Ulid, u64>,
    /// By the token: the number of its active row.
    tokens: HashMap<Ulid, u64>,
    /// By the agent's ULID: when its session last ended, Unix milliseconds.
    sessions: HashMap<Ulid, u64>,
}

impl RevocationSet {
    /// Adds one item.
    pub fn apply(&mut self, item: &Item) {
        match &item.subject {
            Subject::Agent { agent } => keep_highest(&mut self.agents, agent.ulid(), item.seq),
            Subject::Token { jti, .. } => keep_highest(&mut self.tokens, *jti, item.seq),
            Subject::Session { agent } => {
                keep_highest(&mut self.sessions, agent.ulid(), item.revoked_at_ms);
            }
            // By number alone: a lift need not say what it lifts, and there are few.
            Subject::Lift { lifts, .. } => {
                self.agents.retain(|_, seq| seq != lifts);
                self.tokens.retain(|_, seq| seq != lifts);
            }
        }
    }

    /// What is known of this agent and token.
    pub fn standing(&self, agent: Ulid, jti: Ulid) -> Standing {
        Standing {
            agent_revoked: self.agents.contains_key(&agent),
            token_revoked: self.tokens.contains_key(&jti),
            session_ended_ms: self.sessions.get(&agent).copied(),
        }
    }

    /// How many agents and tokens are revoked.
    pub fn len(&self) -> usize {
        self.agents.len() + self.tokens.len()
    }

    /// Whether nothing is revoked.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn keep_highest(map: &mut HashMap<Ulid, u64>, key: Ulid, value: u64) {
    let kept = map.entry(key).or_insert(value);
    *kept = value.max(*kept);
}

/// A cache in memory.
#[derive(Debug, Default)]
pub struct MemoryCache {
    state: RwLock<(RevocationSet, Freshness)>,
}

impl RevocationCache for MemoryCache {
    fn standing(&self, agent: &AgentDid, jti: Ulid) -> Standing {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.0.standing(agent.ulid(), jti)
    }

    fn freshness(&self) -> Freshness {
        self.state.read().unwrap_or_else(PoisonError::into_inner).1
    }

    fn apply(&self, item: &Item) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.0.apply(item);
    }

    fn replace(&self, set: RevocationSet) {
        let old = {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut state.0, set)
        };
        // Freed outside the lock: no check waits for it.
        drop(old);
    }

    fn set_freshness(&self, freshness: Freshness) {
        self.state.write().unwrap_or_else(PoisonError::into_inner).1 = freshness;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use clawdentity_protocol::revocation::Source;
    use clawdentity_protocol::testing::{agent, ulid};

    /// A row about agent `number`, token `number` + 1000.
    pub fn row(seq: u64, kind: &str, number: u64) -> Item {
        let who = u128::from(number);
        let subject = match kind {
            "agent" => Subject::Agent { agent: agent(who) },
            "token" => Subject::Token {
                jti: ulid(who + 1000),
                agent: None,
                expires_at_ms: None,
            },
            "session" => Subject::Session { agent: agent(who) },
            _ => Subject::Lift {
                lifts: number,
                agent: None,
                jti: None,
            },
        };
        Item {
            seq,
            subject,
            reason: None,
            revoked_at_ms: seq * 10,
            source: Source::Queue,
        }
    }

    fn set(rows: &[(u64, &str, u64)]) -> RevocationSet {
        let mut set = RevocationSet::default();
        for (seq, kind, number) in rows {
            set.apply(&row(*seq, kind, *number));
        }
        set
    }

    #[test]
    fn what_rows_leave_behind() {
        let check = |rows: &[(u64, &str, u64)], agent_revoked, token_revoked, session_ended_ms| {
            let expect = Standing {
                agent_revoked,
                token_revoked,
                session_ended_ms,
            };
            assert_eq!(set(rows).standing(ulid(7), ulid(1007)), expect, "{rows:?}");
        };
        check(&[], false, false, None);
        check(&[(1, "agent", 7)], true, false, None);
        check(&[(1, "agent", 8), (2, "token", 8)], false, false, None);
        check(&[(1, "token", 7)], false, true, None);
        check(&[(1, "session", 7), (2, "session", 7)], false, false, Some(20));
        check(&[(1, "agent", 7), (2, "lift", 1)], false, false, None);
        check(&[(1, "token", 7), (2, "lift", 1)], false, false, None);
        check(
            &[(1, "agent", 7), (2, "token", 7), (3, "lift", 2)],
            true,
            false,
            None,
        );
        // Revoked again after a lift.
        check(
            &[(1, "agent", 7), (2, "lift", 1), (3, "agent", 7)],
            true,
            false,
            None,
        );
        // A row that moved to a new number, with a later expiry.
        check(&[(1, "token", 7), (4, "token", 7)], false, true, None);
        check(
            &[(1, "token", 7), (4, "token", 7), (5, "lift", 4)],
            false,
            false,
            None,
        );
        // A later row was pushed before the rows between were read.
        check(
            &[(3, "agent", 7), (1, "agent", 7), (2, "lift", 1), (3, "agent", 7)],
            true,
            false,
            None,
        );
        // Everything twice.
        check(
            &[(1, "agent", 7), (1, "agent", 7), (2, "lift", 1), (2, "lift", 1)],
            false,
            false,
            None,
        );
    }

    #[test]
    fn a_clock_that_jumped_back_makes_the_age_unknown() {
        let at = |confirmed_ms| Freshness {
            confirmed_ms,
            ..Freshness::default()
        };
        assert_eq!(at(Some(1_000)).age_ms(1_500), Some(500));
        assert_eq!(at(Some(1_000)).age_ms(999), None);
        assert_eq!(at(None).age_ms(1_500), None);
    }

    #[test]
    fn replacing_forgets_what_is_not_in_the_new_set() {
        let cache = MemoryCache::default();
        cache.apply(&row(1, "agent", 7));
        assert!(cache.standing(&agent(7), ulid(0)).agent_revoked);
        cache.replace(set(&[(2, "agent", 8)]));
        assert!(!cache.standing(&agent(7), ulid(0)).agent_revoked);
        assert!(cache.standing(&agent(8), ulid(0)).agent_revoked);
    }
}
