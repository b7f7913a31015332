//! Each promise of `admission` once, with numbers. Random sequences of events are in `simulation`.

use super::machine::SWEEP_GRACE_MS;
use super::memory::Memory;
use super::nonces;
use super::unconfirmed::TokenLimits;
use super::*;
use clawdentity_protocol::did::AgentDid;
use clawdentity_protocol::ids::Ulid;

const NOW_MS: u64 = 1_700_000_000_000;
const NOW_S: u64 = NOW_MS / 1000;
const LIMITS: Limits = Limits {
    rate_limit: 3,
    rate_window_ms: 60_000,
    warn_skew_s: 200,
    tokens: TokenLimits {
        most: 5,
        first_pause_ms: 5_000,
        longest_pause_ms: 30_000,
    },
};

fn agent() -> AgentDid {
    AgentDid::parse("did:cdi:registry.example.com:agent:01HF7YAT00W6W7CM7N3W5FDXT4").unwrap()
}

fn jti(n: u8) -> Ulid {
    Ulid::from_parts(NOW_MS, [n; 10])
}

fn generation(n: u8) -> Generation {
    Generation::from_random([n; 8])
}

fn wake(storage: &Memory, now_ms: u64) -> Admission<Memory> {
    Admission::wake(storage.clone(), LIMITS, now_ms, generation(0xee)).unwrap()
}

fn request(timestamp_s: u64, nonce: u8, attempt: u8) -> AdmitRequest {
    AdmitRequest {
        agent: agent(),
        jti: jti(1),
        jti_expires_at_ms: NOW_MS + 1_000_000,
        timestamp_s,
        nonce_hash: [nonce; 32],
        attempt: [attempt; 16],
        peer: None,
        rate: Rate::Requests,
    }
}

fn admitted() -> AdmitReply {
    AdmitReply::Admitted {
        generation: generation(0xee),
        peers: PeersReply::default(),
        validations: Validations::default(),
        token_lifted: false,
    }
}

fn revocation(revoke_agent: bool, tokens: &[(u8, u64)]) -> RevokeRequest {
    let tokens = tokens.iter().map(|(n, expires_at_ms)| TokenRevocation {
        jti: jti(*n),
        expires_at_ms: *expires_at_ms,
    });
    RevokeRequest {
        agent: agent(),
        revoke_agent,
        tokens: tokens.collect(),
        unconfirmed: false,
        reissued: None,
    }
}

#[test]
fn a_captured_request_is_refused_at_once_after_a_restart_and_from_the_future() {
    let storage = Memory::default();
    let mut machine = wake(&storage, NOW_MS);
    let ahead = request(NOW_S + 290, 1, 1);
    assert_eq!(machine.admit(NOW_MS, &ahead).unwrap(), admitted());
    // Seconds after the first sight: 310 s later the timestamp is 20 s old and still acceptable.
    for (after_s, expect) in [
        (0, AdmitReply::Replayed),
        (310, AdmitReply::Replayed),
        (590, AdmitReply::Replayed),
        (591, AdmitReply::Skewed),
        (2_000, AdmitReply::Skewed),
        (300, AdmitReply::Skewed),
    ] {
        let now_ms = NOW_MS + after_s * 1000;
        machine.on_alarm(now_ms).unwrap();
        machine = wake(&storage, now_ms);
        assert_eq!(
            machine.admit(now_ms, &request(NOW_S + 290, 1, 9)).unwrap(),
            expect,
            "after {after_s} s"
        );
    }
    assert_eq!(
        storage.nonce_rows(),
        0,
        "what can no longer be accepted is forgotten"
    );
}

#[test]
fn a_nonce_under_another_timestamp_is_a_replay_as_well() {
    let mut machine = wake(&Memory::default(), NOW_MS);
    assert_eq!(
        machine.admit(NOW_MS, &request(NOW_S + 300, 1, 1)).unwrap(),
        admitted()
    );
    assert_eq!(
        machine.admit(NOW_MS, &request(NOW_S - 300, 1, 2)).unwrap(),
        AdmitReply::Replayed
    );
    assert_eq!(
        machine.admit(NOW_MS, &request(NOW_S - 300, 2, 3)).unwrap(),
        admitted()
    );
}

#[test]
fn the_same_attempt_gets_the_first_answer_and_revoked_wins() {
    let mut machine = wake(&Memory::default(), NOW_MS);
    let first = request(NOW_S, 1, 1);
    for _ in 0..5 {
        // Five times one attempt: the rate of 3 counts it once.
        assert_eq!(machine.admit(NOW_MS, &first).unwrap(), admitted());
    }
    assert_eq!(
        machine.admit(NOW_MS, &request(NOW_S, 1, 2)).unwrap(),
        AdmitReply::Replayed
    );
    machine
        .revoke(&revocation(false, &[(1, NOW_MS + 5)]), generation(2))
        .unwrap();
    let token = AdmitReply::Revoked {
        what: RevokedWhat::Token,
    };
    assert_eq!(machine.admit(NOW_MS, &first).unwrap(), token);
    assert_eq!(machine.admit(NOW_MS, &request(NOW_S, 1, 2)).unwrap(), token);
    machine.revoke(&revocation(true, &[]), generation(3)).unwrap();
    assert_eq!(
        machine.admit(NOW_MS, &first).unwrap(),
        AdmitReply::Revoked {
            what: RevokedWhat::Agent
        }
    );
}

#[test]
fn over_its_rate_an_agent_is_told_when_and_burns_no_nonce() {
    let storage = Memory::default();
    let mut machine = wake(&storage, NOW_MS);
    for n in 0..3 {
        // Timestamps that expire in a second: the rows stay for the rate's sake.
        assert_eq!(
            machine.admit(NOW_MS, &request(NOW_S - 300, n, n)).unwrap(),
            admitted()
        );
    }
    assert_eq!(
        machine.admit(NOW_MS, &request(NOW_S, 9, 9)).unwrap(),
        AdmitReply::OverRate { retry_after_s: 60 }
    );
    let later_ms = NOW_MS + 40_500;
    machine.on_alarm(later_ms).unwrap();
    machine = wake(&storage, later_ms);
    assert_eq!(storage.nonce_rows(), 3);
    assert_eq!(
        machine.admit(later_ms, &request(NOW_S, 9, 9)).unwrap(),
        AdmitReply::OverRate { retry_after_s: 20 }
    );
    assert_eq!(
        machine.admit(NOW_MS + 60_000, &request(NOW_S, 9, 9)).unwrap(),
        admitted()
    );
}

#[test]
fn receipts_have_a_rate_of_their_own() {
    let storage = Memory::default();
    let mut machine = wake(&storage, NOW_MS);
    let asked = |rate: Rate, n: u64| {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&n.to_be_bytes());
        AdmitRequest {
            nonce_hash: hash,
            rate,
            ..request(NOW_S, 0, 0)
        }
    };
    for n in 0..1_200 {
        let receipt = asked(Rate::Receipts, n);
        assert_eq!(machine.admit(NOW_MS, &receipt).unwrap(), admitted(), "{n}");
    }
    for woken in [false, true] {
        if woken {
            machine = wake(&storage, NOW_MS);
        }
        let over = AdmitReply::OverRate { retry_after_s: 60 };
        assert_eq!(
            machine.admit(NOW_MS, &asked(Rate::Receipts, 9_999)).unwrap(),
            over
        );
        let number = 2_000 + u64::from(woken);
        let connect = machine.admit(NOW_MS, &asked(Rate::Requests, number)).unwrap();
        assert_eq!(
            connect,
            admitted(),
            "they use up nothing of the agent's other requests"
        );
    }
    machine.admit(NOW_MS, &asked(Rate::Requests, 3_000)).unwrap();
    let over = AdmitReply::OverRate { retry_after_s: 60 };
    assert_eq!(
        machine.admit(NOW_MS, &asked(Rate::Requests, 3_001)).unwrap(),
        over
    );
    let later_ms = NOW_MS + 60_000;
    let receipt = machine.admit(later_ms, &asked(Rate::Receipts, 9_999)).unwrap();
    assert_eq!(receipt, admitted());
}

#[test]
fn revocations_merge_in_any_order_and_survive_eviction() {
    let storage = Memory::default();
    let mut machine = wake(&storage, NOW_MS);
    for (tokens, changed) in [
        (&[(1, NOW_MS + 20), (2, NOW_MS + 9)][..], true),
        (&[(1, NOW_MS + 10), (2, NOW_MS + 9)], false),
        (&[(1, NOW_MS + 30)], true),
    ] {
        assert_eq!(
            machine
                .revoke(&revocation(false, tokens), generation(1))
                .unwrap()
                .changed,
            changed,
            "{tokens:?}"
        );
    }
    assert_eq!(storage.revoked_until_ms(jti(1)), Some(NOW_MS + 30));
    machine = wake(&storage, NOW_MS);
    assert_eq!(
        machine.check(NOW_MS, Some(jti(1)), None, None).unwrap().revoked,
        Some(RevokedWhat::Token)
    );
    assert_eq!(
        machine.check(NOW_MS, Some(jti(3)), None, None).unwrap().revoked,
        None
    );
    assert_eq!(machine.check(NOW_MS, None, None, None).unwrap().revoked, None);
    for changed in [true, false] {
        assert_eq!(
            machine
                .revoke(&revocation(true, &[]), generation(2))
                .unwrap()
                .changed,
            changed
        );
    }
    machine = wake(&storage, NOW_MS);
    for token in [None, Some(jti(1)), Some(jti(3))] {
        assert_eq!(
            machine.check(NOW_MS, token, None, None).unwrap().revoked,
            Some(RevokedWhat::Agent)
        );
    }
}

#[test]
fn what_mail_rests_on_is_asked_in_one_call() {
    let storage = Memory::default();
    let mut machine = wake(&storage, NOW_MS);
    let peer = AgentDid::parse("did:cdi:registry.example.com:agent:01HF7YAT00W6W7CM7N3W5FDXT9").unwrap();
    let pair = |n: u8| PairId::parse(&format!("pair-{n}")).unwrap();
    let question = MailQuestion {
        tokens: vec![jti(1), jti(2), jti(3)],
        pairs: vec![pair(1), pair(2)],
    };
    let unread = machine.check_mail(NOW_MS, &peer, &question).unwrap();
    assert_eq!(unread.peers.paired, Some(Paired::Unavailable));
    let recorded = |n: u8| RecordedPair {
        id: pair(n),
        made_at_ms: NOW_MS + u64::from(n) - 1,
    };
    machine
        .learn(
            NOW_MS,
            &agent(),
            None,
            LedgerAnswer::default(),
            Some(&[(peer.clone(), recorded(1))]),
            generation(1),
        )
        .unwrap();
    let reissued = RevokeRequest {
        reissued: Some(true),
        ..revocation(false, &[(2, NOW_MS + 9)])
    };
    machine.revoke(&reissued, generation(1)).unwrap();
    let unconfirmed = RevokeRequest {
        unconfirmed: true,
        reissued: Some(false),
        ..revocation(false, &[(3, NOW_MS + 9)])
    };
    machine.revoke(&unconfirmed, generation(1)).unwrap();
    machine.end_pair(NOW_MS, &agent(), &peer, generation(1)).unwrap();
    let second = recorded(2);
    machine
        .pair_read(NOW_MS, &agent(), &peer, Some(&second), generation(1))
        .unwrap();
    machine.hold_session(generation(4)).unwrap();
    let held = machine.check_mail(NOW_MS, &peer, &question).unwrap();
    assert_eq!((held.session_ended_at_ms, held.session_unconfirmed), (None, true));
    // The ledger's time of the first record counts, however often the event comes.
    for at_ms in [Some(NOW_MS + 7), Some(NOW_MS + 7), None, Some(NOW_MS + 6)] {
        machine.session_ended(at_ms).unwrap();
    }
    for _ in 0..2 {
        let reply = machine.check_mail(NOW_MS, &peer, &question).unwrap();
        let ended = MailReply {
            ended_tokens: vec![jti(3)],
            ended_pairs: vec![pair(1)],
        };
        assert_eq!(reply.mail, Some(ended));
        assert_eq!((reply.revoked, reply.unconfirmed), (None, true));
        assert_eq!(reply.session_ended_at_ms, Some(NOW_MS + 7));
        assert_eq!(reply.peers.paired, Some(Paired::Yes(pair(2))));
        machine = wake(&storage, NOW_MS);
    }
}

#[test]
fn an_expired_tokens_revocation_outlives_a_clock_that_ran_ahead() {
    let storage = Memory::default();
    let mut machine = wake(&storage, NOW_MS);
    machine
        .revoke(&revocation(false, &[(1, NOW_MS + 1)]), generation(1))
        .unwrap();
    machine.on_alarm(NOW_MS + 3_600_000).unwrap();
    assert!(
        machine
            .check(NOW_MS, Some(jti(1)), None, None)
            .unwrap()
            .revoked
            .is_some()
    );
    machine.on_alarm(NOW_MS + 2 + SWEEP_GRACE_MS).unwrap();
    assert!(
        machine
            .check(NOW_MS, Some(jti(1)), None, None)
            .unwrap()
            .revoked
            .is_none()
    );
}

#[test]
fn the_ledger_is_asked_once_per_token_and_its_word_counts() {
    let storage = Memory::default();
    let mut machine = wake(&storage, NOW_MS);
    assert!(machine.needs_ledger(Some(jti(1))) && machine.needs_ledger(None));
    let answer = LedgerAnswer {
        agent_revoked: false,
        token_revoked_until_ms: Some(NOW_MS + 5),
        token_lifted: false,
        token_reissued: false,
        session_ended_at_ms: None,
    };
    machine
        .learn(
            NOW_MS,
            &agent(),
            Some((jti(1), NOW_MS + 5)),
            answer,
            Some(&[]),
            generation(1),
        )
        .unwrap();
    machine = wake(&storage, NOW_MS);
    assert!(!machine.needs_ledger(Some(jti(1))) && !machine.needs_ledger(None));
    assert!(machine.needs_ledger(Some(jti(2))));
    let token = AdmitReply::Revoked {
        what: RevokedWhat::Token,
    };
    assert_eq!(machine.admit(NOW_MS, &request(NOW_S, 1, 1)).unwrap(), token);
    let answer = LedgerAnswer {
        agent_revoked: true,
        token_revoked_until_ms: None,
        token_lifted: false,
        token_reissued: false,
        session_ended_at_ms: None,
    };
    machine
        .learn(NOW_MS, &agent(), None, answer, Some(&[]), generation(2))
        .unwrap();
    assert_eq!(
        machine.check(NOW_MS, None, None, None).unwrap().revoked,
        Some(RevokedWhat::Agent)
    );
}

#[test]
fn sightings_are_bounded_and_the_first_to_expire_goes() {
    let mut machine = wake(&Memory::default(), NOW_MS);
    let nth = |n: u64| Ulid::from_parts(NOW_MS + n, [0; 10]);
    let count = machine::MAX_SEEN_TOKENS as u64 + 10;
    for n in 0..count {
        machine
            .learn(
                NOW_MS,
                &agent(),
                Some((nth(n), NOW_MS + n)),
                LedgerAnswer::default(),
                Some(&[]),
                generation(1),
            )
            .unwrap();
    }
    assert!(machine.needs_ledger(Some(nth(9))) && !machine.needs_ledger(Some(nth(10))));
}

#[test]
fn validations_are_bound_to_token_ait_and_generation() {
    let storage = Memory::default();
    let mut machine = wake(&storage, NOW_MS);
    let store = |hash: u8, token: u8, under: u8, validated_at_ms| StoreValidation {
        agent: agent(),
        jti: jti(token),
        token_hash: [hash; 32],
        validated_at_ms,
        generation: generation(under),
    };
    let validated_at = |machine: &mut Admission<Memory>, hash: u8, token: u8, attempt: u8| {
        let request = AdmitRequest {
            jti: jti(token),
            ..request(NOW_S, attempt, attempt)
        };
        match machine.admit(NOW_MS, &request).unwrap() {
            AdmitReply::Admitted { validations, .. } => validations.at_ms(&[hash; 32]),
            other => panic!("{other:?}"),
        }
    };
    assert!(
        !machine.store_validation(&store(1, 1, 0xdd, 5)).unwrap().stored,
        "another generation's"
    );
    assert!(machine.store_validation(&store(1, 1, 0xee, 5)).unwrap().stored);
    assert!(machine.store_validation(&store(1, 1, 0xee, 4)).unwrap().stored);
    machine = wake(&storage, NOW_MS);
    assert_eq!(validated_at(&mut machine, 1, 1, 1), Some(5));
    assert_eq!(validated_at(&mut machine, 2, 1, 2), None);
    machine = wake(&Memory::default(), NOW_MS);
    for n in 0..=machine::MAX_VALIDATIONS as u8 {
        machine
            .store_validation(&store(n, 1, 0xee, u64::from(n)))
            .unwrap();
    }
    assert_eq!(validated_at(&mut machine, 0, 1, 3), None, "the oldest made room");
    assert_eq!(validated_at(&mut machine, 1, 1, 4), Some(1));
    assert_eq!(validated_at(&mut machine, 1, 2, 5), None, "another AIT");
    assert!(!machine.drop_validation(&[1; 32]).unwrap().stored);
    assert_eq!(
        validated_at(&mut machine, 1, 1, 4),
        None,
        "the registry took it back"
    );
    machine = wake(&storage, NOW_MS);
    let replaced = machine
        .replace_generation(generation(3), Changed::Session)
        .unwrap();
    assert_eq!(
        replaced,
        RevokeReply {
            changed: true,
            generation: generation(3)
        }
    );
    let again = request(NOW_S, 6, 6);
    let expect = AdmitReply::Admitted {
        generation: generation(3),
        peers: PeersReply::default(),
        validations: Validations::default(),
        token_lifted: false,
    };
    assert_eq!(machine.admit(NOW_MS, &again).unwrap(), expect);
    assert_eq!(wake(&storage, NOW_MS).admit(NOW_MS, &again).unwrap(), expect);
}

#[test]
fn a_pair_that_changes_voids_no_validation() {
    let storage = Memory::default();
    let mut machine = wake(&storage, NOW_MS);
    let validation = StoreValidation {
        agent: agent(),
        jti: jti(1),
        token_hash: [1; 32],
        validated_at_ms: 5,
        generation: generation(0xee),
    };
    assert!(machine.store_validation(&validation).unwrap().stored);
    machine.replace_generation(generation(4), Changed::Pairs).unwrap();
    let expect = AdmitReply::Admitted {
        generation: generation(4),
        peers: PeersReply::default(),
        validations: Validations(vec![Validated {
            token_hash: [1; 32],
            at_ms: 5,
        }]),
        token_lifted: false,
    };
    let again = request(NOW_S, 1, 1);
    assert_eq!(machine.admit(NOW_MS, &again).unwrap(), expect);
    assert_eq!(wake(&storage, NOW_MS).admit(NOW_MS, &again).unwrap(), expect);
}

#[test]
fn the_worst_skew_of_the_hour_outlives_an_eviction_where_it_is_worth_a_warning() {
    let storage = Memory::default();
    let mut machine = wake(&storage, NOW_MS);
    let worst = |machine: &Admission<Memory>, now_ms| {
        let worst_skew = machine.check(now_ms, None, None, None).unwrap().worst_skew;
        worst_skew.map(|worst| worst.skew_s)
    };
    machine.admit(NOW_MS, &request(NOW_S - 100, 1, 1)).unwrap();
    assert_eq!(worst(&machine, NOW_MS), Some(100));
    assert_eq!(worst(&wake(&storage, NOW_MS), NOW_MS), None, "not worth a row");
    machine.admit(NOW_MS, &request(NOW_S + 250, 2, 2)).unwrap();
    // A copy of it that comes late is refused, and blames nobody.
    machine
        .admit(NOW_MS + 40_000, &request(NOW_S - 100, 1, 3))
        .unwrap();
    let woken = wake(&storage, NOW_MS);
    assert_eq!(
        (worst(&machine, NOW_MS), worst(&woken, NOW_MS)),
        (Some(-250), Some(-250))
    );
    assert_eq!(worst(&woken, NOW_MS + 3_900_000), None);
}

#[test]
fn one_alarm_per_group_of_buckets() {
    let storage = Memory::default();
    let mut machine = wake(&storage, NOW_MS);
    assert_eq!(machine.next_alarm_ms(), None);
    machine.admit(NOW_MS, &request(NOW_S, 1, 1)).unwrap();
    machine.admit(NOW_MS, &request(NOW_S + 120, 2, 2)).unwrap();
    let first_ms = nonces::forget_at_ms(nonces::bucket_of(NOW_S), LIMITS.rate_window_ms);
    assert_eq!(machine.next_alarm_ms(), Some(first_ms));
    machine = wake(&storage, first_ms);
    let second_ms = nonces::forget_at_ms(nonces::bucket_of(NOW_S + 120), LIMITS.rate_window_ms);
    assert_eq!(machine.on_alarm(first_ms).unwrap(), Some(second_ms));
    assert_eq!(storage.nonce_rows(), 1);
    assert_eq!(machine.on_alarm(second_ms).unwrap(), None);
}

fn lift(lift_agent: bool, tokens: &[(u8, u64)]) -> LiftRequest {
    let RevokeRequest { agent, tokens, .. } = revocation(false, tokens);
    LiftRequest {
        agent,
        lift_agent,
        tokens,
    }
}

#[test]
fn a_lift_takes_back_what_it_names_and_a_later_revocation_counts_again() {
    let storage = Memory::default();
    let expiry_ms = NOW_MS + 1_000_000;
    let answer = |nonce: u8| {
        let mut machine = wake(&storage, NOW_MS);
        match machine.admit(NOW_MS, &request(NOW_S, nonce, nonce)).unwrap() {
            AdmitReply::Admitted { token_lifted, .. } if token_lifted => "admitted, token lifted",
            AdmitReply::Admitted { .. } => "admitted",
            AdmitReply::Revoked { what } => what.as_str(),
            other => panic!("{other:?}"),
        }
    };
    let revoke = |agent, tokens: &[(u8, u64)]| {
        let mut machine = wake(&storage, NOW_MS);
        machine.revoke(&revocation(agent, tokens), generation(2)).unwrap();
    };
    let lifted = |agent, tokens: &[(u8, u64)]| {
        let mut machine = wake(&storage, NOW_MS);
        machine
            .lift(&lift(agent, tokens), generation(3))
            .unwrap()
            .generation
    };
    revoke(true, &[(1, expiry_ms)]);
    assert_eq!(answer(1), "agent");
    assert_eq!(
        lifted(true, &[]),
        generation(3),
        "nothing decided before a lift is decided now"
    );
    assert_eq!(answer(2), "token");
    lifted(false, &[(1, expiry_ms)]);
    assert_eq!(answer(3), "admitted, token lifted");
    revoke(false, &[(1, expiry_ms)]);
    assert_eq!(answer(4), "token");
    lifted(false, &[(1, expiry_ms)]);
    let later_ms = expiry_ms + machine::SWEEP_GRACE_MS + 1_000;
    let mut machine = wake(&storage, later_ms);
    machine.on_alarm(later_ms).unwrap();
    let reply = machine.admit(later_ms, &request(later_ms / 1000, 5, 5)).unwrap();
    let forgotten = matches!(
        reply,
        AdmitReply::Admitted {
            token_lifted: false,
            ..
        }
    );
    assert!(forgotten, "a lift is forgotten with its token: {reply:?}");
}

#[test]
fn the_ledger_tells_a_lost_object_of_a_lift() {
    let storage = Memory::default();
    let mut machine = wake(&storage, NOW_MS);
    let answer = LedgerAnswer {
        agent_revoked: false,
        token_revoked_until_ms: None,
        token_lifted: true,
        token_reissued: false,
        session_ended_at_ms: None,
    };
    let token = Some((jti(1), NOW_MS + 1_000_000));
    machine
        .learn(NOW_MS, &agent(), token, answer, Some(&[]), generation(2))
        .unwrap();
    let reply = machine.admit(NOW_MS, &request(NOW_S, 1, 1)).unwrap();
    assert!(
        matches!(
            reply,
            AdmitReply::Admitted {
                token_lifted: true,
                ..
            }
        ),
        "{reply:?}"
    );
}

#[test]
fn a_confirmed_token_confirms_nothing_of_its_agent() {
    let mut machine = wake(&Memory::default(), NOW_MS);
    let order = |agent, tokens: &[(u8, u64)], unconfirmed| RevokeRequest {
        unconfirmed,
        ..revocation(agent, tokens)
    };
    let mut held_after = |request| {
        machine.revoke(&request, generation(2)).unwrap();
        machine.check(NOW_MS, None, None, None).unwrap().unconfirmed
    };
    assert!(held_after(order(true, &[], true)));
    assert!(held_after(order(false, &[(1, NOW_MS + 9)], true)));
    assert!(held_after(order(false, &[(1, NOW_MS + 9)], false)));
    assert!(!held_after(order(true, &[], false)));
    // And the other way round: what is confirmed is not held for a token's sake.
    assert!(!held_after(order(false, &[(2, NOW_MS + 9)], true)));
}

#[test]
fn a_removal_without_a_pair_ends_the_one_made_before_it_that_comes_later_and_no_newer_one() {
    let storage = Memory::default();
    let mut machine = wake(&storage, NOW_MS);
    let peer = clawdentity_protocol::testing::agent(2);
    let pair = |id: &str, made_at_ms| RecordedPair {
        id: PairId::parse(id).unwrap(),
        made_at_ms,
    };
    let answer = LedgerAnswer::default();
    machine
        .learn(NOW_MS, &agent(), None, answer, Some(&[]), generation(1))
        .unwrap();
    let reply = machine.end_pair(NOW_MS, &agent(), &peer, generation(2)).unwrap();
    assert_eq!((reply.ended, reply.unavailable), (None, false));
    // What is kept outlives the object's memory.
    let mut machine = wake(&storage, NOW_MS + 1);
    for (pair, stands) in [(pair("older", NOW_MS), false), (pair("newer", NOW_MS + 1), true)] {
        machine
            .pair_read(NOW_MS + 2, &agent(), &peer, Some(&pair), generation(3))
            .unwrap();
        let reply = machine.check(NOW_MS + 2, None, Some(&peer), None).unwrap();
        assert_eq!(
            matches!(reply.peers.paired, Some(Paired::Yes(_))),
            stands,
            "{}",
            pair.id
        );
    }
}

#[test]
fn an_object_that_hears_that_everybody_knows_of_an_end_ends_the_pair_that_it_still_holds() {
    let mut machine = wake(&Memory::default(), NOW_MS);
    let peer = clawdentity_protocol::testing::agent(2);
    let pair = RecordedPair {
        id: PairId::parse("ended").unwrap(),
        made_at_ms: NOW_MS - 1,
    };
    let peers = [(peer.clone(), pair.clone())];
    let answer = LedgerAnswer::default();
    machine
        .learn(NOW_MS, &agent(), None, answer, Some(&peers), generation(1))
        .unwrap();
    let ended = EndedPair {
        peer: peer.clone(),
        pair_id: pair.id,
    };
    machine.pair_settled(NOW_MS, &ended, generation(2)).unwrap();
    let reply = machine.check(NOW_MS, None, Some(&peer), None).unwrap();
    assert_eq!(reply.peers.paired, Some(Paired::No));
    assert_eq!(reply.generation, generation(2));
}
