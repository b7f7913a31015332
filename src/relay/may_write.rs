//! May one agent write to another? One function for hooks and frames.
//!
//! Without a group the two must be paired, which the sender's own object says; an agent may always write to itself. With
//! a group both must be its members, by the registry, and no pair is needed.

use crate::app::App;
use crate::core::admission::{Generation, PairId, Paired};
use crate::core::budget::Budget;
use crate::core::provenance::Provenance;
use crate::protocol::did::AgentDid;
use crate::protocol::ids::GroupId;
use crate::registry::identity::{IdentityError, is_member};

/// Why not, or why nobody knows.
#[derive(Debug)]
pub enum MayNot {
    NotPaired,
    NotMembers,
    /// The sender's pairs could not be read yet.
    TrustUnavailable,
    MembershipUnavailable(IdentityError),
}

/// By what it may.
#[derive(Debug, Default)]
pub struct Allowed {
    /// The pair; none for a message to oneself or to a group's member.
    pub pair_id: Option<PairId>,
    /// On what the memberships rested.
    pub evidence: Vec<Provenance>,
}

/// `paired` asks what the sender's object says of the two; it is only called where that counts. `generation` is the
/// sender's.
///
/// # Errors
/// It may not, or something that the answer needs does not answer.
pub async fn may_write(
    app: &App,
    budget: &Budget,
    (sender, recipient): (&AgentDid, &AgentDid),
    group: Option<&GroupId>,
    generation: Generation,
    paired: impl AsyncFnOnce() -> Paired,
) -> Result<Allowed, MayNot> {
    let Some(group) = group else {
        if sender == recipient {
            return Ok(Allowed::default());
        }
        return match paired().await {
            Paired::Yes(pair_id) => Ok(Allowed {
                pair_id: Some(pair_id),
                evidence: Vec::new(),
            }),
            Paired::No => Err(MayNot::NotPaired),
            Paired::Unavailable => Err(MayNot::TrustUnavailable),
        };
    };
    let mut evidence = Vec::with_capacity(2);
    for member in [sender, recipient] {
        match is_member(app, budget, sender, group, member, generation).await {
            Ok((true, provenance)) => evidence.push(provenance),
            Ok((false, _)) => return Err(MayNot::NotMembers),
            Err(error) => return Err(MayNot::MembershipUnavailable(error)),
        }
    }
    Ok(Allowed {
        pair_id: None,
        evidence,
    })
}
