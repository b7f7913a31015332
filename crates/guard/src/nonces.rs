//! The requests that this process has seen: a guard accepts each of them once.
//!
//! The rule is the same as the proxy's (`clawdentity_core::admission`). A nonce is kept in the minute in which its
//! timestamp can no longer be accepted. Minutes are forgotten as a whole, and a timestamp that belongs to a forgotten
//! minute is refused, so a clock that jumps back does not make an old request acceptable again.
//!
//! Of each agent and nonce 128 bits of a hash are kept, in memory only, and up to a maximum number. When the memory
//! is full, requests are refused, because forgetting one would mean accepting a replay.

use std::collections::{BTreeMap, HashSet};

use sha2::{Digest as _, Sha256};

use clawdentity_core::admission::nonces::{bucket_of, live_buckets, within_skew};
use clawdentity_protocol::did::AgentDid;
use clawdentity_protocol::proof::ProofHeaders;

/// What the memory says of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Never here; it is remembered now.
    First,
    /// Seen before.
    Replayed,
    /// Its timestamp is too far off, or from a time that was forgotten.
    Skewed,
    /// No room to remember it.
    Full,
}

/// The memory.
#[derive(Debug)]
pub struct Nonces {
    buckets: BTreeMap<u64, HashSet<u128>>,
    /// The last bucket that was forgotten.
    mark: Option<u64>,
    kept: usize,
    limit: usize,
}

impl Nonces {
    /// A memory of at most this many requests: about 30 bytes each.
    pub fn new(limit: usize) -> Self {
        Self {
            buckets: BTreeMap::new(),
            mark: None,
            kept: 0,
            limit,
        }
    }

    /// Whether this is the first time, which it is then no longer.
    pub fn admit(&mut self, now_ms: u64, agent: &AgentDid, proof: &ProofHeaders) -> Seen {
        self.admit_key(now_ms, proof.timestamp.seconds(), key(agent, &proof.nonce.hash()))
    }

    fn admit_key(&mut self, now_ms: u64, timestamp_s: u64, key: u128) -> Seen {
        self.forget(now_ms);
        let bucket = bucket_of(timestamp_s);
        if !within_skew(now_ms, timestamp_s) || self.mark.is_some_and(|mark| bucket <= mark) {
            return Seen::Skewed;
        }
        // In all buckets: the same nonce under another timestamp is the same nonce (docs/wire.md §3).
        if self.buckets.values().any(|keys| keys.contains(&key)) {
            return Seen::Replayed;
        }
        if self.kept >= self.limit {
            return Seen::Full;
        }
        self.buckets.entry(bucket).or_default().insert(key);
        self.kept += 1;
        Seen::First
    }

    fn forget(&mut self, now_ms: u64) {
        let past = *live_buckets(now_ms).start();
        while let Some(entry) = self.buckets.first_entry().filter(|entry| *entry.key() < past) {
            self.mark = self.mark.max(Some(*entry.key()));
            self.kept = self.kept.saturating_sub(entry.remove().len());
        }
    }
}

fn key(agent: &AgentDid, nonce_hash: &[u8; 32]) -> u128 {
    let mut hash = Sha256::new();
    hash.update(agent.ulid().as_u128().to_be_bytes());
    hash.update(nonce_hash);
    hash.finalize()
        .iter()
        .take(16)
        .fold(0, |sum, byte| sum << 8 | u128::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: u64 = 1_700_000_000;

    #[test]
    fn once_for_as_long_as_it_could_be_accepted() {
        // A request from the far future of the allowance lives the full 600 s.
        for ahead in [0, 1, 59, 150, 300] {
            let mut nonces = Nonces::new(10);
            let stamp = T + ahead;
            assert_eq!(nonces.admit_key(T * 1000, stamp, 1), Seen::First);
            for now_s in T..=stamp + 300 {
                assert_eq!(
                    nonces.admit_key(now_s * 1000 + 999, stamp, 1),
                    Seen::Replayed,
                    "{ahead} {now_s}"
                );
            }
            assert_eq!(nonces.admit_key((stamp + 301) * 1000, stamp, 1), Seen::Skewed);
        }
    }

    #[test]
    fn a_clock_that_jumps_back_reopens_nothing() {
        let mut nonces = Nonces::new(10);
        assert_eq!(nonces.admit_key(T * 1000, T, 1), Seen::First);
        assert_eq!(nonces.admit_key((T + 900) * 1000, T + 900, 2), Seen::First);
        assert_eq!(nonces.admit_key(T * 1000, T, 1), Seen::Skewed);
    }

    #[test]
    fn full_is_refused_until_something_is_forgotten() {
        let mut nonces = Nonces::new(2);
        assert_eq!(nonces.admit_key(T * 1000, T, 1), Seen::First);
        assert_eq!(nonces.admit_key(T * 1000, T, 2), Seen::First);
        assert_eq!(nonces.admit_key(T * 1000, T, 3), Seen::Full);
        assert_eq!(nonces.admit_key(T * 1000, T, 1), Seen::Replayed);
        assert_eq!(nonces.admit_key((T + 361) * 1000, T + 361, 3), Seen::First);
    }

    #[test]
    fn another_timestamp_makes_no_other_nonce() {
        let mut nonces = Nonces::new(10);
        assert_eq!(nonces.admit_key(T * 1000, T - 200, 1), Seen::First);
        assert_eq!(nonces.admit_key(T * 1000, T + 200, 1), Seen::Replayed);
    }
}
