//! A CRL as reconciliation goes through it: its entries in the order of their tokens, from a cursor on.
//!
//! An entry takes about 50 bytes here, a tenth of its text, so a list of 32 MiB fits into an isolate beside
//! everything else. A run that was interrupted continues after its cursor and goes around once, so that whatever was
//! added to the list in the meantime is found in the same run, wherever it stands.

use std::collections::HashMap;

use serde::Serialize;

use clawdentity_protocol::crl::CrlEntry;
use clawdentity_protocol::did::{AgentDid, Authority};
use clawdentity_protocol::ids::Ulid;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Compact {
    jti: Ulid,
    agent: Ulid,
    reason: u32,
    revoked_at_ms: u64,
}

/// One entry as the ledger takes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListedToken {
    pub jti: Ulid,
    /// The agent that it belongs to.
    pub agent_did: AgentDid,
    /// Why, where the list says.
    pub reason: Option<String>,
    /// When, Unix milliseconds.
    pub revoked_at_ms: u64,
}

#[derive(Debug, Default)]
pub struct Listing {
    /// Every entry of a list has its issuer's.
    authority: Option<Authority>,
    entries: Vec<Compact>,
    reasons: Vec<Option<String>>,
    numbers: HashMap<Option<String>, u32>,
}

impl Listing {
    /// Takes in an entry of one and the same list.
    pub fn push(&mut self, entry: CrlEntry) {
        if self.authority.is_none() {
            self.authority = Authority::parse(entry.agent.authority()).ok();
        }
        let reason = match self.numbers.get(&entry.reason) {
            Some(number) => *number,
            None => {
                let number = self.reasons.len() as u32;
                self.reasons.push(entry.reason.clone());
                self.numbers.insert(entry.reason, number);
                number
            }
        };
        self.entries.push(Compact {
            jti: entry.jti,
            agent: entry.agent.ulid(),
            reason,
            revoked_at_ms: entry.revoked_at_ms,
        });
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The tokens in the order of a run: those after the cursor, then those up to it; each once.
    pub fn tokens_after(&mut self, cursor: Option<Ulid>) -> Vec<Ulid> {
        self.entries.sort_unstable_by_key(|entry| entry.jti);
        self.entries.dedup_by_key(|entry| entry.jti);
        let split = cursor.map_or(0, |cursor| {
            self.entries.partition_point(|entry| entry.jti <= cursor)
        });
        let mut tokens: Vec<Ulid> = self.entries.iter().map(|entry| entry.jti).collect();
        tokens.rotate_left(split);
        tokens
    }

    /// The entry of a token; only after `tokens_after`, which sorts.
    pub fn entry(&self, jti: &Ulid) -> Option<ListedToken> {
        let at = self.entries.binary_search_by_key(jti, |entry| entry.jti).ok()?;
        let entry = self.entries.get(at)?;
        Some(ListedToken {
            jti: entry.jti,
            agent_did: AgentDid::from_parts(self.authority.as_ref()?, entry.agent),
            reason: self.reasons.get(entry.reason as usize).cloned().flatten(),
            revoked_at_ms: entry.revoked_at_ms,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clawdentity_protocol::testing::{agent, ulid};

    fn listing(numbers: &[u128]) -> Listing {
        let mut listing = Listing::default();
        for n in numbers {
            listing.push(CrlEntry {
                jti: ulid(*n),
                agent: agent(n + 100),
                reason: (n % 2 == 0).then(|| "even".to_owned()),
                revoked_at_ms: *n as u64,
            });
        }
        listing
    }

    #[test]
    fn a_run_goes_once_around_from_its_cursor() {
        for (cursor, expect) in [
            (None, [1, 2, 3, 5]),
            (Some(0), [1, 2, 3, 5]),
            (Some(2), [3, 5, 1, 2]),
            (Some(4), [5, 1, 2, 3]),
            (Some(5), [1, 2, 3, 5]),
            (Some(9), [1, 2, 3, 5]),
        ] {
            let tokens = listing(&[5, 2, 3, 1, 2]).tokens_after(cursor.map(ulid));
            assert_eq!(tokens, expect.map(ulid), "{cursor:?}");
        }
        assert!(listing(&[]).tokens_after(Some(ulid(1))).is_empty());
    }

    #[test]
    fn an_entry_comes_out_as_it_went_in() {
        let mut listing = listing(&[3, 2]);
        listing.tokens_after(None);
        let entry = |n: u128, reason: Option<&str>| ListedToken {
            jti: ulid(n),
            agent_did: agent(n + 100),
            reason: reason.map(str::to_owned),
            revoked_at_ms: n as u64,
        };
        assert_eq!(listing.entry(&ulid(2)), Some(entry(2, Some("even"))));
        assert_eq!(listing.entry(&ulid(3)), Some(entry(3, None)));
        assert_eq!(listing.entry(&ulid(4)), None);
    }
}
