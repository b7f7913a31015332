//! Whether an agent's access token is valid: step 7 of a request (docs/design.md §2 and docs/design.md §4).
//!
//! * Answers are remembered under a hash of the access token, the agent, the AIT's `jti` and the generation. When the
//!   generation is replaced, what was remembered under the old one is not found again, and an answer that comes late
//!   is stored where nobody looks. So after a session has ended, the next request asks the registry.
//! * A 401 ends what was remembered, and is itself remembered for `refused_ms`.
//! * Where memory has nothing, the validation that the agent's own object keeps is used instead, under the same ages.
//!   So a fresh isolate works during an outage.
//! * Questions about tokens that callers make up are bounded by `token_bound` before the circuit is asked.
//!
//! This module decides. Its caller makes the call, reports with `answered`, and does with the agent's object what
//! `Keep` says.

use sha2::{Digest, Sha256};

use super::consult::{self, Decision};
use super::token_bound::{TokenBound, TokenBoundSettings, Verdict};
use crate::admission::Generation;
use crate::cache::{Ages, Cache, Look};
use crate::circuit::{Circuit, CircuitSettings, FailureKind, Outcome, Permit};
use crate::provenance::{Provenance, Source};
use clawdentity_protocol::did::AgentDid;
use clawdentity_protocol::ids::Ulid;

/// The figures that these decisions depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccessSettings {
    /// Of a validation.
    pub ages: Ages,
    /// How long a 401 is remembered.
    pub refused_ms: u64,
    /// The longest that repeated 401s can make that time.
    pub refused_max_ms: u64,
    /// Entries of the memory, and agents of the bound.
    pub max_entries: usize,
    /// Made-up tokens asked about, per agent and minute.
    pub max_unknown_tokens: usize,
    /// See `Cache::new`.
    pub claim_ms: u64,
    /// Of the circuit.
    pub circuit: CircuitSettings,
}

/// A question: is this token valid for this agent with this AIT?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    key: [u8; 32],
    agent: u128,
}

impl Question {
    /// `token_hash` is SHA-256 of the token, `generation` the one the admission returned.
    pub fn new(agent: &AgentDid, jti: Ulid, token_hash: [u8; 32], generation: Generation) -> Self {
        // Every field but the last has one length, so no two questions write the same bytes.
        let mut hash = Sha256::new();
        hash.update(b"access-v1");
        hash.update(token_hash);
        hash.update(jti.as_u128().to_be_bytes());
        hash.update(generation.to_string().as_bytes());
        hash.update(agent.as_str().as_bytes());
        Self {
            key: hash.finalize().into(),
            agent: agent.ulid().as_u128(),
        }
    }
}

/// What to do with a request.
#[derive(Debug, PartialEq, Eq)]
pub enum AccessDecision {
    /// The token is valid.
    Valid {
        /// What this decision rests on.
        provenance: Provenance,
        /// Ask again in the background under this permit.
        refresh: Option<Permit>,
    },
    /// The registry refused this token lately.
    Invalid,
    /// Ask the registry and wait.
    Ask(Permit),
    /// Nobody knows, and the registry may not be asked now.
    Unavailable {
        /// When it may be asked again.
        retry_after_ms: u64,
        /// Why not.
        cause: NotAsked,
    },
}

/// Why the registry is not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAsked {
    /// The circuit is open.
    CircuitOpen,
    /// This agent showed too many tokens that were never validated.
    TooManyTokens,
}

/// What the registry said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// 204.
    Valid,
    /// 401.
    Invalid,
    /// Neither; this is what the circuit makes of it.
    None(Outcome),
}

/// What to tell the agent's object about the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Remember that it is valid, if the generation is still the one of the admission.
    Validated {
        /// When the registry was asked, Unix milliseconds.
        at_ms: u64,
    },
    /// Forget what is remembered of it.
    Refused,
    /// Nothing.
    Nothing,
}

/// See the module.
#[derive(Debug)]
pub struct AccessDesk {
    settings: AccessSettings,
    memory: Cache<[u8; 32], bool>,
    bound: TokenBound<u128>,
    circuit: Circuit,
}

impl AccessDesk {
    /// The state that knows nothing yet.
    pub fn new(settings: AccessSettings) -> Self {
        Self {
            memory: Cache::new(settings.max_entries, settings.claim_ms),
            bound: TokenBound::new(TokenBoundSettings {
                max_agents: settings.max_entries,
                max_tokens: settings.max_unknown_tokens,
                first_pause_ms: settings.refused_ms,
                max_pause_ms: settings.refused_max_ms,
            }),
            circuit: Circuit::new(settings.circuit),
            settings,
        }
    }

    /// What to do now. `kept_at_ms` is when the registry was last asked and called this very token of this agent
    /// and AIT valid, under this generation, as the agent's object remembers it; `None` where it does not.
    pub fn decide(&mut self, question: &Question, kept_at_ms: Option<u64>, now_ms: u64) -> AccessDecision {
        let (found, durable) = self.look(question, kept_at_ms, now_ms);
        if matches!(found, Look::Fetch) {
            match self.bound.may_ask(&question.agent, &question.key, now_ms) {
                Verdict::Ask => {}
                Verdict::Refused => return AccessDecision::Invalid,
                Verdict::Wait { retry_after_ms } => {
                    return AccessDecision::Unavailable {
                        retry_after_ms,
                        cause: NotAsked::TooManyTokens,
                    };
                }
            }
        }
        match consult::decide(found, &mut self.circuit, now_ms) {
            Decision::Serve { value: false, .. } => AccessDecision::Invalid,
            Decision::Serve {
                value: true,
                mut provenance,
                refresh,
            } => {
                if durable {
                    provenance.source = Source::Durable;
                }
                AccessDecision::Valid { provenance, refresh }
            }
            Decision::Ask(permit) => {
                self.bound.asked(question.agent, question.key, now_ms);
                AccessDecision::Ask(permit)
            }
            Decision::Unavailable { retry_after_ms } => AccessDecision::Unavailable {
                retry_after_ms,
                cause: NotAsked::CircuitOpen,
            },
        }
    }

    /// Takes the registry's answer to the question asked at `asked_at_ms`. Returns what to tell the agent's object.
    pub fn answered(
        &mut self,
        question: &Question,
        permit: Permit,
        asked_at_ms: u64,
        answer: Answer,
        now_ms: u64,
    ) -> Keep {
        let Question { key, agent } = *question;
        let outcome = match answer {
            Answer::Valid | Answer::Invalid => Outcome::Success,
            Answer::None(outcome) => outcome,
        };
        self.circuit.report(permit, outcome, now_ms);
        match answer {
            Answer::Valid => {
                self.bound.validated(&agent, &key);
                let latest = self.memory.put(key, true, asked_at_ms, self.settings.ages);
                if latest {
                    Keep::Validated { at_ms: asked_at_ms }
                } else {
                    Keep::Nothing
                }
            }
            Answer::Invalid => {
                let ages = Ages::fresh_only(self.settings.refused_ms);
                if !self.memory.put(key, false, asked_at_ms, ages) {
                    return Keep::Nothing;
                }
                self.bound.refused(&agent, &key, now_ms);
                Keep::Refused
            }
            Answer::None(_) => Keep::Nothing,
        }
    }

    /// The circuit, for its transitions and the status page.
    pub fn circuit(&mut self) -> &mut Circuit {
        &mut self.circuit
    }

    /// Memory first; where it has nothing, what the object kept, unless memory knows of a later answer.
    fn look(&mut self, question: &Question, kept_at_ms: Option<u64>, now_ms: u64) -> (Look<bool>, bool) {
        let found = self.memory.look(&question.key, now_ms);
        match (&found, kept_at_ms) {
            (Look::Fetch, Some(at_ms)) if self.memory.put(question.key, true, at_ms, self.settings.ages) => {
                (self.memory.look(&question.key, now_ms), true)
            }
            _ => (found, false),
        }
    }
}

/// What a response of the validation route says: 204 valid, 401 invalid, anything else
/// is unavailability (docs/wire.md §4). A 404 is an answer of a registry that is up and has
/// the route elsewhere; another 2xx is an answer that does not hold.
pub fn read_status(status: u16) -> Answer {
    match status {
        204 => Answer::Valid,
        401 => Answer::Invalid,
        404 => Answer::None(Outcome::Success),
        _ => Answer::None(Outcome::Failure {
            kind: FailureKind::Body,
            retry_after_ms: None,
        }),
    }
}

#[cfg(test)]
mod tests;
