//! Signing keys under virtual time, one story for each promise.

use super::*;
use crate::circuit::FailureKind;

const SECOND: u64 = 1_000;
const HOUR: u64 = 3_600_000;
const START: u64 = 1_000 * HOUR;
const FAILED: Outcome = Outcome::Failure {
    kind: FailureKind::ServerError,
    retry_after_ms: None,
};

fn new() -> KeysDesk<&'static str> {
    KeysDesk::new(KeysSettings {
        ages: Ages {
            fresh_ms: HOUR,
            stale_ms: 24 * HOUR,
        },
        cooldown_ms: 30 * SECOND,
        claim_ms: 10 * SECOND,
        circuit: CircuitSettings::default(),
    })
}

/// One that asked the registry at `START`.
fn with_keys() -> KeysDesk<&'static str> {
    let mut desk = new();
    let KeysDecision::Ask(permit) = desk.decide(true, START) else {
        panic!("asked")
    };
    assert!(desk.answered(permit, START, Ok("old"), START));
    desk
}

fn served(decision: KeysDecision<&'static str>) -> (&'static str, Source, u64, bool) {
    let KeysDecision::Serve {
        value,
        provenance,
        refresh,
    } = decision
    else {
        panic!("{decision:?}")
    };
    (value, provenance.source, provenance.age_ms, refresh.is_some())
}

#[test]
fn a_fresh_isolate_reads_d1_before_it_asks() {
    let mut desk = new();
    assert_eq!(desk.decide(false, START), KeysDecision::ReadDurable);
    assert_eq!(
        desk.decide(false, START),
        KeysDecision::ReadDurable,
        "each request for itself"
    );
    let table = [
        (HOUR - 1, false, "fresh: the registry is not asked"),
        (HOUR, true, "stale: served, and refreshed"),
        (24 * HOUR - 1, true, "the last stale millisecond"),
    ];
    for (age_ms, refreshed, why) in table {
        let got = served(new().take_over("copy", START - age_ms, START));
        assert_eq!(got, ("copy", Source::Durable, age_ms, refreshed), "{why}");
    }
    assert!(
        matches!(
            new().take_over("copy", START - 24 * HOUR, START),
            KeysDecision::Ask(_)
        ),
        "dead"
    );
    assert!(
        matches!(new().decide(true, START), KeysDecision::Ask(_)),
        "no copy"
    );
}

#[test]
fn a_copy_that_is_older_than_memory_is_not_taken() {
    let mut desk = with_keys();
    let got = served(desk.take_over("older", START - 1, START + 5));
    assert_eq!(got, ("old", Source::Fresh, 5, false));
}

#[test]
fn a_day_long_outage_is_not_noticed() {
    let mut desk = with_keys();
    let mut calls = 0;
    for minute in 0..24 * 60 {
        let now_ms = START + minute * 60 * SECOND;
        let (value, ..) = served(match desk.decide(false, now_ms) {
            KeysDecision::Serve {
                value,
                provenance,
                refresh: Some(permit),
            } => {
                calls += 1;
                desk.answered(permit, now_ms, Err(FAILED), now_ms);
                KeysDecision::Serve {
                    value,
                    provenance,
                    refresh: None,
                }
            }
            other => other,
        });
        assert_eq!(value, "old");
    }
    assert!(calls > 1_000, "it went on trying: {calls}");
    assert_eq!(desk.decide(false, START + 24 * HOUR), KeysDecision::ReadDurable);
}

#[test]
fn made_up_kids_are_one_request_per_cooldown() {
    let mut desk = with_keys();
    let mut calls = 0;
    for now_ms in (START..START + 300 * SECOND).step_by(10) {
        match desk.unknown_kid(now_ms) {
            KidDecision::Refresh(permit) => {
                calls += 1;
                desk.answered(permit, now_ms, Ok("same"), now_ms);
            }
            other => assert_eq!(other, KidDecision::CoolingDown),
        }
    }
    assert_eq!(calls, 10);
}

#[test]
fn a_rotation_is_found_at_once_or_within_the_cooldown() {
    let mut desk = with_keys();
    let KidDecision::Refresh(permit) = desk.unknown_kid(START + 1) else {
        panic!("refreshed")
    };
    assert_eq!(
        desk.unknown_kid(START + 2),
        KidDecision::Wait,
        "others wait for it a little"
    );
    desk.answered(permit, START + 1, Ok("new"), START + 100);
    assert_eq!(
        served(desk.decide(false, START + 101)),
        ("new", Source::Fresh, 100, false)
    );

    // Rotated right after a stranger used the refresh up.
    assert_eq!(desk.unknown_kid(START + 102), KidDecision::CoolingDown);
    assert_eq!(desk.unknown_kid(START + 30 * SECOND), KidDecision::CoolingDown);
    assert!(matches!(
        desk.unknown_kid(START + 30 * SECOND + 1),
        KidDecision::Refresh(_)
    ));
}

#[test]
fn if_the_refresh_fails_nobody_knows_and_what_is_held_is_kept() {
    let mut desk = with_keys();
    let KidDecision::Refresh(permit) = desk.unknown_kid(START) else {
        panic!("refreshed")
    };
    assert!(!desk.answered(permit, START, Err(FAILED), START + 50));
    assert_eq!(
        desk.unknown_kid(START + 10 * SECOND),
        KidDecision::Unavailable {
            retry_after_ms: 20 * SECOND
        }
    );
    assert_eq!(served(desk.decide(false, START + 51)).0, "old");

    // An ordinary refresh that comes meanwhile is as good.
    let mut desk = with_keys();
    let _lost = desk.unknown_kid(START + HOUR);
    assert_eq!(desk.unknown_kid(START + HOUR + 9_999), KidDecision::Wait);
    let lost = KidDecision::Unavailable {
        retry_after_ms: 20 * SECOND,
    };
    assert_eq!(
        desk.unknown_kid(START + HOUR + 10_000),
        lost,
        "cancelled: not waited for any longer"
    );
    let KeysDecision::Serve {
        refresh: Some(permit),
        ..
    } = desk.decide(false, START + HOUR + 1)
    else {
        panic!("stale")
    };
    desk.answered(permit, START + HOUR + 1, Ok("new"), START + HOUR + 2);
    assert_eq!(desk.unknown_kid(START + HOUR + 3), KidDecision::CoolingDown);
}

#[test]
fn an_answer_to_an_earlier_question_does_not_settle_the_refresh() {
    let mut desk = with_keys();
    let KeysDecision::Serve {
        refresh: Some(permit),
        ..
    } = desk.decide(false, START + HOUR)
    else {
        panic!("stale")
    };
    let KidDecision::Refresh(kid_permit) = desk.unknown_kid(START + HOUR + 1) else {
        panic!("refreshed")
    };
    desk.answered(
        permit,
        START + HOUR,
        Ok("from before the rotation"),
        START + HOUR + 2,
    );
    assert_eq!(desk.unknown_kid(START + HOUR + 3), KidDecision::Wait);
    desk.answered(kid_permit, START + HOUR + 1, Ok("new"), START + HOUR + 4);
    assert_eq!(served(desk.decide(false, START + HOUR + 5)).0, "new");
}

#[test]
fn an_open_circuit_is_not_asked_and_uses_no_cooldown_up() {
    let mut desk = new();
    for _ in 0..5 {
        let KeysDecision::Ask(permit) = desk.decide(true, START) else {
            panic!("asked")
        };
        desk.answered(permit, START, Err(FAILED), START);
    }
    assert_eq!(
        desk.decide(true, START),
        KeysDecision::Unavailable {
            retry_after_ms: 30 * SECOND
        }
    );
    assert_eq!(
        desk.unknown_kid(START),
        KidDecision::Unavailable {
            retry_after_ms: 30 * SECOND
        }
    );
    let KidDecision::Refresh(permit) = desk.unknown_kid(START + 30 * SECOND) else {
        panic!("the probe")
    };
    desk.answered(permit, START + 30 * SECOND, Ok("new"), START + 30 * SECOND);
    assert_eq!(served(desk.decide(true, START + 30 * SECOND)).0, "new");
}

#[test]
fn a_key_that_another_isolate_found_is_found_in_d1_where_the_registry_cannot_be_asked() {
    let mut desk = with_keys();
    let now_ms = START + 10 * SECOND;
    let KidDecision::Refresh(permit) = desk.unknown_kid(now_ms) else {
        panic!("asked")
    };
    desk.answered(permit, now_ms, Err(FAILED), now_ms);
    assert_eq!(desk.durable_for_kid(now_ms), KidCopy::Read);
    let again_ms = now_ms + DURABLE_AGAIN_MS - 1;
    assert_eq!(
        desk.durable_for_kid(again_ms),
        KidCopy::BeingRead,
        "a flood of kids"
    );
    desk.durable_was_read();
    assert_eq!(
        desk.durable_for_kid(again_ms),
        KidCopy::JustRead,
        "nobody waits for nothing"
    );
    assert_eq!(
        desk.take_over_for_kid("old", START, now_ms),
        None,
        "what is held already"
    );
    let durable = Provenance {
        source: Source::Durable,
        age_ms: 5 * SECOND,
    };
    assert_eq!(
        desk.take_over_for_kid("new", START + 5 * SECOND, now_ms),
        Some(("new", durable))
    );
    assert_eq!(served(desk.decide(false, now_ms)).0, "new");
    assert_eq!(desk.durable_for_kid(now_ms + DURABLE_AGAIN_MS), KidCopy::Read);
    let dead_ms = START + 50 * HOUR;
    assert_eq!(
        desk.take_over_for_kid("newer", START + 6 * SECOND, dead_ms),
        None,
        "dead by now"
    );
}

#[test]
fn a_date_that_lies_ahead_gives_a_copy_no_fresh_age() {
    const NOW_MS: u64 = 1_700_000_000_000;
    for (fetched_at_ms, expect) in [
        (NOW_MS - 5, NOW_MS - 5),
        (NOW_MS + super::MAX_AHEAD_MS, NOW_MS + super::MAX_AHEAD_MS),
        (NOW_MS + super::MAX_AHEAD_MS + 1, NOW_MS - 1_000),
        (u64::MAX, NOW_MS - 1_000),
    ] {
        assert_eq!(super::dated_ms(fetched_at_ms, NOW_MS, 1_000), expect);
    }
}
