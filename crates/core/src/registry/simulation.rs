//! Ten thousand random hours, checked against the promises of docs/design.md §1: outages, slowness, rotations,
//! revocations, ended sessions, made-up tokens and evictions.
//!
//! The world is a registry that works, fails or is slow, one isolate with its caches and circuits, the agents'
//! objects, and D1. Every decision is checked at once:
//!
//! 1. A caller with a validation that is not dead, in the isolate or in its object, is served. It is never asked
//!    about and never refused, whatever the registry does.
//! 2. Nobody is served by a validation that is dead, that the registry never gave, or that is of a generation which
//!    was replaced.
//! 3. Signing keys are never older than their limit, and never missing where D1 has them.
//! 4. A list of revocations never goes back.
//! 5. A registry that fails gets no more calls than the circuit allows.

use std::collections::HashMap;

use super::access::{AccessDecision, AccessDesk, Answer, Keep, Question};
use super::confirm::ConfirmSettings;
use super::crl::{self, CrlDecision, CrlDesk, CrlSettings};
use super::keys::{KeysDecision, KeysDesk, KeysSettings, KidDecision};
use super::lanes::{Lane, Pass};
use crate::admission::Generation;
use crate::admission::unconfirmed::{MayAsk, Named, TokenLimits, Unconfirmed};
use crate::cache::Ages;
use crate::circuit::{CircuitSettings, FailureKind, Outcome, Permit};
use clawdentity_protocol::did::AgentDid;
use clawdentity_protocol::ids::Ulid;

mod calls;

const SEEDS: u64 = 10_000;
const STEPS: u32 = 80;
const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const ACCESS: Ages = Ages {
    fresh_ms: 45 * SECOND,
    stale_ms: 15 * MINUTE,
};
const KEYS: Ages = Ages {
    fresh_ms: HOUR,
    stale_ms: 24 * HOUR,
};
const CRL: Ages = Ages {
    fresh_ms: 15 * MINUTE,
    stale_ms: HOUR,
};
/// How long a call to a slow registry takes to fail.
const BUDGET_MS: u64 = 5 * SECOND;
const CLAIM_MS: u64 = 10 * SECOND;

const DIDS: [&str; 3] = [
    "did:cdi:registry.example.com:agent:01HF7YAT31JZHSMW1CG6Q6MHB7",
    "did:cdi:registry.example.com:agent:01HF7YAT31JZHSMW1CG6Q6MHB8",
    "did:cdi:registry.example.com:agent:01HF7YAT31JZHSMW1CG6Q6MHB9",
];

#[test]
fn the_promises_hold_in_ten_thousand_random_hours() {
    let agents: Vec<_> = DIDS.iter().map(|did| AgentDid::parse(did).unwrap()).collect();
    for seed in 0..SEEDS {
        let mut world = World::new(seed, &agents);
        for _ in 0..STEPS {
            world.step();
        }
    }
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Well,
    Failing,
    Slow,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Dependency {
    /// By lane: each has its own circuit.
    Access(Lane),
    Keys,
    Crl,
}

/// What an agent's object counts.
fn unconfirmed() -> Unconfirmed {
    Unconfirmed::new(TokenLimits {
        most: 5,
        first_pause_ms: 5 * SECOND,
        longest_pause_ms: 30 * SECOND,
    })
}

/// What the isolate and the object know of one agent.
#[derive(Clone, Default)]
struct Agent {
    generation: u8,
    token: u8,
    session: bool,
    /// What its object keeps: token, when.
    kept: Option<(u8, u64)>,
    /// What the isolate was told of the present token under the present generation: when asked, valid.
    told: Option<(u64, bool)>,
    /// The registry refused the present token, under this generation or an earlier one.
    refused: bool,
}

enum Right {
    Permit(Permit),
    Pass(Pass),
}

enum Asked {
    Access {
        agent: usize,
        token: u8,
        generation: u8,
        valid: bool,
        lane: Lane,
    },
    Keys {
        version: u32,
    },
    Crl {
        iat_s: u64,
    },
}

struct Call {
    asked: Asked,
    right: Right,
    asked_at_ms: u64,
    due_ms: u64,
    well: bool,
    isolate: u32,
}

/// One dependency in one outage.
#[derive(Default)]
struct Outage {
    calls: u64,
    failures: u64,
    in_flight: u64,
    in_flight_at_fifth: u64,
}

struct World<'a> {
    dice: Dice,
    seed: u64,
    now_ms: u64,
    dids: &'a [AgentDid],
    mode: Mode,
    outage_since_ms: u64,
    outages: HashMap<Dependency, Outage>,
    calls: Vec<Call>,
    isolate: u32,
    access: AccessDesk,
    keys: KeysDesk<u32>,
    crl: CrlDesk<u64>,
    agents: Vec<Agent>,
    unconfirmed: Vec<Unconfirmed>,
    key_version: u32,
    d1_keys: Option<(u32, u64)>,
    last_iat_s: u64,
}

impl<'a> World<'a> {
    fn new(seed: u64, dids: &'a [AgentDid]) -> Self {
        let (access, keys, crl) = desks();
        Self {
            dice: Dice(seed),
            seed,
            now_ms: 1_000 * HOUR,
            dids,
            mode: Mode::Well,
            outage_since_ms: 0,
            outages: HashMap::new(),
            calls: Vec::new(),
            isolate: 0,
            access,
            keys,
            crl,
            agents: vec![
                Agent {
                    session: true,
                    ..Agent::default()
                };
                dids.len()
            ],
            unconfirmed: dids.iter().map(|_| unconfirmed()).collect(),
            key_version: 1,
            d1_keys: None,
            last_iat_s: 0,
        }
    }

    fn step(&mut self) {
        let pause_ms = match self.dice.roll(20) {
            0 => self.dice.roll(2 * HOUR),
            1..4 => self.dice.roll(5 * MINUTE),
            4..10 => self.dice.roll(20 * SECOND),
            _ => self.dice.roll(300),
        };
        self.pass(pause_ms);
        match self.dice.roll(40) {
            0 => self.change_mode(),
            1 => self.key_version += 1,
            2 => self.end_session(),
            3 => self.refresh_token(),
            4 if self.dice.roll(3) == 0 => self.evict(),
            5..8 => self.unknown_kid(),
            8..13 => self.need_keys(),
            13..18 => self.need_crl(),
            18..22 => self.made_up_token(),
            _ => self.need_access(),
        }
        self.hold_the_circuits_to_their_word();
    }

    /// Time, and the answers that come in it, in their order.
    fn pass(&mut self, ms: u64) {
        let until_ms = self.now_ms + ms;
        while let Some(next) = (0..self.calls.len()).min_by_key(|at| self.calls[*at].due_ms) {
            if self.calls[next].due_ms > until_ms {
                break;
            }
            let call = self.calls.swap_remove(next);
            self.now_ms = self.now_ms.max(call.due_ms);
            self.answer(call);
        }
        self.now_ms = until_ms;
    }

    fn change_mode(&mut self) {
        self.mode = match self.dice.roll(3) {
            0 => Mode::Well,
            1 => Mode::Failing,
            _ => Mode::Slow,
        };
        self.outage_since_ms = self.now_ms;
        self.outages.clear();
    }

    /// The registry ends a session, and the event arrives: the generation is replaced.
    fn end_session(&mut self) {
        let agent = self.any_agent();
        let state = &mut self.agents[agent];
        state.session = false;
        state.generation = state.generation.wrapping_add(1);
        (state.kept, state.told) = (None, None);
    }

    fn refresh_token(&mut self) {
        let agent = self.any_agent();
        let state = &mut self.agents[agent];
        state.token = (state.token + 1) % 100;
        state.refused = false;
        state.session = true;
        (state.kept, state.told) = (None, None);
    }

    /// A new isolate: what was in memory is gone, and so are the requests that were in flight.
    fn evict(&mut self) {
        (self.access, self.keys, self.crl) = desks();
        self.isolate += 1;
        self.last_iat_s = 0;
        self.outage_since_ms = self.now_ms;
        self.outages.clear();
        self.agents.iter_mut().for_each(|state| state.told = None);
    }

    fn need_access(&mut self) {
        let agent = self.any_agent();
        let state = self.agents[agent].clone();
        let question = self.question(agent, state.token, state.generation);
        let kept = state
            .kept
            .filter(|(token, _)| *token == state.token)
            .map(|(_, at_ms)| at_ms);
        let alive = |at_ms: &u64| self.now_ms - at_ms < ACCESS.stale_ms;
        let told = state.told.filter(|(_, valid)| *valid).map(|(at_ms, _)| at_ms);
        let known = told.or(kept.filter(|_| state.told.is_none())).filter(alive);
        match self.decide_access(agent, state.token, &question, kept) {
            AccessDecision::Valid { provenance, refresh } => {
                self.claim(provenance.age_ms < ACCESS.stale_ms, "served what is dead");
                let as_of_ms = self.now_ms - provenance.age_ms;
                let given = [told, kept].into_iter().flatten().any(|at_ms| at_ms == as_of_ms);
                self.claim(
                    given,
                    "served what the registry never said, or said of another generation",
                );
                if let Some(pass) = refresh {
                    self.call_access(agent, state.token, pass);
                }
            }
            AccessDecision::Invalid => {
                self.claim(known.is_none(), "refused who is known");
                self.claim(
                    state.refused || state.told.is_some_and(|(_, valid)| !valid),
                    "refused what the registry did not refuse",
                );
            }
            AccessDecision::AskObject => self.claim(false, "asked the object twice"),
            AccessDecision::Ask(pass) => {
                self.claim(known.is_none(), "asked about who is known");
                self.call_access(agent, state.token, pass);
            }
            AccessDecision::Unavailable(_) => self.claim(known.is_none(), "503 for who is known"),
        }
    }

    fn made_up_token(&mut self) {
        let agent = self.any_agent();
        let token = 100 + self.dice.roll(100) as u8;
        let question = self.question(agent, token, self.agents[agent].generation);
        match self.decide_access(agent, token, &question, None) {
            AccessDecision::Ask(pass) => self.call_access(agent, token, pass),
            AccessDecision::Valid { .. } => self.claim(false, "a made-up token is valid"),
            AccessDecision::AskObject => self.claim(false, "asked the object twice"),
            AccessDecision::Invalid | AccessDecision::Unavailable(_) => {}
        }
    }

    /// The isolate, and the agent's object where the isolate wants to know.
    fn decide_access(
        &mut self,
        agent: usize,
        token: u8,
        question: &Question,
        kept: Option<u64>,
    ) -> AccessDecision {
        let now_ms = self.now_ms;
        let decision = self.access.decide(question, kept, None, now_ms);
        if decision != AccessDecision::AskObject {
            return decision;
        }
        let named = Named::Token([token; 32]);
        let said = match self.agents[agent].kept {
            Some((known, _)) if known == token => MayAsk::Confirmed,
            _ => self.unconfirmed[agent].may_ask(&self.dids[agent], &named, true, now_ms),
        };
        let decision = self.access.decide(question, kept, Some(&said), now_ms);
        if matches!(decision, AccessDecision::Unavailable(_)) {
            self.unconfirmed[agent].unanswered(&self.dids[agent], &named);
        }
        decision
    }

    fn need_keys(&mut self) {
        let mut decision = self.keys.decide(false, self.now_ms);
        if decision == KeysDecision::ReadDurable {
            decision = match self.d1_keys {
                Some((version, at_ms)) => self.keys.take_over(version, at_ms, self.now_ms),
                None => self.keys.decide(true, self.now_ms),
            };
        }
        let in_d1 = self
            .d1_keys
            .is_some_and(|(_, at_ms)| self.now_ms - at_ms < KEYS.stale_ms);
        match decision {
            KeysDecision::Serve {
                value,
                provenance,
                refresh,
            } => {
                self.claim(provenance.age_ms < KEYS.stale_ms, "served dead keys");
                self.claim(value <= self.key_version, "served keys that never were");
                if let Some(permit) = refresh {
                    self.call(
                        Asked::Keys {
                            version: self.key_version,
                        },
                        Right::Permit(permit),
                    );
                }
            }
            KeysDecision::Ask(permit) => {
                self.claim(!in_d1, "asked for keys that D1 has");
                self.call(
                    Asked::Keys {
                        version: self.key_version,
                    },
                    Right::Permit(permit),
                );
            }
            KeysDecision::Unavailable { .. } => self.claim(!in_d1, "503 with keys in D1"),
            KeysDecision::ReadDurable => self.claim(false, "read D1 twice"),
        }
    }

    fn unknown_kid(&mut self) {
        if let KidDecision::Refresh(permit) = self.keys.unknown_kid(self.now_ms) {
            self.call(
                Asked::Keys {
                    version: self.key_version,
                },
                Right::Permit(permit),
            );
        }
    }

    fn need_crl(&mut self) {
        match self.crl.decide(self.now_ms) {
            CrlDecision::Serve {
                list,
                provenance,
                refresh,
            } => {
                self.claim(provenance.age_ms < CRL.stale_ms, "served a dead list");
                let iat_s = list.unwrap_or(0);
                self.claim(iat_s >= self.last_iat_s, "a list went back");
                self.last_iat_s = iat_s;
                if let Some(permit) = refresh {
                    self.call_crl(permit);
                }
            }
            CrlDecision::Ask(permit) => self.call_crl(permit),
            CrlDecision::Wait | CrlDecision::Gone { .. } => {}
        }
    }

    /// Five and those in flight, then the slower of one per pause and what never opens a circuit: five a minute.
    fn hold_the_circuits_to_their_word(&self) {
        if self.mode == Mode::Well {
            return;
        }
        let lasted_ms = self.now_ms - self.outage_since_ms;
        for outage in self.outages.values().filter(|outage| outage.failures >= 5) {
            let allowed = 5 + outage.in_flight_at_fifth + 1 + lasted_ms / (MINUTE / 5);
            self.claim(
                outage.calls <= allowed,
                "a registry that fails was not left alone",
            );
        }
    }

    fn any_agent(&mut self) -> usize {
        self.dice.roll(self.agents.len() as u64) as usize
    }

    fn question(&self, agent: usize, token: u8, generation: u8) -> Question {
        let generation = Generation::from_random([generation; 8]);
        Question::new(
            &self.dids[agent],
            Ulid::from_parts(1, [1; 10]),
            [token; 32],
            generation,
        )
    }

    #[track_caller]
    fn claim(&self, holds: bool, what: &str) {
        assert!(
            holds,
            "seed {}, at {} ms, {:?}: {what}",
            self.seed, self.now_ms, self.mode
        );
    }
}

/// D1's conditional write: the later answer stays.
trait MaxByTime {
    fn max_by_time(self, new: (u32, u64)) -> Self;
}

impl MaxByTime for Option<(u32, u64)> {
    fn max_by_time(self, new: (u32, u64)) -> Self {
        Some(self.filter(|held| held.1 > new.1).unwrap_or(new))
    }
}

fn desks() -> (AccessDesk, KeysDesk<u32>, CrlDesk<u64>) {
    let circuit = CircuitSettings::default();
    let access = ConfirmSettings {
        ages: ACCESS,
        refused_ms: 5 * SECOND,
        max_entries: 1_000,
        claim_ms: CLAIM_MS,
        circuit,
    };
    let keys = KeysSettings {
        ages: KEYS,
        cooldown_ms: 30 * SECOND,
        claim_ms: CLAIM_MS,
        circuit,
    };
    let crl = CrlSettings {
        ages: CRL,
        claim_ms: CLAIM_MS,
        patience_ms: 2 * SECOND,
        circuit,
    };
    (AccessDesk::new(access), KeysDesk::new(keys), CrlDesk::new(crl))
}
