//! Lifts a revocation.
//!
//! The ledger comes first, then the overlay, which is made to say what the ledger says (`settle`).
//!
//! Lifting the revocation of an agent also lifts those of its tokens that were revoked together with it: by the same
//! event, or listed in the CRL because the agent was revoked (`agent_revoked`). What the CRL lists for that reason
//! and the ledger lacks is recorded first. Otherwise the agent would still be refused for a reason that the operator
//! has just lifted. A token that was revoked for itself stays revoked.
//!
//! Isolates remember a refusal for 30 s, so a lift holds everywhere after that time.

use serde_json::json;

use super::settle::settle;
use super::{NotDone, reconcile};
use crate::app::App;
use crate::protocol::did::AgentDid;
use crate::protocol::ids::Ulid;
use crate::protocol::revocation::{Item, Source, Subject};
use crate::trust::ledger;

/// What became of a lift.
#[derive(Clone, Debug)]
pub enum Lifted {
    /// There is no row with this number.
    NoSuchRow,
    /// The row is itself a lift.
    IsALift,
    /// The registry issued it, or a row that is lifted with it, and `force` is not set.
    NeedsForce(Source),
    /// Lifted now.
    Now(Item),
    /// Lifted before.
    Before(Item),
}

/// Lifts the row with this number.
///
/// # Errors
/// Something did not answer. Do it again.
pub async fn lift(app: &App, seq: u64, force: bool, reason: Option<&str>) -> Result<Lifted, NotDone> {
    let Some((target, standing_lift)) = ledger::lift::find(app, seq).await? else {
        return Ok(Lifted::NoSuchRow);
    };
    if matches!(target.subject, Subject::Lift { .. }) {
        return Ok(Lifted::IsALift);
    }
    let before = standing_lift.is_some();
    if !before && target.source != Source::Operator && !force {
        return Ok(Lifted::NeedsForce(target.source));
    }
    let mut seqs = vec![seq];
    let mut tokens: Vec<Ulid> = target.subject.jti().into_iter().collect();
    if let Subject::Agent { agent } = &target.subject {
        if !before {
            reconcile::record_of_agent(app, agent).await?;
        }
        // Also what was lifted before: the last try may have ended here.
        let companions = ledger::lift::companions(app, seq).await?;
        let of_registry = companions
            .iter()
            .find(|token| token.stands && token.source != Source::Operator);
        if let (false, false, Some(token)) = (before, force, of_registry) {
            return Ok(Lifted::NeedsForce(token.source));
        }
        seqs.extend(companions.iter().map(|token| token.seq));
        tokens.extend(companions.iter().map(|token| token.jti));
    }
    let item = match standing_lift {
        Some(item) => item,
        // All in one transaction: a lift that is there has all that goes with it.
        None => ledger::lift::write(app, &seqs, reason)
            .await?
            .ok_or_else(|| NotDone("the lift was not written".into()))?,
    };
    crate::feed::poke_later(app, Vec::new());

    // Whoever was named, and whoever holds a token by the record. One that nobody has shown yet has no object: the first
    // one that sees it asks the ledger.
    let mut told: Vec<AgentDid> = target.subject.agent().cloned().into_iter().collect();
    for (_, owner) in ledger::agents_of(app, &tokens).await? {
        if !told.contains(&owner) {
            told.push(owner);
        }
    }
    for agent in told {
        settle(
            app,
            &agent,
            matches!(target.subject, Subject::Agent { .. }),
            &tokens,
        )
        .await?;
    }
    let fields = json!({
        "seq": item.seq,
        "lifts": seq,
        "kind": target.subject.kind(),
        "agentDid": target.subject.agent().map(AgentDid::as_str),
        "jti": target.subject.jti().map(|jti| jti.to_string()),
        "rows": seqs.len(),
    });
    app.log.warn("proxy.revocation.lifted", fields);
    Ok(match before {
        true => Lifted::Before(item),
        false => Lifted::Now(item),
    })
}
