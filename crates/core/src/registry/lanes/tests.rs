//! The lanes under virtual time: stories, then random callers checked against counts.

use proptest::prelude::*;

use super::*;

const START: u64 = 1_000_000_000;
const FAILED: Said = Said::Nothing(Outcome::Failure {
    kind: FailureKind::ServerError,
    retry_after_ms: None,
});

fn too_many(retry_after_ms: Option<u64>) -> Said {
    Said::Nothing(Outcome::Failure {
        kind: FailureKind::TooMany,
        retry_after_ms,
    })
}

fn new() -> Lanes {
    Lanes::new(CircuitSettings::default())
}

/// One question that is answered at once: whether it was asked.
fn asks(lanes: &mut Lanes, lane: Lane, caller: Caller, said: Said, now_ms: u64) -> bool {
    match lanes.ask(lane, caller, now_ms) {
        Ok(pass) => {
            lanes.report(pass, said, now_ms);
            true
        }
        Err(_) => false,
    }
}

fn phase(lanes: &mut Lanes, lane: Lane) -> Phase {
    let of_lane = lanes.circuits().into_iter().find(|(of, _)| *of == lane);
    of_lane.map(|(_, circuit)| circuit.phase()).unwrap()
}

#[test]
fn twenty_six_strangers_with_five_made_up_tokens_each_cost_thirty_questions() {
    let mut lanes = new();
    let mut asked = 0;
    for n in 0..130 {
        asked += usize::from(asks(&mut lanes, Lane::Stranger, n % 26, Said::No, START));
    }
    assert_eq!(asked, MOST[2] - 1);
    assert!(
        asks(&mut lanes, Lane::Stranger, 999, Said::No, START),
        "the last place is for a newcomer"
    );
    for lane in [Lane::Confirmed, Lane::Known] {
        assert!(asks(&mut lanes, lane, 1_000, Said::Yes, START));
    }
    let full = lanes.ask(Lane::Stranger, 1_000, START + 20_000);
    let expect = NotNow {
        retry_after_ms: 40_000,
        cause: NotAsked::TooMany,
    };
    assert_eq!(full, Err(expect));
    assert!(asks(
        &mut lanes,
        Lane::Stranger,
        1_000,
        Said::Yes,
        START + WINDOW_MS
    ));
}

#[test]
fn one_caller_leaves_a_place_for_every_other() {
    let mut lanes = new();
    let flood = |lanes: &mut Lanes, caller| {
        (0..100)
            .filter(|_| asks(lanes, Lane::Stranger, caller, Said::No, START))
            .count()
    };
    assert_eq!(flood(&mut lanes, 1), MOST[2] / 2);
    assert_eq!(flood(&mut lanes, 2), MOST[2] / 4 + 1);
    assert!(asks(&mut lanes, Lane::Stranger, 3, Said::Yes, START));
}

#[test]
fn a_yes_costs_nothing_and_what_is_out_is_worth_a_moments_wait() {
    let mut lanes = new();
    for n in 0..10_000 {
        assert!(asks(&mut lanes, Lane::Stranger, 1, Said::Yes, START), "{n}");
    }
    let mut out = Vec::new();
    while let Ok(pass) = lanes.ask(Lane::Stranger, 1, START) {
        out.push(pass);
    }
    assert_eq!(out.len(), MOST[2] / 2);
    let busy = lanes.ask(Lane::Stranger, 1, START).unwrap_err();
    assert_eq!((busy.retry_after_ms, busy.cause), (BUSY_MS, NotAsked::TooMany));
    lanes.report(out.remove(0), Said::Yes, START + 1);
    assert!(asks(&mut lanes, Lane::Stranger, 1, Said::Yes, START + 1));
    // Those of requests that were cancelled are not out for ever.
    assert!(asks(
        &mut lanes,
        Lane::Stranger,
        1,
        Said::Yes,
        START + LOST_AFTER_MS
    ));
}

#[test]
fn a_429_holds_up_its_caller_and_does_not_open_the_circuit_for_others() {
    let mut lanes = new();
    // Ten at once, all answered 429.
    let passes: Vec<_> = (0..10)
        .map(|_| lanes.ask(Lane::Confirmed, 1, START).unwrap())
        .collect();
    for pass in passes {
        lanes.report(pass, too_many(None), START + 1);
    }
    assert_eq!(phase(&mut lanes, Lane::Confirmed), Phase::Closed);
    let held = lanes.ask(Lane::Confirmed, 1, START + 1).unwrap_err();
    assert_eq!(held.cause, NotAsked::Held);
    assert_eq!(held.retry_after_ms, 30_000);
    assert!(asks(&mut lanes, Lane::Confirmed, 2, Said::Yes, START + 1));
    assert!(
        asks(&mut lanes, Lane::Stranger, 1, Said::Yes, START + 1),
        "another lane"
    );
    assert!(asks(&mut lanes, Lane::Confirmed, 1, Said::Yes, START + 30_001));

    // As long as the registry asks for, and no longer than the circuit's longest pause.
    for (retry_after_ms, expect) in [(Some(100_000), 100_000), (Some(9_999_999), 300_000)] {
        let mut lanes = new();
        assert!(asks(&mut lanes, Lane::Known, 1, too_many(retry_after_ms), START));
        let held = lanes.ask(Lane::Known, 1, START).unwrap_err();
        assert_eq!(held.retry_after_ms, expect);
    }
    // A first one that asks for nothing holds up nobody.
    let mut lanes = new();
    assert!(asks(&mut lanes, Lane::Known, 1, too_many(None), START));
    assert!(asks(&mut lanes, Lane::Known, 1, Said::Yes, START));
}

#[test]
fn a_registry_that_says_429_to_five_callers_is_left_alone_on_that_lane() {
    let mut lanes = new();
    for caller in 0..5 {
        assert!(asks(&mut lanes, Lane::Stranger, caller, too_many(None), START));
    }
    assert_eq!(phase(&mut lanes, Lane::Stranger), Phase::Open);
    assert_eq!(phase(&mut lanes, Lane::Known), Phase::Closed);
    // The probe counts, though its caller has met a 429 before.
    assert!(asks(
        &mut lanes,
        Lane::Stranger,
        1,
        too_many(None),
        START + 30_000
    ));
    assert_eq!(phase(&mut lanes, Lane::Stranger), Phase::Open);
}

#[test]
fn other_failures_count_whoever_meets_them() {
    let mut lanes = new();
    let asked = (0..50)
        .filter(|_| asks(&mut lanes, Lane::Known, 1, FAILED, START))
        .count();
    assert_eq!(asked, 5);
    assert_eq!(phase(&mut lanes, Lane::Known), Phase::Open);
}

#[test]
fn a_clock_that_is_set_back_frees_what_it_dated() {
    let mut lanes = new();
    for n in 0..100 {
        asks(&mut lanes, Lane::Stranger, n, Said::No, START);
    }
    asks(&mut lanes, Lane::Known, 1, too_many(Some(200_000)), START);
    assert!(asks(
        &mut lanes,
        Lane::Stranger,
        1,
        Said::Yes,
        START - 100_000_000
    ));
    let held = lanes.ask(Lane::Known, 1, START - 100_000_000).unwrap_err();
    assert!(held.retry_after_ms <= 300_000);
}

proptest! {
    /// Whatever strangers ask and the registry says to them: they never hold more places than the lane has, and nobody else
    /// ever notices, with one place at least for whoever has none.
    #[test]
    fn strangers_spend_what_is_theirs_and_no_more(
        steps in prop::collection::vec((0..40_u128, 0..4_u8, 0..900_u64), 1..400),
    ) {
        let mut lanes = new();
        let mut now_ms = START;
        let mut noes: Vec<(u64, Caller)> = Vec::new();
        for (caller, said, pause_ms) in steps {
            now_ms += pause_ms;
            let said = match said {
                0 => Said::Yes,
                1 => too_many(Some(500)),
                2 => FAILED,
                _ => Said::No,
            };
            if asks(&mut lanes, Lane::Stranger, caller, said, now_ms) && said == Said::No {
                noes.push((now_ms, caller));
            }
            noes.retain(|(at_ms, _)| now_ms - at_ms < WINDOW_MS);
            prop_assert!(noes.len() <= MOST[2]);
            let own = noes.iter().filter(|(_, of)| *of == caller).count();
            prop_assert!(own <= MOST[2] / 2);
            prop_assert!(asks(&mut lanes, Lane::Confirmed, 1_000, Said::Yes, now_ms));
            prop_assert!(asks(&mut lanes, Lane::Known, 1_000, Said::Yes, now_ms));
            prop_assert_eq!(phase(&mut lanes, Lane::Confirmed), Phase::Closed);
            prop_assert_eq!(phase(&mut lanes, Lane::Known), Phase::Closed);
        }
    }

    /// No single caller opens a lane's circuit by what it is told to stop asking.
    #[test]
    fn one_caller_opens_nothing_by_429s(pauses in prop::collection::vec(0..20_000_u64, 1..100)) {
        let mut lanes = new();
        let mut now_ms = START;
        for pause_ms in pauses {
            now_ms += pause_ms;
            asks(&mut lanes, Lane::Confirmed, 1, too_many(None), now_ms);
            prop_assert_eq!(phase(&mut lanes, Lane::Confirmed), Phase::Closed);
            prop_assert!(asks(&mut lanes, Lane::Confirmed, 2, Said::Yes, now_ms));
        }
    }
}
