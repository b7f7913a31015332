//! Who owns an agent, and who is in a group: the registry's internal routes (docs/wire.md §4).
//!
//! An ownership is never remembered, so all there is of it are its `Lanes`. A membership is remembered under a hash of the
//! group, the member and the generation, fresh and stale like every answer (`confirm`). The answer that an agent is *not*
//! a member is remembered for a moment only, so that whoever joins a group is believed soon.
//!
//! The generation is that of the admission under which the question is asked. When it is replaced, the caller's
//! memberships are asked for again.

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::answer;
use crate::admission::Generation;
use clawdentity_protocol::did::AgentDid;
use clawdentity_protocol::ids::GroupId;

/// The key of a question: is this agent in this group?
pub fn membership_key(group: &GroupId, member: &AgentDid, generation: Generation) -> [u8; 32] {
    let mut hash = Sha256::new();
    // A group id and a generation have one length each, so no two questions write the same bytes.
    hash.update(b"membership-v1");
    hash.update(generation.to_string().as_bytes());
    hash.update(group.to_string().as_bytes());
    hash.update(member.as_str().as_bytes());
    hash.finalize().into()
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

#[cfg(test)]
mod tests;
