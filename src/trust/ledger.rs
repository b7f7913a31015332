//! The ledger: the numbered record of every revocation, in D1, and which agent a token belongs to.
//!
//! The overlay kills, the ledger remembers (DESIGN.md §3). Every write is idempotent: the same event, however often and
//! in whatever order, leaves one row for each thing it revokes; of two expiries of a token the later one stays.
//!
//! A revocation that names only a token must not be lost between "nobody has seen this token" and its first admission.
//! It is not: an object writes the token's row and reads the ledger in one transaction (`first_sight`), and who writes
//! such a revocation looks for the token's row again after writing (`consumers::events`). Whichever comes first, one of
//! the two sees the other.

use serde::Deserialize;

use super::d1::{self, DbError, Sql, batch, number, optional_text, query, text};
use crate::app::App;
use crate::core::admission::{LedgerAnswer, Source, TokenRevocation};
use crate::protocol::did::AgentDid;
use crate::protocol::ids::Ulid;

/// How long a revocation waits for a write.
const WRITE_TIMEOUT_MS: u64 = 5_000;

const ACTIVE: &str = "
SELECT kind, expires_at_ms FROM revocations WHERE kind = 'agent' AND agent_did = ?1 AND lifted_by IS NULL
UNION ALL
SELECT kind, expires_at_ms FROM revocations WHERE kind = 'token' AND jti = ?2 AND lifted_by IS NULL";

const REMEMBER_TOKEN: &str =
    "INSERT INTO agent_tokens (jti, agent_did, expires_at_ms) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";

const RECORD_ONE: &str = "
INSERT INTO revocations (kind, agent_did, reason, source, event_id, revoked_at_ms, recorded_at_ms)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING";

const RECORD_TOKENS: &str = "
INSERT INTO revocations
  (kind, agent_did, jti, reason, source, event_id, revoked_at_ms, recorded_at_ms, expires_at_ms)
SELECT 'token', COALESCE(?1, (SELECT agent_did FROM agent_tokens WHERE agent_tokens.jti = value ->> '$.jti')),
  value ->> '$.jti', ?2, ?3, ?4, ?5, ?6, value ->> '$.expires_at_ms'
FROM json_each(?7) WHERE true
ON CONFLICT (jti) WHERE kind = 'token' AND lifted_by IS NULL DO UPDATE SET
  expires_at_ms = MAX(expires_at_ms, excluded.expires_at_ms),
  agent_did = COALESCE(agent_did, excluded.agent_did)
ON CONFLICT DO NOTHING";

const AGENTS_OF: &str = "
SELECT jti, agent_did FROM agent_tokens WHERE jti IN (SELECT value FROM json_each(?1))";

/// What is recorded: one or more rows about one agent.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// The agent; none where only tokens are known.
    pub agent: Option<&'a AgentDid>,
    /// A row of kind `agent`.
    pub revoke_agent: bool,
    /// A row of kind `session`.
    pub session_ended: bool,
    /// A row of kind `token` each.
    pub tokens: &'a [TokenRevocation],
    /// Why, as the source says it.
    pub reason: Option<&'a str>,
    /// Who says so.
    pub source: Source,
    /// The event; the same one is recorded once.
    pub event_id: Option<&'a str>,
    /// When, by the source; Unix milliseconds.
    pub revoked_at_ms: u64,
}

/// At the first sight of a token: remembers whose it is, and asks what the ledger holds against it and its agent.
/// Without a token, asks about the agent alone.
///
/// # Errors
/// D1 gave no answer in time.
pub async fn first_sight(
    app: &App,
    agent: &AgentDid,
    token: Option<(Ulid, u64)>,
) -> Result<LedgerAnswer, DbError> {
    #[derive(Deserialize)]
    struct Row {
        kind: String,
        expires_at_ms: Option<f64>,
    }

    let mut statements = Vec::with_capacity(2);
    if let Some((jti, expires_at_ms)) = token {
        let values = [
            text(&jti.to_string()),
            text(agent.as_str()),
            number(expires_at_ms),
        ];
        statements.push(Sql::new(REMEMBER_TOKEN, values));
    }
    let jti = token.map(|(jti, _)| jti.to_string());
    statements.push(Sql::new(
        ACTIVE,
        [text(agent.as_str()), optional_text(jti.as_deref())],
    ));
    let last = statements.len() - 1;
    let results = batch(app, app.config.trust.timeout_ms, statements).await?;
    let mut answer = LedgerAnswer::default();
    for row in d1::rows::<Row>(&results, last)? {
        match row.kind.as_str() {
            "agent" => answer.agent_revoked = true,
            // A row without an expiry stands for good: nothing that we write is so, and it must not read as lifted.
            _ => answer.token_revoked_until_ms = Some(row.expires_at_ms.map_or(u64::MAX, |at| at as u64)),
        }
    }
    Ok(answer)
}

/// Writes what was revoked, in one transaction.
///
/// # Errors
/// D1 gave no answer: write it again.
pub async fn record(app: &App, entry: &Entry<'_>) -> Result<(), DbError> {
    let now_ms = app.now_ms();
    let agent = entry.agent.map(AgentDid::as_str);
    let source = entry.source.as_str();
    let (revoked_at, recorded_at) = (number(entry.revoked_at_ms), number(now_ms));
    let mut statements = Vec::with_capacity(3);
    for (kind, wanted) in [("agent", entry.revoke_agent), ("session", entry.session_ended)] {
        if wanted {
            let values = [
                text(kind),
                optional_text(agent),
                optional_text(entry.reason),
                text(source),
                optional_text(entry.event_id),
                revoked_at.clone(),
                recorded_at.clone(),
            ];
            statements.push(Sql::new(RECORD_ONE, values));
        }
    }
    if !entry.tokens.is_empty() {
        let tokens =
            serde_json::to_string(entry.tokens).map_err(|error| DbError::Failed(error.to_string()))?;
        let values = [
            optional_text(agent),
            optional_text(entry.reason),
            text(source),
            optional_text(entry.event_id),
            revoked_at,
            recorded_at,
            text(&tokens),
        ];
        statements.push(Sql::new(RECORD_TOKENS, values));
    }
    if statements.is_empty() {
        return Ok(());
    }
    batch(app, WRITE_TIMEOUT_MS, statements).await.map(|_| ())
}

/// Which agents these tokens belong to, of those that were ever admitted here.
///
/// # Errors
/// D1 gave no answer.
pub async fn agents_of(app: &App, tokens: &[TokenRevocation]) -> Result<Vec<(Ulid, AgentDid)>, DbError> {
    #[derive(Deserialize)]
    struct Row {
        jti: Ulid,
        agent_did: AgentDid,
    }

    let jtis: Vec<String> = tokens.iter().map(|token| token.jti.to_string()).collect();
    let jtis = serde_json::to_string(&jtis).map_err(|error| DbError::Failed(error.to_string()))?;
    let rows: Vec<Row> = query(app, WRITE_TIMEOUT_MS, Sql::new(AGENTS_OF, [text(&jtis)])).await?;
    Ok(rows.into_iter().map(|row| (row.jti, row.agent_did)).collect())
}
