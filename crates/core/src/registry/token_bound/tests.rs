//! The bound under virtual time: stories, then random agents checked against a count.

use proptest::prelude::*;

use super::*;

const SETTINGS: TokenBoundSettings = TokenBoundSettings {
    max_agents: 4,
    max_tokens: 5,
    first_pause_ms: 5_000,
    max_pause_ms: 30_000,
};

fn token(number: u8) -> [u8; 32] {
    [number; 32]
}

fn new() -> TokenBound<&'static str> {
    TokenBound::new(SETTINGS)
}

/// Asks about a token that nobody validated; the registry answers 401.
fn refused(bound: &mut TokenBound<&'static str>, agent: &'static str, number: u8, now_ms: u64) {
    assert_eq!(bound.may_ask(&agent, &token(number), now_ms), Verdict::Ask);
    bound.asked(agent, token(number), now_ms);
    bound.refused(&agent, &token(number), now_ms);
}

#[test]
fn five_different_made_up_tokens_a_minute_and_only_that_agent_notices() {
    let mut bound = new();
    for number in 0..5 {
        refused(&mut bound, "mallory", number, u64::from(number) * 1_000);
    }
    let wait = |retry_after_ms| Verdict::Wait { retry_after_ms };
    assert_eq!(bound.may_ask(&"mallory", &token(9), 4_000), wait(56_000));
    assert_eq!(bound.may_ask(&"mallory", &token(9), 59_999), wait(1));
    assert_eq!(
        bound.may_ask(&"mallory", &token(9), 60_000),
        Verdict::Ask,
        "the first is a minute old"
    );
    assert_eq!(bound.may_ask(&"alice", &token(9), 4_000), Verdict::Ask);
}

#[test]
fn a_hundred_requests_with_one_good_token_are_one_token() {
    let mut bound = new();
    for _ in 0..100 {
        assert_eq!(bound.may_ask(&"alice", &token(1), 0), Verdict::Ask);
        bound.asked("alice", token(1), 0);
    }
    assert_eq!(bound.may_ask(&"alice", &token(2), 0), Verdict::Ask);
}

#[test]
fn what_turned_out_valid_counts_no_more() {
    let mut bound = new();
    for number in 0..200 {
        assert_eq!(
            bound.may_ask(&"alice", &token(number), 0),
            Verdict::Ask,
            "refreshed {number} times"
        );
        bound.asked("alice", token(number), 0);
        bound.validated(&"alice", &token(number));
    }
}

#[test]
fn a_row_of_refusals_backs_off_and_a_valid_token_ends_it() {
    let mut bound = new();
    let mut now_ms = 0;
    // The pause after each refusal of one token, shown over and over.
    for pause_ms in [5_000, 10_000, 20_000, 30_000, 30_000, 30_000] {
        refused(&mut bound, "mallory", 1, now_ms);
        assert_eq!(
            bound.may_ask(&"mallory", &token(1), now_ms + pause_ms - 1),
            Verdict::Refused
        );
        assert_eq!(
            bound.may_ask(&"mallory", &token(2), now_ms),
            Verdict::Ask,
            "another token: who knows"
        );
        now_ms += pause_ms;
    }
    bound.asked("mallory", token(2), now_ms);
    bound.validated(&"mallory", &token(2));
    refused(&mut bound, "mallory", 1, now_ms);
    assert_eq!(
        bound.may_ask(&"mallory", &token(1), now_ms + 5_000),
        Verdict::Ask,
        "a new row"
    );
}

#[test]
fn a_registry_that_does_not_answer_leaves_the_good_token_askable() {
    let mut bound = new();
    for at_ms in (0..600_000).step_by(100) {
        assert_eq!(bound.may_ask(&"alice", &token(1), at_ms), Verdict::Ask);
        bound.asked("alice", token(1), at_ms);
    }
}

#[test]
fn it_is_bounded_and_survives_misuse_and_clocks() {
    let mut bound = TokenBound::new(TokenBoundSettings {
        max_agents: 0,
        max_tokens: 0,
        first_pause_ms: u64::MAX,
        max_pause_ms: 0,
    });
    bound.refused(&"nobody", &token(0), 0);
    bound.validated(&"nobody", &token(0));
    for number in 0..3 {
        bound.asked("mallory", token(number), 0);
    }
    assert_eq!(bound.may_ask(&"mallory", &token(0), 0), Verdict::Ask);
    assert!(
        matches!(bound.may_ask(&"mallory", &token(2), 0), Verdict::Wait { .. }),
        "one, not three"
    );
    for _ in 0..100 {
        bound.refused(&"mallory", &token(0), 0);
    }
    assert_eq!(bound.may_ask(&"mallory", &token(0), 59_999), Verdict::Refused);
    bound.asked("alice", token(0), 0);
    assert_eq!(
        bound.may_ask(&"mallory", &token(2), 0),
        Verdict::Ask,
        "forgotten for alice"
    );

    let mut bound = new();
    for number in 0..5 {
        refused(&mut bound, "mallory", number, 1_000_000);
    }
    assert_eq!(
        bound.may_ask(&"mallory", &token(9), 0),
        Verdict::Ask,
        "the clock went back"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever an agent shows and the registry says: in no window more than five different
    /// tokens are asked about that are not valid.
    #[test]
    fn no_order_of_requests_asks_about_a_sixth(
        requests in prop::collection::vec((0..20_u8, 0..6_000_u64, 0..4_u8), 0..200),
    ) {
        let mut bound = new();
        let mut asked: Vec<(u64, u8)> = Vec::new();
        let mut now_ms = 0;
        for (number, pause_ms, answer) in requests {
            now_ms += pause_ms;
            // Tokens 0 and 1 are the only good ones.
            let good = number < 2;
            if bound.may_ask(&"agent", &token(number), now_ms) != Verdict::Ask {
                continue;
            }
            bound.asked("agent", token(number), now_ms);
            match answer {
                0 => {}
                _ if good => bound.validated(&"agent", &token(number)),
                _ => bound.refused(&"agent", &token(number), now_ms),
            }
            if !good {
                asked.push((now_ms, number));
            }
            asked.retain(|(at_ms, _)| now_ms - at_ms < WINDOW_MS);
            let mut different: Vec<_> = asked.iter().map(|(_, number)| *number).collect();
            different.sort_unstable();
            different.dedup();
            prop_assert!(different.len() <= 5, "{different:?}");
        }
    }
}
