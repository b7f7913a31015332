//! Random sequences of events for one object, checked against the promises of `admission`: requests, captured copies
//! of them, retries, evictions, alarms, revocations, and a clock that jumps.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::memory::Memory;
use super::unconfirmed::TokenLimits;
use super::*;
use clawdentity_protocol::did::AgentDid;
use clawdentity_protocol::ids::Ulid;

const START_MS: u64 = 1_700_000_000_000;
const LIMITS: Limits = Limits {
    rate_limit: 4,
    rate_window_ms: 60_000,
    warn_skew_s: 200,
    tokens: TokenLimits {
        most: 5,
        first_pause_ms: 5_000,
        longest_pause_ms: 30_000,
    },
};

#[derive(Clone, Debug)]
enum Step {
    /// A request of its own: a timestamp off the clock by so much, one of few nonces, one of few tokens.
    Fresh {
        offset_s: i64,
        nonce: u8,
        token: u8,
    },
    /// The n-th request from the end once more: by somebody else, or the same attempt retried.
    Again {
        back: usize,
        same_attempt: bool,
    },
    Evict,
    Alarm,
    Clock {
        by_ms: i64,
    },
    RevokeAgent,
    RevokeToken {
        token: u8,
    },
    Learn {
        token: u8,
    },
}

fn step(back_by_ms: i64) -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (-330i64..=330, 0u8..6, 0u8..3).prop_map(|(offset_s, nonce, token)| Step::Fresh { offset_s, nonce, token }),
        8 => (0usize..40, prop::bool::weighted(0.2)).prop_map(|(back, same_attempt)| Step::Again { back, same_attempt }),
        2 => Just(Step::Evict),
        3 => Just(Step::Alarm),
        6 => (back_by_ms..400_000).prop_map(|by_ms| Step::Clock { by_ms }),
        1 => (0u8..3).prop_map(|token| Step::Learn { token }),
    ]
}

fn with_revocations(step: impl Strategy<Value = Step>) -> impl Strategy<Value = Step> {
    prop_oneof![
        60 => step,
        1 => Just(Step::RevokeAgent),
        3 => (0u8..3).prop_map(|token| Step::RevokeToken { token }),
    ]
}

fn jti(token: u8) -> Ulid {
    Ulid::from_parts(START_MS, [token; 10])
}

/// The object's life, with all that an observer could hold against it.
struct World {
    storage: Memory,
    machine: Admission<Memory>,
    now_ms: u64,
    random: u64,
    /// Every request made so far, admitted or not.
    requests: Vec<AdmitRequest>,
    /// Which attempt a (timestamp, nonce) was admitted for: a captured request is such a pair.
    admitted: HashMap<(u64, [u8; 32]), [u8; 16]>,
    admitted_at_ms: Vec<u64>,
    agent_revoked: bool,
    tokens_revoked: HashSet<Ulid>,
    clock_went_back: bool,
}

impl World {
    fn new() -> Self {
        let storage = Memory::default();
        let machine = wake(&storage, START_MS, 0);
        Self {
            storage,
            machine,
            now_ms: START_MS,
            random: 1,
            requests: vec![],
            admitted: HashMap::new(),
            admitted_at_ms: vec![],
            agent_revoked: false,
            tokens_revoked: HashSet::new(),
            clock_went_back: false,
        }
    }

    fn fresh(&mut self) -> Generation {
        self.random += 1;
        Generation::from_random(self.random.to_be_bytes())
    }

    fn live(&mut self, step: Step) {
        match step {
            Step::Fresh {
                offset_s,
                nonce,
                token,
            } => {
                self.random += 1;
                let mut attempt = [0; 16];
                attempt[..8].copy_from_slice(&self.random.to_be_bytes());
                let request = AdmitRequest {
                    agent: AgentDid::parse("did:cdi:registry.example.com:agent:01HF7YAT00W6W7CM7N3W5FDXT4")
                        .unwrap(),
                    jti: jti(token),
                    jti_expires_at_ms: START_MS + 90 * 24 * 3_600_000,
                    timestamp_s: (self.now_ms / 1000).saturating_add_signed(offset_s),
                    nonce_hash: [nonce; 32],
                    attempt,
                    peer: None,
                    rate: Rate::Requests,
                };
                self.requests.push(request.clone());
                self.admit(&request);
            }
            Step::Again { back, same_attempt } => {
                let Some(at) = self.requests.len().checked_sub(back + 1) else {
                    return;
                };
                let mut request = self.requests[at].clone();
                if !same_attempt {
                    self.random += 1;
                    request.attempt[8..].copy_from_slice(&self.random.to_be_bytes());
                }
                self.admit(&request);
            }
            Step::Evict => self.machine = wake(&self.storage, self.now_ms, self.random + 1_000_000),
            Step::Alarm => {
                let next_ms = self.machine.on_alarm(self.now_ms).unwrap();
                assert!(
                    next_ms.is_none_or(|next_ms| next_ms > self.now_ms),
                    "the alarm would fire at once for nothing"
                );
            }
            Step::Clock { by_ms } => {
                self.now_ms = self.now_ms.saturating_add_signed(by_ms);
                self.clock_went_back |= by_ms < 0;
            }
            Step::RevokeAgent => {
                self.agent_revoked = true;
                self.revoke(true, vec![]);
            }
            Step::RevokeToken { token } => {
                self.tokens_revoked.insert(jti(token));
                let expires_at_ms = token_expiry_ms(None, self.now_ms);
                self.revoke(
                    false,
                    vec![TokenRevocation {
                        jti: jti(token),
                        expires_at_ms,
                    }],
                );
            }
            Step::Learn { token } => {
                let fresh = self.fresh();
                let expiry_ms = self.now_ms + 1_000_000;
                self.machine
                    .learn(
                        self.now_ms,
                        &clawdentity_protocol::testing::agent(0),
                        Some((jti(token), expiry_ms)),
                        LedgerAnswer::default(),
                        Some(&[]),
                        fresh,
                    )
                    .unwrap();
                assert!(!self.machine.needs_ledger(Some(jti(token))) && !self.machine.needs_ledger(None));
            }
        }
    }

    fn revoke(&mut self, revoke_agent: bool, tokens: Vec<TokenRevocation>) {
        let fresh = self.fresh();
        let agent = AgentDid::parse("did:cdi:registry.example.com:agent:01HF7YAT00W6W7CM7N3W5FDXT4").unwrap();
        self.machine
            .revoke(
                &RevokeRequest {
                    agent,
                    revoke_agent,
                    tokens,
                    unconfirmed: false,
                    reissued: None,
                },
                fresh,
            )
            .unwrap();
    }

    fn admit(&mut self, request: &AdmitRequest) {
        let captured = (request.timestamp_s, request.nonce_hash);
        let before = self.admitted.get(&captured).copied();
        let rows_before = self.storage.nonce_rows();
        let reply = self.machine.admit(self.now_ms, request).unwrap();
        let repeated = before == Some(request.attempt);
        match reply {
            AdmitReply::Admitted { .. } => {
                assert!(
                    !self.agent_revoked && !self.tokens_revoked.contains(&request.jti),
                    "admitted though revoked"
                );
                assert!(
                    before.is_none() || repeated,
                    "a captured request was accepted twice"
                );
                if !repeated {
                    self.nonce_is_free(request);
                    self.admitted.insert(captured, request.attempt);
                    self.admitted_at_ms.push(self.now_ms);
                }
                assert_eq!(self.storage.nonce_rows(), rows_before + usize::from(!repeated));
            }
            AdmitReply::Revoked {
                what: RevokedWhat::Agent,
            } => assert!(self.agent_revoked),
            AdmitReply::Revoked {
                what: RevokedWhat::Token,
            } => assert!(self.tokens_revoked.contains(&request.jti)),
            AdmitReply::Skewed if !self.clock_went_back => {
                assert!(
                    !nonces::within_skew(self.now_ms, request.timestamp_s),
                    "an honest clock was refused"
                );
            }
            AdmitReply::Skewed => {}
            // A retry follows at once: it is not asked of it to outlive a clock that went back.
            AdmitReply::Replayed | AdmitReply::OverRate { .. } => {
                assert!(!repeated || self.clock_went_back, "an honest retry was refused");
            }
        }
        if !matches!(reply, AdmitReply::Admitted { .. }) {
            assert_eq!(
                self.storage.nonce_rows(),
                rows_before,
                "a refused request filled the storage"
            );
        }
        if !self.clock_went_back {
            let in_window = self
                .admitted_at_ms
                .iter()
                .filter(|at| **at + LIMITS.rate_window_ms > self.now_ms);
            assert!(in_window.count() <= LIMITS.rate_limit as usize, "over the rate");
        }
    }

    /// docs/wire.md §3: an (agent, nonce) pair, under whatever timestamp, while the first one's could still be accepted.
    /// After a jump back of the clock, what was forgotten is acceptable no more, which only the object knows.
    fn nonce_is_free(&self, request: &AdmitRequest) {
        for (timestamp_s, hash) in self.admitted.keys().filter(|_| !self.clock_went_back) {
            let acceptable = nonces::expires_at_s(*timestamp_s) * 1000 > self.now_ms;
            assert!(
                *hash != request.nonce_hash || !acceptable,
                "a nonce was accepted twice"
            );
        }
    }
}

fn wake(storage: &Memory, now_ms: u64, random: u64) -> Admission<Memory> {
    Admission::wake(
        storage.clone(),
        LIMITS,
        now_ms,
        Generation::from_random(random.to_be_bytes()),
    )
    .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn promises_hold_while_the_clock_runs(steps in prop::collection::vec(step(0), 1..120)) {
        let mut world = World::new();
        steps.into_iter().for_each(|step| world.live(step));
    }

    #[test]
    fn promises_hold_while_the_clock_jumps(steps in prop::collection::vec(step(-400_000), 1..120)) {
        let mut world = World::new();
        steps.into_iter().for_each(|step| world.live(step));
    }

    #[test]
    fn nothing_is_admitted_after_its_revocation(
        steps in prop::collection::vec(with_revocations(step(-400_000)), 1..120),
    ) {
        let mut world = World::new();
        steps.into_iter().for_each(|step| world.live(step));
    }
}
