//! The circuit under virtual time: the policy as tables and stories. Random interleavings are in `interleavings`.

use super::*;

mod interleavings;

const FAILED: Outcome = Outcome::Failure {
    kind: FailureKind::ServerError,
    retry_after_ms: None,
};

fn failed_for(retry_after_ms: u64) -> Outcome {
    Outcome::Failure {
        kind: FailureKind::TooMany,
        retry_after_ms: Some(retry_after_ms),
    }
}

fn new() -> Circuit {
    Circuit::new(CircuitSettings::default())
}

/// A call that takes no time.
fn call(circuit: &mut Circuit, outcome: Outcome, now_ms: u64) {
    let permit = circuit.ask(now_ms).unwrap();
    circuit.report(permit, outcome, now_ms);
}

/// Opened by five failures at `now_ms`.
fn opened(now_ms: u64) -> Circuit {
    let mut circuit = new();
    for _ in 0..5 {
        call(&mut circuit, FAILED, now_ms);
    }
    assert_eq!(circuit.phase(), Phase::Open);
    circuit.take_transitions().for_each(drop);
    circuit
}

#[test]
fn five_failures_within_a_minute_open_it() {
    let table: [(&[u64], Phase, &str); 6] = [
        (&[0, 1, 2, 3], Phase::Closed, "four do not"),
        (&[0, 1, 2, 3, 4], Phase::Open, "five do"),
        (
            &[0, 1, 2, 3, 60_000],
            Phase::Open,
            "the first and the fifth exactly a minute apart",
        ),
        (&[0, 1, 2, 3, 60_001], Phase::Closed, "a millisecond more"),
        (
            &[0, 30_000, 60_000, 90_000, 120_000, 150_000],
            Phase::Closed,
            "two a minute, for ever",
        ),
        (
            &[0, 50_000, 70_000, 80_000, 90_000, 100_000],
            Phase::Open,
            "the window slides",
        ),
    ];
    for (failures, expect, why) in table {
        let mut circuit = new();
        for at_ms in failures {
            call(&mut circuit, FAILED, *at_ms);
        }
        assert_eq!(circuit.phase(), expect, "{why}");
    }
}

#[test]
fn what_is_no_failure_is_not_counted_and_forgives_none() {
    let mut circuit = new();
    for at_ms in 0..4 {
        call(&mut circuit, FAILED, at_ms);
        call(&mut circuit, Outcome::Success, at_ms);
        call(&mut circuit, Outcome::Inconclusive, at_ms);
    }
    assert_eq!(circuit.phase(), Phase::Closed);
    call(&mut circuit, FAILED, 5);
    assert_eq!(circuit.phase(), Phase::Open);
}

#[test]
fn the_whole_story_with_its_log_lines() {
    let mut circuit = new();
    for at_ms in [0, 100, 200, 300, 400] {
        call(&mut circuit, FAILED, at_ms);
    }
    assert_eq!(
        circuit.ask(400),
        Err(Refused {
            retry_after_ms: 30_000
        })
    );
    assert_eq!(circuit.ask(30_399), Err(Refused { retry_after_ms: 1 }));
    let probe = circuit.ask(30_400).unwrap();
    assert_eq!(
        circuit.ask(30_401),
        Err(Refused {
            retry_after_ms: 9_999
        }),
        "one probe"
    );
    circuit.report(probe, FAILED, 31_000);
    assert_eq!(
        circuit.ask(60_999),
        Err(Refused { retry_after_ms: 1 }),
        "30 s from the failure"
    );
    call(&mut circuit, Outcome::Success, 61_000);

    let transition = |at_ms, from, to, reason, failures, refused, pause_ms| Transition {
        at_ms,
        from,
        to,
        reason,
        failures,
        refused,
        pause_ms,
        last_failure: Some(FailureKind::ServerError),
    };
    use Phase::{Closed, HalfOpen, Open};
    let story: Vec<_> = circuit.take_transitions().collect();
    let expect = [
        transition(400, Closed, Open, Reason::Failures, 5, 0, 30_000),
        transition(30_400, Open, HalfOpen, Reason::PauseOver, 5, 2, 0),
        transition(31_000, HalfOpen, Open, Reason::ProbeFailed, 6, 3, 30_000),
        transition(61_000, Open, HalfOpen, Reason::PauseOver, 6, 4, 0),
        transition(61_000, HalfOpen, Closed, Reason::ProbeSucceeded, 6, 4, 0),
    ];
    assert_eq!(story, expect);
    assert_eq!(circuit.take_transitions().count(), 0, "each is logged once");

    for _ in 0..5 {
        call(&mut circuit, FAILED, 62_000);
    }
    let again: Vec<_> = circuit.take_transitions().collect();
    assert_eq!(
        again,
        [transition(62_000, Closed, Open, Reason::Failures, 5, 0, 30_000)],
        "counts begin anew"
    );
}

#[test]
fn retry_after_lengthens_the_pause_to_five_minutes_at_most() {
    let table = [
        (Some(10_000), 30_000, "never shortens it"),
        (Some(120_000), 120_000, "lengthens it"),
        (Some(u64::MAX), 300_000, "no further than that"),
    ];
    for (retry_after_ms, expect_ms, why) in table {
        let failure = Outcome::Failure {
            kind: FailureKind::TooMany,
            retry_after_ms,
        };
        let mut circuit = new();
        // The one that says so need not be the one that opens it.
        call(&mut circuit, failure, 0);
        for _ in 0..4 {
            call(&mut circuit, FAILED, 0);
        }
        assert_eq!(
            circuit.ask(0),
            Err(Refused {
                retry_after_ms: expect_ms
            }),
            "opening: {why}"
        );

        let mut circuit = opened(0);
        call(&mut circuit, failure, 30_000);
        assert_eq!(
            circuit.ask(30_000),
            Err(Refused {
                retry_after_ms: expect_ms
            }),
            "probe: {why}"
        );
    }
}

#[test]
fn answers_from_before_it_opened_change_nothing() {
    for late in [
        Outcome::Success,
        FAILED,
        failed_for(300_000),
        Outcome::Inconclusive,
    ] {
        let mut circuit = new();
        let in_flight: Vec<_> = (0..3).map(|_| circuit.ask(0).unwrap()).collect();
        for _ in 0..5 {
            call(&mut circuit, FAILED, 0);
        }
        let mut in_flight = in_flight.into_iter();

        circuit.report(in_flight.next().unwrap(), late, 10);
        assert_eq!(
            circuit.ask(10),
            Err(Refused {
                retry_after_ms: 29_990
            }),
            "open: {late:?}"
        );

        let probe = circuit.ask(30_000).unwrap();
        circuit.report(in_flight.next().unwrap(), late, 30_001);
        assert_eq!(circuit.phase(), Phase::HalfOpen, "half-open: {late:?}");
        circuit.report(probe, Outcome::Success, 30_002);

        for _ in 0..4 {
            call(&mut circuit, FAILED, 30_003);
        }
        circuit.report(in_flight.next().unwrap(), late, 30_003);
        assert_eq!(circuit.phase(), Phase::Closed, "closed again: {late:?}");
    }
}

#[test]
fn a_probe_that_never_reports_counts_as_failed() {
    let mut circuit = opened(0);
    let lost = circuit.ask(30_000).unwrap();
    assert_eq!(circuit.ask(39_999), Err(Refused { retry_after_ms: 1 }));
    // Lost at 40 s, so the next one goes out at 70 s, whoever looks and when.
    assert_eq!(
        circuit.ask(40_000),
        Err(Refused {
            retry_after_ms: 30_000
        })
    );
    let probe = circuit.ask(70_000).unwrap();
    circuit.report(lost, Outcome::Success, 70_001);
    assert_eq!(circuit.phase(), Phase::HalfOpen, "it comes too late");
    circuit.report(probe, Outcome::Success, 70_002);
    assert_eq!(circuit.phase(), Phase::Closed);

    let mut circuit = opened(0);
    let late = circuit.ask(30_000).unwrap();
    circuit.report(late, Outcome::Success, 40_000);
    assert_eq!(
        circuit.phase(),
        Phase::Open,
        "also where nobody looked before it came"
    );

    let mut circuit = opened(0);
    let _lost = circuit.ask(30_000).unwrap();
    assert!(
        circuit.ask(500_000).is_ok(),
        "nobody came for long: the next probe goes out at once"
    );
}

#[test]
fn an_inconclusive_probe_leaves_the_next_caller_to_probe() {
    let mut circuit = opened(0);
    let first = circuit.ask(30_000).unwrap();
    circuit.report(first, Outcome::Inconclusive, 30_010);
    let second = circuit.ask(30_011).unwrap();
    assert!(circuit.ask(30_012).is_err(), "still one at a time");
    circuit.report(second, Outcome::Success, 30_020);
    assert_eq!(circuit.phase(), Phase::Closed);
}

#[test]
fn a_clock_that_goes_back_does_not_wedge_it() {
    let mut circuit = opened(1_000_000_000);
    assert_eq!(
        circuit.ask(5_000),
        Err(Refused {
            retry_after_ms: 300_000
        })
    );
    let _lost = circuit.ask(305_000).unwrap();
    assert!(circuit.ask(0).is_err());
    assert!(circuit.ask(10_000).is_err());
    assert!(circuit.ask(40_000).is_ok());

    let mut circuit = new();
    for at_ms in [9_000, 9_000, 9_000, 9_000, 0] {
        call(&mut circuit, FAILED, at_ms);
    }
    assert_eq!(
        circuit.phase(),
        Phase::Closed,
        "failures of a future that was taken back are none"
    );
}

/// docs/design.md §1: a registry that fails is left alone. Eight callers at a time, for ten minutes.
#[test]
fn a_dependency_that_only_fails_is_called_five_times_plus_those_in_flight_then_once_per_pause() {
    let mut circuit = new();
    let mut calls = Vec::new();
    let mut in_flight = VecDeque::new();
    for now_ms in (0..600_000).step_by(10) {
        if in_flight.len() == 8 {
            circuit.report(in_flight.pop_front().unwrap(), FAILED, now_ms);
        }
        if let Ok(permit) = circuit.ask(now_ms) {
            calls.push(now_ms);
            in_flight.push_back(permit);
        } else if let Some(permit) = in_flight.pop_front() {
            circuit.report(permit, FAILED, now_ms);
        }
    }
    let at_first = calls.iter().filter(|at| **at < 30_000).count();
    assert!(at_first <= 5 + 7, "{at_first}");
    assert!(calls.len() - at_first <= 600 / 30, "{calls:?}");
    assert!(calls.len() > 15, "it goes on probing: {calls:?}");
}
