//! Who owns an agent, and who is in a group: the registry's internal routes (docs/wire.md §4).
//!
//! An ownership is never remembered. A membership is remembered under a hash of the group, the member and the
//! generation, fresh and stale like every answer. The answer that an agent is *not* a member is remembered for
//! `denied_ms` only, so that whoever joins a group is believed soon.
//!
//! The generation is that of the admission under which the question is asked. When it is replaced, the caller's
//! memberships are asked for again.

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::answer;
use super::consult::{self, Decision};
use crate::admission::Generation;
use crate::cache::{Ages, Cache};
use crate::circuit::{Circuit, CircuitSettings, Outcome, Permit};
use clawdentity_protocol::did::AgentDid;
use clawdentity_protocol::ids::GroupId;

/// The figures that these decisions depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdentitySettings {
    /// Of a membership.
    pub ages: Ages,
    /// How long it is remembered that an agent is not a member.
    pub denied_ms: u64,
    /// Entries of the memory.
    pub max_entries: usize,
    /// See `Cache::new`.
    pub claim_ms: u64,
    /// Of the circuit.
    pub circuit: CircuitSettings,
}

/// A question, as a hash: is this agent in this group?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership([u8; 32]);

impl Membership {
    /// See the module.
    pub fn new(group: &GroupId, member: &AgentDid, generation: Generation) -> Self {
        let mut hash = Sha256::new();
        // A group id and a generation have one length each, so no two questions write the same bytes.
        hash.update(b"membership-v1");
        hash.update(generation.to_string().as_bytes());
        hash.update(group.to_string().as_bytes());
        hash.update(member.as_str().as_bytes());
        Self(hash.finalize().into())
    }
}

/// What the registry says of an owner and an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ownership {
    /// The agent belongs to this owner.
    pub owns_agent: bool,
    /// The agent's status; `None` if the registry does not know it.
    #[serde(default)]
    pub agent_status: Option<AgentStatus>,
}

/// An agent's status at the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentStatus {
    /// It may act.
    Active,
    /// It may not.
    Revoked,
}

impl Ownership {
    /// From the body of a 200; `None` if it is not valid.
    pub fn parse(body: &[u8]) -> Option<Self> {
        answer::parse_object(body)
    }

    /// The agent belongs to the owner and is active.
    pub fn is_confirmed(self) -> bool {
        self.owns_agent && self.agent_status == Some(AgentStatus::Active)
    }
}

/// `isMember` from the body of a 200; `None` if it is not valid.
pub fn parse_membership(body: &[u8]) -> Option<bool> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Body {
        is_member: bool,
    }
    answer::parse_object::<Body>(body).map(|body| body.is_member)
}

/// See the module.
#[derive(Debug)]
pub struct IdentityDesk {
    settings: IdentitySettings,
    members: Cache<[u8; 32], bool>,
    circuit: Circuit,
}

impl IdentityDesk {
    /// The state that knows nothing yet.
    pub fn new(settings: IdentitySettings) -> Self {
        Self {
            members: Cache::new(settings.max_entries, settings.claim_ms),
            circuit: Circuit::new(settings.circuit),
            settings,
        }
    }

    /// What to do now about a membership.
    pub fn decide(&mut self, question: &Membership, now_ms: u64) -> Decision<bool> {
        consult::consult(&mut self.members, &mut self.circuit, &question.0, now_ms)
    }

    /// Takes the registry's answer about a membership to the question asked at `asked_at_ms`.
    pub fn answered(
        &mut self,
        question: &Membership,
        permit: Permit,
        asked_at_ms: u64,
        answer: Result<bool, Outcome>,
        now_ms: u64,
    ) {
        match answer {
            Ok(is_member) => {
                self.circuit.report(permit, Outcome::Success, now_ms);
                let ages = match is_member {
                    true => self.settings.ages,
                    false => Ages::fresh_only(self.settings.denied_ms),
                };
                self.members.put(question.0, is_member, asked_at_ms, ages);
            }
            Err(outcome) => self.circuit.report(permit, outcome, now_ms),
        }
    }

    /// The circuit: ownership asks it directly.
    pub fn circuit(&mut self) -> &mut Circuit {
        &mut self.circuit
    }
}

#[cfg(test)]
mod tests;
