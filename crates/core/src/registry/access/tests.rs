//! The validation of access tokens under virtual time, one story for each promise.

use super::*;
use crate::cache::Ages;
use crate::circuit::{CircuitSettings, Phase};
use crate::registry::lanes::{Lane, NotAsked};

const ALICE: &str = "did:cdi:registry.example.com:agent:01HF7YAT31JZHSMW1CG6Q6MHB7";
const BOB: &str = "did:cdi:registry.example.com:agent:01HF7YAT31JZHSMW1CG6Q6MHB8";
const SECOND: u64 = 1_000;
const MINUTE: u64 = 60_000;
/// Some time after 1970.
const START: u64 = 1_000_000_000;
const FAILED: Answer = Answer::None(Outcome::Failure {
    kind: FailureKind::Connection,
    retry_after_ms: None,
});

fn settings() -> ConfirmSettings {
    ConfirmSettings {
        ages: Ages {
            fresh_ms: 45 * SECOND,
            stale_ms: 15 * MINUTE,
        },
        refused_ms: 5 * SECOND,
        max_entries: 100,
        claim_ms: 10 * SECOND,
        circuit: CircuitSettings::default(),
    }
}

fn new() -> AccessDesk {
    AccessDesk::new(settings())
}

fn jti(number: u8) -> Ulid {
    Ulid::from_parts(1, [number; 10])
}

fn generation(number: u8) -> Generation {
    Generation::from_random([number; 8])
}

fn question(agent: &str, token: u8) -> Question {
    Question::new(
        &AgentDid::parse(agent).unwrap(),
        jti(1),
        [token; 32],
        generation(1),
    )
}

/// One request that is answered in no time, if it is asked at all: what it came to. The agent's object lets it be asked.
fn request(
    desk: &mut AccessDesk,
    question: &Question,
    kept: Option<u64>,
    answer: Answer,
    now_ms: u64,
) -> &'static str {
    let lets = MayAsk::Ask { known: false };
    request_as(desk, question, kept, &lets, answer, now_ms)
}

fn request_as(
    desk: &mut AccessDesk,
    question: &Question,
    kept: Option<u64>,
    said: &MayAsk,
    answer: Answer,
    now_ms: u64,
) -> &'static str {
    let decision = match desk.decide(question, kept, None, now_ms) {
        AccessDecision::AskObject => desk.decide(question, kept, Some(said), now_ms),
        other => other,
    };
    match decision {
        AccessDecision::Valid { provenance, refresh } => {
            if let Some(pass) = refresh {
                desk.answered(question, pass, now_ms, answer, now_ms);
            }
            match provenance.source {
                Source::Network => "network",
                Source::Fresh => "fresh",
                Source::Stale => "stale",
                Source::Durable => "durable",
            }
        }
        AccessDecision::Invalid => "invalid, not asked",
        AccessDecision::AskObject => "the object is asked twice",
        AccessDecision::Unavailable(NotNow {
            cause: NotAsked::CircuitOpen,
            ..
        }) => "circuit open",
        AccessDecision::Unavailable(NotNow {
            cause: NotAsked::TooMany | NotAsked::Held,
            ..
        }) => "too many",
        AccessDecision::Ask(pass) => match desk.answered(question, pass, now_ms, answer, now_ms) {
            Keep::Validated { .. } => "asked: valid",
            Keep::Refused => "asked: invalid",
            Keep::Unanswered | Keep::Nothing => "asked: nothing",
        },
    }
}

fn phase(desk: &mut AccessDesk, lane: Lane) -> Phase {
    let circuits = desk.lanes().circuits();
    let of_lane = circuits.into_iter().find(|(of, _)| *of == lane);
    of_lane.map(|(_, circuit)| circuit.phase()).unwrap()
}

fn ask(desk: &mut AccessDesk, question: &Question, now_ms: u64) -> Pass {
    let lets = MayAsk::Ask { known: false };
    let AccessDecision::Ask(pass) = desk.decide(question, None, Some(&lets), now_ms) else {
        panic!("asked")
    };
    pass
}

#[test]
fn a_ten_minute_outage_is_not_noticed_by_who_was_validated_before() {
    let mut desk = new();
    let alice = question(ALICE, 1);
    assert_eq!(
        request(&mut desk, &alice, None, Answer::Valid, START),
        "asked: valid"
    );
    assert_eq!(
        request(&mut desk, &alice, None, FAILED, START + 44 * SECOND),
        "fresh"
    );
    for second in 45..15 * 60 {
        assert_eq!(
            request(&mut desk, &alice, None, FAILED, START + second * SECOND),
            "stale",
            "{second} s"
        );
    }
    assert_eq!(phase(&mut desk, Lane::Confirmed), Phase::Open);
    assert_eq!(
        request(&mut desk, &alice, None, FAILED, START + 15 * MINUTE),
        "circuit open",
        "dead"
    );
}

#[test]
fn a_fresh_isolate_in_an_outage_goes_on_with_what_the_object_kept() {
    let table = [
        (44 * SECOND, "durable"),
        (45 * SECOND, "durable"),
        (14 * MINUTE, "durable"),
        (15 * MINUTE, "asked: nothing"),
    ];
    for (age_ms, expect) in table {
        let mut desk = new();
        let kept = Some(START - age_ms);
        assert_eq!(
            request(&mut desk, &question(ALICE, 1), kept, FAILED, START),
            expect,
            "{age_ms}"
        );
    }

    let mut desk = new();
    let kept = Some(START - 10 * SECOND);
    assert_eq!(
        request(&mut desk, &question(ALICE, 1), kept, FAILED, START),
        "durable"
    );
    assert_eq!(
        request(&mut desk, &question(ALICE, 1), kept, FAILED, START),
        "fresh",
        "memory has it now"
    );
    assert_eq!(
        request(&mut desk, &question(ALICE, 1), kept, FAILED, START + 40 * SECOND),
        "stale"
    );
}

#[test]
fn a_refusal_ends_what_was_cached_and_what_the_object_kept() {
    let mut desk = new();
    let alice = question(ALICE, 1);
    assert_eq!(
        request(&mut desk, &alice, None, Answer::Valid, START),
        "asked: valid"
    );
    // Stale is served once more, while the answer is on its way; the answer ends it.
    assert_eq!(
        request(&mut desk, &alice, None, Answer::Invalid, START + MINUTE),
        "stale"
    );
    assert_eq!(
        request(&mut desk, &alice, Some(START), Answer::Valid, START + MINUTE),
        "invalid, not asked"
    );
    assert_eq!(
        request(
            &mut desk,
            &alice,
            Some(START),
            Answer::Valid,
            START + MINUTE + 4_999
        ),
        "invalid, not asked"
    );
    // The object was told to drop it; should it come once more, memory knows better.
    assert_eq!(
        request(
            &mut desk,
            &alice,
            Some(START),
            Answer::Valid,
            START + MINUTE + 5_000
        ),
        "asked: valid"
    );
}

#[test]
fn a_replaced_generation_asks_again_however_fresh_the_cache() {
    let mut desk = new();
    let before = question(ALICE, 1);
    assert_eq!(
        request(&mut desk, &before, None, Answer::Valid, START),
        "asked: valid"
    );
    let after = Question::new(&AgentDid::parse(ALICE).unwrap(), jti(1), [1; 32], generation(2));
    assert_eq!(
        request(&mut desk, &after, None, Answer::Invalid, START + 1),
        "asked: invalid"
    );

    // An answer to a question of the old generation that comes late is not found under the new one.
    let mut desk = new();
    let late = ask(&mut desk, &before, START);
    desk.answered(&before, late, START, Answer::Valid, START + 900);
    assert_eq!(
        request(&mut desk, &after, None, Answer::Invalid, START + 901),
        "asked: invalid"
    );
}

#[test]
fn a_validation_is_of_one_token_one_agent_one_ait() {
    let mut desk = new();
    let agent = AgentDid::parse(ALICE).unwrap();
    assert_eq!(
        request(&mut desk, &question(ALICE, 1), None, Answer::Valid, START),
        "asked: valid"
    );
    let others = [
        question(ALICE, 2),
        question(BOB, 1),
        Question::new(&agent, jti(2), [1; 32], generation(1)),
        Question::new(&agent, jti(1), [1; 32], generation(2)),
    ];
    for other in others {
        assert_eq!(
            request(&mut desk, &other, None, Answer::Invalid, START),
            "asked: invalid"
        );
    }
    assert_eq!(
        request(&mut desk, &question(ALICE, 1), None, Answer::Invalid, START),
        "fresh"
    );
}

#[test]
fn of_two_answers_the_one_to_the_later_question_counts() {
    let mut desk = new();
    let alice = question(ALICE, 1);
    let early = ask(&mut desk, &alice, START);
    let late = ask(&mut desk, &alice, START + 1);
    assert_eq!(
        desk.answered(&alice, late, START + 1, Answer::Invalid, START + 2),
        Keep::Refused
    );
    assert_eq!(
        desk.answered(&alice, early, START, Answer::Valid, START + 3),
        Keep::Nothing
    );
    assert_eq!(
        request(&mut desk, &alice, None, Answer::Valid, START + 4),
        "invalid, not asked"
    );
}

#[test]
fn what_the_object_says_decides_about_what_nobody_has_confirmed() {
    for (said, expect) in [
        (MayAsk::Confirmed, "asked: valid"),
        (MayAsk::Ask { known: true }, "asked: valid"),
        (MayAsk::Ask { known: false }, "asked: valid"),
        (MayAsk::Refused, "invalid, not asked"),
        (
            MayAsk::Wait {
                retry_after_ms: 9_000,
            },
            "too many",
        ),
    ] {
        let mut desk = new();
        let came_to = request_as(&mut desk, &question(ALICE, 1), None, &said, Answer::Valid, START);
        assert_eq!(came_to, expect, "{said:?}");
        // Once the registry has said yes, the object is not asked again, and one that refuses is not heard.
        if expect.starts_with("asked") {
            let dead = START + 15 * MINUTE;
            let came_to = request_as(
                &mut desk,
                &question(ALICE, 1),
                None,
                &MayAsk::Refused,
                Answer::Valid,
                dead,
            );
            assert_eq!(came_to, "asked: valid");
        }
    }
}

/// A registry that has had enough of made-up tokens, and says so to whoever shows one.
#[test]
fn a_429_to_strangers_closes_nothing_for_who_was_confirmed_or_is_known() {
    let had_enough = Answer::None(Outcome::Failure {
        kind: FailureKind::TooMany,
        retry_after_ms: Some(60_000),
    });
    let mut desk = new();
    let alice = question(ALICE, 1);
    assert_eq!(
        request(&mut desk, &alice, None, Answer::Valid, START),
        "asked: valid"
    );
    let mut asked = 0;
    for n in 0..130_u64 {
        let stranger = format!("{}{:02}", &ALICE[..ALICE.len() - 2], 10 + n % 26);
        let made_up = question(&stranger, 100 + (n / 26) as u8);
        asked += usize::from(request(&mut desk, &made_up, None, had_enough, START + n).starts_with("asked"));
    }
    assert_eq!(asked, 5, "the strangers' circuit opens");
    assert_eq!(phase(&mut desk, Lane::Stranger), Phase::Open);
    // Past its stale limit, so that it must be asked: it was confirmed once.
    let dead = START + 15 * MINUTE;
    assert_eq!(
        request(&mut desk, &alice, None, Answer::Valid, dead),
        "asked: valid"
    );
    let new_token_of_a_known_agent = MayAsk::Ask { known: true };
    let came_to = request_as(
        &mut desk,
        &question(BOB, 2),
        None,
        &new_token_of_a_known_agent,
        Answer::Valid,
        START + 200,
    );
    assert_eq!(came_to, "asked: valid");
}

#[test]
fn an_agent_that_refreshes_its_token_often_is_always_asked_about() {
    let mut desk = new();
    for token in 0..60 {
        let came_to = request(
            &mut desk,
            &question(ALICE, token),
            None,
            Answer::Valid,
            START + u64::from(token),
        );
        assert_eq!(came_to, "asked: valid", "token {token}");
    }
}

#[test]
fn a_registry_that_fails_is_left_alone_by_fifty_agents_that_are_not_cached() {
    let mut desk = new();
    let mut asked = 0;
    for number in 0..1_000_u64 {
        let agent = format!("{}{}", &ALICE[..ALICE.len() - 2], 10 + number % 50);
        asked += usize::from(
            request(&mut desk, &question(&agent, 1), None, FAILED, START + number) != "circuit open",
        );
    }
    assert_eq!(asked, 5);
}

#[test]
fn statuses_mean_what_the_wire_says() {
    let unusable = Answer::None(Outcome::Failure {
        kind: FailureKind::Body,
        retry_after_ms: None,
    });
    let table = [
        (204, Answer::Valid),
        (401, Answer::Invalid),
        (404, Answer::None(Outcome::Success)),
        (200, unusable),
        (202, unusable),
        (304, unusable),
    ];
    for (status, expect) in table {
        assert_eq!(read_status(status), expect, "{status}");
    }
}
