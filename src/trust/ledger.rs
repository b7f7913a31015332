//! The ledger: the numbered record of every revocation and every lift, in D1, and which agent a token belongs to
//! (docs/design.md §3.2).
//!
//! - **Every write is idempotent.** The same event, however often and in whatever order it comes, leaves one row for
//!   each thing that it revokes. Of two expiries of a token the later one stays. What an operator lifted, the same
//!   event does not revoke again.
//! - **The registry's revocation outweighs the operator's.** If the registry also revokes what an operator revoked,
//!   the row's source changes from operator to registry, whichever came first. Lifting it then needs `force`
//!   (docs/wire.md §10.3).
//! - **A row that gets a later expiry gets a new number.** Readers of the feed follow the numbers, and may drop a
//!   token when it expires. It is still one row, and whoever has read it reads it again. A repeated event changes
//!   nothing, and neither does an expiry later than any token can live. D1 has one writer at a time, so a row that
//!   can be read is never followed by one with a lower number.
//! - **A revocation that names only a token is not lost** between "nobody has seen this token" and its first
//!   admission. An object writes the token's row and reads the ledger in one transaction (`first_sight`). Whoever
//!   writes such a revocation looks for the token's row again afterwards (`revocation::apply`). Whichever comes
//!   first, one of the two sees the other.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::d1::{self, DbError, Sql, batch, number, optional_text, query, text};
use crate::app::App;
use crate::core::admission::overlay::UNKNOWN_EXPIRY_MS;
use crate::core::admission::{LedgerAnswer, TokenRevocation};
use crate::protocol::did::AgentDid;
use crate::protocol::ids::Ulid;
use crate::protocol::revocation::Source;

pub mod feed;
pub mod lift;
pub mod reconciliation;

const ACTIVE: &str = "
SELECT kind, expires_at_ms FROM revocations WHERE kind = 'agent' AND agent_did = ?1 AND lifted_by IS NULL
UNION ALL
SELECT kind, expires_at_ms FROM revocations WHERE kind = 'token' AND jti = ?2 AND lifted_by IS NULL
UNION ALL
SELECT 'lifted', expires_at_ms FROM revocations WHERE kind = 'token' AND jti = ?2 AND lifted_by IS NOT NULL";

const REMEMBER_TOKEN: &str =
    "INSERT INTO agent_tokens (jti, agent_did, expires_at_ms) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";

/// If the registry also revokes an agent that an operator revoked, the row's source becomes the registry, whichever came
/// first. Lifting it then needs `force`, and holds against that event.
const RECORD_ONE: &str = "
INSERT INTO revocations (kind, agent_did, reason, source, event_id, revoked_at_ms, recorded_at_ms)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
ON CONFLICT (agent_did) WHERE kind = 'agent' AND lifted_by IS NULL DO UPDATE SET
  source = excluded.source, event_id = excluded.event_id
  WHERE revocations.source = 'operator' AND excluded.source <> 'operator' AND NOT EXISTS
    (SELECT 1 FROM revocations AS told WHERE told.event_id = excluded.event_id AND told.kind = 'agent')
ON CONFLICT DO NOTHING";

/// An expiry this far after its record is as late as any can be: the longest life of a token (docs/wire.md §2), less the
/// time that may pass between reckoning and recording.
const LATEST_EXPIRY_MS: u64 = UNKNOWN_EXPIRY_MS - 60_000;

/// Those of these tokens that stand with an earlier expiry. Each gets a new number above all others, which leaves gaps.
const EXTEND_TOKENS: &str = "
UPDATE revocations SET expires_at_ms = named.expires_at_ms, recorded_at_ms = ?2,
  seq = (SELECT MAX(seq) FROM revocations) + 1 + named.n
FROM (SELECT key AS n, value ->> '$.jti' AS jti, value ->> '$.expires_at_ms' AS expires_at_ms FROM json_each(?1)) AS named
WHERE revocations.kind = 'token' AND revocations.lifted_by IS NULL AND revocations.jti = named.jti
  AND revocations.expires_at_ms < named.expires_at_ms
  AND revocations.expires_at_ms < revocations.recorded_at_ms + ?3
  AND (revocations.event_id IS NULL OR ?4 IS NULL OR revocations.event_id <> ?4)";

const RECORD_TOKENS: &str = "
INSERT INTO revocations
  (kind, agent_did, jti, reason, source, event_id, revoked_at_ms, recorded_at_ms, expires_at_ms)
SELECT 'token', COALESCE(?1, (SELECT agent_did FROM agent_tokens WHERE agent_tokens.jti = value ->> '$.jti')),
  value ->> '$.jti', ?2, ?3, ?4, ?5, ?6, value ->> '$.expires_at_ms'
FROM json_each(?7) WHERE true
ON CONFLICT (jti) WHERE kind = 'token' AND lifted_by IS NULL DO UPDATE SET
  agent_did = COALESCE(agent_did, excluded.agent_did)
ON CONFLICT DO NOTHING";

/// Changes the source of those of these tokens that only an operator has revoked.
const ADOPT_TOKENS: &str = "
UPDATE revocations SET source = ?2, event_id = ?3
WHERE kind = 'token' AND lifted_by IS NULL AND source = 'operator' AND ?2 <> 'operator'
  AND jti IN (SELECT value ->> '$.jti' FROM json_each(?1)) AND NOT EXISTS (
    SELECT 1 FROM revocations AS other
    WHERE other.event_id = ?3 AND other.kind = 'token' AND COALESCE(other.jti, '') = COALESCE(revocations.jti, ''))";

const AGENTS_OF: &str = "
SELECT jti, agent_did FROM agent_tokens WHERE jti IN (SELECT value FROM json_each(?1))";

/// Each part names its rows in the way that its index does.
const STANDING: &str = "
SELECT jti, expires_at_ms, 1 AS stands FROM revocations
  WHERE kind = 'agent' AND agent_did = ?1 AND lifted_by IS NULL
UNION ALL
SELECT jti, expires_at_ms, 0 FROM revocations WHERE kind = 'agent' AND agent_did = ?1 AND lifted_by IS NOT NULL
UNION ALL
SELECT jti, expires_at_ms, 1 FROM revocations
  WHERE kind = 'token' AND jti IN (SELECT value FROM json_each(?2)) AND lifted_by IS NULL
UNION ALL
SELECT jti, expires_at_ms, 0 FROM revocations
  WHERE kind = 'token' AND jti IN (SELECT value FROM json_each(?2)) AND lifted_by IS NOT NULL";

/// What to record: one or more rows about one agent.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// The agent; none if only tokens are known.
    pub agent: Option<&'a AgentDid>,
    /// Whether to write a row of kind `agent`.
    pub revoke_agent: bool,
    /// Whether to write a row of kind `session`.
    pub session_ended: bool,
    /// The tokens, which get a row of kind `token` each.
    pub tokens: &'a [TokenRevocation],
    /// The reason that the source gives.
    pub reason: Option<&'a str>,
    /// Who revoked it.
    pub source: Source,
    /// The event. The same event is recorded once.
    pub event_id: Option<&'a str>,
    /// When the source says that it happened, Unix milliseconds.
    pub revoked_at_ms: u64,
}

/// What the ledger says about an agent and some tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Whether the agent is revoked, or was and is no longer; none if the ledger does not have it.
    pub agent: Option<bool>,
    /// The same for each token that the ledger has, and until when that is kept, Unix milliseconds.
    pub tokens: BTreeMap<Ulid, (bool, u64)>,
}

/// What was there when something was recorded.
#[derive(Clone, Copy, Debug, Default)]
pub struct Recorded {
    /// The ledger's highest number before that.
    pub latest_before: u64,
    /// Whether anything that was named was ever lifted, so that overlay and ledger may differ.
    pub ever_lifted: bool,
}

/// For the first sight of a token: records which agent it belongs to, and reads what the ledger says about both.
/// Without a token, it reads what the ledger says about the agent.
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
            "lifted" => answer.token_lifted = true,
            _ => answer.token_revoked_until_ms = Some(kept_until_ms(row.expires_at_ms)),
        }
    }
    answer.token_lifted &= answer.token_revoked_until_ms.is_none();
    Ok(answer)
}

/// Writes what was revoked, in one transaction.
///
/// # Errors
/// D1 gave no answer. Write it again.
pub async fn record(app: &App, entry: &Entry<'_>) -> Result<Recorded, DbError> {
    let now_ms = app.now_ms();
    let agent = entry.agent.map(AgentDid::as_str);
    let source = entry.source.as_str();
    let (revoked_at, recorded_at) = (number(entry.revoked_at_ms), number(now_ms));
    let mut statements = vec![Sql::new(feed::LATEST, [])];
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
        let longest = number(LATEST_EXPIRY_MS);
        let event_id = optional_text(entry.event_id);
        let values = [text(&tokens), recorded_at.clone(), longest, event_id.clone()];
        statements.push(Sql::new(EXTEND_TOKENS, values));
        let values = [text(&tokens), text(source), event_id];
        statements.push(Sql::new(ADOPT_TOKENS, values));
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
    if statements.len() == 1 {
        return Ok(Recorded::default());
    }
    let jtis: Vec<Ulid> = entry.tokens.iter().map(|token| token.jti).collect();
    let of_agent = agent.filter(|_| entry.revoke_agent);
    statements.push(standing_sql(of_agent, &jtis)?);
    let last = statements.len() - 1;
    let results = batch(app, app.config.trust.write_timeout_ms, statements).await?;
    let rows = d1::rows::<StandingRow>(&results, last)?;
    Ok(Recorded {
        latest_before: feed::latest_of(&results, 0)?,
        ever_lifted: rows.iter().any(|row| row.stands == 0.0),
    })
}

/// What the ledger says about an agent, if one is given, and about tokens.
///
/// # Errors
/// D1 gave no answer.
pub async fn standing(app: &App, agent: Option<&AgentDid>, jtis: &[Ulid]) -> Result<Standing, DbError> {
    let sql = standing_sql(agent.map(AgentDid::as_str), jtis)?;
    query(app, app.config.trust.write_timeout_ms, sql)
        .await
        .map(standing_of)
}

/// Which agents these tokens belong to, of those that were ever admitted here.
///
/// # Errors
/// D1 gave no answer.
pub async fn agents_of(app: &App, jtis: &[Ulid]) -> Result<Vec<(Ulid, AgentDid)>, DbError> {
    #[derive(Deserialize)]
    struct Row {
        jti: Ulid,
        agent_did: AgentDid,
    }

    let rows: Vec<Row> = query(
        app,
        app.config.trust.write_timeout_ms,
        Sql::new(AGENTS_OF, [text(&json_of(jtis)?)]),
    )
    .await?;
    Ok(rows.into_iter().map(|row| (row.jti, row.agent_did)).collect())
}

#[derive(Deserialize)]
struct StandingRow {
    jti: Option<Ulid>,
    expires_at_ms: Option<f64>,
    stands: f64,
}

fn standing_sql(agent: Option<&str>, jtis: &[Ulid]) -> Result<Sql<'static>, DbError> {
    Ok(Sql::new(STANDING, [optional_text(agent), text(&json_of(jtis)?)]))
}

/// A row that is in force outweighs rows that were lifted.
fn standing_of(rows: Vec<StandingRow>) -> Standing {
    let mut standing = Standing::default();
    for row in rows {
        let stands = row.stands != 0.0;
        match row.jti {
            None => standing.agent = Some(standing.agent.unwrap_or(false) || stands),
            Some(jti) => {
                let until_ms = kept_until_ms(row.expires_at_ms);
                let known = standing.tokens.entry(jti).or_insert((stands, until_ms));
                *known = (known.0 || stands, known.1.max(until_ms));
            }
        }
    }
    standing
}

/// A token's row without an expiry is in force for good. We write no such row, and it must not be read as expired.
fn kept_until_ms(expires_at_ms: Option<f64>) -> u64 {
    expires_at_ms.map_or(u64::MAX, |at| at as u64)
}

fn json_of(jtis: &[Ulid]) -> Result<String, DbError> {
    serde_json::to_string(jtis).map_err(|error| DbError::Failed(error.to_string()))
}
