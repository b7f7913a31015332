//! What an isolate remembers of the refusals of trust objects.
//!
//! A revoked agent or token is remembered for `REVOKED_MEMORY_MS` (30 s), so that its next requests are refused
//! without asking the object (docs/design.md §2). The time counts from the object's answer and is never prolonged, so
//! a lift holds everywhere within 30 s.

use std::num::NonZeroUsize;

use lru::LruCache;

use super::overlay::RevokedWhat;
use clawdentity_protocol::ids::Ulid;

/// How many are remembered, least recently used first out.
const CAPACITY: NonZeroUsize = NonZeroUsize::MIN.saturating_add(4095);

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Agent(Ulid),
    Token(Ulid),
}

/// The revocations an isolate has been told of lately.
pub struct Refusals {
    remember_ms: u64,
    told_at_ms: LruCache<Key, u64>,
}

impl Refusals {
    /// Knows nothing yet; remembers what it is told for so long.
    pub fn new(remember_ms: u64) -> Self {
        Self {
            remember_ms,
            told_at_ms: LruCache::new(CAPACITY),
        }
    }

    /// The object said so at `now_ms`.
    pub fn remember(&mut self, what: RevokedWhat, agent: Ulid, jti: Ulid, now_ms: u64) {
        let key = match what {
            RevokedWhat::Agent => Key::Agent(agent),
            RevokedWhat::Token => Key::Token(jti),
        };
        self.told_at_ms.put(key, now_ms);
    }

    /// What is remembered against a caller.
    pub fn recall(&mut self, agent: Ulid, jti: Ulid, now_ms: u64) -> Option<RevokedWhat> {
        let remember_ms = self.remember_ms;
        let mut known = |key| {
            // A time from the future is of a clock that was set back: it would be remembered too long.
            let age = now_ms.checked_sub(*self.told_at_ms.get(&key)?)?;
            (age < remember_ms).then_some(())
        };
        if known(Key::Agent(agent)).is_some() {
            return Some(RevokedWhat::Agent);
        }
        known(Key::Token(jti)).map(|()| RevokedWhat::Token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ulid(n: u8) -> Ulid {
        Ulid::from_parts(1_700_000_000_000, [n; 10])
    }

    #[test]
    fn remembered_for_30_s_and_for_whom_it_was_said() {
        let (agent, other, jti, next_jti) = (ulid(1), ulid(2), ulid(3), ulid(4));
        let mut refusals = Refusals::new(30_000);
        refusals.remember(RevokedWhat::Token, agent, jti, 1_000_000);
        refusals.remember(RevokedWhat::Agent, other, ulid(9), 1_000_000);
        for (who, token, now_ms, expect) in [
            (agent, jti, 1_000_000, Some(RevokedWhat::Token)),
            (agent, jti, 1_029_999, Some(RevokedWhat::Token)),
            (agent, jti, 1_030_000, None),
            (agent, jti, 999_999, None),
            (agent, next_jti, 1_000_000, None),
            (other, next_jti, 1_000_001, Some(RevokedWhat::Agent)),
            (other, next_jti, 1_030_000, None),
        ] {
            assert_eq!(refusals.recall(who, token, now_ms), expect, "at {now_ms}");
        }
    }

    #[test]
    fn it_is_bounded() {
        let mut refusals = Refusals::new(30_000);
        for n in 0..10_000u64 {
            refusals.remember(RevokedWhat::Agent, Ulid::from_parts(n, [0; 10]), ulid(0), n);
        }
        assert_eq!(refusals.told_at_ms.len(), CAPACITY.get());
    }
}
