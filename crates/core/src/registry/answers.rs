//! Remembered answers to yes-or-no questions, with the noes apart.
//!
//! Anybody can ask what is answered by a no: a made-up token, a made-up group. So noes have a memory of their own, and
//! however many there are, they never push out a yes. Of two answers to one question the one to the later question
//! counts, whichever it is, and only that one is kept.

use std::hash::Hash;

use crate::cache::{Ages, Cache, Look};

/// See the module.
#[derive(Debug)]
pub struct Answers<K: Hash + Eq> {
    yes: Cache<K, ()>,
    no: Cache<K, ()>,
}

impl<K: Hash + Eq + Clone> Answers<K> {
    /// At most `max_entries` of each; see `Cache::new`.
    pub fn new(max_entries: usize, claim_ms: u64) -> Self {
        Self {
            yes: Cache::new(max_entries, claim_ms),
            no: Cache::new(max_entries, claim_ms),
        }
    }

    /// See `Slot::look`.
    pub fn look(&mut self, key: &K, now_ms: u64) -> Look<bool> {
        match answer(self.no.look(key, now_ms), false) {
            Look::Fetch => answer(self.yes.look(key, now_ms), true),
            no => no,
        }
    }

    /// Remembers the answer to a question asked at `as_of_ms`, unless a later one was answered already. Returns whether
    /// it was remembered.
    pub fn put(&mut self, key: &K, is_yes: bool, as_of_ms: u64, ages: Ages) -> bool {
        let (here, other) = match is_yes {
            true => (&mut self.yes, &mut self.no),
            false => (&mut self.no, &mut self.yes),
        };
        if other.as_of_ms(key).is_some_and(|at_ms| at_ms > as_of_ms)
            || !here.put(key.clone(), (), as_of_ms, ages)
        {
            return false;
        }
        other.end(key);
        true
    }

    /// Whether `look` would serve something. Takes no claim.
    pub fn serves(&self, key: &K, now_ms: u64) -> bool {
        self.no.serves(key, now_ms) || self.yes.serves(key, now_ms)
    }

    /// Whether the last answer, however old, was a yes.
    pub fn was_yes(&self, key: &K) -> bool {
        self.yes.as_of_ms(key).is_some()
    }
}

fn answer(look: Look<()>, value: bool) -> Look<bool> {
    match look {
        Look::Fresh { value: (), age_ms } => Look::Fresh { value, age_ms },
        Look::Stale {
            value: (),
            age_ms,
            refresh,
        } => Look::Stale {
            value,
            age_ms,
            refresh,
        },
        Look::Fetch => Look::Fetch,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    const YES: Ages = Ages {
        fresh_ms: 60_000,
        stale_ms: 900_000,
    };
    const NO: Ages = Ages::fresh_only(5_000);

    #[test]
    fn no_number_of_noes_pushes_out_a_yes() {
        let mut answers = Answers::new(4, 1_000);
        assert!(answers.put(&0, true, 1_000, YES));
        for made_up in 1..1_000 {
            assert!(answers.put(&made_up, false, 1_000, NO));
        }
        assert!(answers.was_yes(&0));
        assert!(matches!(
            answers.look(&0, 60_999),
            Look::Fresh { value: true, .. }
        ));
    }

    proptest! {
        /// The last answer by the time of its question is the one that is told, as from one map.
        #[test]
        fn the_answer_to_the_latest_question_counts(
            steps in prop::collection::vec((0..4_u8, any::<bool>(), 0..20_000_u64, 0..3_000_u64), 1..60),
        ) {
            let mut answers = Answers::new(8, 1_000);
            let mut model: HashMap<u8, (u64, bool)> = HashMap::new();
            let mut now_ms = 1_000_000;
            for (key, is_yes, ago_ms, pause_ms) in steps {
                now_ms += pause_ms;
                let as_of_ms = now_ms - ago_ms;
                let taken = answers.put(&key, is_yes, as_of_ms, if is_yes { YES } else { NO });
                let held = model.get(&key).copied();
                prop_assert_eq!(taken, held.is_none_or(|(at_ms, _)| at_ms <= as_of_ms));
                if taken {
                    model.insert(key, (as_of_ms, is_yes));
                }
                for (key, (at_ms, is_yes)) in &model {
                    let limit_ms = if *is_yes { YES.stale_ms } else { NO.stale_ms };
                    let expect = (now_ms - at_ms < limit_ms).then_some(*is_yes);
                    let told = match answers.look(key, now_ms) {
                        Look::Fresh { value, .. } | Look::Stale { value, .. } => Some(value),
                        Look::Fetch => None,
                    };
                    prop_assert_eq!(told, expect);
                    prop_assert_eq!(answers.was_yes(key), *is_yes);
                }
            }
        }
    }
}
