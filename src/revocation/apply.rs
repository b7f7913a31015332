//! Revokes something: one function for the queue, the CRL and an operator (docs/design.md §3.2).
//!
//! The overlay comes first, which is the kill; then the sockets are closed and the ledger is written. No step waits
//! for a connector, and every step may be repeated, so a failure in between is a retry.
//!
//! The ledger has the last word. A repeated event must not revoke again what an operator has lifted. So if anything
//! that was written had been lifted before, the overlay is made to say what the ledger says (`settle`).

use futures_util::StreamExt as _;
use futures_util::stream;
use serde_json::json;

use super::NotDone;
use super::lift::settle;
use crate::app::App;
use crate::clock;
use crate::core::admission::{Changed, RevokeRequest, TokenRevocation};
use crate::protocol::did::AgentDid;
use crate::protocol::ids::Ulid;
use crate::protocol::revocation::Source;
use crate::relay;
use crate::relay::protocol::{RelayCall, RelayReply, RevokedSockets};
use crate::trust::client;
use crate::trust::ledger::{self, Entry};

/// How many agents are worked on at the same time.
pub(super) const AT_ONCE: usize = 6;

/// What is revoked, and by whom.
#[derive(Clone, Debug)]
pub struct Order {
    /// The agent; none if only tokens are named.
    pub agent: Option<AgentDid>,
    /// The agent is revoked: the one that is named, otherwise the one that the tokens belong to.
    pub revoke_agent: bool,
    /// The agent's session ended.
    pub session_ended: bool,
    /// These tokens are revoked.
    pub tokens: Vec<TokenRevocation>,
    /// Why.
    pub reason: Option<String>,
    /// Who revoked it.
    pub source: Source,
    /// The event. The same event is recorded once.
    pub event_id: Option<String>,
    /// When the source says that it happened, Unix milliseconds.
    pub revoked_at_ms: u64,
    /// The source's own time, if it gave one. The lag is counted from it.
    pub told_at_ms: Option<u64>,
    /// How long the ledger may take once the rest is done, milliseconds. It is never more than its own limit.
    pub ledger_within_ms: u64,
}

/// Applies it. Returns the ledger's highest number before that: what this order records comes after it.
///
/// # Errors
/// Something did not answer. Apply it again.
pub async fn apply(app: &App, order: &Order) -> Result<u64, NotDone> {
    let latest_before = match &order.agent {
        Some(agent) => named(app, order, agent).await?,
        None => tokens_alone(app, order).await?,
    };
    super::feed::poke_later(app);
    Ok(latest_before)
}

/// For an order that names its agent.
async fn named(app: &App, order: &Order, agent: &AgentDid) -> Result<u64, NotDone> {
    strike(app, order, agent, order.session_ended, &order.tokens).await?;
    let entry = entry(order, Some(agent), order.revoke_agent, order.session_ended);
    let recorded = clock::within_ms(order.ledger_within_ms, ledger::record(app, &entry))
        .await
        .ok_or_else(|| NotDone("the ledger did not answer in time".into()))??;
    if recorded.ever_lifted {
        settle(app, agent, order.revoke_agent, &jtis_of(&order.tokens)).await?;
    }
    Ok(recorded.latest_before)
}

/// For an order that names only tokens. Their agents are in the table that is written at a token's first admission.
///
/// The ledger is written before the table is looked at a second time. An object writes the table and reads the
/// ledger in one transaction, so of a token that is first admitted at this very moment either the object finds the
/// ledger's row or this finds the table's.
async fn tokens_alone(app: &App, order: &Order) -> Result<u64, NotDone> {
    let jtis = jtis_of(&order.tokens);
    let known = ledger::agents_of(app, &jtis).await?;
    strike_owners(app, order, &known).await?;
    let recorded = ledger::record(app, &entry(order, None, false, false)).await?;
    let known_now = ledger::agents_of(app, &jtis).await?;
    let new: Vec<_> = known_now
        .iter()
        .filter(|found| !known.contains(found))
        .cloned()
        .collect();
    strike_owners(app, order, &new).await?;
    if recorded.ever_lifted {
        for (jti, agent) in &known_now {
            settle(app, agent, false, &[*jti]).await?;
        }
    }
    if !order.revoke_agent {
        return Ok(recorded.latest_before);
    }
    if known_now.is_empty() {
        let message = "it revokes an agent that it names only by tokens that were never seen here";
        return Err(NotDone(message.into()));
    }
    for (_, agent) in &known_now {
        let of_agent = Entry {
            tokens: &[],
            ..entry(order, Some(agent), true, false)
        };
        if ledger::record(app, &of_agent).await?.ever_lifted {
            settle(app, agent, true, &[]).await?;
        }
    }
    Ok(recorded.latest_before)
}

/// Applies it to the agents whose tokens it names, several at the same time.
async fn strike_owners(app: &App, order: &Order, found: &[(Ulid, AgentDid)]) -> Result<(), NotDone> {
    let strikes = found.iter().map(async |(jti, agent)| {
        let of_this_agent = order.tokens.iter().filter(|token| token.jti == *jti);
        let tokens: Vec<_> = of_this_agent.copied().collect();
        strike(app, order, agent, false, &tokens).await
    });
    let results: Vec<_> = stream::iter(strikes).buffer_unordered(AT_ONCE).collect().await;
    results.into_iter().collect()
}

/// Revokes it for one agent: first in the overlay, then on the sockets.
pub(super) async fn strike(
    app: &App,
    order: &Order,
    agent: &AgentDid,
    session_ended: bool,
    tokens: &[TokenRevocation],
) -> Result<(), NotDone> {
    let revoke_agent = order.revoke_agent;
    let mut changed = session_ended;
    if revoke_agent || !tokens.is_empty() {
        let request = RevokeRequest {
            agent: agent.clone(),
            revoke_agent,
            tokens: tokens.to_vec(),
        };
        changed |= client::revoke(app, request).await?.changed;
    }
    if session_ended {
        client::replace_generation(app, agent, Changed::Session).await?;
    }
    let applied_at_ms = app.now_ms();

    let which = match (revoke_agent, session_ended) {
        (true, _) => RevokedSockets::Agent,
        (false, true) => RevokedSockets::Session,
        (false, false) => RevokedSockets::Tokens(jtis_of(tokens)),
    };
    let reply = relay::client::call(app, agent, RelayCall::RevokeSockets { which }).await?;
    let RelayReply::Closed { sockets } = reply else {
        return Err(NotDone("the session's answer does not match the question".into()));
    };

    let fields = json!({
        "agentDid": agent.as_str(),
        "source": order.source.as_str(),
        "eventId": order.event_id,
        "reason": order.reason,
        "agent": revoke_agent,
        "session": session_ended,
        "tokens": tokens.len(),
        "changed": changed,
        "socketsClosed": sockets,
        "lag_ms": order.told_at_ms.map(|at_ms| applied_at_ms.saturating_sub(at_ms)),
    });
    app.log.info("proxy.revocation.applied", fields);
    Ok(())
}

fn entry<'a>(
    order: &'a Order,
    agent: Option<&'a AgentDid>,
    revoke_agent: bool,
    session_ended: bool,
) -> Entry<'a> {
    Entry {
        agent,
        revoke_agent,
        session_ended,
        tokens: &order.tokens,
        reason: order.reason.as_deref(),
        source: order.source,
        event_id: order.event_id.as_deref(),
        revoked_at_ms: order.revoked_at_ms,
    }
}

fn jtis_of(tokens: &[TokenRevocation]) -> Vec<Ulid> {
    tokens.iter().map(|token| token.jti).collect()
}
