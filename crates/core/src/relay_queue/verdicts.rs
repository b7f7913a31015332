//! Whom an agent's frames may go to, as its own trust object has said lately.
//!
//! A yes is believed for a minute, and only under the generation it came with: the object replaces the generation when a
//! pair is made or ends, and the session is told. A no is not kept, so that a pair that has just been made counts at once.

use std::num::NonZeroUsize;

use lru::LruCache;

use crate::admission::{Generation, PairId};
use clawdentity_protocol::did::AgentDid;

/// A yes is believed for so long.
pub const BELIEVED_MS: u64 = 60_000;
/// How many are kept, least recently used first out.
const CAPACITY: NonZeroUsize = NonZeroUsize::MIN.saturating_add(255);

struct Verdict {
    pair_id: PairId,
    generation: Generation,
    asked_at_ms: u64,
}

/// What was said.
pub struct Verdicts(LruCache<AgentDid, Verdict>);

impl Default for Verdicts {
    fn default() -> Self {
        Self(LruCache::sparse(CAPACITY))
    }
}

impl Verdicts {
    /// The object was asked at `asked_at_ms` and said yes, under this generation.
    pub fn remember(&mut self, to: AgentDid, pair_id: PairId, generation: Generation, asked_at_ms: u64) {
        let verdict = Verdict {
            pair_id,
            generation,
            asked_at_ms,
        };
        self.0.put(to, verdict);
    }

    /// By which pair the agent may write to this one, where that is still believed under its generation now.
    pub fn recall(&mut self, to: &AgentDid, generation: Generation, now_ms: u64) -> Option<PairId> {
        let verdict = self.0.get(to)?;
        // A time that lies ahead is of a clock that was set back.
        let age_ms = now_ms.checked_sub(verdict.asked_at_ms)?;
        (verdict.generation == generation && age_ms < BELIEVED_MS).then(|| verdict.pair_id.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clawdentity_protocol::testing::agent;

    #[test]
    fn a_yes_is_believed_for_a_minute_under_its_generation() {
        let (one, two) = (Generation::from_random([1; 8]), Generation::from_random([2; 8]));
        let mut verdicts = Verdicts::default();
        verdicts.remember(agent(1), PairId::unnumbered(), one, 1_000_000);
        for (to, generation, now_ms, expect) in [
            (agent(1), one, 1_000_000, true),
            (agent(1), one, 1_059_999, true),
            (agent(1), one, 1_060_000, false),
            (agent(1), one, 999_999, false),
            (agent(1), two, 1_000_001, false),
            (agent(2), one, 1_000_001, false),
        ] {
            let recalled = verdicts.recall(&to, generation, now_ms).is_some();
            assert_eq!(recalled, expect, "{to} at {now_ms}");
        }
    }

    #[test]
    fn it_is_bounded() {
        let mut verdicts = Verdicts::default();
        let generation = Generation::from_random([1; 8]);
        for n in 0..1_000 {
            verdicts.remember(agent(n), PairId::unnumbered(), generation, 1);
        }
        assert_eq!(verdicts.0.len(), CAPACITY.get());
    }
}
