//! Ends a pair in D1. Making a pair is part of confirming a ticket (`tickets`).
//!
//! Whoever changes a pair here then tells both agents' objects (`routes::pair`), and answers only after that.

use serde::de::IgnoredAny;

use super::d1::{DbError, Sql, query, text};
use crate::app::App;
use crate::protocol::did::AgentDid;

const REMOVE: &str = "
DELETE FROM pairs WHERE (agent_did = ?1 AND peer_did = ?2) OR (agent_did = ?2 AND peer_did = ?1)
RETURNING agent_did";

/// Ends a pair, in both directions. True where there was one.
///
/// # Errors
/// D1 gave no answer.
pub async fn remove(app: &App, agent: &AgentDid, peer: &AgentDid) -> Result<bool, DbError> {
    let sql = Sql::new(REMOVE, [text(agent.as_str()), text(peer.as_str())]);
    let removed: Vec<IgnoredAny> = query(app, app.config.trust.write_timeout_ms, sql).await?;
    Ok(!removed.is_empty())
}
