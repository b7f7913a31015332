//! The cache under virtual time: the ages as a table, then random interleavings checked against a plain map.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const AGES: Ages = Ages {
    fresh_ms: 45,
    stale_ms: 900,
};
const CLAIM_MS: u64 = 10;

fn stale(age_ms: u64, refresh: Refresh) -> Look<&'static str> {
    Look::Stale {
        value: "a",
        age_ms,
        refresh,
    }
}

#[test]
fn an_answer_is_fresh_then_stale_then_dead() {
    let table = [
        (
            1_000,
            Look::Fresh {
                value: "a",
                age_ms: 0,
            },
            "at once",
        ),
        (
            1_044,
            Look::Fresh {
                value: "a",
                age_ms: 44,
            },
            "the last fresh millisecond",
        ),
        (1_045, stale(45, Refresh::Yours), "the first stale one"),
        (1_899, stale(899, Refresh::Yours), "the last stale one"),
        (1_900, Look::Fetch, "dead"),
        (9_999, Look::Fetch, "long dead"),
    ];
    for (now_ms, expect, why) in table {
        let mut slot = Slot::new();
        slot.put("a", 1_000, AGES);
        assert_eq!(slot.look(now_ms, CLAIM_MS), expect, "{why}");
        assert_eq!(slot.serves(now_ms), expect != Look::Fetch, "{why}");
    }
    assert_eq!(Slot::<&str>::new().look(0, CLAIM_MS), Look::Fetch);
    assert!(!Slot::<&str>::new().serves(0));
}

#[test]
fn what_is_only_fresh_is_never_stale() {
    for ages in [
        Ages::fresh_only(45),
        Ages {
            fresh_ms: 45,
            stale_ms: 10,
        },
    ] {
        let mut slot = Slot::new();
        slot.put("a", 0, ages);
        assert_eq!(
            slot.look(44, CLAIM_MS),
            Look::Fresh {
                value: "a",
                age_ms: 44
            }
        );
        assert!(slot.serves(44) && !slot.serves(45));
        assert_eq!(slot.look(45, CLAIM_MS), Look::Fetch);
    }
}

#[test]
fn one_refreshes_at_a_time() {
    let mut slot = Slot::new();
    slot.put("a", 0, AGES);
    assert_eq!(slot.look(50, CLAIM_MS), stale(50, Refresh::Yours));
    assert_eq!(slot.look(50, CLAIM_MS), stale(50, Refresh::Claimed));
    assert_eq!(slot.look(59, CLAIM_MS), stale(59, Refresh::Claimed));
    assert_eq!(
        slot.look(60, CLAIM_MS),
        stale(60, Refresh::Yours),
        "it never came back"
    );
    assert_eq!(slot.look(61, CLAIM_MS), stale(61, Refresh::Claimed));
    slot.release();
    assert_eq!(slot.look(62, CLAIM_MS), stale(62, Refresh::Yours), "given back");
    assert!(slot.put("a", 62, AGES));
    assert_eq!(
        slot.look(63, CLAIM_MS),
        Look::Fresh {
            value: "a",
            age_ms: 1
        }
    );
    assert_eq!(
        slot.look(107, CLAIM_MS),
        stale(45, Refresh::Yours),
        "an answer gives it back"
    );
}

#[test]
fn the_answer_to_the_later_question_stays() {
    let mut slot = Slot::new();
    assert!(slot.put("refused", 20, AGES));
    assert!(!slot.put("valid", 10, AGES), "asked before, answered after");
    assert_eq!(slot.last(), Some(&"refused"));
    assert!(
        slot.put("again", 20, AGES),
        "asked at the same time: the later answer"
    );
    assert_eq!((slot.last(), slot.as_of_ms()), (Some(&"again"), Some(20)));
    slot.end();
    assert!(slot.put("valid", 10, AGES), "nothing is known any more");
}

#[test]
fn a_clock_that_goes_back_makes_nothing_immortal() {
    let mut slot = Slot::new();
    slot.put("a", 1_000_000, AGES);
    assert_eq!(
        slot.look(500, CLAIM_MS),
        Look::Fresh {
            value: "a",
            age_ms: 0
        }
    );
    assert_eq!(slot.look(545, CLAIM_MS), stale(45, Refresh::Yours));
    assert_eq!(
        slot.look(100, CLAIM_MS),
        Look::Fresh {
            value: "a",
            age_ms: 0
        }
    );
    assert_eq!(
        slot.look(145, CLAIM_MS),
        stale(45, Refresh::Yours),
        "a claim from the future is none"
    );
    assert_eq!(slot.look(1_000, CLAIM_MS), Look::Fetch);
}

#[test]
fn the_least_recently_looked_at_goes_first() {
    let mut cache = Cache::new(2, CLAIM_MS);
    cache.put(1, "a", 0, AGES);
    cache.put(2, "b", 0, AGES);
    assert!(matches!(cache.look(&1, 0), Look::Fresh { value: "a", .. }));
    cache.put(3, "c", 0, AGES);
    assert_eq!(cache.look(&2, 0), Look::Fetch);
    assert!(matches!(cache.look(&1, 0), Look::Fresh { value: "a", .. }));
    assert!(matches!(cache.look(&3, 0), Look::Fresh { value: "c", .. }));
    cache.end(&1);
    assert_eq!(
        (cache.look(&1, 0), cache.len(), cache.is_empty()),
        (Look::Fetch, 1, false)
    );
    cache.clear();
    assert!(cache.is_empty());

    let mut smallest = Cache::new(0, CLAIM_MS);
    smallest.put(1, "a", 0, AGES);
    smallest.put(2, "b", 0, AGES);
    assert_eq!((smallest.len(), smallest.look(&1, 0)), (1, Look::Fetch));
}

#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    Look(u8),
    Put { key: u8, asked_ago_ms: u64 },
    End(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => prop_oneof![0..5_u64, 0..1_000_u64].prop_map(Step::Pass),
        4 => (0..6_u8).prop_map(Step::Look),
        3 => (0..6_u8, 0..100_u64).prop_map(|(key, asked_ago_ms)| Step::Put { key, asked_ago_ms }),
        1 => (0..6_u8).prop_map(Step::End),
    ];
    prop::collection::vec(step, 0..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn no_interleaving_serves_what_it_must_not(steps in steps()) {
        const ROOM: usize = 4;
        let mut cache = Cache::new(ROOM, CLAIM_MS);
        // Question times by key, and the keys by use, the latest last.
        let mut answered: HashMap<u8, u64> = HashMap::new();
        let mut used: Vec<u8> = Vec::new();
        let mut claims: HashMap<u8, u64> = HashMap::new();
        let mut now_ms = 10_000;
        for step in steps {
            match step {
                Step::Pass(ms) => now_ms += ms,
                Step::Look(key) => {
                    let age_ms = answered.get(&key).map(|at| now_ms - at);
                    match cache.look(&key, now_ms) {
                        Look::Fresh { value, age_ms: said } => {
                            prop_assert_eq!((Some(value), Some(said)), (answered.get(&key).copied(), age_ms));
                            prop_assert!(said < AGES.fresh_ms);
                        }
                        Look::Stale { value, age_ms: said, refresh } => {
                            prop_assert_eq!((Some(value), Some(said)), (answered.get(&key).copied(), age_ms));
                            prop_assert!((AGES.fresh_ms..AGES.stale_ms).contains(&said), "past its limit");
                            let free = claims.get(&key).is_none_or(|at| now_ms - at >= CLAIM_MS);
                            prop_assert_eq!(refresh == Refresh::Yours, free, "one refresh at a time");
                            if free {
                                claims.insert(key, now_ms);
                            }
                        }
                        Look::Fetch => prop_assert!(age_ms.is_none_or(|age| age >= AGES.stale_ms), "lost"),
                    }
                    if answered.contains_key(&key) {
                        touch(&mut used, key);
                    }
                }
                Step::Put { key, asked_ago_ms } => {
                    let asked_ms = now_ms - asked_ago_ms;
                    let latest = answered.get(&key).is_none_or(|at| *at <= asked_ms);
                    prop_assert_eq!(cache.put(key, asked_ms, asked_ms, AGES), latest);
                    if latest {
                        answered.insert(key, asked_ms);
                        claims.remove(&key);
                    }
                    touch(&mut used, key);
                    if used.len() > ROOM {
                        let gone = used.remove(0);
                        answered.remove(&gone);
                        claims.remove(&gone);
                    }
                }
                Step::End(key) => {
                    cache.end(&key);
                    answered.remove(&key);
                    claims.remove(&key);
                    used.retain(|other| *other != key);
                }
            }
            prop_assert!(cache.len() <= ROOM);
            prop_assert_eq!(cache.len(), answered.len());
        }
    }
}

fn touch(used: &mut Vec<u8>, key: u8) {
    used.retain(|other| *other != key);
    used.push(key);
}
