//! Whether an agent's access token is valid: step 7 of a request (docs/design.md §2 and docs/design.md §4).
//!
//! * Answers are remembered under a hash of the access token, the agent, the AIT's `jti` and the generation. When the
//!   generation is replaced, what was remembered under the old one is not found again, and an answer that comes late
//!   is stored where nobody looks. So after a session has ended, the next request asks the registry.
//! * A 401 ends what was remembered, and is itself remembered for `refused_ms`.
//! * Where memory has nothing, the validation that the agent's own object keeps is used instead, under the same ages.
//!   So a fresh isolate works during an outage.
//! * Questions about tokens that callers make up are counted by the agent's own object, and go on lanes of their own.
//!
//! This module decides. Its caller makes the call, reports with `answered`, and does with the agent's object what
//! `Keep` says.

use sha2::{Digest, Sha256};

use super::confirm::{ConfirmSettings, Decision, Desk};
use super::lanes::{Caller, Lanes, NotNow, Pass, Said};
use crate::admission::Generation;
use crate::admission::unconfirmed::MayAsk;
use crate::circuit::{FailureKind, Outcome};
use crate::provenance::{Provenance, Source};
use clawdentity_protocol::did::AgentDid;
use clawdentity_protocol::ids::Ulid;

/// A question: is this token valid for this agent with this AIT?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    key: [u8; 32],
    agent: Caller,
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
        /// Ask again in the background under this pass.
        refresh: Option<Pass>,
    },
    /// The registry refused this token lately.
    Invalid,
    /// Ask the agent's object whether the registry may be asked, and decide again with what it says.
    AskObject,
    /// Ask the registry and wait.
    Ask(Pass),
    /// Nobody knows, and the registry may not be asked now.
    Unavailable(NotNow),
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
    /// The registry did not say: a place that the question took is free again.
    Unanswered,
    /// Nothing.
    Nothing,
}

/// See the module.
#[derive(Debug)]
pub struct AccessDesk(Desk);

impl AccessDesk {
    /// The state that knows nothing yet.
    pub fn new(settings: ConfirmSettings) -> Self {
        Self(Desk::new(settings))
    }

    /// What to do now. `kept_at_ms` is when the registry was last asked and called this very token of this agent
    /// and AIT valid, under this generation, as the agent's object remembers it; `None` where it does not. `standing` is
    /// what the object said, where it was asked.
    pub fn decide(
        &mut self,
        question: &Question,
        kept_at_ms: Option<u64>,
        standing: Option<&MayAsk>,
        now_ms: u64,
    ) -> AccessDecision {
        let Question { key, agent } = question;
        // Memory first; where it has nothing, what the object kept, unless memory knows of a later answer.
        let durable =
            !self.0.serves(key, now_ms) && kept_at_ms.is_some_and(|at_ms| self.0.remembered(key, at_ms));
        match self.0.decide(key, *agent, standing, now_ms) {
            Decision::Serve { is_yes: false, .. } => AccessDecision::Invalid,
            Decision::Serve {
                is_yes: true,
                mut provenance,
                refresh,
            } => {
                if durable {
                    provenance.source = Source::Durable;
                }
                AccessDecision::Valid { provenance, refresh }
            }
            Decision::AskObject => AccessDecision::AskObject,
            Decision::Ask(pass) => AccessDecision::Ask(pass),
            Decision::Unavailable(not_now) => AccessDecision::Unavailable(not_now),
        }
    }

    /// Takes the registry's answer to the question asked at `asked_at_ms`. Returns what to tell the agent's object.
    pub fn answered(
        &mut self,
        question: &Question,
        pass: Pass,
        asked_at_ms: u64,
        answer: Answer,
        now_ms: u64,
    ) -> Keep {
        let said = match answer {
            Answer::Valid => Said::Yes,
            Answer::Invalid => Said::No,
            Answer::None(outcome) => Said::Nothing(outcome),
        };
        let latest = self.0.answered(&question.key, pass, asked_at_ms, said, now_ms);
        match answer {
            Answer::Valid if latest => Keep::Validated { at_ms: asked_at_ms },
            Answer::Invalid if latest => Keep::Refused,
            Answer::None(_) => Keep::Unanswered,
            _ => Keep::Nothing,
        }
    }

    /// The lanes, for their transitions and the status page.
    pub fn lanes(&mut self) -> &mut Lanes {
        self.0.lanes()
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
