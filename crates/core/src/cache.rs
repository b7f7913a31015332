//! Remembered answers by their age: fresh, stale or dead (docs/design.md §4).
//!
//! * A fresh answer is served. A stale one is served at once and refreshed in the background. Where the answer is
//!   dead or was never there, the caller must ask.
//! * Nothing is served at or past its stale limit. `look` is the only way to a value that is to be believed, and it
//!   compares the age every time.
//! * One refresh at a time. The first caller that finds an entry stale gets the claim, and others serve what they
//!   have. A claim is never joined, because on Workers a promise belongs to the request that made it. An answer gives
//!   the claim back. A refresh that fails or is cancelled does not, so `claim_ms` is both its time limit and the
//!   pause before the next one.
//! * Of two answers, the one to the later question stays, in whatever order they arrive: ages count from the question
//!   (`as_of_ms`) and not from the answer.
//! * The number of entries is bounded, and the one looked at least recently goes first.
//!
//! Keys are hashes or ids, never tokens. The cache does not ask, and does not decide what an answer means.

use std::fmt;
use std::hash::Hash;
use std::num::NonZeroUsize;

use lru::LruCache;

/// Up to which age an answer is fresh and stale. Both limits are exclusive: at `fresh_ms` it is stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ages {
    /// Younger than this: fresh.
    pub fresh_ms: u64,
    /// Younger than this: stale; from then on dead. Not more than `fresh_ms`: never stale.
    pub stale_ms: u64,
}

impl Ages {
    /// Fresh for `ms`, then dead.
    pub const fn fresh_only(ms: u64) -> Self {
        Self {
            fresh_ms: ms,
            stale_ms: ms,
        }
    }
}

/// Who is to refresh a stale answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresh {
    /// The caller: the claim was free and is now the caller's.
    Yours,
    /// Another request, which has the claim.
    Claimed,
}

/// What is remembered, and what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look<V> {
    Fresh {
        value: V,
        age_ms: u64,
    },
    /// Serve it, and refresh it if the claim is the caller's.
    Stale {
        value: V,
        age_ms: u64,
        /// Who is to refresh it.
        refresh: Refresh,
    },
    /// Dead or never had: ask.
    Fetch,
}

/// One remembered answer.
#[derive(Clone, Debug)]
pub struct Slot<V> {
    held: Option<Held<V>>,
    claimed_at_ms: Option<u64>,
}

#[derive(Clone, Debug)]
struct Held<V> {
    value: V,
    as_of_ms: u64,
    ages: Ages,
}

impl<V> Default for Slot<V> {
    fn default() -> Self {
        Self {
            held: None,
            claimed_at_ms: None,
        }
    }
}

impl<V: Clone> Slot<V> {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says what to do now, and takes the claim if there is one to take.
    pub fn look(&mut self, now_ms: u64, claim_ms: u64) -> Look<V> {
        let Some(held) = &mut self.held else {
            return Look::Fetch;
        };
        // A question from the future means that the clock went back: it ages from now on.
        held.as_of_ms = held.as_of_ms.min(now_ms);
        let age_ms = now_ms - held.as_of_ms;
        if age_ms < held.ages.fresh_ms {
            return Look::Fresh {
                value: held.value.clone(),
                age_ms,
            };
        }
        if age_ms < held.ages.stale_ms {
            let value = held.value.clone();
            let refresh = if self.claim(now_ms, claim_ms) {
                Refresh::Yours
            } else {
                Refresh::Claimed
            };
            return Look::Stale {
                value,
                age_ms,
                refresh,
            };
        }
        Look::Fetch
    }

    /// Takes the claim, unless somebody has had it for less than `claim_ms`.
    pub fn claim(&mut self, now_ms: u64, claim_ms: u64) -> bool {
        let taken = self
            .claimed_at_ms
            .is_some_and(|at| at <= now_ms && now_ms - at < claim_ms);
        if !taken {
            self.claimed_at_ms = Some(now_ms);
        }
        !taken
    }

    /// Gives the claim back, because the refresh is done or will not be done.
    pub fn release(&mut self) {
        self.claimed_at_ms = None;
    }

    /// Remembers the answer to a question asked at `as_of_ms`, unless a later question was answered already.
    /// Returns whether it was remembered.
    pub fn put(&mut self, value: V, as_of_ms: u64, ages: Ages) -> bool {
        if self.held.as_ref().is_some_and(|held| held.as_of_ms > as_of_ms) {
            return false;
        }
        self.held = Some(Held {
            value,
            as_of_ms,
            ages,
        });
        self.release();
        true
    }

    pub fn end(&mut self) {
        *self = Self::default();
    }

    /// Whether `look` would serve something. Takes no claim.
    pub fn serves(&self, now_ms: u64) -> bool {
        self.held.as_ref().is_some_and(|held| {
            now_ms.saturating_sub(held.as_of_ms) < held.ages.stale_ms.max(held.ages.fresh_ms)
        })
    }

    /// The value however old, for comparison with a new one. It must not be believed by itself.
    pub fn last(&self) -> Option<&V> {
        self.held.as_ref().map(|held| &held.value)
    }

    /// When the question behind the value was asked.
    pub fn as_of_ms(&self) -> Option<u64> {
        self.held.as_ref().map(|held| held.as_of_ms)
    }
}

/// Remembered answers by their keys.
pub struct Cache<K: Hash + Eq, V> {
    slots: LruCache<K, Slot<V>>,
    claim_ms: u64,
}

impl<K: Hash + Eq, V: Clone> Cache<K, V> {
    /// At most `max_entries` (0 counts as 1); a refresh that did not end is claimed anew after `claim_ms`.
    pub fn new(max_entries: usize, claim_ms: u64) -> Self {
        let max_entries = NonZeroUsize::new(max_entries).unwrap_or(NonZeroUsize::MIN);
        // Sparse: an isolate that serves few agents pays for few.
        Self {
            slots: LruCache::sparse(max_entries),
            claim_ms,
        }
    }

    /// See `Slot::look`. Counts as use.
    pub fn look(&mut self, key: &K, now_ms: u64) -> Look<V> {
        match self.slots.get_mut(key) {
            Some(slot) => slot.look(now_ms, self.claim_ms),
            None => Look::Fetch,
        }
    }

    /// See `Slot::put`. Counts as use.
    pub fn put(&mut self, key: K, value: V, as_of_ms: u64, ages: Ages) -> bool {
        self.slots
            .get_or_insert_mut(key, Slot::new)
            .put(value, as_of_ms, ages)
    }

    pub fn end(&mut self, key: &K) {
        self.slots.pop(key);
    }

    /// See `Slot::serves`. Does not count as use.
    pub fn serves(&self, key: &K, now_ms: u64) -> bool {
        self.slots.peek(key).is_some_and(|slot| slot.serves(now_ms))
    }

    /// See `Slot::as_of_ms`. Does not count as use.
    pub fn as_of_ms(&self, key: &K) -> Option<u64> {
        self.slots.peek(key)?.as_of_ms()
    }

    pub fn clear(&mut self) {
        self.slots.clear();
    }

    /// How many entries there are, dead ones included.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

impl<K: Hash + Eq, V> fmt::Debug for Cache<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("entries", &self.slots.len())
            .field("claim_ms", &self.claim_ms)
            .finish()
    }
}

#[cfg(test)]
mod tests;
