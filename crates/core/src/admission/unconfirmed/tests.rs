//! The budgets under virtual time: stories, then random agents checked against a count; and what the machine remembers of
//! a yes.

use proptest::prelude::*;

use super::*;
use crate::admission::machine::{KEEP_CONFIRMED_MS, Limits};
use crate::admission::memory::Memory;
use crate::admission::{Admission, Generation, PairId, RecordedPair};

const START: u64 = 1_700_000_000_000;
const TOKENS: TokenLimits = TokenLimits {
    most: 5,
    first_pause_ms: 5_000,
    longest_pause_ms: 30_000,
};
const ASK: MayAsk = MayAsk::Ask { known: false };

fn agent(n: u8) -> AgentDid {
    AgentDid::parse(&format!(
        "did:cdi:registry.example.com:agent:01HF7YAT00W6W7CM7N3W5FDX{n:02}"
    ))
    .unwrap()
}

fn token(n: u8) -> Named {
    Named::Token([n; 32])
}

fn member(group: u8, of: u8) -> Named {
    let group = GroupId::parse(&format!("grp_01HF7YAT00W6W7CM7N3W5FDX{group:02}")).unwrap();
    Named::Member {
        group,
        member: agent(of),
    }
}

fn owner(n: u8) -> Named {
    let owner = format!("did:cdi:registry.example.com:human:01HF7YAT00W6W7CM7N3W5FDX{n:02}");
    Named::Owner(HumanDid::parse(&owner).unwrap())
}

struct Budgets(Unconfirmed);

impl Budgets {
    fn new() -> Self {
        Self(Unconfirmed::new(TOKENS))
    }

    fn may_ask(&mut self, named: &Named, now_ms: u64) -> MayAsk {
        self.0.may_ask(&agent(0), named, false, now_ms)
    }

    /// Asks, and the registry says no.
    fn refused(&mut self, named: &Named, now_ms: u64) {
        assert_eq!(self.may_ask(named, now_ms), ASK);
        self.0.refused(&agent(0), named, now_ms);
    }
}

fn wait(retry_after_ms: u64) -> MayAsk {
    MayAsk::Wait { retry_after_ms }
}

#[test]
fn each_kind_has_its_last_question_and_none_past_it() {
    for (most, named) in [
        (MOST_GROUPS, (|n| member(n, 0)) as fn(u8) -> Named),
        (MOST_MEMBERS, |n| member(0, n + 1)),
        (MOST_OWNERS, owner),
        (TOKENS.most, token),
    ] {
        let mut budgets = Budgets::new();
        for n in 0..most {
            budgets.refused(&named(n as u8), START);
        }
        assert_eq!(budgets.may_ask(&named(98), START), wait(WINDOW_MS), "{most}");
        assert_eq!(budgets.may_ask(&named(98), START + WINDOW_MS - 1), wait(1));
        assert_eq!(budgets.may_ask(&named(98), START + WINDOW_MS), ASK);
        // The other kinds have budgets of their own.
        let mut budgets = Budgets::new();
        for n in 0..most {
            budgets.refused(&named(n as u8), START);
        }
        for other in [member(97, 0), member(97, 97), owner(97), token(97)] {
            let same_kind = other.kind(&agent(0)) == named(0).kind(&agent(0));
            assert_eq!(budgets.may_ask(&other, START) == ASK, !same_kind, "{other:?}");
        }
    }
}

#[test]
fn a_yes_costs_nothing() {
    for named in [member(1, 0), member(1, 1), owner(1), token(1)] {
        let mut budgets = Budgets::new();
        for n in 0..1_000 {
            assert_eq!(budgets.may_ask(&named, START), ASK, "{n}");
            budgets.0.confirmed(&agent(0), &named);
        }
    }
}

#[test]
fn what_is_out_is_worth_a_moments_wait_and_what_was_lost_is_not() {
    let mut budgets = Budgets::new();
    for n in 0..MOST_GROUPS {
        assert_eq!(budgets.may_ask(&member(n as u8, 0), START), ASK);
    }
    assert_eq!(budgets.may_ask(&member(50, 0), START), wait(BUSY_MS));
    budgets.0.unanswered(&agent(0), &member(3, 0));
    assert_eq!(budgets.may_ask(&member(50, 0), START), ASK);
    assert_eq!(
        budgets.may_ask(&member(51, 0), START + LOST_AFTER_MS),
        wait(WINDOW_MS - LOST_AFTER_MS)
    );
}

#[test]
fn a_hundred_requests_with_one_token_are_one_token() {
    let mut budgets = Budgets::new();
    for at_ms in (0..600_000).step_by(100) {
        assert_eq!(budgets.may_ask(&token(1), START + at_ms), ASK);
    }
    assert_eq!(budgets.may_ask(&token(2), START + 600_000), ASK);
}

#[test]
fn a_row_of_refusals_backs_off_and_a_valid_token_ends_it() {
    let mut budgets = Budgets::new();
    let mut now_ms = START;
    // The pause after each refusal of one token, shown over and over.
    for pause_ms in [5_000, 10_000, 20_000, 30_000, 30_000, 30_000] {
        budgets.refused(&token(1), now_ms);
        assert_eq!(budgets.may_ask(&token(1), now_ms + pause_ms - 1), MayAsk::Refused);
        now_ms += pause_ms;
    }
    assert_eq!(
        budgets.may_ask(&token(2), now_ms),
        ASK,
        "another token: who knows"
    );
    budgets.0.confirmed(&agent(0), &token(2));
    budgets.refused(&token(1), now_ms);
    assert_eq!(budgets.may_ask(&token(1), now_ms + 5_000), ASK, "a new row");
}

#[test]
fn it_survives_misuse_and_clocks() {
    let mut budgets = Budgets(Unconfirmed::new(TokenLimits {
        most: 0,
        first_pause_ms: u64::MAX,
        longest_pause_ms: 0,
    }));
    budgets.0.refused(&agent(0), &token(0), 0);
    budgets.0.confirmed(&agent(0), &token(0));
    budgets.0.unanswered(&agent(0), &token(0));
    budgets.refused(&token(0), START);
    assert_eq!(
        budgets.may_ask(&token(1), START),
        wait(WINDOW_MS),
        "one, not none"
    );
    assert_eq!(budgets.may_ask(&token(0), START + WINDOW_MS - 1), MayAsk::Refused);
    assert_eq!(budgets.may_ask(&token(1), 0), ASK, "the clock went back");
}

fn machine(storage: &Memory, now_ms: u64) -> Admission<Memory> {
    let limits = Limits {
        rate_limit: 60,
        rate_window_ms: 60_000,
        warn_skew_s: 200,
        tokens: TOKENS,
    };
    Admission::wake(storage.clone(), limits, now_ms, Generation::from_random([1; 8])).unwrap()
}

#[test]
fn a_yes_is_remembered_across_an_eviction_and_a_no_ends_it() {
    let storage = Memory::default();
    for named in [member(1, 0), member(1, 1), owner(1)] {
        let may_ask = |now_ms| {
            machine(&storage, now_ms)
                .may_ask(now_ms, &agent(0), &named)
                .unwrap()
        };
        let answered = |now_ms, is_yes| {
            machine(&storage, now_ms)
                .answered(now_ms, &agent(0), &named, is_yes)
                .unwrap()
        };
        assert!(matches!(may_ask(START), MayAsk::Ask { .. }));
        answered(START, Some(true));
        assert_eq!(may_ask(START + 1), MayAsk::Confirmed);
        answered(START + 2, None);
        assert_eq!(may_ask(START + 3), MayAsk::Confirmed);
        answered(START + 4, Some(false));
        assert!(matches!(may_ask(START + 5), MayAsk::Ask { .. }));
        answered(START + 6, Some(true));
    }
    let mut machine = machine(&storage, START + 7);
    // The agent is known from then on, whatever else it names.
    assert_eq!(
        machine.may_ask(START + 7, &agent(0), &member(9, 9)).unwrap(),
        MayAsk::Ask { known: true }
    );
    let met = |machine: &Admission<Memory>, peer| {
        machine
            .check(START + 7, None, Some(&agent(peer)), None)
            .unwrap()
            .met
    };
    assert_eq!([met(&machine, 1), met(&machine, 2)], [true, false]);
    machine.on_alarm(START + 6 + KEEP_CONFIRMED_MS).unwrap();
    assert!(met(&machine, 1));
    machine.on_alarm(START + 7 + KEEP_CONFIRMED_MS).unwrap();
    assert!(!met(&machine, 1));
}

#[test]
fn a_peer_whose_pair_has_ended_was_met() {
    let storage = Memory::default();
    let mut machine = machine(&storage, START);
    let fresh = Generation::from_random([2; 8]);
    let pair = RecordedPair {
        id: PairId::unnumbered(),
        made_at_ms: START,
    };
    machine
        .learn(
            START,
            &agent(0),
            None,
            crate::admission::LedgerAnswer::default(),
            Some(&[(agent(1), pair)]),
            fresh,
        )
        .unwrap();
    machine.end_pair(START, &agent(0), &agent(1), fresh).unwrap();
    for (peer, expect) in [(1, true), (2, false)] {
        let reply = machine.check(START, None, Some(&agent(peer)), None).unwrap();
        assert_eq!(reply.met, expect);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever an agent names and the registry says: in no window more is asked about that was not answered yes than the
    /// budget of its kind, and of tokens, different ones.
    #[test]
    fn no_order_of_requests_asks_for_more(
        requests in prop::collection::vec((0..4_u8, 0..20_u8, 0..3_000_u64, 0..4_u8), 0..300),
    ) {
        let mut budgets = Budgets::new();
        let mut asked: Vec<(u64, Kind, u8)> = Vec::new();
        let mut now_ms = START;
        for (kind, number, pause_ms, answer) in requests {
            now_ms += pause_ms;
            let named = match kind {
                0 => token(number),
                1 => member(number, 0),
                2 => member(number, 1),
                _ => owner(number),
            };
            let kind = named.kind(&agent(0));
            // Numbers 0 and 1 are the only good ones.
            let good = number < 2;
            if budgets.may_ask(&named, now_ms) != ASK {
                continue;
            }
            match answer {
                0 => {}
                1 => {
                    budgets.0.unanswered(&agent(0), &named);
                    // A token has one place, whatever became of earlier questions about it.
                    asked.retain(|(_, of, n)| (*of, *n) != (kind, number) || kind != Kind::Token);
                    continue;
                }
                _ if good => budgets.0.confirmed(&agent(0), &named),
                _ => budgets.0.refused(&agent(0), &named, now_ms),
            }
            if !good {
                asked.push((now_ms, kind, number));
            }
            asked.retain(|(at_ms, _, _)| now_ms - at_ms < WINDOW_MS);
            for (kind, most) in [
                (Kind::Group, MOST_GROUPS),
                (Kind::Member, MOST_MEMBERS),
                (Kind::Owner, MOST_OWNERS),
                (Kind::Token, TOKENS.most),
            ] {
                let mut of_kind: Vec<u8> =
                    asked.iter().filter(|(_, of, _)| *of == kind).map(|(_, _, number)| *number).collect();
                if kind == Kind::Token {
                    of_kind.sort_unstable();
                    of_kind.dedup();
                }
                prop_assert!(of_kind.len() <= most, "{kind:?} {of_kind:?}");
            }
        }
    }
}
