//! Lifts: numbered rows that say of an earlier row that it no longer counts.

use serde::Deserialize;
use wasm_bindgen::JsValue;

use super::super::d1::{self, DbError, Sql, batch, number, optional_text, query};
use super::feed::Row;
use crate::app::App;
use crate::core::ledger::statements;
use crate::protocol::ids::Ulid;
use crate::protocol::revocation::{Item, Source};

const TARGET: &str = "
SELECT seq, kind, agent_did, jti, lifts, reason, source, revoked_at_ms, expires_at_ms FROM revocations WHERE seq = ?1";

const LIFT_OF: &str = "
SELECT seq, kind, agent_did, jti, lifts, reason, source, revoked_at_ms, expires_at_ms FROM revocations
WHERE kind = 'lift' AND lifts = ?1";

/// The rows of tokens that were revoked together with their agent: by the same event, or listed because of it. Also those
/// that were lifted already, because the last try may have ended after that. Each part names its rows as its index does.
const COMPANIONS: &str = "
SELECT token.seq, token.jti, token.source, 1 AS stands FROM revocations AS agent JOIN revocations AS token
  ON token.kind = 'token' AND token.lifted_by IS NULL AND token.agent_did = agent.agent_did
WHERE agent.seq = ?1 AND agent.kind = 'agent'
  AND (token.event_id = agent.event_id OR (token.source = 'crl' AND token.reason = 'agent_revoked'))
UNION ALL
SELECT token.seq, token.jti, token.source, 0 FROM revocations AS agent JOIN revocations AS token
  ON token.kind = 'token' AND token.lifted_by IS NOT NULL AND token.agent_did = agent.agent_did
WHERE agent.seq = ?1 AND agent.kind = 'agent'
  AND (token.event_id = agent.event_id OR (token.source = 'crl' AND token.reason = 'agent_revoked'))";

/// A row and, if there is one, its lift.
///
/// # Errors
/// D1 gave no answer.
pub async fn find(app: &App, seq: u64) -> Result<Option<(Item, Option<Item>)>, DbError> {
    let statements = vec![Sql::new(TARGET, [number(seq)]), Sql::new(LIFT_OF, [number(seq)])];
    let results = batch(app, app.config.trust.write_timeout_ms, statements).await?;
    let first =
        |n| -> Result<Option<Item>, DbError> { Ok(d1::rows::<Row>(&results, n)?.pop().and_then(Row::item)) };
    match first(0)? {
        Some(target) => Ok(Some((target, first(1)?))),
        None => Ok(None),
    }
}

/// A token's row that is lifted together with its agent's.
pub struct Companion {
    /// Its number.
    pub seq: u64,
    /// The token.
    pub jti: Ulid,
    /// Who revoked it.
    pub source: Source,
    /// Whether it is in force.
    pub stands: bool,
}

/// The rows that are lifted together with an agent's.
///
/// # Errors
/// D1 gave no answer.
pub async fn companions(app: &App, seq: u64) -> Result<Vec<Companion>, DbError> {
    #[derive(Deserialize)]
    struct Found {
        seq: f64,
        jti: Option<String>,
        source: Source,
        stands: f64,
    }

    let rows: Vec<Found> = query(
        app,
        app.config.trust.write_timeout_ms,
        Sql::new(COMPANIONS, [number(seq)]),
    )
    .await?;
    // A row that this version cannot read is left as it is.
    let companion = |row: Found| {
        Some(Companion {
            seq: row.seq as u64,
            jti: Ulid::parse(row.jti.as_deref()?).ok()?,
            source: row.source,
            stands: row.stands != 0.0,
        })
    };
    Ok(rows.into_iter().filter_map(companion).collect())
}

/// Lifts rows, each once, in one transaction. Returns the lift of the first of them.
///
/// # Errors
/// D1 gave no answer. Do it again.
pub async fn write(app: &App, seqs: &[u64], reason: Option<&str>) -> Result<Option<Item>, DbError> {
    let now_ms = app.now_ms();
    let values = |seq: u64| -> [JsValue; 3] { [number(seq), optional_text(reason), number(now_ms)] };
    let mut statements = Vec::new();
    for seq in seqs {
        statements.push(Sql::new(statements::LIFT, values(*seq)));
        statements.push(Sql::new(statements::MARK_LIFTED, [number(*seq)]));
    }
    let Some(first) = seqs.first() else {
        return Ok(None);
    };
    statements.push(Sql::new(LIFT_OF, [number(*first)]));
    let last = statements.len() - 1;
    let results = batch(app, app.config.trust.write_timeout_ms, statements).await?;
    Ok(d1::rows::<Row>(&results, last)?.pop().and_then(Row::item))
}
