//! The polled CRL under virtual time, one story for each promise.

use super::*;
use crate::circuit::Phase;
use crate::provenance::Source;

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60_000;
const START: u64 = 10_000 * MINUTE;
const FAILED: Answer<&str> = Answer::None(Outcome::Failure {
    kind: FailureKind::ServerError,
    retry_after_ms: None,
});

type Desk = CrlDesk<&'static str>;

fn new() -> Desk {
    CrlDesk::new(CrlSettings {
        ages: Ages {
            fresh_ms: 15 * MINUTE,
            stale_ms: 60 * MINUTE,
        },
        claim_ms: 10 * SECOND,
        patience_ms: 2 * SECOND,
        circuit: CircuitSettings::default(),
    })
}

fn list(iat_s: u64) -> Answer<&'static str> {
    Answer::List {
        list: if iat_s < 200 { "old" } else { "new" },
        iat_s,
    }
}

fn ask(desk: &mut Desk, answer: Answer<&'static str>, now_ms: u64) -> Note {
    let permit = match desk.decide(now_ms) {
        CrlDecision::Ask(permit)
        | CrlDecision::Serve {
            refresh: Some(permit),
            ..
        } => permit,
        other => panic!("not asked: {other:?}"),
    };
    desk.answered(permit, now_ms, answer, now_ms)
}

fn with(answer: Answer<&'static str>) -> Desk {
    let mut desk = new();
    assert_eq!(ask(&mut desk, answer, START), Note::Taken);
    desk
}

fn served(desk: &mut Desk, now_ms: u64) -> (Option<&'static str>, Source, bool) {
    match desk.decide(now_ms) {
        CrlDecision::Serve {
            list,
            provenance,
            refresh,
        } => (list, provenance.source, refresh.is_some()),
        other => panic!("not served: {other:?}"),
    }
}

#[test]
fn a_list_is_fresh_then_stale_then_gone_but_not_forgotten() {
    let mut desk = with(list(100));
    assert_eq!(
        served(&mut desk, START + 15 * MINUTE - 1),
        (Some("old"), Source::Fresh, false)
    );
    assert_eq!(
        served(&mut desk, START + 15 * MINUTE),
        (Some("old"), Source::Stale, true)
    );
    assert_eq!(
        served(&mut desk, START + 15 * MINUTE),
        (Some("old"), Source::Stale, false),
        "one refresh"
    );
    for minute in 16..60 {
        assert_eq!(ask(&mut desk, FAILED, START + minute * MINUTE), Note::None);
    }
    // One failure a minute never opens the circuit; here it does.
    for _ in 0..5 {
        ask(&mut desk, FAILED, START + 61 * MINUTE);
    }
    let cause = Missing::CircuitOpen {
        retry_after_ms: 30 * SECOND,
    };
    assert_eq!(
        desk.decide(START + 61 * MINUTE),
        CrlDecision::Gone {
            last: Some("old"),
            cause
        }
    );
}

#[test]
fn health_says_how_it_stands() {
    assert_eq!(new().standing(START), Standing::Never);
    let table = [(0, "fresh"), (15, "stale"), (59, "stale"), (60, "dead")];
    for (minutes, expect) in table {
        assert_eq!(
            with(list(100)).standing(START + minutes * MINUTE).as_str(),
            expect
        );
        assert_eq!(
            with(Answer::Nothing).standing(START + minutes * MINUTE).as_str(),
            expect
        );
    }
}

#[test]
fn only_one_404_says_that_nothing_was_revoked() {
    let table = [
        (r#"{"error":{"code":"CRL_NOT_FOUND"}}"#, true),
        (
            r#"{"error":{"code":"CRL_NOT_FOUND","message":"m","requestId":"r"}}"#,
            true,
        ),
        (r#"{"error":{"code":"NOT_FOUND"}}"#, false),
        (r#"{"error":{"code":"NOT_FOUND","code":"CRL_NOT_FOUND"}}"#, false),
        (r#"{"error":"CRL_NOT_FOUND"}"#, false),
        (r#"[{"code":"CRL_NOT_FOUND"}]"#, false),
        ("CRL_NOT_FOUND", false),
        ("<html>", false),
        ("", false),
    ];
    for (body, expect) in table {
        assert_eq!(says_not_found(body.as_bytes()), expect, "{body}");
    }
}

#[test]
fn nothing_revoked_yet_is_an_answer_and_is_remembered() {
    let mut desk = with(Answer::Nothing);
    assert_eq!(served(&mut desk, START + 1), (None, Source::Fresh, false));
    assert_eq!(
        ask(&mut desk, list(100), START + 15 * MINUTE),
        Note::Taken,
        "then something was"
    );
}

#[test]
fn the_list_never_goes_back() {
    let now = START + 15 * MINUTE;
    let table = [
        (
            list(199),
            Note::OlderThanHeld,
            Some("new"),
            "signed before the one held",
        ),
        (list(200), Note::Taken, Some("new"), "the same again"),
        (list(201), Note::Taken, Some("new"), "a later one"),
        (
            Answer::Nothing,
            Note::NothingWhileHeld,
            Some("new"),
            "nobody signed that",
        ),
    ];
    for (answer, note, expect, why) in table {
        let mut desk = with(list(200));
        assert_eq!(ask(&mut desk, answer, now), note, "{why}");
        assert_eq!(served(&mut desk, now).0, expect, "{why}");
        let source = if note == Note::Taken {
            Source::Fresh
        } else {
            Source::Stale
        };
        assert_eq!(
            served(&mut desk, now).1,
            source,
            "{why}: what is no answer makes nothing younger"
        );
    }

    // A dead list constrains nothing that takes its place.
    let dead = START + 60 * MINUTE;
    let mut desk = with(list(200));
    assert_eq!(ask(&mut desk, list(199), dead), Note::Taken);
    let mut desk = with(list(200));
    assert_eq!(ask(&mut desk, Answer::Nothing, dead), Note::Taken);
    assert_eq!(served(&mut desk, dead).0, None);
    assert_eq!(ask(&mut desk, list(199), dead + 15 * MINUTE), Note::Taken);
}

#[test]
fn a_list_that_is_dated_ahead_is_not_taken_and_makes_no_later_one_older() {
    let now_s = START / 1000;
    for (iat_s, expect) in [
        (now_s + MAX_SKEW_SECONDS + 1, Note::FromTheFuture),
        (u64::MAX, Note::FromTheFuture),
        (now_s + MAX_SKEW_SECONDS, Note::Taken),
    ] {
        let mut desk = new();
        assert_eq!(ask(&mut desk, list(iat_s), START), expect, "{iat_s}");
        let later = START + 15 * MINUTE;
        assert_eq!(ask(&mut desk, list(later / 1000), later), Note::Taken, "{iat_s}");
    }
}

#[test]
fn an_older_list_over_and_over_is_a_failure_and_opens_the_circuit() {
    let mut desk = with(list(200));
    for second in 0..5 {
        ask(&mut desk, list(100), START + 15 * MINUTE + second * 10 * SECOND);
    }
    assert_eq!(desk.circuit().phase(), Phase::Open);
}

#[test]
fn not_modified_renews_what_is_held_and_nothing_else() {
    let mut desk = with(list(200));
    assert_eq!(
        ask(&mut desk, Answer::NotModified, START + 15 * MINUTE),
        Note::Taken
    );
    assert_eq!(
        served(&mut desk, START + 15 * MINUTE),
        (Some("new"), Source::Fresh, false)
    );
    assert_eq!(ask(&mut new(), Answer::NotModified, START), Note::None);
}

#[test]
fn a_cold_isolate_makes_one_call_at_a_time() {
    let mut desk = new();
    let CrlDecision::Ask(first) = desk.decide(START) else {
        panic!("asked")
    };
    assert_eq!(desk.decide(START + 1), CrlDecision::Wait);
    assert_eq!(desk.decide(START + 1_999), CrlDecision::Wait);
    let CrlDecision::Ask(second) = desk.decide(START + 2_000) else {
        panic!("patience is over")
    };
    assert_eq!(desk.decide(START + 2_001), CrlDecision::Wait);

    desk.answered(second, START + 2_000, FAILED, START + 2_100);
    let CrlDecision::Ask(third) = desk.decide(START + 2_100) else {
        panic!("it failed: the next one, at once")
    };
    assert_eq!(desk.answered(first, START, list(100), START + 2_200), Note::Taken);
    assert_eq!(
        served(&mut desk, START + 2_201),
        (Some("old"), Source::Fresh, false)
    );
    desk.answered(third, START + 2_100, FAILED, START + 2_300);
    assert_eq!(served(&mut desk, START + 2_301).0, Some("old"));
}

#[test]
fn a_thousand_cold_requests_of_a_failing_registry_are_five_calls() {
    let mut desk = new();
    let mut calls = 0;
    for number in 0..1_000 {
        match desk.decide(START + number) {
            CrlDecision::Ask(permit) => {
                calls += 1;
                desk.answered(permit, START + number, FAILED, START + number);
            }
            other => assert!(matches!(other, CrlDecision::Gone { last: None, .. })),
        }
    }
    assert_eq!(calls, 5);
}

#[test]
fn one_that_is_too_large_is_not_downloaded_again_and_again() {
    let mut desk = new();
    assert_eq!(ask(&mut desk, Answer::TooLarge, START), Note::TooLarge);
    let gone = |last| CrlDecision::Gone {
        last,
        cause: Missing::TooLarge,
    };
    assert_eq!(desk.decide(START + 15 * MINUTE - 1), gone(None));
    assert_eq!(ask(&mut desk, list(100), START + 15 * MINUTE), Note::Taken);
    assert_eq!(desk.circuit().phase(), Phase::Closed, "the registry is well");

    // What is held is served on, and not refreshed meanwhile.
    assert_eq!(
        ask(&mut desk, Answer::TooLarge, START + 30 * MINUTE),
        Note::TooLarge
    );
    assert_eq!(
        served(&mut desk, START + 40 * MINUTE),
        (Some("old"), Source::Stale, false)
    );
    assert_eq!(
        served(&mut desk, START + 45 * MINUTE),
        (Some("old"), Source::Stale, true)
    );
    assert_eq!(
        ask(&mut desk, Answer::TooLarge, START + 46 * MINUTE),
        Note::TooLarge
    );
    assert_eq!(
        ask(&mut desk, Answer::TooLarge, START + 61 * MINUTE),
        Note::TooLarge
    );
    assert_eq!(desk.decide(START + 75 * MINUTE), gone(Some("old")));
}
